"""What a cluster costs: until the first answer, in memory, and for each step; and how steps an hour grow with workers.

Steps sleep as long as one is told to, so that cores do not matter. Workers of this machine and of a Ray cluster on this
machine, each in a process of its own, one row at a time:

    python -m benchmarks.cluster --out docs/results/cluster [--seconds 2] [--steps 40]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray

from automc.execution.cluster import RayWorkers
from automc.execution.monitor import Monitor
from automc.execution.outcome import StepOutcome
from automc.execution.worker import Order
from automc.execution.workers import LocalWorkers, Workers
from benchmarks.resumable import append, claim, rows

COLUMNS = ("kind", "workers", "seconds", "steps", "first", "whole", "memory")
COUNTS = (1, 2, 4, 8)


def opened(setup: Any) -> Any:
    """Nothing is to be opened."""
    return setup


def sleep(state: Any, job: float, monitor: Monitor) -> StepOutcome:
    """A step."""
    time.sleep(job)
    return StepOutcome("ok")


def memory() -> int:
    """Bytes that the processes of this user hold which Ray or this benchmark has started; shared pages count for each."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                call = (folder / "cmdline").read_bytes().decode(errors="replace")
                if "ray" in call or str(os.getpid()) in call or folder.name == str(os.getpid()):
                    proportional = (folder / "smaps_rollup").read_text().split("Pss:")[1].split()[0]
                    total += 1024 * int(proportional)
            except (OSError, IndexError):
                continue
    return total


def one(kind: str, count: int, seconds: float, steps: int) -> dict[str, Any]:
    """Run steps that sleep; return a row."""
    order = Order(None, opened, sleep)
    began = time.perf_counter()
    if kind == "ray":
        ray.init("local", num_cpus=count, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    workers: Workers = RayWorkers(order, count, "local") if kind == "ray" else LocalWorkers(order, count)
    with workers:
        for _ in range(count):
            workers.submit(0.0)
        waiting = count
        while waiting:
            waiting -= len(workers.collect())
        first = time.perf_counter() - began
        begun = time.perf_counter()
        waiting = steps * count
        for _ in range(waiting):
            workers.submit(seconds)
        held = 0
        while waiting:
            waiting -= len(workers.collect(seconds))
            held = max(held, memory())
        whole = time.perf_counter() - begun
    return {"first": first, "whole": whole, "memory": held}


def page(out: Path) -> str:
    """The rows as a page."""
    found = rows(out)
    lines = [
        "# What a cluster costs", "",
        "Written by `benchmarks/cluster.py` from `cluster/runs.csv`: steps that sleep, on workers of this machine and on those of a Ray cluster",
        f"on the same machine ({os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, Ray {version('ray')}), one run each. The first answer includes starting the cluster and all workers;",
        "memory is the proportional share of all processes of the search and of Ray.", "",
        "| workers | of | first answer, s | steps of | steps/hour | of the ideal | overhead of a step, ms | memory, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in found:
        count, seconds, steps, whole = (float(row[name]) for name in ("workers", "seconds", "steps", "whole"))
        rate = 3600 * count * steps / whole
        lines.append(
            f"| {row['workers']} | {row['kind']} | {float(row['first']):.1f} | {seconds:g} s | {rate:,.0f} | {rate * seconds / count / 3600:.1%} | "
            f"{1000 * (whole / steps - seconds):.0f} | {float(row['memory']) / 2**20:,.0f} |"
        )
    return "\n".join([*lines, ""])


def version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def main() -> None:
    """Fill the table, one row at a time, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=20, help="of each worker")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one[0], int(options.one[1]), options.seconds, options.steps)))
        return
    for count, kind in itertools.product(COUNTS, ("local", "ray")):
        key = {"kind": kind, "workers": str(count), "seconds": str(options.seconds)}
        with claim(options.out, key) as free:
            if free:
                arguments = [
                    "--out",
                    str(options.out),
                    "--seconds",
                    str(options.seconds),
                    "--steps",
                    str(options.steps),
                ]
                # Not as __main__, whose functions other processes cannot import.
                run = f"import sys; sys.argv[1:] = {[*arguments, '--one', kind, str(count)]!r}; from benchmarks.cluster import main; main()"
                call = [sys.executable, "-c", run]
                done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                append(options.out, COLUMNS, {**key, "steps": options.steps, **found})
    options.out.with_suffix(".md").write_text(page(options.out))


if __name__ == "__main__":
    main()
