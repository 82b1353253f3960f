"""A limit on time that is predicted: what closing steps remove for it, and what is not asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from automc.search.base import Limits, Outcome, Space
from automc.search.history import History
from automc.search.pace import AIM, NEAR, Pace
from automc.search.progressive import ProgressiveSearch

LEFT = np.linspace(0.1, 1.0, 91)
LIMITS = Limits(gamma=0.1, base_accuracy=0.9, max_length=2)


def pace(limit: float = 0.6) -> Pace:
    """Time falls as parameters with the first method, half as fast with the second, not at all with the third."""
    return Pace(LEFT, np.stack([LEFT, 0.5 + 0.5 * LEFT, np.ones(91)]), limit)


@pytest.fixture
def space(new_space) -> Space:
    """Three methods, the last three strategies closing, one of each."""
    old = new_space()
    n = len(old.strategies)
    return Space(
        strategies=(*old.strategies, *(f"{name}[HP1=0]" for name in old.methods)), methods=old.methods,
        method=np.concatenate([old.method, np.arange(3)]),
        embeddings=np.concatenate([old.embeddings, old.embeddings[:3]]),
        hp2=np.concatenate([old.hp2, np.full(3, np.nan)]), cost=np.ones(n + 3), mask=np.ones(n + 3, dtype=bool),
        task=old.task, closing=np.arange(n + 3) >= n, pace=pace(),
    )  # fmt: skip


def ok(scheme: tuple[int, ...], pr: float, time: float | None = None) -> Outcome:
    return Outcome(scheme, "ok", 0.8, pr, -0.05, pr, pace=time)


def test_what_is_missing_to_a_time_follows_the_curve_of_each_method() -> None:
    needed = pace(0.8).missing(1.0, 1.0)
    # 0.95 of the limit is aimed at: 0.76 of the parameters for the first method, 0.52 for the second.
    np.testing.assert_allclose(needed[:2], [0.24, 0.48], atol=0.011)
    assert np.isinf(needed[2])
    assert (pace(0.8).missing(0.79, 0.7) == 0).all(), "nothing is missing where the limit is met"
    # After a step the model's own time counts, and of the curve only ratios.
    np.testing.assert_allclose(pace(0.5).missing(0.6, 0.8)[0], 0.8 - 0.8 * AIM * 0.5 / 0.6, atol=0.011)


def test_where_the_aim_is_out_of_reach_what_comes_nearest_to_the_limit_is_removed() -> None:
    """The second method has 0.55 of the time at best, with all but a tenth gone: a little more than this limit."""
    curves = pace(0.52)
    assert AIM * 0.52 < 0.52 < 0.55 < NEAR * 0.52
    np.testing.assert_allclose(curves.missing(1.0, 1.0), [1 - AIM * 0.52, 0.9, np.inf], atol=0.011)
    assert np.isinf(pace(0.49).missing(1.0, 1.0)[1]), "0.55 is not near 0.49"
    # One that becomes slower again beyond its fastest: not more than that is removed.
    bent = np.where(LEFT < 0.4, 0.9 - LEFT, LEFT + 0.1)
    fastest = Pace(LEFT, bent[None, :], 0.49).missing(1.0, 1.0)
    np.testing.assert_allclose(fastest, [0.6], atol=0.011)


def test_predicted_times_are_those_of_a_first_step_or_ratios_of_the_curve() -> None:
    gone = np.array([0.4, 0.4, 0.4])
    first = pace().after(0.9, 0.8, gone, np.arange(3))
    np.testing.assert_allclose(first, [0.45, 0.9 * 0.75, 0.9])
    again = pace().after(0.9, 0.8, gone, np.arange(3), used={0, 1, 2})
    np.testing.assert_allclose(again, [0.45, 0.9 * 0.7 / 0.9, 0.9])
    assert pace().fastest(np.array([0.5]), 0.25)[0] == pytest.approx(0.5)


def test_what_a_method_slows_down_at_any_size_counts_once(space: Space) -> None:
    """The second method's layers take five times as long, whatever is left of them."""
    slow = np.where(LEFT < 0.999, 5.0 * LEFT, 1.0)
    curves = Pace(LEFT, np.stack([LEFT, slow, np.ones(91)]), 0.6)
    gone, both = np.array([0.3]), np.array([1])
    assert curves.after(0.6, 0.6, gone, both)[0] == pytest.approx(0.6 * 5 * 0.5)
    assert curves.after(3.0, 0.6, gone, both, used={1})[0] == pytest.approx(3.0 * 0.5)
    # 0.7 · 5 · r is 0.95 of the limit where r of the input is left, 0.16 of it.
    assert curves.missing(0.7, 0.7)[1] == pytest.approx(0.7 - 0.7 * 0.16)
    assert curves.missing(0.7, 0.7, used={1})[1] == pytest.approx(0.7 - 0.56)
    known = replace(space, pace=curves)
    history = History(known, LIMITS)
    history.record([ok((0,), 0.04, 0.96)])
    allowed = history.admissible((0,))
    assert not allowed[known.method == 1].any(), "none gets the time back in a last step"
    assert allowed[known.method == 0].any()


