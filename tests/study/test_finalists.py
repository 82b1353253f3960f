"""Successive halving among finalists, and who wins: the mean decides, not one lucky measurement."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from automc.study.finalists import MOST, contenders, halve, winner
from automc.study.protocol import Protocol
from automc.study.trial import Trial
from kg.schema import Scheme, Strategy

BASE = {"accuracy": 0.9, "params": 1000.0, "flops": 1e6}


def trial(ordinal: int, accuracy: float, pr: float, steps: int = 1) -> Trial:
    scheme = Scheme(tuple(Strategy("NS", (("HP2", ordinal / 100),)) for _ in range(steps)))
    params = round(1000 * (1 - pr))
    return Trial(ordinal, ordinal, scheme, "ok", accuracy=accuracy, pr=pr, params=params, flops=1)


def protocol(max_drop: float | None = None, images: int = 1000) -> Protocol:
    return Protocol(0.5, (), max_drop, BASE, images)


FRONT = [trial(1, 0.85, 0.5), trial(2, 0.848, 0.55), trial(3, 0.845, 0.6), trial(4, 0.843, 0.62), trial(5, 0.842, 0.63)]
OTHERS = [trial(6, 0.7, 0.8), trial(7, 0.84, 0.5), trial(8, 0.9, 0.1)]


def by_ordinal(accuracies: dict[int, list[float]], log: list[tuple[int, int]]) -> Callable[[Trial, int], float | None]:
    def run(t: Trial, number: int) -> float | None:
        log.append((t.ordinal, number))
        found = accuracies[t.ordinal]
        return found[number - 1] if number <= len(found) else None

    return run


def test_contenders_are_those_that_cannot_be_told_from_the_best() -> None:
    found = contenders(protocol(), FRONT + OTHERS)
    # The recommended one, which is the most accurate, comes first.
    assert [t.ordinal for t in found] == [1, 2, 3, 4]
    assert len(found) == MOST
    assert [t.ordinal for t in contenders(protocol(images=10**6), FRONT + OTHERS)] == [1]
    assert contenders(protocol(), OTHERS[2:]) == []
    # Where a drop is allowed, the smallest ones.
    assert [t.ordinal for t in contenders(protocol(0.06), FRONT + OTHERS)] == [5, 4, 3, 2]


def test_the_better_half_is_run_again_until_one_is_left() -> None:
    log: list[tuple[int, int]] = []
    told = {1: [0.80], 2: [0.84, 0.80], 3: [0.83, 0.85], 4: [0.79]}
    done = halve(FRONT[:4], 100, lambda t: 1, by_ordinal(told, log), {})
    assert log == [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2)]
    best = winner(protocol(), FRONT[:4], done, {})
    assert best is not None
    assert best.choice.trial is FRONT[2]
    assert best.runs == (0.83, 0.85)
    assert "the best of 4 finalists: mean validation accuracy 84.00% (95% interval " in best.choice.why
    assert best.choice.why.endswith("over 2 runs, 83.00% to 85.00%")


@pytest.mark.parametrize(
    ("allowance", "runs"), [(0, 1), (1, 1), (2.5, 2), (4, 4), (5, 4), (6, 6), (1e9, 6)]
)  # fmt: skip
def test_the_allowance_is_kept_but_for_the_first_run(allowance: float, runs: int) -> None:
    log: list[tuple[int, int]] = []
    halve(FRONT[:4], allowance, lambda t: 1, by_ordinal({n: [0.8, 0.8] for n in range(1, 5)}, log), {})
    assert len(log) == runs
    assert log[0] == (1, 1)


def test_what_fails_is_out_and_all_failing_is_nobody() -> None:
    log: list[tuple[int, int]] = []
    done = halve(FRONT[:3], 100, lambda t: 1, by_ordinal({1: [], 2: [0.8], 3: [0.7]}, log), {})
    assert set(done) == {FRONT[1].scheme, FRONT[2].scheme}
    assert winner(protocol(), FRONT[:3], done, {}).choice.trial is FRONT[1]  # type: ignore[union-attr]
    assert winner(protocol(), FRONT, halve(FRONT, 9, lambda t: 1, lambda t, n: None, {}), {}) is None


def test_measurements_of_the_search_count_where_they_are_of_the_same_kind() -> None:
    done = {FRONT[0].scheme: [0.80], FRONT[1].scheme: [0.81]}
    own = {t.scheme: [t.accuracy or 0.0] for t in FRONT}
    own[FRONT[0].scheme] = [0.9]
    assert winner(protocol(), FRONT, done, {}).choice.trial is FRONT[1]  # type: ignore[union-attr]
    assert winner(protocol(), FRONT, done, own).choice.trial is FRONT[0]  # type: ignore[union-attr]


def test_where_a_drop_is_allowed_the_smallest_that_keeps_it_on_average_wins() -> None:
    done = {FRONT[4].scheme: [0.83], FRONT[3].scheme: [0.845], FRONT[2].scheme: [0.86]}
    best = winner(protocol(0.06), FRONT, done, {})
    assert best is not None
    assert best.choice.trial is FRONT[3]
    # None keeps it: the most accurate.
    assert winner(protocol(0.01), FRONT, done, {}).choice.trial is FRONT[2]  # type: ignore[union-attr]
