"""From a process's start to the first trial that is told, in a fresh home: an older build beside this one.

Each build trains a small network on digits first, which is not counted; then its `automc search` runs in an empty home
until it prints a trial, and is stopped there. Processor seconds of the command and all its workers are the figures to
compare: a busy machine stretches the others.

    python -m benchmarks.first_trial --old CHECKOUT --out docs/results/first-trial [--turns 3]
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.resumable import append, claim, grouped, made_with, revision, rows

COLUMNS = ("build", "turn", "processor", "seconds")
CALL = "import sys; sys.argv[0] = 'automc'; from automc.cli.main import main; main()"
TOLD = re.compile(r"^\[\d")
"""How the line of a trial begins."""
SEARCH = ("--data", "digits", "--gamma", "0.4", "--budget", "8steps", "--workers", "1", "--unit-epochs", "0.2")


def used(process: int) -> float:
    """Processor seconds of a process and all that it has started, also of those that have ended and were waited for."""
    fields: dict[int, list[str]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields[int(stat.parent.name)] = stat.read_text().rpartition(")")[2].split()
    family = {process}
    while more := {child for child, of in fields.items() if int(of[1]) in family} - family:
        family |= more
    return sum(int(field) for one in family for field in fields[one][11:15]) / os.sysconf("SC_CLK_TCK")


def measured(place: Path) -> dict[str, float]:
    """Run the search of a checkout to its first trial.

    Raises:
        SystemExit: it ended before.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "net.am"
        env = {**os.environ, "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}

        def command(home: str, *arguments: str) -> dict[str, Any]:
            return {"args": [sys.executable, "-c", CALL, *arguments], "env": {**env, "AUTOMC_HOME": f"{folder}/{home}"}}

        train = command("a", "train", "resnet8", "--data", "digits", "--epochs", "2", "--out", str(model))
        subprocess.run(**train, check=True, capture_output=True, cwd=folder)
        began = time.perf_counter()
        process = subprocess.Popen(
            **command("b", "search", str(model), *SEARCH), cwd=folder, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if TOLD.match(line):
                    return {"processor": used(process.pid), "seconds": time.perf_counter() - began}
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    raise SystemExit(f"The search of {place} ended without a trial.")


def page(out: Path) -> str:
    """The rows as a page."""
    found = rows(out)
    lines = [
        "# From a process's start to the first trial", "",
        "Written by `benchmarks/first_trial.py` from `runs.csv`: `automc search` of a ResNet-8 on digits, γ = 0.4, in an empty home, one",
        "worker, until it tells its first trial; medians (lowest to highest) of n turns, the builds by turns. Processor seconds are of the command",
        "and its workers; the others are stretched by a busy machine. Both builds ran on the libraries below.",
        made_with(), "",
        "| build | n | processor seconds | of before | seconds |", "|---|---|---|---|---|",
    ]  # fmt: skip
    by_build = grouped(found, "build")
    first = median(float(r["processor"]) for r in next(iter(by_build.values())))
    for build, group in by_build.items():
        cells = []
        for column in ("processor", "seconds"):
            values = sorted(float(r[column]) for r in group)
            cells.append(f"{median(values):.1f} ({values[0]:.1f} to {values[-1]:.1f})")
        share = median(float(r["processor"]) for r in group) / first
        lines.append(f"| {build} | {len(group)} | {cells[0]} | {share:.2f} | {cells[1]} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure turn by turn, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="a checkout of the older build")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    builds = {f"{revision(options.old)}, before": options.old.resolve(), "now": Path(__file__).resolve().parents[1]}
    for turn in range(options.turns):
        for build, place in builds.items():
            key = {"build": build, "turn": str(turn)}
            with claim(options.out, key) as free:
                if free:
                    append(options.out, COLUMNS, {**key, **measured(place)})
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
