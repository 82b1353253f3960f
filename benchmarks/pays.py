"""Does a search pay? Contenders with equal processor time from their start to their saved model.

`search` is `automc search`; a method's name is that method straight to the target with all the rest of the time spent on
training; `old` is the search of another checkout. Each row is a process of one thread, all clocks of which count its own
processor time, so a busy machine takes longer and decides nothing.

    python -m benchmarks.pays --images CIFAR_FOLDER --out docs/results/pays --seconds 300 [--only search HOS] [--old FOLDER]
    python -m benchmarks.pays --task resnet20 --weights CHECKPOINT --seconds 900 --gamma 0.7 --images … --out …

It goes on where it stopped; `--table` writes the page from the rows so far.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import GAMMA, LIBRARY, METHODS, SEARCHES, alone, search
from benchmarks.pays_tasks import TASKS, Given
from benchmarks.resumable import append, claim, grouped, made_with, rows
from benchmarks.short_steps import spread

COLUMNS = (
    "task",
    "gamma",
    "contender",
    "seed",
    "seconds",
    "processor",
    "removed",
    "validation",
    "test",
    "test_before",
    "what",
)
CLOCK = "import time; time.monotonic = time.perf_counter = time.process_time"
"""What a row's process runs before anything is imported."""


def one(contender: str, task: Given, gamma: float, seed: int, seconds: float) -> None:
    """Run a contender in this process and print its row."""
    import time

    import torch

    torch.set_num_threads(1)
    if contender in SEARCHES:
        found = search(task, gamma, seed, seconds, SEARCHES[contender])
    else:
        found = alone(contender, task, gamma, seed, seconds)
    print(json.dumps({**found, "processor": time.process_time()}))


def row(contender: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run a contender in a process of its own; raises where that fails."""
    here = Path(__file__).resolve().parents[1]
    place = options.old.resolve() if contender == "old" else here
    arguments = ["--one", contender, "--out", str(options.out), "--seeds", str(seed)]
    arguments += ["--task", options.task, "--gamma", str(options.gamma), "--seconds", str(options.seconds)]
    call = f"{CLOCK}; import sys; sys.path.insert(0, {str(place)!r}); import automc, kg; sys.path.pop(0); "
    call += f"sys.argv[1:] = {arguments!r}; from benchmarks.pays import main; main()"
    home = (
        Path(options.out).resolve() / f".home-{'-'.join(key(contender, seed, options).values())}"
    )  # no step is had for nothing
    env = {**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1", "AUTOMC_HOME": str(home)}
    done = subprocess.run([sys.executable, "-P", "-c", call], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return {**key(contender, seed, options), "seconds": options.seconds, **json.loads(done.stdout.splitlines()[-1])}


def key(contender: str, seed: int, options: argparse.Namespace) -> dict[str, str]:
    """What identifies a row."""
    return {"task": options.task, "gamma": str(options.gamma), "contender": contender, "seed": str(seed)}


def page(out: Path) -> str:
    """The rows as a page."""
    found = rows(out)
    lines = [
        "# Does a search pay?", "",
        "Written by `benchmarks/pays.py` from `runs.csv`. Accuracy in per cent, mean (lowest to highest) over n seeds; seconds are of the",
        "processor, and every row had as many from its process's start to its saved model.",
        "`search, no race` is the search before finalists of different kinds raced at its end (decision 97): then two were run again from the original model, where",
        "that was affordable, or none; `search, two legs` had the first rule of the race, which always took the least loss; `search, pairs first` began with",
        "schemes that factor half the way and prune the rest (decision 103). These, and `search, the six methods`, had the paper's methods; since then TRP is on the",
        "default grid (decision 107): `search, TRP too` began with the methods whose steps are longest, `search, the last left out` with those that lose least at equal",
        "length, without the last ones where time is short; `search` leaves the dearest out (decision 108). `search, shorter` is the one before with a fifth of the time for",
        "the search instead of three tenths, and a first leg of the race half as long. TPE has the grid alone and the same ending.",
        made_with(),
    ]  # fmt: skip
    for task, gamma in dict.fromkeys((r["task"], r["gamma"]) for r in found if r["test_before"]):
        group = [r for r in found if (r["task"], r["gamma"]) == (task, gamma)]
        lines += ["", f"## {task}: {float(gamma):.0%} of the parameters to go, {float(group[0]['seconds']):.0f} s", ""]
        before = next(float(r["test_before"]) for r in group if r["test_before"])
        lines += [f"{TASKS[task].about}; the original has {before:.1%} on test.", "", *table(group)]
    return "\n".join([*lines, ""])


def table(rows_of_task: Sequence[dict[str, str]]) -> list[str]:
    """The rows of one task, the best on test first; a search that saved nothing in some runs comes behind those that did."""
    lines = [
        "| contender | n | seconds | removed | validation | test | what (first seed) |",
        "|---|---|---|---|---|---|---|",
    ]
    by_name = grouped(rows_of_task, "contender")
    saved = {name: [r for r in group if r["test"]] for name, group in by_name.items()}

    def mean(group: Sequence[dict[str, str]], name: str) -> float:
        return sum(float(r[name]) for r in group) / len(group)

    def rank(name: str) -> tuple[float, float]:
        return len(saved[name]) / len(by_name[name]), mean(saved[name], "test") if saved[name] else 0.0

    for name in sorted(by_name, key=rank, reverse=True):
        group, found = by_name[name], saved[name]
        n = str(len(group)) if len(found) == len(group) else f"{len(group)}, {len(found)} of them saved a model"
        figures = ["none"] * 3
        if found:
            figures = [
                f"{mean(found, 'removed'):.1%}",
                *(spread([float(r[c]) for r in found]) for c in ("validation", "test")),
            ]
        lines.append(f"| {name} | {n} | {mean(group, 'processor'):.0f} | {' | '.join(figures)} | {group[0]['what']} |")
    return lines


def main() -> None:
    """Fill the table, one row at a time, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", choices=tuple(TASKS), default="small")
    parser.add_argument("--gamma", type=float, default=GAMMA)
    parser.add_argument("--weights", type=Path, help="the public checkpoint of ResNet-20")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--old", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    work, task = options.out / ".work", TASKS[options.task]
    if options.one:
        one(options.one, task.given(work.resolve()), options.gamma, options.seeds, options.seconds)
        return
    if options.images:
        os.environ["SMALL_TASK_IMAGES"] = str(options.images.resolve())
    contenders = options.only or ["search", *METHODS, *LIBRARY, "TPE", *(["old"] if options.old else [])]
    for seed, contender in itertools.product([] if options.table else range(options.seeds), contenders):
        task.make(work.resolve(), options.images, options.weights)
        with claim(options.out, key(contender, seed, options)) as free:
            if free:
                append(options.out, COLUMNS, row(contender, seed, options))
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
