"""How soon should F_mo forget what experience says, once it has measurements of its own? Paired by seed.

    python -m benchmarks.tab.forgetting [--seeds 12] [--out docs/results/searchers/forgetting.csv]

On the tables that constants are settled on, never on the held-out one. What experience says is the shipped law by size; on
the tree, whose strategies are not AutoMC's, that of the method nearest to each. Neither table is unread: the law has read the
digits, the tree belongs to images that it has read. Appends a row per run; writes forgetting.md beside it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import wilcoxon

from automc.search.base import FloatArray, Limits, Space
from automc.search.linear import LinearModel
from automc.search.progressive import ProgressiveSearch
from benchmarks.resumable import made_with
from benchmarks.tab.choices import CASES, KEYS, fill
from benchmarks.tab.table import VECTORS, Table, search
from kg.embedding.vectors import Vectors

NEAREST = {"BN": "NS", "SVD": "LFB", "KD": "LMA"}
ITERATIONS = 100.0
"""Of a step of either table, about."""
BUDGET = 60
AT = (5, 10, 15, 25, 50)
NOTHING, FOR_EVER = "nothing known", "for ever"
VARIANTS: Mapping[str, float | None] = {
    NOTHING: None, FOR_EVER: math.inf, "half after 15": 15.0, "half after 5": 5.0, "half after 2": 2.0,
    "half after 1": 1.0,
}  # fmt: skip
"""Measured steps after which experience counts half."""
COLUMNS = (*KEYS, *(f"volume_{n}" for n in AT))


def slopes(table: Table) -> FloatArray:
    """What the law says of a table's methods; as `Space.slope`."""
    law = Vectors.load(next(VECTORS.glob("*.safetensors"))).guess
    assert law is not None
    names = [NEAREST.get(name, name) for name in table.space.methods]
    return np.array([law.slope(name, ITERATIONS, table.base_accuracy) for name in names])


def row(table: Table, case: str, variant: str, seed: int) -> dict[str, str]:
    """The measures of one search: hypervolumes as shares of the true front's."""
    gamma, half = CASES[case][1], VARIANTS[variant]
    limits, space = table.limits(gamma), table.space
    if half is not None:
        space = replace(space, slope=slopes(table))
    told = [o for one in search(made(space, limits, seed, half), table, BUDGET, seed=seed) for o in one.told]
    schemes, best = [o.scheme for o in told], table.best_volume(gamma)
    return {f"volume_{n}": f"{table.volume(schemes[:n], gamma) / best:.5f}" for n in AT}


def made(space: Space, limits: Limits, seed: int, half: float | None) -> ProgressiveSearch:
    """The search with F_mo's linear model."""
    return ProgressiveSearch(space, limits, seed, evaluator=LinearModel(space, limits, half or math.inf))


def page(rows: list[dict[str, str]]) -> str:
    """Means, and how they differ from knowing nothing."""
    lines = [
        "# How soon to forget experience", "",
        "Written by `python -m benchmarks.tab.forgetting` from `forgetting.csv`, a row a run. Hypervolume after so many steps, as a share of the true",
        "front's: means over seeds; in brackets the mean difference from a search that knows nothing, on the same seeds, with a star where",
        f"Wilcoxon's signed-rank test says p < 0.05. F_mo is its linear model. {made_with()}",
    ]  # fmt: skip
    for case in CASES:
        lines += ["", f"## {case}", "", f"| experience counts | n | {' | '.join(f'{n} steps' for n in AT)} |"]
        lines += ["|---|---|" + "---|" * len(AT)]
        values = {
            variant: {
                r["seed"]: [float(r[f"volume_{n}"]) for n in AT]
                for r in rows
                if (r["case"], r["variant"]) == (case, variant)
            }
            for variant in VARIANTS
        }
        for variant, own in values.items():
            both = [seed for seed in own if seed in values[NOTHING]]
            table = np.array([own[seed] for seed in both])
            differs = table - np.array([values[NOTHING][seed] for seed in both])
            cells = [_cell(table[:, i], differs[:, i]) for i in range(len(AT))]
            lines.append(f"| {variant} | {len(both)} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(values: FloatArray, differs: FloatArray) -> str:
    if np.abs(differs).max() < 1e-9:
        return f"{values.mean():.3f}"
    star = "*" if wilcoxon(differs, method="asymptotic").pvalue < 0.05 else ""
    return f"{values.mean():.3f} ({differs.mean():+.3f}{star})"


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("docs/results/searchers/forgetting.csv"))
    options = parser.parse_args()
    text = page(fill(options.out, COLUMNS, VARIANTS, options.seeds, row))
    options.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