def test_closing_steps_remove_what_size_and_time_take(space: Space) -> None:
    planned = space.planned([ok((), 0.0, 1.0)], LIMITS.gamma)[0]
    np.testing.assert_allclose(planned[-3:-1], space.pace.missing(1.0, 1.0)[:2], atol=1e-9)  # type: ignore[union-attr]
    slack = replace(space, pace=pace(2.0))
    np.testing.assert_allclose(slack.planned([ok((), 0.0, 1.0)], LIMITS.gamma)[0][-3:], LIMITS.gamma)


def test_what_cannot_meet_the_time_any_more_is_not_admissible(space: Space) -> None:
    history = History(space, LIMITS)
    allowed = history.admissible(())
    assert allowed[-3]
    assert not allowed[-1], "its method never gets there"
    small = int(np.flatnonzero((space.method == 2) & (space.hp2 == space.hp2[:-3].min()))[0])
    assert allowed[small], "another method may follow"
    history.record([ok((small,), float(space.hp2[small]), 1.0)])
    last = history.admissible((small,))
    times = space.paces(history.outcomes[small,], LIMITS.gamma)
    assert times is not None
    assert last.any()
    assert (times[last] <= NEAR * 0.6).all()


def test_a_slow_model_does_not_count_as_meeting_the_target(space: Space) -> None:
    search = ProgressiveSearch(space, LIMITS, 0)
    late, early = ok((0,), 0.4, 0.9), ok((1,), 0.4, 0.5)
    met = search._met([late, early])
    assert met[0, 1] < LIMITS.gamma < met[1, 1]


def test_on_the_way_a_slow_model_counts_as_far_as_time_is_gained(space: Space) -> None:
    search = ProgressiveSearch(space, replace(LIMITS, gamma=0.8), 0)
    times = [1.3, 1.0, 0.9, 0.7, 0.61, 0.59]
    met = search._met([ok((i,), 0.6, time) for i, time in enumerate(times)])
    # To 0.6 of the time it is 0.4: of γ, 0.8, as large a part counts as of that is gained, never more than is removed.
    np.testing.assert_allclose(met[:, 1], [0.0, 0.0, 0.2, 0.6, 0.6, 0.6])
    np.testing.assert_allclose(met[:, 0], 0.8)
    loose = ProgressiveSearch(replace(space, pace=pace(1.2)), LIMITS, 0)
    assert loose._met([ok((0,), 0.4, 1.3)])[0, 1] < LIMITS.gamma


def test_a_search_asks_for_what_comes_near_and_without_predictions_as_ever(space: Space) -> None:
    search = ProgressiveSearch(space, LIMITS, 0)
    for scheme in search.ask(12):
        assert search.history.admissible(())[scheme[-1]]
    assert ProgressiveSearch(replace(space, pace=None), LIMITS, 0).history.admissible(()).sum() > 3


def test_some_strategies_are_planned_and_may_follow_as_among_all(space: Space) -> None:
    history = History(space, LIMITS)
    history.record([ok((0,), 0.04, 0.9), ok((9,), 0.3, 0.7)])
    among = np.array([1, 9, 20, *range(len(space.mask) - 3, len(space.mask))])
    for prefix in ((), (0,), (9,)):
        np.testing.assert_array_equal(history.unexplored(prefix, among), history.unexplored(prefix)[among])
    measured = history.measured()
    np.testing.assert_allclose(
        space.planned(measured, LIMITS.gamma, among[None, :]), space.planned(measured, LIMITS.gamma)[:, among]
    )
