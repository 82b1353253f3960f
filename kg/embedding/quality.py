"""What users of the vectors need of them: that settings can be read, and that neighbours are right.

Nothing is learned from this: the triplets "this strategy is nearer to that one than to the other" follow from the
cards, and a reader of settings is judged on strategies that it has not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from kg.schema import Method, Strategy, Value, hyperparameter_order

Floats = NDArray[np.float64]
AnyFloats = NDArray[np.floating[Any]]
Triplet = tuple[str, str, str]
"""(strategy, the one that should be nearer, the other)."""

DRAWN = 1000
KINDS = {
    "value": "one number differs: by one step of the grid, by more",
    "settings": "of the same method: one setting differs, several do",
    "method": "what both methods can set is as in the strategy: the same method, another one",
    "elsewhere": "both of one other method: what it can set is as in the strategy, is not",
    "technique": "of two other methods, set alike: one shares a technique with the strategy's, one shares none",
}
"""The kinds of triplets: what is compared, the nearer one first."""


def settings_read(strategies: Sequence[str], vectors: AnyFloats, seed: int = 0) -> dict[str, dict[str, float]]:
    """Measure how well a linear reader finds the settings in the vectors.

    Args:
        strategies: ids, (n,).
        vectors: (n, 32).
        seed: of the halves.

    Returns:
        For each hyperparameter with two values or more: `n` strategies that set it, the share `read` of one half of
        them by a logistic regression fitted on the other, and the share of the most frequent value, `chance`.
    """
    known, unit = [Strategy.parse(id) for id in strategies], directions(vectors)
    found: dict[str, dict[str, float]] = {}
    for name in sorted({name for s in known for name, _ in s.settings}, key=hyperparameter_order):
        rows = np.array([row for row, strategy in enumerate(known) if strategy.get(name) is not None])
        values = np.array([str(known[row].get(name)) for row in rows])
        order = np.random.default_rng(seed).permutation(len(rows))
        seen, unseen = order[: len(rows) // 2], order[len(rows) // 2 :]
        if len(set(values[seen])) < 2:
            continue
        reader = LogisticRegression(C=100, max_iter=200).fit(unit[rows[seen]], values[seen])
        read = float(reader.score(unit[rows[unseen]], values[unseen]))
        chance = float(np.unique(values[unseen], return_counts=True)[1].max() / len(unseen))
        found[name] = {"n": len(rows), "read": read, "chance": chance}
    return found


def neighbours(
    methods: Sequence[Method], strategies: Sequence[str], vectors: AnyFloats, seed: int = 0
) -> dict[str, float]:
    """Return for each kind of triplet the share whose nearer strategy is nearer by cosine; chance is 0.5."""
    place, unit = {id: row for row, id in enumerate(strategies)}, directions(vectors)
    right: dict[str, list[float]] = {}
    for kind, (one, near, far) in triplets(methods, seed):
        a, b, c = (unit[place[id]] for id in (one, near, far))
        right.setdefault(kind, []).append(float(np.heaviside(a @ b - a @ c, 0.5)))
    return {kind: float(np.mean(right[kind])) for kind in KINDS if kind in right}


def triplets(methods: Sequence[Method], seed: int = 0, drawn: int = DRAWN) -> Iterator[tuple[str, Triplet]]:
    """Draw triplets from the cards' grids, each with its kind; every method is asked about alike often."""
    draw = np.random.default_rng(seed)
    gridded = [method for method in methods if method.hyperparameters]
    for _ in range(drawn if gridded else 0):
        method = gridded[int(draw.integers(len(gridded)))]
        one = _drawn(method, {}, draw)
        yield from _within(method, one, draw)
        others = [other for other in gridded if other.id != method.id]
        if others:
            yield from _across(method, one, others, draw)


def _within(method: Method, one: Strategy, draw: np.random.Generator) -> Iterator[tuple[str, Triplet]]:
    """Triplets of one method: a number's steps, and how many settings differ."""
    free, settings = [knob for knob in method.hyperparameters if len(knob.values) > 1], dict(one.settings)

    def changed(changes: Mapping[str, Value]) -> str:
        return Strategy(method.id, tuple({**settings, **changes}.items())).id

    numbers = [knob for knob in free if not isinstance(knob.values[0], str)]
    if numbers:
        knob = numbers[int(draw.integers(len(numbers)))]
        steps = np.abs(np.arange(len(knob.values)) - knob.values.index(settings[knob.id]))
        if (steps > 1).any():
            beside, far = (int(draw.choice(np.flatnonzero(which))) for which in (steps == 1, steps > 1))
            yield "value", (one.id, changed({knob.id: knob.values[beside]}), changed({knob.id: knob.values[far]}))
    if len(free) > 2:
        other = [(free[i].id, _other(free[i].values, settings[free[i].id], draw)) for i in draw.permutation(len(free))]
        several = int(draw.integers(2, len(other) + 1))
        yield "settings", (one.id, changed(dict(other[:1])), changed(dict(other[-several:])))


def _across(
    method: Method, one: Strategy, others: Sequence[Method], draw: np.random.Generator
) -> Iterator[tuple[str, Triplet]]:
    """Triplets with other methods, by what they can set alike."""
    settings, other = dict(one.settings), others[int(draw.integers(len(others)))]
    grid = {knob.id: knob.values for knob in other.hyperparameters}
    shared = {name: value for name, value in settings.items() if value in grid.get(name, ())}
    alike, same = _drawn(other, shared, draw), _drawn(method, shared, draw)
    if shared and same != one:
        yield "method", (one.id, same.id, alike.id)
    unlike = {name: _other(grid[name], value, draw) for name, value in shared.items() if len(grid[name]) > 1}
    if unlike:
        yield "elsewhere", (one.id, alike.id, _drawn(other, {**shared, **unlike}, draw).id)
    techniques = {technique.id for technique in method.techniques}
    related, strange = (
        [o for o in others if bool(techniques & {technique.id for technique in o.techniques}) == share]
        for share in (True, False)
    )
    if related and strange:
        near, far = (_drawn(some[int(draw.integers(len(some)))], settings, draw) for some in (related, strange))
        yield "technique", (one.id, near.id, far.id)


def _drawn(method: Method, settings: Mapping[str, Value], draw: np.random.Generator) -> Strategy:
    """Return a strategy of a method's grid with these settings where its grid has them, and any others."""
    chosen = []
    for knob in method.hyperparameters:
        value = settings.get(knob.id)
        chosen.append((knob.id, value if value in knob.values else knob.values[int(draw.integers(len(knob.values)))]))
    return Strategy(method.id, tuple(chosen))


def _other(values: Sequence[Value], value: Value, draw: np.random.Generator) -> Value:
    """Return any other one of some values."""
    left = [v for v in values if v != value]
    return left[int(draw.integers(len(left)))]


def directions(vectors: AnyFloats) -> Floats:
    """Return vectors (n, 32) at length 1."""
    unit: Floats = np.asarray(vectors, np.float64) / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
