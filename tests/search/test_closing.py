"""Closing strategies: they remove what is missing to γ, so they come last, and only where something is missing."""

from dataclasses import replace

import numpy as np
import pytest

from automc.search.base import MORE, Limits, Outcome, Space
from automc.search.history import History
from automc.search.progressive import ProgressiveSearch
from benchmarks.tab.measures import searchers

LIMITS = Limits(gamma=0.3, base_accuracy=0.9, max_length=3)
MADE = searchers()


@pytest.fixture
def closing(new_space):
    """A space of three methods whose last three strategies are closing, one of each method."""

    def extended(**how):
        space = new_space(**how)
        n, m = len(space.strategies), len(space.methods)
        return Space(
            strategies=(*space.strategies, *(f"{name}[HP1=0]" for name in space.methods)),
            methods=space.methods,
            method=np.concatenate([space.method, np.arange(m)]),
            embeddings=np.concatenate([space.embeddings, space.embeddings[:m]]),
            hp2=np.concatenate([space.hp2, np.full(m, np.nan)]),
            cost=np.concatenate([space.cost, np.ones(m)]),
            mask=np.ones(n + m, dtype=bool),
            task=space.task,
            closing=np.arange(n + m) >= n,
        )

    return extended


def ok(scheme, pr, accuracy=0.8):
    return Outcome(scheme, "ok", accuracy, pr, -0.05, 0.1)


def test_only_closing_strategies_may_leave_the_size_open(new_space):
    space = new_space()
    with pytest.raises(ValueError, match="HP2 must be NaN"):
        replace(space, hp2=np.where(np.arange(45) == 3, np.nan, space.hp2))


def test_they_plan_what_is_missing(closing):
    space = closing()
    planned = space.planned([ok((i,), pr) for i, pr in enumerate((0.0, 0.25, 0.4))], 0.3)
    assert planned.shape == (3, 48)
    np.testing.assert_allclose(planned[:, 45:], np.array([[0.3], [0.05], [0.0]]) @ np.ones((1, 3)))
    np.testing.assert_array_equal(planned[:, :45], np.broadcast_to(space.hp2[:45], (3, 45)))


def test_they_are_admissible_where_something_is_missing_and_within_bounds(closing):
    space = closing()
    history = History(replace(space, reach=np.array([1.0, 0.2, 1.0])), LIMITS)
    small = int(np.flatnonzero(space.hp2 == 0.12)[0])
    large = int(np.flatnonzero(space.hp2 == 0.36)[0])
    history.record([ok((small,), 0.12), ok((large,), 0.36), ok((large + 1,), 0.31)])
    assert list(history.admissible(())[45:]) == [True, False, True], "0.3 is beyond the second method's reach"
    assert history.admissible((small,))[45:].all()
    assert not history.admissible((large,))[45:].any(), "γ is met"
    bounded = History(space, replace(LIMITS, max_removed=0.25))
    assert not bounded.admissible(())[45:].any(), "0.3 is more than ΣHP2 may be"


def test_nothing_follows_them(closing):
    space = closing()
    history = History(space, LIMITS)
    history.record([ok((45,), 0.29)])
    assert not history.admissible((45,)).any()
    assert not history.admissible((46,)).any()
    assert history.removed((46,)) == pytest.approx(0.3)
    assert history.removed((0, 46)) == pytest.approx(0.3)


def test_they_count_as_a_way_to_the_target(closing):
    """Two steps at most: 4% first leaves 26%, which no grid strategy of 20% removes but a closing one does."""
    limits = replace(LIMITS, max_length=2)
    space = closing(grid=(0.04, 0.2))
    history = History(space, limits)
    small = space.hp2 == 0.04
    assert history.admissible(())[small].all()
    without = History(replace(space, mask=space.mask & ~space.closing), limits)
    assert not without.admissible(())[small].any()
    assert not History(space, replace(limits, max_length=1)).admissible(())[:45][small[:45]].any()


@pytest.mark.parametrize("name", MADE)
def test_searchers_ask_for_them_last_or_not_at_all(name, closing, new_table):
    """What has been tried with them before the search asks is told to all, and breaks none."""
    space = closing(per_level=1)
    search = MADE[name](space, LIMITS, seed=1)
    last = len(space.strategies) - 1
    search.tell([ok((last - 1,), 0.3), Outcome((last,), "infeasible", reason="the test says so")])
    table = new_table(replace(space, hp2=np.nan_to_num(space.hp2, nan=0.3), closing=np.zeros(0, dtype=bool)), LIMITS)
    table.told[last - 1,] = ok((last - 1,), 0.3)
    asked = [scheme for schemes, _ in table.search(search, 4, 12) for scheme in schemes if MORE not in scheme]
    assert all(not space.closing[list(scheme[:-1])].any() for scheme in asked)
    ended = [scheme for scheme in asked if space.closing[scheme[-1]]]
    if isinstance(search, ProgressiveSearch):
        assert ended
    else:
        assert not ended
