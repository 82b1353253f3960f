"""Does a search pay? Contenders with equal processor time from their start to their saved model, on a small task.

ResNet-8 at 16×16 pixels, 70% of the parameters to go. `search` is `automc search`; a method's name is that method straight
to the target with all the rest of the time spent on training; `old` is the search of another checkout. Each row is a process
of one thread, all clocks of which count its own processor time, so a busy machine takes longer and decides nothing.

    python -m benchmarks.pays --images CIFAR_FOLDER --out docs/results/pays --seconds 300 [--only search HOS] [--old FOLDER]

It goes on where it stopped; `--table` writes the page from the rows so far.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.contenders import LIBRARY, METHODS, SEARCHES, alone, search
from benchmarks.resumable import append, claim, rows
from benchmarks.short_steps import spread
from benchmarks.small_task import trained

COLUMNS = ("contender", "seed", "seconds", "processor", "removed", "validation", "test", "test_before", "what")
CLOCK = "import time; time.monotonic = time.perf_counter = time.process_time"
"""What a row's process runs before anything is imported."""


def one(contender: str, weights: Path, seed: int, seconds: float) -> None:
    """Run a contender in this process and print its row."""
    import time

    import torch

    torch.set_num_threads(1)
    searched = contender in SEARCHES
    found = (
        search(weights, seed, seconds, SEARCHES[contender]) if searched else alone(contender, weights, seed, seconds)
    )
    print(json.dumps({**found, "processor": time.process_time()}))


def row(contender: str, weights: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run a contender in a process of its own; raises where that fails."""
    here = Path(__file__).resolve().parents[1]
    place = options.old.resolve() if contender == "old" else here
    arguments = ["--one", contender, "--out", str(options.out), "--seeds", str(seed), "--seconds", str(options.seconds)]
    call = f"{CLOCK}; import sys; sys.argv[1:] = {arguments!r}; from benchmarks.pays import main; main()"
    # The benchmark of this checkout on the package of that one.
    path = [str(place), str(here)] if contender == "old" else [str(here)]
    home = Path(options.out).resolve() / f".home-{contender}"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1", "AUTOMC_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", call], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return {
        "contender": contender,
        "seed": seed,
        "seconds": options.seconds,
        **json.loads(done.stdout.splitlines()[-1]),
    }


def page(out: Path) -> str:
    """The rows as a page."""
    found = rows(out)
    lines = [
        "# Does a search pay?", "",
        "Written by `benchmarks/pays.py` from `runs.csv`: ResNet-8, CIFAR-10 at 16×16 pixels, 7,500 training images, 10,000 of test, 70% of the",
        f"parameters to go; one thread, {platform.machine()}. Accuracy in per cent, mean (lowest to highest) over n seeds; seconds are of the processor.",
        "", "| contender | n | seconds | removed | validation | test | what (first seed) |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for contender in dict.fromkeys(r["contender"] for r in found):
        group = [r for r in found if r["contender"] == contender]
        removed, used = (sum(float(r[name]) for r in group) / len(group) for name in ("removed", "processor"))
        cells = " | ".join(spread([float(r[name]) for r in group]) for name in ("validation", "test"))
        lines.append(f"| {contender} | {len(group)} | {used:.0f} | {removed:.1%} | {cells} | {group[0]['what']} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Fill the table, one row at a time, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--old", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    work = options.out / ".work"
    if options.one:
        one(options.one, work / "resnet8.pt", options.seeds, options.seconds)
        return
    if options.images:
        os.environ["SMALL_TASK_IMAGES"] = str(options.images.resolve())
    contenders = options.only or ["search", *METHODS, *LIBRARY, "TPE", *(["old"] if options.old else [])]
    for seed, contender in itertools.product([] if options.table else range(options.seeds), contenders):
        with claim(options.out, {"contender": contender, "seed": str(seed)}) as free:
            if free:
                append(options.out, COLUMNS, row(contender, trained("resnet8", work), seed, options))
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
