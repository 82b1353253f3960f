"""A race among finalists: who takes part, how long the legs are, and who wins."""

from __future__ import annotations

import pytest

from automc.study.protocol import Protocol
from automc.study.race import MOST, NEAR, course, legs, race, runners
from automc.study.trial import Trial
from kg.schema import Scheme, Strategy

BASE = {"accuracy": 0.9, "params": 1000.0, "flops": 1e6}


def trial(ordinal: int, accuracy: float, *methods: str, pr: float = 0.7) -> Trial:
    scheme = Scheme(tuple(Strategy(name, (("HP2", ordinal / 100),)) for name in methods))
    params = round(1000 * (1 - pr))
    return Trial(ordinal, ordinal, scheme, "ok", accuracy=accuracy, pr=pr, params=params, flops=1)


def protocol(max_drop: float | None = None) -> Protocol:
    return Protocol(0.7, (), max_drop, BASE, 1000)


TRIALS = [
    trial(1, 0.80, "LFB"), trial(2, 0.799, "LFB"), trial(3, 0.78, "HOS"), trial(4, 0.77, "HOS", "LFB"),
    trial(5, 0.775, "LFB", "HOS"), trial(6, 0.79 - NEAR, "NS"), trial(7, 0.85, "SFP", pr=0.5), trial(8, 0.77, "LMA"),
]  # fmt: skip


def test_the_best_of_each_kind_takes_part_the_recommended_one_first() -> None:
    found = runners(protocol(), TRIALS)
    # Not a second LFB, nor HOS and LFB in the other order, nor what is too far behind or misses the target.
    assert [t.ordinal for t in found] == [1, 3, 5]
    assert len(found) == MOST
    assert runners(protocol(), TRIALS[6:7]) == []
    # Where a drop is allowed the smallest is wanted.
    assert len(runners(protocol(0.2), TRIALS)) == 1


def test_all_legs_and_the_rest_of_the_cosine_take_the_time_that_there_is() -> None:
    assert legs(1) == []
    assert legs(2) == [(2, 0.0, 0.1)]
    assert [(count, begin) for count, begin, _ in legs(4)] == [(4, 0.0), (2, pytest.approx(0.1))]
    for finalists in (2, 3, 4):
        whole = course(finalists, 100.0)
        assert whole is not None
        in_legs = sum(count * (end - begin) for count, begin, end in legs(finalists))
        assert (in_legs + 1 - legs(finalists)[-1][2]) * whole == pytest.approx(100.0)
    assert course(1, 100.0) is None
    assert course(3, 2.0) is None


def test_the_recommended_one_wins_unless_others_are_clearly_better() -> None:
    ran: list[tuple[int, float]] = []
    losses = {(1, 0): 0.9, (3, 0): 0.72, (5, 0): 0.7, (3, 1): 0.65, (5, 1): 0.66}

    def run(one: Trial, begin: float, end: float) -> float:
        ran.append((one.ordinal, begin))
        return losses[one.ordinal, int(begin > 0)]

    won = race(runners(protocol(), TRIALS), run)
    assert [ordinal for ordinal, _ in ran] == [1, 3, 5, 5, 3]
    assert won.choice.trial.ordinal == 3
    assert won.place == legs(3)[-1][2]
    assert won.choice.why.startswith("which went on when 3 finalists of different kinds")
    assert "0.650, the least of the others 0.660" in won.choice.why

    # Who is clearly ahead after one leg is not held up by another one.
    ran.clear()
    losses[3, 0] = 0.8
    won = race(runners(protocol(), TRIALS), run)
    assert [ordinal for ordinal, _ in ran] == [1, 3, 5]
    assert won.choice.trial.ordinal == 5
    assert won.place == legs(3)[0][2]

    # What a few hundred images cannot tell is no reason to leave the most accurate one.
    losses[1, 0] = 0.73
    won = race(runners(protocol(), TRIALS), run)
    assert (won.choice.trial.ordinal, won.place) == (1, legs(3)[0][2])
    assert "0.730, the least of the others 0.700" in won.choice.why
