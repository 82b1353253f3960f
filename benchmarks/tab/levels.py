"""What three levels could win: `eco` on a table of full lengths, with looks that cost a third and are as good as assumed.

A table holds accuracies after full lengths only. So a look at a lower level is the accuracy at full length with normal
noise of a given spread on top, at a third of the step's seconds; and a prefix that was trained for a third is as good as
one that was trained in full. Both are kinder than any short training can be: what `eco` has here is a bound.

    python -m benchmarks.tab.levels [--seeds 10]

It counts schemes that reached the last level; the other searchers' rows are those of docs/results/searchers.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from automc.search.base import Outcome, SchemeIndices, bare, level_of
from automc.search.eco import EcoSearch
from benchmarks.tab.table import TREE, Table, search
from kg.schema import LEVELS

SPREADS = (0.0, 0.01, 0.03)
"""Of the noise of a look at the first level; at the second it is half of that, at the last there is none."""
GAMMA = 0.3
SECONDS = (25, 50, 101)
"""Those at which docs/results/searchers compares."""
BESIDE = ("progressive", "progressive-mean", "evolution", "optuna-tpe", "random")


class Looks:
    """A table in which schemes have levels."""

    def __init__(self, table: Table, spread: float, seed: int) -> None:
        self._table, self._spread, self._seed = table, spread, seed

    def outcome(self, scheme: SchemeIndices, seed: int) -> Outcome:
        """Return what a look comes to: at a third of the seconds, with the noise of its level."""
        known, level = self._table.outcome(bare(scheme), seed), level_of(scheme)
        found = replace(known, scheme=scheme, seconds=known.seconds / LEVELS)
        if known.accuracy is None:
            return found
        noise = np.random.default_rng((self._seed, level, *bare(scheme))).normal()
        return replace(found, accuracy=known.accuracy + self._spread * (LEVELS - level) / (LEVELS - 1) * noise)


def run(table: Table, spread: float, seed: int) -> dict[str, float]:
    """Search once for SECONDS; return the volume at each, as a share of the true front's, and what was looked at."""
    least = min(table.outcome(scheme, 0).seconds for scheme in table.mean) / LEVELS
    steps = min(400, int(SECONDS[-1] / least))
    looks = Looks(table, spread, seed)
    rounds = search(EcoSearch(table.space, table.limits(GAMMA), seed), looks, steps, seed=seed)  # type: ignore[arg-type]
    told = [o for one in rounds for o in one.told]
    spent, best = np.cumsum([o.seconds for o in told]), table.best_volume(GAMMA)
    found: dict[str, float] = {"spread": spread, "seed": seed, "seconds": float(spent[-1])}
    for seconds in SECONDS:
        within = [o.scheme for o, at in zip(told, spent, strict=True) if at <= seconds]
        last = [bare(scheme) for scheme in within if level_of(scheme) == LEVELS]
        found[f"volume_{seconds}_seconds"] = table.volume(last, GAMMA) / best
        found[f"any_{seconds}_seconds"] = table.volume([bare(scheme) for scheme in within], GAMMA) / best
        found[f"schemes_{seconds}_seconds"] = len({bare(scheme) for scheme in within})
        found["best"] = table.best_accuracy(last, GAMMA)
    return found


def others(rows: Path) -> list[tuple[str, list[float]]]:
    """Return the median volume of the other searchers at SECONDS, from their page's rows."""
    with rows.open() as stream:
        known = list(csv.DictReader(stream))
    return [
        (
            name,
            [
                _median([float(r[column]) for r in known if r["searcher"] == name])
                for column in (*(f"volume_{s}_seconds" for s in SECONDS), "best_accuracy")
            ],
        )
        for name in BESIDE
    ]


def page(runs: Sequence[dict[str, float]], beside: Sequence[tuple[str, list[float]]], processor: float) -> str:
    """Return the table."""
    seeds = len({run["seed"] for run in runs})
    lines = [
        f"Hypervolume as a share of the true front's, `step-tree-584`, γ = {GAMMA:g}, medians: {seeds} seeds of `eco`, 30 of the others. Written by",
        f"`python -m benchmarks.tab.levels` ({processor:.0f} s of processor time).", "",
        f"| searcher | noise of the first look | schemes looked at in {SECONDS[-1]} s | {' | '.join(f'{s} s' for s in SECONDS)} | best accuracy, PR ≥ γ | counting every look, {SECONDS[-1]} s |",
        "|---|---|---|" + "---|" * (len(SECONDS) + 2),
    ]  # fmt: skip
    for spread in dict.fromkeys(run["spread"] for run in runs):
        own = [run for run in runs if run["spread"] == spread]
        volumes = [_median([run[f"volume_{s}_seconds"] for run in own]) for s in SECONDS]
        schemes, every = (_median([run[f"{what}_{SECONDS[-1]}_seconds"] for run in own]) for what in ("schemes", "any"))
        cells = " | ".join(f"{v:.3f}" for v in volumes)
        lines.append(
            f"| eco | {100 * spread:g} points | {schemes:.0f} | {cells} | {_median([run['best'] for run in own]):.3f} | {every:.3f} |"
        )
    for name, figures in beside:
        lines.append(f"| {name} | | | {' | '.join(f'{v:.3f}' for v in figures)} | |")
    return "\n".join([*lines, ""])


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def main() -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rows", type=Path, default=Path("docs/results/searchers/runs.csv"))
    options = parser.parse_args()
    table, began = Table.load(TREE), time.process_time()
    runs = [run(table, spread, seed) for spread in SPREADS for seed in range(options.seeds)]
    print(page(runs, others(options.rows), time.process_time() - began))


if __name__ == "__main__":
    main()
