"""What each part of the progressive search's choice is worth: one changed at a time, paired by seed.

    python -m benchmarks.tab.choices [--seeds 30] [--variants NAME …] [--out docs/results/searchers/choices.csv]

Appends a row per run, so that it can be stopped; writes choices.md beside it. F_mo without its network, which is hardly
ever followed within a hundred steps and takes most of the time.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.stats import wilcoxon

from automc.search.base import FloatArray, Limits, Space
from automc.search.linear import LinearModel
from automc.search.progressive import Candidates, Choice, ProgressiveSearch
from automc.search.progressive_mean import StrategyMeans
from benchmarks.tab.table import TREE, Table, search

VARIANTS: Mapping[str, tuple[dict[str, Any], str]] = {
    "as shipped": ({}, "the expected gain; half of the weight on what is recommended"),
    "greedy": ({"nodes": ((0.0, 1.0),)}, "the gain of the prediction, no uncertainty"),
    "optimistic": ({"nodes": ((1.0, 1.0),)}, "the gain one deviation above the prediction"),
    "drawn": ({"nodes": ((0.0, 1.0),)}, "the gain of a draw from the posterior for each method and size (Thompson)"),
    "mean of each strategy": ({}, "what each strategy did so far in place of F_mo's linear model, greedily"),
    "front only": ({"front": 1.0}, "all weight on the front"),
    "recommended only": ({"front": 0.0}, "all weight on what is recommended"),
    "nothing on the way": ({"on_the_way": 0.0}, "no weight on sizes below the target"),
    "repeats as they come": ({"repeat": 1.0}, "a method and size may be asked twice at once"),
    "no chance": ({"explore": 0.0}, "nothing is drawn at random"),
    "5 prefixes": ({"prefixes": 5}, "half as many prefixes an ask"),
    "cost, power 0": ({"timed": True, "hurry": 0.0}, "time is the budget, and cost does not count"),
    "cost, power 0.25": ({"timed": True, "hurry": 0.25}, "time is the budget, gain per fourth root of cost"),
    "cost, power 0.5": ({"timed": True, "hurry": 0.5}, "time is the budget, gain per root of cost"),
}
"""What is changed, fields of Limits or of Choice, and in words."""
CASES = {
    "tree, γ 0.3": (TREE, 0.3, 100),
    "tree, γ 0.6": (TREE, 0.6, 100),
    "digits, γ 0.3": (TREE.with_name("digits-k8.json"), 0.3, 40),
}
"""Table, γ and steps."""
MEASURES = (
    "volume_10",
    "volume_25",
    "volume_50",
    "area_steps",
    "area_seconds",
    "accuracy_10",
    "accuracy_25",
    "accuracy_50",
)
KEYS = ("case", "variant", "seed")


class Drawn(ProgressiveSearch):
    """Chooses by one draw of every method and size from the posterior instead of by expectation."""

    name: ClassVar[str] = "drawn"

    def candidates(self, rng: np.random.Generator) -> Candidates:
        """Return the candidates with drawn accuracies."""
        found = super().candidates(rng)
        draw = rng.normal(size=self._kind.max() + 1)[self._kind[found.strategy]]
        moved = found.predicted + np.stack([draw * found.spread, np.zeros(len(draw))], axis=1)
        return replace(found, predicted=np.clip(moved, 0.0, 1.0))


def made(variant: str, space: Space, limits: Limits, seed: int) -> ProgressiveSearch:
    """Return a variant of the search."""
    changed = VARIANTS[variant][0]
    of_limits = {name: value for name, value in changed.items() if name in ("front", "timed")}
    choice = Choice(**{name: value for name, value in changed.items() if name not in of_limits})
    kind = Drawn if variant == "drawn" else ProgressiveSearch
    model = StrategyMeans if variant == "mean of each strategy" else LinearModel
    return kind(space, replace(limits, **of_limits), seed, evaluator=model(space, limits), choice=choice)


def row(table: Table, case: str, variant: str, seed: int) -> dict[str, str]:
    """Return the measures of one search; volumes as shares of the true front's."""
    _, gamma, budget = CASES[case]
    rounds = search(made(variant, table.space, table.limits(gamma), seed), table, budget, seed=seed)
    told = [o for one in rounds for o in one.told]
    schemes, best = [o.scheme for o in told], table.best_volume(gamma)
    volumes = np.array([table.volume(schemes[: n + 1], gamma) / best for n in range(len(schemes))])
    seconds = np.cumsum([o.seconds for o in told])
    at = [max(0, int(np.searchsorted(seconds, t, side="right")) - 1) for t in np.linspace(0, budget, 200)]
    found = {f"volume_{n}": float(volumes[min(n, len(volumes)) - 1]) for n in (10, 25, 50)}
    found |= {"area_steps": float(volumes.mean()), "area_seconds": float(volumes[at].mean())}
    accuracies = {n: table.best_accuracy(schemes[:n], gamma) for n in (10, 25, 50)}
    found |= {f"accuracy_{n}": 0.0 if np.isnan(a) else a for n, a in accuracies.items()}
    return {name: f"{value:.5f}" for name, value in found.items()}


