"""The first guess: what a step costs by its size alone, AR = −c·x/(1−x), fitted on experience by absolute error.

x is what a step removes, relative to its input. The curve is monotone, free at 0 and steep towards 1, as papers' tables
and ours are; c ≥ 0 is a method's own, as far as its records go, and everybody's otherwise. Two more things that decide
a step are factors of c: how many iterations it trains (known of our own records; papers train for tens of thousands,
and are one factor together), and how many errors its input makes: what is hard loses more. From paper to paper the
curve is flatter: of records of unknown length AR = −c·(x/(1−x))^b, and b is fitted too.

`judge` holds the law against the fairest constant, the weighted median, on papers that neither has read: where it does
not win there, by papers and by rows, it is not used.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kg.cards import SIZE
from kg.schema import Experience

Floats = NDArray[np.float64]

MOST = 0.95
"""Largest removal that the curve tells apart; it goes to infinity at 1."""
USUAL_ITERATIONS = 100
"""Length at which c is meant: that of short steps, which a search takes."""
USUAL_ERRORS = 0.1
"""Share of errors of the input at which c is meant; that of an input whose accuracy is not known."""
HARDNESS = 0.5
"""c grows with the square root of the errors. Not fitted: 8 tables of two data sets cannot tell .5 from .75."""
PSEUDO_SOURCES = 3.0
"""How many sources of everybody's records stand beside those of one method."""
LENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Powers of the length that are tried; 0: length does not matter, 0.5: four times as long costs half as much."""
PUBLISHED = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Factors of records of unknown length that are tried; no length does better than that."""
BENDS = (0.5, 1.0)
"""Powers of x/(1−x) that are tried for these records: papers choose sizes that they can afford and train for as long as
that takes, so from paper to paper the loss grows more slowly than within one hand."""


@dataclass(frozen=True)
class Law:
    """A fitted law. Costs are c at the usual length and errors; never negative."""

    cost: float
    """Of a method that has no records."""
    costs: Mapping[str, float]
    """By method."""
    length: float
    published: float
    bend: float = 1.0
    """Power of x/(1−x) of records of unknown length; 1 for all others."""

    def slope(self, method: str, iterations: float | None = None, accuracy: float | None = None) -> float:
        """Return c of a method's steps: AR = −c·x/(1−x).

        Args:
            iterations: training iterations of a step; None for as long as papers train, and c is of their bent curve.
            accuracy: of the input, in [0, 1]; None where unknown.
        """
        hard = _hardness(np.array([np.nan if accuracy is None else accuracy]))
        factor = hard * _shortness(_lengths([iterations]), self.length, self.published)
        return float(self.costs.get(method, self.cost) * factor[0])

    def predict(self, items: Sequence[Experience]) -> Floats:
        """Return AR of records from what was known before they were measured, (n,)."""
        cost = np.array([self.costs.get(item.strategy.method, self.cost) for item in items])
        return np.asarray(-cost * _Columns.of(items).effort(self.length, self.published, self.bend))


@dataclass(frozen=True)
class Verdict:
    """Mean absolute errors of AR on papers left out one at a time, over all rows and as a mean over papers."""

    rows: int
    papers: int
    median: tuple[float, float]
    """Of the weighted median of the other papers."""
    law: tuple[float, float]
    """Of the law, fitted on all other sources, our own tables among them."""

    @property
    def used(self) -> bool:
        """Whether the law wins both ways, so that it is used."""
        return self.papers > 1 and all(law < median for law, median in zip(self.law, self.median, strict=True))

    @property
    def text(self) -> str:
        """What a person is told."""
        rows, papers = (f"{law:.4f} against {median:.4f}" for law, median in zip(self.law, self.median, strict=True))
        return (
            f"First guess, by size: it misses the AR of unread papers by {rows} of the median over {self.rows} rows, "
            f"{papers} over {self.papers} papers, and is {'used' if self.used else 'NOT used'}."
        )


def teaches(item: Experience) -> bool:
    """Tell whether a record teaches AR: it and the removal are known, and nothing speaks against it.

    A record of our own without its length (of an old version) does not: it is not as long as a paper's.
    """
    known = item.ar is not None and _removal(item) is not None
    return known and not item.not_taught and not (item.own and item.iterations is None)


def lessons(experience: Iterable[Experience]) -> tuple[Experience, ...]:
    """Return the records that teach AR, by id: sums are the same to the last digit in whatever order they came."""
    return tuple(sorted(filter(teaches, experience), key=lambda item: item.id))


def weigh(items: Sequence[Experience]) -> Floats:
    """Return the weights of records, (n,): every source has 1 in all."""
    sizes = Counter((item.origin, item.source) for item in items)
    return np.array([1 / sizes[item.origin, item.source] for item in items])


