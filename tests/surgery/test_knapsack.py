"""One option of each item within a budget: the best there is, and nothing that would still fit."""

from __future__ import annotations

import itertools
import random

import pytest

from automc.surgery import knapsack as module
from automc.surgery.knapsack import Option, filled, knapsack, least_rise


def drawn(seed: int) -> list[list[Option]]:
    draw = random.Random(seed)
    return [
        [(draw.choice((0, 12, 18, 30, 54, 96)) * draw.randint(1, 3), -draw.random()) for _ in range(draw.randint(2, 5))]
        for _ in range(draw.randint(1, 8))
    ]


def cost(items: list[list[Option]], chosen: list[int]) -> int:
    return sum(item[i][0] for item, i in zip(items, chosen, strict=True))


def worth(items: list[list[Option]], chosen: list[int]) -> float:
    return sum(item[i][1] for item, i in zip(items, chosen, strict=True))


@pytest.mark.parametrize("seed", range(12))
def test_it_is_as_good_as_the_best_of_all_choices(seed: int) -> None:
    items = drawn(seed)
    every = [list(places) for places in itertools.product(*(range(len(item)) for item in items))]
    cheapest, dearest = (sum(pick(c for c, _ in item) for item in items) for pick in (min, max))
    for budget in (cheapest, (cheapest + dearest) // 2, dearest - 1, dearest + 5):
        found = knapsack(items, budget)
        assert cost(items, found) <= budget
        best = max(worth(items, chosen) for chosen in every if cost(items, chosen) <= budget)
        assert worth(items, found) == pytest.approx(best)


def test_where_not_even_the_cheapest_fit_they_come_back() -> None:
    items: list[list[Option]] = [[(5, 0.0), (3, -2.0)], [(7, 0.0), (2, -1.0), (2, -0.5)]]
    assert knapsack(items, 4) == [1, 2]
    assert knapsack([], 4) == []


@pytest.mark.parametrize("seed", range(4))
def test_what_is_left_is_below_every_rise(seed: int) -> None:
    items = drawn(seed)
    budget = sum(max(c for c, _ in item) for item in items) * 2 // 3
    start = knapsack(items, budget)
    found = filled(items, start, budget)
    assert cost(items, start) <= cost(items, found) <= budget
    assert budget - cost(items, found) < least_rise(items, found)


def test_the_rise_that_loses_least_comes_first() -> None:
    items: list[list[Option]] = [[(1, 0.0), (3, -0.9)], [(1, 0.0), (3, -0.1)]]
    assert filled(items, [0, 0], 4) == [0, 1]
    assert filled(items, [0, 0], 9) == [1, 1]
    assert least_rise(items, [1, 1]) == 0


def test_with_few_states_it_still_keeps_to_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [[(c * 1009 + 1, v) for c, v in item] for item in drawn(3)]
    budget = sum(max(c for c, _ in item) for item in items) // 2
    exact = worth(items, knapsack(items, budget))
    monkeypatch.setattr(module, "STATES", 50)
    found = knapsack(items, budget)
    assert cost(items, found) <= budget
    assert worth(items, found) <= exact
