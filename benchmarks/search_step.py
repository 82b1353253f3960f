"""What it costs to ask a progressive search for a step, and to tell it the outcome, by the number of strategies.

    python -m benchmarks.search_step --out docs/results/search-step.md

Made-up spaces of six methods and outcomes by a law; each size in a process of its own, one thread. Needs 2 GB for 10^6.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from automc.search import progressive
from automc.search.base import Limits, Outcome, Space
from automc.search.progressive import MANY, ProgressiveSearch
from automc.training.precision import cpu_name

SIZES = ((4525, False), (10**5, True), (10**5, False), (10**6, False))
"""Strategies, and whether an ask weighs all of them however many they are, as it once did."""
GRID = (0.04, 0.12, 0.2, 0.36, 0.4)
STEPS = 100


def random_space(rng: np.random.Generator, strategies: int) -> Space:
    return Space(
        strategies=tuple(map(str, range(strategies))),
        methods=tuple("ABCDEF"),
        method=rng.integers(0, 6, strategies),
        embeddings=rng.normal(size=(strategies, 32)).astype(np.float32),
        hp2=rng.choice(GRID, strategies),
        cost=rng.uniform(0.1, 0.5, strategies),
        mask=np.ones(strategies, dtype=bool),
        task=rng.normal(size=7),
        slope=np.full(6, 0.1),
    )


def outcome_of(search: ProgressiveSearch, scheme: tuple[int, ...], rng: np.random.Generator) -> Outcome:
    """Return an outcome after the law that a step's AR is −0.1·x/(1−x), with noise."""
    before, gone = search.history.outcomes[scheme[:-1]], float(search.space.hp2[scheme[-1]])
    removed, accuracy = before.pr or 0.0, before.accuracy or 0.0
    share = gone / (1 - removed)
    ar = float(-0.1 * share / (1 - share) + 0.01 * rng.normal())
    return Outcome(scheme, "ok", min(accuracy * (1 + ar), 1.0), removed + gone, ar, share, 1.0, True)


def one(strategies: int, weigh_all: bool) -> dict[str, float]:
    """Return the processor milliseconds of asks and tells of one search, and its peak memory."""
    torch.set_num_threads(1)
    progressive.MANY = strategies if weigh_all else MANY
    rng = np.random.default_rng(0)
    search = ProgressiveSearch(random_space(rng, strategies), Limits(0.3, 0.9, timed=True), 0)
    asks, tells = [], []
    for _ in range(STEPS):
        began = time.process_time()
        asked = search.ask(1)
        between = time.process_time()
        told = [outcome_of(search, scheme, rng) for scheme in asked]
        asks.append(between - began)
        began = time.process_time()
        search.tell(told)
        tells.append(time.process_time() - began)
    return {
        "strategies": strategies, "all": weigh_all, "ask": float(np.median(asks)), "slowest": max(asks), "tell": float(np.median(tells)),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def page(rows: list[dict[str, float]]) -> str:
    """Return the table as a page."""
    lines = [
        "# What a search's own step costs, by the number of strategies",
        "",
        f"Written by `python -m benchmarks.search_step`: {STEPS} asks for one step each, and tells, of the progressive search on made-up spaces;",
        f"processor time, one thread, one run, seed 0. Up to {MANY:,} strategies an ask weighs all of them after each of up to twenty prefixes,",
        "of a larger space so many, drawn anew for each ask, as many of each method and size.",
        f"{cpu_name()}, Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}.",
        "",
        "| strategies | weighed | ask, median | ask, slowest | tell, median | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = " | ".join(f"{1000 * row[name]:,.0f} ms" for name in ("ask", "slowest", "tell"))
        weighed = "all" if row["all"] or row["strategies"] <= MANY else f"{MANY:,}"
        lines.append(f"| {row['strategies']:,} | {weighed} | {times} | {row['peak']:,.0f} MB |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure each size in a process of its own, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help="print the figures of one size, as JSON")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(*json.loads(given.one))))
        return
    rows = []
    for size in SIZES:
        words = [sys.executable, "-m", "benchmarks.search_step", "--one", json.dumps(size)]
        rows.append(json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    print(page(rows))
    if given.out:
        given.out.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
