"""What a worker's memory does over many steps: resident bytes of a real worker process after each few steps.

    python -m benchmarks.memory --model MODEL.am [--data digits] [--steps 60] --label after [--out docs/results/memory.csv]
    python -m benchmarks.memory --table docs/results/memory.csv > docs/results/memory.md

Steps are single strategies of the grid in a fixed random order, each short; nothing is cached.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from automc import knowledge
from automc.datasets import DataRef
from automc.execution.jobs import local_workers
from automc.execution.setup import Setup
from automc.training.recipe import Recipe
from kg.cards import enumerate_strategies, on_grid
from kg.schema import Scheme

ALONE = "torch alone"
COLUMNS = ("label", "model", "steps", "rss_mb", "peak_mb", "cpu_seconds")


def memory(pid: int | str) -> tuple[float, float]:
    """Resident MB of a process, now and at its peak."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    now, peak = (float(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def cpu(pid: int) -> float:
    """Processor seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def table(path: Path) -> str:
    """Return the page of a CSV: resident MB beyond torch alone, by steps and label."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    labels = list(dict.fromkeys(row["label"] for row in rows))
    found = {(row["label"], row["steps"]): row for row in rows}
    steps = sorted({int(row["steps"]) for row in rows if row["steps"].isdecimal()})
    lines = [
        "# What a worker's memory does over many steps", "",
        "Resident MB of a real worker beyond what `import torch` alone takes, and processor seconds since it began, after so",
        f"many steps of its life (`python -m benchmarks.memory`, a network of {rows[0]['model']}, steps of single strategies",
        "of all grid methods in a fixed random order; one run each). \"before\" loaded torch's compiler, triton and",
        "scikit-learn. What grows are the libraries that a method is the first to need, and what the allocator keeps of the",
        "largest step so far.", "",
        "| steps | " + " | ".join(labels) + " |", "|---|" + "---|" * len(labels),
        "| torch alone | " + " | ".join(f"{found[label, ALONE]['rss_mb']} MB" for label in labels) + " |",
    ]  # fmt: skip
    for n in steps:
        lines.append(f"| {n} | " + " | ".join(_cell(found, label, n) for label in labels) + " |")
    return "\n".join(lines)


def _cell(found: dict[tuple[str, str], dict[str, str]], label: str, n: int) -> str:
    row = found.get((label, str(n)))
    if row is None:
        return "not measured"
    return f"+{int(row['rss_mb']) - int(found[label, ALONE]['rss_mb'])} MB, {row['cpu_seconds']} s"


def main() -> None:
    """Read the command line; run the steps, and write a row after each few."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--label", default="after")
    parser.add_argument("--out", type=Path, default=Path("docs/results/memory.csv"))
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    if given.table:
        print(table(given.table))
    elif given.model:
        run(given)
    else:
        parser.error("--model or --table")


def run(given: argparse.Namespace) -> None:
    """Run the steps, and write a row after each few."""
    code = "import torch; print(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])"
    alone = float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) / 1024
    grid = [s for method in on_grid(knowledge.methods()) if method.default_grid for s in enumerate_strategies(method)]
    chosen = np.random.default_rng(0).permutation(len(grid))[: given.steps]
    fresh = not given.out.exists()
    with given.out.open("a", newline="") as file, tempfile.TemporaryDirectory() as place:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(COLUMNS)

        def note(steps: str, *figures: float) -> None:
            row = (given.label, given.model.stem, steps, *(f"{figure:.0f}" for figure in figures))
            writer.writerow(row)
            file.flush()
            print(*row, flush=True)

        note(ALONE, alone, alone, 0)
        setup = Setup(
            base=given.model, data=DataRef(given.data), recipe=Recipe(unit_epochs=0.3), run_seed=0,
            cache=Path(place) / "cache", data_cache=Path(place) / "data", device="cpu",
        )  # fmt: skip
        with local_workers(setup, 1) as workers:
            for done, place_of in enumerate(chosen, 1):
                workers.submit(Scheme((grid[int(place_of)],)))
                while not workers.collect(60.0):
                    time.sleep(0.01)
                if done == 1 or done % given.every == 0:
                    pid = workers._slots[0].process.pid  # type: ignore[attr-defined]
                    note(str(done), *memory(pid), cpu(pid))


if __name__ == "__main__":
    main()
