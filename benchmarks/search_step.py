"""Time one search step: score 45,250 candidates with F_mo, and find their Pareto front.

    python benchmarks/search_step.py [--repeats 20] [--csv FILE]

Ten prefixes of 0–5 steps on a random space of the paper's size (4,525 strategies, 32 dimensions); one
thread. Prints the best and the median of the repeats, and appends a row with versions to a CSV file.
"""

from __future__ import annotations

import argparse
import csv
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from automc.search.base import Limits, Outcome, Space
from automc.search.evaluator import Evaluator
from automc.search.history import points
from automc.search.pareto import non_dominated
from automc.search.progressive import expected
from automc.training.precision import cpu_name

STRATEGIES = 4525
PREFIXES = 10
GRID = (0.04, 0.12, 0.2, 0.36, 0.4)


def random_space(rng: np.random.Generator) -> Space:
    hp2 = rng.choice(GRID, STRATEGIES)
    return Space(
        strategies=tuple(map(str, range(STRATEGIES))),
        methods=tuple("ABCDEF"),
        method=rng.integers(0, 6, STRATEGIES),
        embeddings=rng.normal(size=(STRATEGIES, 32)),
        hp2=hp2,
        cost=rng.uniform(0.1, 0.5, STRATEGIES),
        mask=np.ones(STRATEGIES, dtype=bool),
        task=rng.normal(size=7),
        slope=np.full(6, 0.1),
    )


def random_prefix(rng: np.random.Generator, length: int) -> Outcome:
    scheme = tuple(int(i) for i in rng.integers(0, STRATEGIES, length))
    return Outcome(scheme, "ok", float(rng.uniform(0.7, 0.9)), 0.1 * length, -0.02, 0.1)


def timed(call: Callable[[], object], repeats: int) -> list[float]:
    """Milliseconds of each repeat, after one to warm up."""
    call()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - started))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    space = random_space(rng)
    prefixes = [random_prefix(rng, i % 6) for i in range(PREFIXES)]
    told = [(random_prefix(rng, 0), random_prefix(rng, 1)) for _ in range(50)]
    evaluator = Evaluator(space, Limits(0.3, 0.9), seed=0)
    evaluator.learn(told)
    candidates = expected(points(prefixes), evaluator.predict(prefixes).astype(float)).reshape(-1, 2)
    operations: dict[str, Callable[[], object]] = {
        "score": lambda: evaluator.predict(prefixes),
        "front": lambda: non_dominated(candidates),
        "learn": lambda: evaluator.learn(told),
    }
    rows = []
    for name, call in operations.items():
        taken = timed(call, arguments.repeats)
        rows.append(
            {
                "operation": name,
                "candidates": len(candidates) if name != "learn" else "",
                "best_ms": f"{min(taken):.2f}",
                "median_ms": f"{float(np.median(taken)):.2f}",
                "repeats": arguments.repeats,
                "threads": torch.get_num_threads(),
                "seed": 0,
                "device": cpu_name(),
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            }
        )
        print(f"{name:6} best {min(taken):8.2f} ms   median {float(np.median(taken)):8.2f} ms")
    if arguments.csv:
        fresh = not arguments.csv.exists()
        with arguments.csv.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            if fresh:
                writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
