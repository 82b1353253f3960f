"""Compare all searchers on a table of executed steps.

    python -m benchmarks.tab.compare [--table benchmarks/tab/NAME.json] [--seeds 30] [--jobs 2] [--out docs/results/searchers]

Writes one row per run (runs.csv), a page (README.md) and two plots. Paired by seed.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from automc.training.precision import cpu_name
from benchmarks.tab.measures import ENOUGH, KNOWING, Run, measure, searchers, size_misses
from benchmarks.tab.page import plot, write_page
from benchmarks.tab.table import TREE, Table

SHARES = (0.25, 0.5, 1.0)
"""Shares of the budget at which runs are compared."""
RATES = ("chosen ar", "chosen pr", "random ar", "random pr")


def compare(table: Table, names: Sequence[str], seeds: int, budget: int, gamma: float, jobs: int) -> list[Run]:
    """Run every searcher once per seed; the same runs whatever the number of processes."""
    orders = list(product(names, range(seeds)))
    if jobs == 1:
        return [measure(name, seed, table, gamma, budget) for name, seed in orders]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, torch.set_num_threads, (1,)) as pool:
        waiting = [pool.submit(measure, name, seed, table, gamma, budget) for name, seed in orders]
        return [one.result() for one in waiting]


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the runs as rows of runs.csv."""
    horizon = min(run.seconds[-1] for run in runs)
    found = []
    for run in runs:
        budget = len(run.volumes)
        row: dict[str, Any] = {"searcher": run.searcher, "seed": run.seed}
        row |= {f"volume_{round(s * budget)}_steps": run.volumes[round(s * budget) - 1] for s in SHARES}
        row |= {f"volume_{s * horizon:.0f}_seconds": float(run.volume_at(s * horizon)) for s in SHARES}
        row |= {"area_steps": run.area(), "area_seconds": run.area(horizon), "best_accuracy": run.best_accuracy}
        row |= {f"steps_to_{ENOUGH:.0%}": run.steps_to(ENOUGH), "cost_seconds": run.seconds[-1]}
        row |= {f"spearman_{rate.replace(' ', '_')}": run.spearman.get(rate, "") for rate in RATES}
        found.append({**row, "overhead_seconds": run.overhead})
    return found


def write(runs: Sequence[Run], out: Path, about: dict[str, Any]) -> None:
    """Write rows, page and plots."""
    out.mkdir(parents=True, exist_ok=True)
    table = rows(runs)
    with (out / "runs.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in table)
    plot(runs, out)
    (out / "README.md").write_text(write_page(runs, about))


def cpu_seconds() -> float:
    """Return the processor time of this process and of those that have ended below it."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def machine() -> dict[str, str]:
    """Return what the figures were measured with."""
    packages = ("torch", "numpy", "scipy", "pymoo", "optuna")
    return {
        "device": f"{cpu_name()}, {os.cpu_count()} cores, one thread a process",
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
        ),
    }


def main() -> None:
    """Compare, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TREE)
    parser.add_argument("--searchers", nargs="+", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--budget", type=int, default=100, help="steps")
    parser.add_argument("--gamma", type=float, default=0.3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/searchers"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table.load(options.table)
    whole = {name for name, made in searchers().items() if not getattr(made, "levels", False)}
    names = options.searchers or sorted(whole - ({KNOWING} if table.slopes is None else set()))
    began = time.perf_counter()
    runs = compare(table, names, options.seeds, options.budget, options.gamma, options.jobs)
    about = {
        "table": f"`{options.table.name}`: {table.title}", "is_tree": options.table.resolve() == TREE,
        "front": table.best_volume(options.gamma), "gamma": options.gamma, "base": table.base_accuracy,
        "table_seeds": len(table.seeds), "jobs": options.jobs, "minutes": (time.perf_counter() - began) / 60,
        "cpu_minutes": cpu_seconds() / 60, "sizes": size_misses(table), **machine(),
    }  # fmt: skip
    write(runs, options.out, about)
    print((options.out / "README.md").read_text())


if __name__ == "__main__":
    main()