def page(rows: list[dict[str, str]]) -> str:
    """Return the means of each variant, and how it differs from what is shipped, with p of Wilcoxon's test."""
    lines = [
        "# What each part of the choice is worth",
        "",
        "Written by `python -m benchmarks.tab.choices` from `choices.csv`, a row a run. One thing is changed at a time; where the",
        "name says *cost*, time is the budget. Means over seeds; in brackets the mean difference from *as shipped* (for cost:",
        "from power 0) on the same seeds, where Wilcoxon's signed-rank test says p < 0.05. Volumes are shares of the true front's,",
        "areas means over 100 (digits: 40) steps, or as many seconds; accuracies are the best that meets γ, in percent.",
        "",
    ]
    for case in CASES:
        seeds = {v: {r["seed"]: r for r in rows if r["case"] == case and r["variant"] == v} for v in VARIANTS}
        lines += [f"## {case}", "", "| variant | n | " + " | ".join(m.replace("_", " ") for m in MEASURES) + " |"]
        lines += ["|---|---|" + "---|" * len(MEASURES)]
        for variant, own in seeds.items():
            if not own:
                continue
            beside = seeds["cost, power 0" if variant.startswith("cost") else "as shipped"]
            cells = [_cell(own, beside, measure) for measure in MEASURES]
            lines.append(f"| {variant} | {len(own)} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += [f"- *{name}*: {what}." for name, (_, what) in VARIANTS.items()]
    return "\n".join([*lines, ""])


def _cell(own: Mapping[str, dict[str, str]], beside: Mapping[str, dict[str, str]], measure: str) -> str:
    values = np.array([float(r[measure]) for r in own.values()])
    scale, digits = (100, 2) if measure.startswith("accuracy") else (1, 3)
    text = f"{scale * values.mean():.{digits}f}"
    both = [seed for seed in own if seed in beside]
    differs: FloatArray = np.array([float(own[s][measure]) - float(beside[s][measure]) for s in both])
    if len(both) > 5 and np.abs(differs).max() > 1e-9 and wilcoxon(differs, method="asymptotic").pvalue < 0.05:
        text += f" ({scale * differs.mean():+.{digits}f})"
    return text


def fill(
    out: Path, columns: Sequence[str], variants: Iterable[str], seeds: int,
    row: Callable[[Table, str, str, int], Mapping[str, Any]],
) -> list[dict[str, str]]:  # fmt: skip
    """Append the rows of all cases, variants and seeds that a CSV does not have, one by one; return all of them."""
    done = list(csv.DictReader(out.open())) if out.exists() else []
    known = {tuple(one[key] for key in KEYS) for one in done}
    tables = {case: Table.load(path) for case, (path, _, _) in CASES.items()}
    with out.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        if not stream.tell():
            writer.writeheader()
        for seed, case, variant in itertools.product(range(seeds), CASES, variants):
            if (case, variant, str(seed)) not in known:
                found = row(tables[case], case, variant, seed)
                writer.writerow({"case": case, "variant": variant, "seed": seed, **found})
                stream.flush()
    return list(csv.DictReader(out.open()))


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("docs/results/searchers/choices.csv"))
    options = parser.parse_args()
    text = page(fill(options.out, [*KEYS, *MEASURES], options.variants, options.seeds, row))
    options.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
