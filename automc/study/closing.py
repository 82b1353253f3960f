"""Strategies off the paper's grid that remove exactly what is missing to a study's target, and the first trials.

A closing strategy is a method with all settings but HP2, which follows from the prefix: what the target asks for less
what the prefix has removed. So the last step of a scheme can meet the target without going beyond it, and each method
straight to the target in one step is what a search begins with: it then cannot end below the best of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from automc.search import get as searcher_named
from automc.study.spec import MAX_REMOVED, StudySpec
from kg.schema import Scheme, Strategy, Value

DIGITS = 4
"""A solved HP2 has so many decimals, rounded up: the target is met, and ids stay short."""
REST = "rest"
"""HP2 of a closing strategy for which no prefix is given."""
_SLACK = 1e-9
LENGTHS = ("HP1", "HP9")
"""Hyperparameters that say how long a method trains what it leaves."""
SHARE = 0.5
"""Of a budget of seconds that the first trials may take."""


def closes(spec: StudySpec) -> bool:
    """Tell whether a study has closing strategies and first trials.

    Not where it is of the grid alone, where its searcher cannot ask for such strategies, and where nothing says how
    much is to go.
    """
    sized = spec.gamma is not None or bool(spec.limits)
    return sized and not spec.grid_only and searcher_named(spec.searcher).closes


def template(strategy: Strategy) -> Strategy:
    """Return a strategy with its HP2 left open."""
    return _with(strategy, HP2=REST)


def solved(strategy: Strategy, missing: float) -> Strategy:
    """Return a strategy whose HP2 is what is missing, a share of the original parameters, rounded up."""
    return _with(strategy, HP2=math.ceil(10**DIGITS * missing - _SLACK) / 10**DIGITS)


def siblings(grid: Sequence[Strategy]) -> dict[Strategy, list[int]]:
    """Return the places on the grid of the strategies that differ in HP2 alone, by their template."""
    found: dict[Strategy, list[int]] = {}
    for place, strategy in enumerate(grid):
        found.setdefault(template(strategy), []).append(place)
    return found


def straight(
    grid: Sequence[Strategy], aim: float | Mapping[str, float], reach: Mapping[str, float],
    seconds: Callable[[Strategy], float], most: float | None = None, order: Sequence[str] = (),
) -> list[Scheme]:  # fmt: skip
    """Return each method straight to the target in one step: what is within its reach, one setting a method.

    As long as the grid lets it train, and otherwise in the middle of the grid: the setting of which a person who knows
    nothing of the others would expect most. A budget of seconds shortens them all alike, and where even the shortest
    take too long it drops the dearest, so that as many as possible are tried.

    Args:
        grid: strategies that may be asked for.
        aim: share of the parameters to remove, of all methods or by their names.
        reach: share that one step of a method can remove at most; methods it does not name can remove all.
        seconds: forecast of a step.
        most: seconds that they may take together; None: any.
        order: names of the methods, the most promising first; those that it does not name come last.
    """
    aims = aim if isinstance(aim, Mapping) else {s.method: aim for s in grid}
    known = dict.fromkeys(s.method for s in grid)
    names = [m for m in known if aims[m] <= min(reach.get(m, 1.0), MAX_REMOVED) + 10.0**-DIGITS]
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    by_method = {name: [s for s in grid if s.method == name] for name in names}
    chosen: list[Strategy] = []
    for cut in range(max((len(_lengths(own)) for own in by_method.values()), default=0)):
        chosen = [solved(_middle(own, cut), aims[name]) for name, own in by_method.items()]
        if most is None or sum(map(seconds, chosen)) <= most:
            return [Scheme((strategy,)) for strategy in chosen]
    while most is not None and sum(map(seconds, chosen)) > most:
        chosen.remove(max(reversed(chosen), key=seconds))  # of several the least promising
    return [Scheme((strategy,)) for strategy in chosen]


def _lengths(grid: Sequence[Strategy]) -> list[Value]:
    """The lengths of training on a method's grid, longest first."""
    name = next((name for name in LENGTHS if grid[0].get(name) is not None), "")
    return sorted({s.number(name) for s in grid}, reverse=True) if name else [0.0]


def _middle(grid: Sequence[Strategy], cut: int) -> Strategy:
    """Return the strategy in the middle of a method's grid, with the longest training but `cut`."""
    lengths = _lengths(grid)
    settings: dict[str, Value] = {}
    for name, _ in grid[0].settings:
        values = list(dict.fromkeys(value for s in grid if (value := s.get(name)) is not None))
        settings[name] = values[len(values) // 2]
        if name in LENGTHS:
            settings[name] = lengths[min(cut, len(lengths) - 1)]
    return Strategy(grid[0].method, tuple(settings.items()))


def _with(strategy: Strategy, **values: Value) -> Strategy:
    return Strategy(strategy.method, tuple((name, values.get(name, value)) for name, value in strategy.settings))
