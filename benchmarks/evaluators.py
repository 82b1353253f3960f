"""How well models of steps predict the next round, told round by round: trials really executed, and tables.

    python -m benchmarks.evaluators [--out docs/results/evaluators.md]
    python -m benchmarks.evaluators --vectors "as shipped=data/vectors/….safetensors" [--vectors …] --out PAGE

The second judges the network alone, the one model that reads vectors, on what is on the grid. The trials are those of docs/results/resnet20-cifar10, in their recorded order. The steps of the tables were asked by a
random search. A model that needs a vector for each strategy gets a column for each setting.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from automc import methods
from automc.search.base import FloatArray, Limits, Outcome, Space
from automc.search.evaluator import Evaluator, StepModel
from automc.search.linear import FirstGuess, LinearModel
from automc.search.network import NetModel
from automc.search.progressive_mean import StrategyMeans
from automc.search.random_search import RandomSearch
from benchmarks.tab.compare import machine
from benchmarks.tab.table import TREE, Table, search
from kg.embedding.vectors import Vectors
from kg.schema import Scheme

RESULTS = Path("docs/results/resnet20-cifar10")
BASE_ACCURACY = 0.935
"""Of the trials' base model on validation, see docs/results/resnet20-cifar10."""
LEARNED = 8
"""Steps told before predictions count."""
SEEDS = 3

Make = Callable[[Space, Limits, int], StepModel]
MODELS: dict[str, Make] = {
    "network of Eq. 5 alone": lambda s, limits, seed: NetModel(s, limits, seed, FirstGuess(s, limits)),
    "mean of each strategy": lambda s, limits, _: StrategyMeans(s, limits),
    "linear model": lambda s, limits, _: LinearModel(s, limits),
    "F_mo: linear model, network where it earned it": Evaluator,
}


@dataclass(frozen=True, eq=False)
class Rounds:
    """What was told, round by round, in a space."""

    space: Space
    limits: Limits
    rounds: Sequence[Sequence[tuple[Outcome, Outcome]]]
    """(parent, step) of each round."""


def of_trials(path: Path) -> Rounds:
    """Return the rounds of a study's trials."""
    rows = list(csv.DictReader(path.open()))
    schemes = [Scheme.parse(row["scheme"]) for row in rows]
    strategies = list(dict.fromkeys(step for scheme in schemes for step in scheme.steps))
    names = tuple(dict.fromkeys(s.method for s in strategies))
    settings = sorted({(s.method, *pair) for s in strategies for pair in s.settings}, key=str)
    registry = methods.registered()
    space = Space(
        strategies=tuple(s.id for s in strategies),
        methods=names,
        method=np.array([names.index(s.method) for s in strategies], dtype=np.int64),
        embeddings=np.array([[float(m == s.method and (k, v) in s.settings) for m, k, v in settings] for s in strategies]),
        hp2=np.array([s.number("HP2") for s in strategies]),
        cost=np.array([registry[s.method].relative_cost(s) for s in strategies]),
        mask=np.ones(len(strategies), dtype=bool),
        task=np.zeros(7),
    )  # fmt: skip
    outcomes = [
        Outcome(
            tuple(strategies.index(step) for step in scheme.steps), "ok", float(row["accuracy"]), float(row["pr"]),
            float(row["step_ar"]), float(row["step_pr"]), float(row["seconds"]),
        )
        for row, scheme in zip(rows, schemes, strict=True)
    ]  # fmt: skip
    rounds: dict[str, list[Outcome]] = {}
    for row, outcome in zip(rows, outcomes, strict=True):
        rounds.setdefault(row["round"], []).append(outcome)
    return _with_parents(space, Limits(0.3, BASE_ACCURACY), list(rounds.values()))


def of_table(path: Path, seed: int) -> Rounds:
    """Return the rounds of a random search on a table."""
    table = Table.load(path)
    limits = table.limits(0.3)
    rounds = search(RandomSearch(table.space, limits, seed), table, 100, seed=seed)
    return _with_parents(table.space, limits, [one.told for one in rounds])


def _with_parents(space: Space, limits: Limits, rounds: Sequence[Sequence[Outcome]]) -> Rounds:
    known = {o.scheme: o for told in rounds for o in told} | {
        (): Outcome((), "ok", limits.base_accuracy, 0.0, 0.0, 0.0)
    }
    return Rounds(space, limits, [[(known[o.scheme[:-1]], o) for o in told if o.status == "ok"] for told in rounds])


