"""One option for each item, of the largest value together that a budget allows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import gcd

import numpy as np
import numpy.typing as npt

Option = tuple[int, float]
"""(cost, at least 0; value)."""

STATES = 2**19
"""Budgets that are told apart; beyond, costs count as rounded up to as many equal parts of the budget."""


def knapsack(items: Sequence[Sequence[Option]], budget: int) -> list[int]:
    """Choose an option of each item, so that costs sum to at most `budget` and values to as much as can be.

    A dynamic programme over what is spent, exact where the budget has at most `STATES` multiples of the costs'
    greatest common divisor. The cheapest options come back where they alone cost more than the budget.
    """
    cheapest = [min(range(len(item)), key=lambda i: (item[i][0], -item[i][1])) for item in items]
    left = budget - sum(item[i][0] for item, i in zip(items, cheapest, strict=True))
    if left < 0 or not items:
        return cheapest
    # What an option costs beyond the cheapest of its item: so the cheapest are always within the budget.
    extra = [[cost - item[i][0] for cost, _ in item] for item, i in zip(items, cheapest, strict=True)]
    unit = max(reduce(gcd, (cost for costs in extra for cost in costs), 0), -(-left // STATES), 1)
    steps = [[-(-cost // unit) for cost in costs] for costs in extra]
    states = min(left // unit, sum(map(max, steps)))
    best: npt.NDArray[np.float64] = np.zeros(states + 1)
    chosen: list[npt.NDArray[np.int32]] = []
    for item, costs in zip(items, steps, strict=True):
        value = np.full(states + 1, -np.inf)
        choice = np.zeros(states + 1, np.int32)
        for place, (cost, (_, worth)) in enumerate(zip(costs, item, strict=True)):
            if cost > states:
                continue
            with_it = best[: states + 1 - cost] + worth
            better = with_it > value[cost:]
            value[cost:][better] = with_it[better]
            choice[cost:][better] = place
        best = value
        chosen.append(choice)
    spent, found = states, list[int]()
    for choice, costs in zip(reversed(chosen), reversed(steps), strict=True):
        found.append(int(choice[spent]))
        spent -= costs[found[-1]]
    return found[::-1]


def filled(items: Sequence[Sequence[Option]], chosen: Sequence[int], budget: int) -> list[int]:
    """Exchange options for dearer ones of their items while the budget allows any: what is left is below every rise.

    The exchange that loses least value comes first, of equal ones the cheapest.
    """
    found = list(chosen)
    left = budget - sum(item[i][0] for item, i in zip(items, found, strict=True))
    while True:
        rises = [
            (item[now][1] - worth, cost - item[now][0], place, option)
            for place, (item, now) in enumerate(zip(items, found, strict=True))
            for option, (cost, worth) in enumerate(item)
            if 0 < cost - item[now][0] <= left
        ]
        if not rises:
            return found
        _, price, place, option = min(rises)
        found[place] = option
        left -= price


def least_rise(items: Sequence[Sequence[Option]], chosen: Sequence[int]) -> int:
    """What the cheapest exchange for a dearer option costs; 0 where every item has its dearest."""
    rises = (
        cost - item[now][0] for item, now in zip(items, chosen, strict=True) for cost, _ in item if cost > item[now][0]
    )
    return min(rises, default=0)
