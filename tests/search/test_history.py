"""Admissibility, frontier and front against their definitions, written out slowly."""

from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest

from automc.search.base import Limits, Outcome
from automc.search.history import START, History, reachable_sums

GRID = (0.04, 0.12, 0.2, 0.36, 0.4)


def can_follow(history, prefix, strategy, exactly=None):
    """The definition, by enumerating all further steps."""
    space, limits = history.space, history.limits
    length = len(prefix) + 1
    if length > limits.max_length or not space.mask[strategy]:
        return False
    planned = sum(space.hp2[i] for i in prefix) + space.hp2[strategy]
    measured = history.outcomes[prefix].pr + space.hp2[strategy]
    values = sorted(set(space.hp2[space.mask]))
    lengths = range(limits.max_length - length + 1) if exactly is None else [exactly]
    sums = (sum(more) for r in lengths for more in combinations_with_replacement(values, r))
    return any(measured + s >= limits.gamma - 1e-6 and planned + s <= limits.max_removed + 1e-6 for s in sums)


@pytest.mark.parametrize("gamma", [0.04, 0.3, 0.5, 0.79, 0.84])
@pytest.mark.parametrize("max_length", [1, 2, 3])
def test_admissible_is_its_definition(new_space, gamma, max_length):
    space = new_space(per_level=1, methods=2)
    space = replace(space, mask=np.arange(10) != 4)
    history = History(space, Limits(gamma, 0.9, max_length))
    rng = np.random.default_rng(3)
    for first in range(10):
        off = float(rng.uniform(-0.08, 0.08))
        history.record([Outcome((first,), "ok", 0.8, max(space.hp2[first] + off, 0.0), 0.0, 0.0)])
    for prefix in [START, *((i,) for i in range(10))]:
        for further in (None, 0, 1):
            if further is not None and further > max_length - len(prefix) - 1:
                assert not history.admissible(prefix, further).any()
                continue
            expected = [can_follow(history, prefix, s, further) for s in range(10)]
            assert history.admissible(prefix, further).tolist() == expected, (prefix, further)


@pytest.mark.parametrize("steps", [0, 1, 2, 4])
def test_reachable_sums_are_all_sums(steps):
    table = reachable_sums(np.array(GRID * 3), steps, 0.85)
    expected = sorted({round(sum(c), 5) for c in combinations_with_replacement(GRID, steps) if sum(c) <= 0.85 + 1e-9})
    assert table[steps].tolist() == pytest.approx(expected)


def test_the_table_stays_small_whatever_values_methods_bring():
    values = np.linspace(0.01, 0.4, 60) / np.pi
    assert len(reachable_sums(values, 5, 0.85)[5]) <= 85_001


def test_thirds_reach_two_thirds(new_space):
    history = History(new_space(per_level=1, methods=1, grid=(1 / 3,)), Limits(2 / 3, 0.9, 2))
    assert history.admissible(START).tolist() == [True]


def test_told_schemes_are_explored_and_failed_ones_are_dead_ends(new_space):
    history = History(new_space(per_level=1), Limits(0.1, 0.9))
    history.record([Outcome((2,), "ok", 0.8, 0.2, 0.0, 0.2), Outcome((3,), "diverged"), Outcome((2, 1), "timeout")])
    assert not history.unexplored(START)[[2, 3]].any()
    assert history.admissible(START)[2]
    assert not history.admissible(START)[3]
    assert not history.admissible((3,)).any()
    assert not history.admissible((2, 1)).any()
    assert not history.admissible((2, 1, 0)).any()
    assert history.failed((3, 0))
    assert not history.failed((2,))


def test_a_method_that_failed_alike_three_times_is_masked_there_only(new_space):
    space = new_space(per_level=3)
    history = History(space, Limits(0.1, 0.9))
    own = np.flatnonzero(space.method == 1)
    history.record([Outcome((0,), "ok", 0.8, 0.04, 0.0, 0.04)])
    history.record([Outcome((int(s),), "crashed") for s in own[:2]] + [Outcome((int(own[2]),), "timeout")])
    assert history.unexplored(START)[own[3:]].all()
    history.record([Outcome((int(own[3]),), "crashed")])
    assert not history.unexplored(START)[own].any()
    assert history.unexplored(START)[space.method == 2].all()
    assert history.unexplored((0,))[own].all()


def test_the_same_failure_told_again_counts_once(new_space):
    space = new_space(per_level=3)
    history = History(space, Limits(0.1, 0.9))
    for _ in range(5):
        history.record([Outcome((0,), "crashed")])
    assert history.unexplored(START)[space.method == 0].sum() == (space.method == 0).sum() - 1


def test_frontier_holds_start_and_ignores_gamma_the_front_does_not(new_space):
    history = History(new_space(), Limits(0.3, 0.9))
    history.record(
        [
            Outcome((0,), "ok", 0.85, 0.12, 0.0, 0.1),
            Outcome((1,), "ok", 0.80, 0.31, 0.0, 0.1),
            Outcome((2,), "ok", 0.79, 0.30, 0.0, 0.1),
            Outcome((3,), "ok", 0.84, 0.2998, 0.0, 0.1),
            Outcome((4,), "diverged"),
        ]
    )
    assert [o.scheme for o in history.frontier()] == [START, (0,), (1,), (3,)]
    assert [o.scheme for o in history.front()] == [(1,)]


def test_the_rounding_of_whole_parameters_does_not_miss_the_target(new_space):
    history = History(new_space(), Limits(0.4, 0.9))
    params = 269_722
    left = params - 2 * round(0.2 * params)
    history.record([Outcome((0,), "ok", 0.85, 1 - left / params, 0.0, 0.1)])
    assert 1 - left / params < 0.4
    assert [o.scheme for o in history.front()] == [(0,)]


def test_a_step_better_than_the_model_takes_start_off_the_frontier(new_space):
    history = History(new_space(), Limits(0.3, 0.9))
    history.record([Outcome((0,), "ok", 0.91, 0.12, 0.0, 0.1)])
    assert [o.scheme for o in history.frontier()] == [(0,)]


def test_plan_continues_from_the_longest_measured_part(new_space):
    space = new_space()
    history = History(space, Limits(0.3, 0.9))
    history.record([Outcome((7,), "ok", 0.8, 0.17, 0.0, 0.1)])
    assert history.removed((7, 1, 14)) == pytest.approx(0.17 + space.hp2[1] + space.hp2[14])
    assert history.removed((1,)) == pytest.approx(space.hp2[1])