def judged(make: Make, told: Rounds, seed: int) -> tuple[float, float, int]:
    """Return Spearman's correlation and the mean absolute error of the next round's step AR, and their number."""
    model, known = make(told.space, told.limits, seed), list[tuple[Outcome, Outcome]]()
    pairs: list[tuple[float, float]] = []
    for steps in told.rounds:
        if len(known) >= LEARNED and steps:
            found = model.predict([parent for parent, _ in steps])
            pairs += [(float(found[i, o.scheme[-1], 0]), float(o.step_ar or 0.0)) for i, (_, o) in enumerate(steps)]
        known += steps
        model.learn(known)
    rows: FloatArray = np.array(pairs)
    return float(spearmanr(rows[:, 0], rows[:, 1]).statistic), float(np.abs(rows[:, 0] - rows[:, 1]).mean()), len(rows)


def with_vectors(told: Rounds, vectors: Vectors) -> Rounds:
    """Return the same rounds in the same space, in which every strategy has its learned vector."""
    place = {name: row for row, name in enumerate(vectors.strategies)}
    rows = vectors.vectors[[place[name] for name in told.space.strategies]]
    return replace(told, space=replace(told.space, embeddings=rows.astype(float)))


def of_the_network(sources: dict[str, list[Rounds]], files: Sequence[str]) -> list[str]:
    """Return a row for columns of settings, and one for each file of vectors."""
    kinds: dict[str, Callable[[Rounds], Rounds]] = {"a column for each setting": lambda told: told}
    for text in files:
        name, _, path = text.partition("=")
        learned = Vectors.load(Path(path))
        kinds[f"vectors {name}"] = lambda told, learned=learned: with_vectors(told, learned)  # type: ignore[misc]
    lines = ["| a strategy is | " + " | ".join(sources) + " |", "|---|" + "---|" * len(sources)]
    for name, change in kinds.items():
        make, cells = MODELS["network of Eq. 5 alone"], []
        for told in sources.values():
            found = np.array([judged(make, change(one), seed) for seed, one in enumerate(told)])
            cells.append(f"{found[:, 0].mean():.2f} ± {found[:, 0].std():.2f}, {found[:, 1].mean():.3f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines


def all_sources() -> dict[str, list[Rounds]]:
    """Return by name the rounds that models are judged on, a list of one for each seed."""
    tables = (TREE, TREE.with_name("digits-k8.json"))
    trials = ("random.csv", "progressive.csv")
    return {name: [of_trials(RESULTS / name)] * SEEDS for name in trials} | {
        table.stem: [of_table(table, seed) for seed in range(SEEDS)] for table in tables
    }


def main() -> None:
    """Judge all models on everything, or the network with vectors, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/evaluators.md"))
    parser.add_argument("--vectors", action="append", default=[], help="NAME=FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources = all_sources()
    if options.vectors:
        del sources[TREE.stem]
        head = [
            "# What vectors do for the network that predicts steps", "", "Written by `python -m benchmarks.evaluators --vectors …`; the columns are those of [evaluators.md](evaluators.md).", "",
            f"The network of Eq. 5 alone, on studies and a table whose strategies are on the grid: Spearman's correlation ± its deviation over {SEEDS}",
            "seeds, and mean absolute error of the next round's step AR. What a search uses, the linear model, reads no vectors.", "",
        ]  # fmt: skip
        options.out.write_text("\n".join([*head, *of_the_network(sources, options.vectors), ""]))
        return
    lines = [
        "# How well steps are predicted", "", "Written by `python -m benchmarks.evaluators`.", "",
        "Each model is told the steps round by round and predicts the step AR of the next round before it hears of it, from",
        f"{LEARNED} told steps on. Spearman's correlation, mean absolute error (and number of steps); means over {SEEDS} seeds: of the network",
        "for the trials, of the network and the random search for the tables. `random.csv` and `progressive.csv` are the 81",
        "trials of ResNet-20 on CIFAR-10 in `resnet20-cifar10`. No model has experience.",
        f"{machine()['device']}; {machine()['versions']}.", "",
        "| model | " + " | ".join(sources) + " |", "|---|" + "---|" * len(sources),
    ]  # fmt: skip
    for name, make in MODELS.items():
        cells = []
        for told in sources.values():
            found = np.array([judged(make, one, seed) for seed, one in enumerate(told)]).mean(axis=0)
            cells.append(f"{found[0]:.2f}, {found[1]:.3f} ({found[2]:.0f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    options.out.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
