"""Experience on the grid: every record becomes a weighted mean of strategies that can be searched.

Published settings never lie exactly on a method's grid, so a record has no strategy of its own to teach. Its
vector in Eq. 3 is the weighted mean of its method's grid embeddings instead, and the gradient flows back
through the mean. The weights are a product over the hyperparameters:

- unknown: all values alike (so too a category that is not on the grid, which says nothing about those that are);
- a number: linear weights on its two neighbours; beyond the ends the end value alone, marked as clamped;
- a category: that value.

HP2, the share of parameters to remove, is the measured PR where the source sets none. Its distance beyond the
end of the grid is kept as the excess, an input of its own: a loss at HP2 = 0.8 must not be taught as that of 0.4.
A method without a grid is taught through its method entity. The AutoMC paper (section 3.3.1) says nothing of
this, because its authors rounded the records to strategies by hand.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kg.cards import SIZE, enumerate_strategies
from kg.embedding.law import Law, teaches
from kg.errors import ExperienceInvalid
from kg.schema import Experience, Hyperparameter, Method, Value, hyperparameter_order

if TYPE_CHECKING:
    import scipy.sparse

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """Where a record lies on its method's grid.

    `weights` sum to 1 over the grid, in the order of `kg.cards.enumerate_strategies` (one number, 1, without a
    grid). `excess` is HP2 minus the end value it was clamped to, 0 inside the grid.
    """

    weights: Floats
    clamped: tuple[str, ...] = ()
    excess: float = 0.0


@dataclass(frozen=True)
class Records:
    """The rows of Eq. 3 as arrays, one row per record that has a PR.

    `mean` is (rows × entities) and sparse; times the entity embeddings it gives the records' vectors. `features`
    (rows × 7) are raw, NaN where unknown; `targets` (rows × 2) are AR and PR, NaN where unknown or not taught;
    `weights` give every source a total of 1. `given` marks rows whose HP2 was not taken from their own PR.
    """

    mean: scipy.sparse.csr_matrix
    excess: Floats
    features: Floats
    targets: Floats
    weights: Floats
    given: NDArray[np.bool_]
    items: tuple[Experience, ...]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[np.bool_]) -> Records:
        """Return some of the rows. Weights stay: drop whole sources, not parts of one."""
        items = tuple(item for item, keep in zip(self.items, rows, strict=True) if keep)
        return Records(
            mean=self.mean[np.flatnonzero(rows)],
            excess=self.excess[rows],
            features=self.features[rows],
            targets=self.targets[rows],
            weights=self.weights[rows],
            given=self.given[rows],
            items=items,
        )

    def beyond(self, law: Law | None) -> Records:
        """Return the records with what the law leaves of AR in its place."""
        if law is None or not len(self):
            return self
        left = self.targets - np.stack([law.predict(self.items), np.zeros(len(self))], axis=1)
        return replace(self, targets=left)


def map_records(experience: Sequence[Experience], methods: Sequence[Method], entities: Mapping[str, int]) -> Records:
    """Map experience onto the grids of its methods.

    Records without any PR are left out, and so are those that teach nothing (`Experience.idle`) and those of methods
    that are not given; `coverage` counts the first.

    Args:
        experience: the records; of repeated trials the mean.
        methods: the cards.
        entities: column of every strategy and method; all strategies of the grids must be there.

    Raises:
        ExperienceInvalid: a record sets a number where its card has categories, or the other way round.
    """
    import scipy.sparse  # only who learns needs it

    grids = {method.id: (method, _columns(method, entities)) for method in methods}
    items = tuple(i for i in experience if i.pr is not None and not i.idle and i.strategy.method in grids)
    rows, cells, excess = [], [], []
    for item in items:
        method, columns = grids[item.strategy.method]
        place = locate(item, method)
        used = np.flatnonzero(place.weights)
        rows.append(columns[used])
        cells.append(place.weights[used])
        excess.append(place.excess)
    starts = np.cumsum([0, *(len(row) for row in rows)])
    joined = (np.concatenate(cells), np.concatenate(rows), starts) if items else (np.zeros(0), np.zeros(0, int), starts)
    sizes = Counter((item.origin, item.source) for item in items)
    known = {method.id: {knob.id for knob in method.hyperparameters} for method in methods}
    return Records(
        mean=scipy.sparse.csr_matrix(joined, shape=(len(items), len(entities))),
        excess=np.array(excess),
        features=_table([item.task.features for item in items], 7),
        targets=_table([(item.ar if teaches(item) else None, item.pr) for item in items], 2),
        weights=np.array([1 / sizes[item.origin, item.source] for item in items]),
        given=np.array([SIZE not in known[i.strategy.method] or i.strategy.get(SIZE) is not None for i in items], bool),
        items=items,
    )


def locate(item: Experience, method: Method) -> Place:
    """Find the place of one record on its method's grid.

    Raises:
        ExperienceInvalid: a value has the wrong kind; the message names record and hyperparameter.
    """
    knobs = sorted(method.hyperparameters, key=lambda knob: hyperparameter_order(knob.id))
    product: Floats = np.ones(1)
    clamped, excess = [], 0.0
    for knob in knobs:
        value = item.strategy.get(knob.id)
        if value is None and knob.id == SIZE:
            value = item.pr
        try:
            weights, beyond = _axis(knob, value)
        except TypeError as error:
            raise ExperienceInvalid(f"Record {item.id} of {item.source}: {error}") from None
        product = np.kron(product, weights).astype(np.float64)
        if beyond:
            clamped.append(knob.id)
        if knob.id == SIZE:
            excess = beyond
    return Place(product, tuple(clamped), excess)


def coverage(experience: Sequence[Experience], methods: Sequence[Method]) -> dict[str, dict[str, int]]:
    """Count per method what its records teach.

    Returns:
        For every method with records: `records`; `used` (those in Eq. 3) and `with_ar` among them (those that teach
        AR); `without_pr` (left out) and `without_pr_with_ar` among them; `clamped`: used records beyond an end of the
        grid.
    """
    cards = {method.id: method for method in methods}
    counts: dict[str, dict[str, int]] = {}
    for item in experience:
        card = cards.get(item.strategy.method)
        if card is None:
            continue
        fields = ("records", "used", "with_ar", "without_pr", "without_pr_with_ar", "clamped")
        row = counts.setdefault(card.id, dict.fromkeys(fields, 0))
        used, with_ar = item.pr is not None and not item.idle, item.ar is not None
        row["records"] += 1
        row["used"] += used
        row["with_ar"] += used and teaches(item)
        row["without_pr"] += item.pr is None
        row["without_pr_with_ar"] += item.pr is None and with_ar
        row["clamped"] += used and bool(locate(item, card).clamped)
    return {name: counts[name] for name in cards if name in counts}


def _axis(knob: Hyperparameter, value: Value | None) -> tuple[Floats, float]:
    """Weights over one hyperparameter's values, and how far beyond the ends the value lies."""
    grid = knob.values
    if value is None:
        return np.full(len(grid), 1 / len(grid)), 0.0
    if isinstance(grid[0], str) != isinstance(value, str):
        raise TypeError(f"{knob.id} is {value!r}; the card of its method has {', '.join(map(str, grid))}.")
    if isinstance(value, str):
        if value not in grid:
            return np.full(len(grid), 1 / len(grid)), 0.0
        return np.array([float(value == other) for other in grid]), 0.0
    points = np.array([float(other) for other in grid])
    inside = float(np.clip(value, points[0], points[-1]))
    # Interpolating the identity gives the linear weights on the two neighbours.
    weights = np.array([np.interp(inside, points, unit) for unit in np.eye(len(points))])
    return weights, float(value) - inside


def _columns(method: Method, entities: Mapping[str, int]) -> NDArray[np.int64]:
    """Columns of a method's grid, or of the method itself."""
    ids = [strategy.id for strategy in enumerate_strategies(method)] or [method.id]
    return np.array([entities[name] for name in ids], dtype=np.int64)


def _table(rows: Sequence[Sequence[float | None]], width: int) -> Floats:
    """Rows as an array, NaN where None."""
    values = [[math.nan if value is None else float(value) for value in row] for row in rows]
    return np.array(values, dtype=np.float64).reshape(len(rows), width)
