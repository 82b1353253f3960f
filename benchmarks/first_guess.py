"""What experience is worth to a search that measures: F_mo told the committed tables round by round.

A table at a time, its steps in their order, four a round: each is predicted before its round is told. F_mo's linear
model begins from nothing, or from the law by size fitted on all other sources, as a study does. No training; a minute.

    python -m benchmarks.first_guess > docs/results/first-guess.md
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from automc import methods
from automc.search.base import FloatArray, Limits, Outcome, Space
from automc.search.linear import LinearModel
from automc.training.recipe import Recipe
from benchmarks.own_experience import E0, ROOT, TABLES, Figures, Made
from kg.embedding.law import Law, fit, lessons, weigh, weighted_median
from kg.experience import read_experience
from kg.schema import Scheme, Strategy

NAMES = (
    "automc_progressive", "automc_random", "automc_resnet20-bench-1", "automc_digits-k8", "automc_single-methods",
)  # fmt: skip
ROUND, EARLY = 4, 20
METHODS = ("LMA", "LeGR", "NS", "SFP", "HOS", "LFB", "TRP")
GAMMA = 0.3


def space(made: Sequence[Made], law: Law | None) -> Space:
    """The strategies of a table, and what the law says of their methods on its model."""
    steps = list(dict.fromkeys(step for one in made for step in one.scheme.steps))
    model, images = made[0].model, made[0].images
    lengths = [methods.get(s.method).iterations(s, Recipe(unit_epochs=E0), images) for s in steps]

    def slope(name: str) -> float:
        mine = [length for step, length in zip(steps, lengths, strict=True) if step.method == name]
        return 0.0 if law is None else law.slope(name, float(np.median(mine or lengths)), model.accuracy)

    return Space(
        strategies=tuple(step.id for step in steps), methods=METHODS,
        method=np.array([METHODS.index(step.method) for step in steps]), embeddings=np.zeros((len(steps), 32)),
        hp2=np.array([step.number("HP2") for step in steps]), cost=np.array(lengths, dtype=float),
        mask=np.ones(len(steps), dtype=bool), task=np.zeros(7),
        slope=None if law is None else np.array([slope(name) for name in METHODS]),
    )  # fmt: skip


def pairs(made: Sequence[Made], place: dict[Strategy, int]) -> list[tuple[Outcome, Outcome]]:
    """(Parent, step) outcomes in the order of the table."""

    def outcome(scheme: Scheme, at: Figures, before: Figures) -> Outcome:
        ar = at.accuracy / before.accuracy - 1
        pr = 1 - (1 - at.pr) / (1 - before.pr)
        return Outcome(tuple(place[s] for s in scheme.steps), "ok", at.accuracy, at.pr, ar, pr)

    return [
        (outcome(one.scheme.parent, one.before, one.before), outcome(one.scheme, one.after, one.before)) for one in made
    ]


def errors(made: Sequence[Made], law: Law | None) -> tuple[FloatArray, FloatArray]:
    """Predicted and measured step AR of a table, each predicted before its round was told."""
    here = space(made, law)
    told = pairs(made, {Strategy.parse(id): i for i, id in enumerate(here.strategies)})
    model, said = LinearModel(here, Limits(GAMMA, made[0].model.accuracy)), list[float]()
    for begin in range(0, len(told), ROUND):
        now = told[begin : begin + ROUND]
        last = np.array([step.scheme[-1] for _, step in now])
        said += model.pairs([parent for parent, _ in now], last)[:, 0].tolist()
        model.learn(told[: begin + ROUND])
    return np.array(said), np.array([step.step_ar for _, step in told])


def main() -> None:
    taught = lessons(read_experience()[0])
    print("# What the first guess is worth to F_mo\n")
    print(
        "Written by `benchmarks/first_guess.py`: the linear model predicts the step AR of committed tables, four steps a"
    )
    print("round, each before its round is told. It begins from nothing, or from the law by size fitted on all other")
    print(f"sources. Mean absolute error and Spearman's correlation over the first {EARLY} steps, and over all.\n")
    print(f"| table | n | error, first {EARLY} | error, all | correlation, first {EARLY} | correlation, all |")
    print("|---|---|---|---|---|---|")
    for table in (table for table in TABLES if table.id in NAMES):
        made = list(table.steps(ROOT / table.path))
        law = fit([item for item in taught if item.source != table.id])
        cells = []
        for part in (slice(EARLY), slice(None)):
            (bare, truth), (helped, _) = errors(made, None), errors(made, law)
            both = [said[part] for said in (bare, helped)]
            cells.append(" -> ".join(f"{np.abs(said - truth[part]).mean():.3f}" for said in both))
            cells.append(" -> ".join(f"{spearmanr(said, truth[part]).statistic:.2f}" for said in both))
        print(f"| {table.id} | {len(made)} | {cells[0]} | {cells[2]} | {cells[1]} | {cells[3]} |")
    print("\nFrom nothing -> from the law. All but the digits are one network and one set of images, and the tables of")
    print("other sources are partly of the same: what a network of another kind gains is not seen here.")
    print("\n## Our own tables, each unread\n")
    print(
        "Mean absolute error of the step AR that the law, fitted on all other sources, and the weighted median of these say;"
    )
    print("and the correlation of what the law says with what was measured.\n")
    print("| table | n | median | law | correlation |")
    print("|---|---|---|---|---|")
    missed: list[FloatArray] = []
    for name in (table.id for table in TABLES):
        held = [item for item in taught if item.source == name]
        rest = [item for item in taught if item.source != name]
        law, truth = fit(rest), np.array([item.ar for item in held])
        assert law is not None
        constant = weighted_median(np.array([item.ar for item in rest]), weigh(rest))
        said = law.predict(held)
        missed.append(np.abs(np.stack([np.full(len(held), constant), said]) - truth))
        cells = [f"{error:.3f}" for error in missed[-1].mean(axis=1)]
        print(f"| {name} | {len(held)} | {cells[0]} | {cells[1]} | {spearmanr(said, truth).statistic:.2f} |")
    rows, tables = np.concatenate(missed, axis=1).mean(axis=1), np.mean([part.mean(axis=1) for part in missed], axis=0)
    print(f"| over rows | {sum(part.shape[1] for part in missed)} | {rows[0]:.3f} | {rows[1]:.3f} | |")
    print(f"| over tables | {len(missed)} | {tables[0]:.3f} | {tables[1]:.3f} | |")


if __name__ == "__main__":
    main()
