"""Reading settings, and the triplets of neighbours, on vectors that are known to be right or wrong."""

from __future__ import annotations

import numpy as np
import pytest

from kg.cards import enumerate_strategies, on_grid, read_cards
from kg.embedding.quality import KINDS, neighbours, settings_read, triplets
from kg.schema import Method, Strategy


@pytest.fixture(scope="module")
def cards() -> tuple[Method, ...]:
    return tuple(method for method in on_grid(read_cards()) if method.id in ("NS", "SFP", "LFB", "LeGR"))


def told(methods: tuple[Method, ...]) -> tuple[list[str], np.ndarray]:
    """Ids, and vectors that say it all: method, techniques, a number's place on its grid, a category's indicator."""
    strategies = [strategy for method in methods for strategy in enumerate_strategies(method)]
    cards, names = {m.id: m for m in methods}, sorted({m.id for m in methods})
    techniques = sorted({t.id for m in methods for t in m.techniques})
    knobs = sorted({(k.id, str(v)) for m in methods for k in m.hyperparameters for v in k.values})
    rows = []
    for strategy in strategies:
        card = cards[strategy.method]
        row = [4.0 * (name == strategy.method) for name in names]
        row += [2.0 * (name in {t.id for t in card.techniques}) for name in techniques]
        grid = {k.id: [str(v) for v in k.values] for k in card.hyperparameters}
        for name, value in knobs:
            own = strategy.get(name)
            near = own is not None and value in grid[name]
            steps = abs(grid[name].index(value) - grid[name].index(str(own))) if near else 9
            row.append({0: 1.0, 1: 0.5}.get(steps, 0.0) if not isinstance(own, str) else float(steps == 0))
        rows.append(row)
    return [strategy.id for strategy in strategies], np.array(rows)


def test_vectors_that_say_it_all_pass_and_drawn_ones_do_not(cards: tuple[Method, ...]) -> None:
    ids, vectors = told(cards)
    read = settings_read(ids, vectors)
    assert list(read)[:2] == ["HP1", "HP2"]
    assert min(row["read"] for row in read.values()) > 0.9
    right = neighbours(cards, ids, vectors)
    assert list(right) == list(KINDS)
    assert min(right.values()) > 0.9, right
    drawn = np.random.default_rng(0).standard_normal((len(ids), 32))
    assert abs(settings_read(ids, drawn)["HP2"]["read"] - 0.2) < 0.15
    for kind, share in neighbours(cards, ids, drawn).items():
        assert abs(share - 0.5) < 0.1, kind


def test_triplets_are_of_their_kind(cards: tuple[Method, ...]) -> None:
    grids = {m.id: {k.id: k.values for k in m.hyperparameters} for m in cards}
    seen = dict.fromkeys(KINDS, 0)
    for kind, triplet in triplets(cards, seed=3, drawn=200):
        one, near, far = (Strategy.parse(id) for id in triplet)
        seen[kind] += 1
        assert one not in (near, far)
        if kind == "value":
            (knob,) = {name for name, value in one.settings if near.get(name) != value}
            grid = grids[one.method][knob]
            at, beside, away = (grid.index(s.get(knob)) for s in (one, near, far))
            assert abs(at - beside) == 1 < abs(at - away)
        elif kind == "settings":
            changed = [sum(s.get(name) != value for name, value in one.settings) for s in (near, far)]
            assert changed[0] == 1 < changed[1]
        elif kind == "method":
            assert near.method == one.method != far.method
        else:
            assert one.method not in (near.method, far.method)
    assert min(seen.values()) > 50