def fit(items: Sequence[Experience]) -> Law | None:
    """Fit the law by weighted absolute error; None without records. All must teach AR, see `teaches`."""
    if not items:
        return None
    truth, weights = np.array([item.ar for item in items], dtype=np.float64), weigh(items)
    columns, best = _Columns.of(items), None
    for length, published, bend in itertools.product(LENGTHS, PUBLISHED, BENDS):
        effort = np.maximum(columns.effort(length, published, bend), 1e-6)
        cost = _cost(truth, effort, weights)
        loss = float(np.sum(weights * np.abs(truth + cost * effort)))
        if best is None or loss < best[0] - 1e-12:
            best = loss, length, published, bend, effort, cost
    assert best is not None
    _, length, published, bend, effort, cost = best
    names = np.array([item.strategy.method for item in items])
    costs = {}
    for name in sorted(set(names)):
        own = names == name
        share = weights[own].sum() / (weights[own].sum() + PSEUDO_SOURCES)
        costs[str(name)] = float(share * _cost(truth[own], effort[own], weights[own]) + (1 - share) * cost)
    return Law(cost, costs, length, published, bend)


def judge(experience: Iterable[Experience]) -> Verdict:
    """Leave out each paper in turn, and predict its AR by the law and by the weighted median of the other papers.

    Our own tables and trials are no folds and no part of the median, which only helps it: they lose more than papers.
    """
    items = lessons(experience)
    papers = sorted({item.source for item in items if not item.own})
    errors: dict[str, list[Floats]] = {"median": [], "law": []}
    for paper in papers if len(papers) > 1 else ():
        held = [item for item in items if not item.own and item.source == paper]
        rest = [item for item in items if item.own or item.source != paper]
        published = [item for item in rest if not item.own]
        truth = np.array([item.ar for item in held])
        constant = weighted_median(np.array([item.ar for item in published]), weigh(published))
        law = fit(rest)
        assert law is not None
        errors["median"].append(np.abs(truth - constant))
        errors["law"].append(np.abs(truth - law.predict(held)))
    rows = sum(map(len, errors["law"]))
    found = {
        name: (float(np.concatenate(parts).mean()), float(np.mean([part.mean() for part in parts])))
        if parts
        else (float("nan"), float("nan"))
        for name, parts in errors.items()
    }
    return Verdict(rows, len(errors["law"]), **found)


def weighted_median(values: Floats, weights: Floats) -> float:
    """Return the lower weighted median: no constant has less weighted absolute error."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _cost(truth: Floats, effort: Floats, weights: Floats) -> float:
    """The c ≥ 0 of least weighted absolute error of −c·effort: the median of the rows' own c, by weight and effort."""
    return max(0.0, weighted_median(-truth / effort, weights * effort))


def _removal(item: Experience) -> float | None:
    """Share of the input that is removed: as planned, else as measured."""
    planned = item.strategy.get(SIZE)
    return item.pr if planned is None or isinstance(planned, str) else float(planned)


@dataclass(frozen=True)
class _Columns:
    """What the law knows of records, (n,) each: x/(1−x), their hardness, and their iterations, NaN where unknown."""

    size: Floats
    hardness: Floats
    iterations: Floats

    @classmethod
    def of(cls, items: Sequence[Experience]) -> _Columns:
        share = np.clip([_removal(item) or 0.0 for item in items], 0, MOST)
        accuracy = np.array([np.nan if item.task.accuracy is None else item.task.accuracy for item in items])
        return cls(share / (1 - share), _hardness(accuracy), _lengths([item.iterations for item in items]))

    def effort(self, length: float, published: float, bend: float) -> Floats:
        """What AR is −c times of."""
        size = np.where(np.isnan(self.iterations), self.size**bend, self.size)
        return np.asarray(size * self.hardness * _shortness(self.iterations, length, published))


def _lengths(iterations: Iterable[float | None]) -> Floats:
    return np.array([np.nan if value is None else max(1.0, value) for value in iterations])


def _shortness(iterations: Floats, length: float, published: float) -> Floats:
    """Factor of c by length, never below that of papers."""
    known = np.maximum((iterations / USUAL_ITERATIONS) ** -length, published)
    return np.where(np.isnan(iterations), published, known)


def _hardness(accuracy: Floats) -> Floats:
    """Factor of c by the input's errors; NaN where its accuracy is not known."""
    errors = np.where(np.isnan(accuracy), USUAL_ERRORS, np.maximum(1 - accuracy, 0.005))
    return np.asarray((errors / USUAL_ERRORS) ** HARDNESS)
