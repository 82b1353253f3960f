"""Progressive search with means and without a model."""

from dataclasses import replace

import numpy as np
import pytest

from automc.search.base import Limits, Outcome
from automc.search.history import points
from automc.search.progressive_blind import ProgressiveBlind
from automc.search.progressive_mean import ProgressiveMean, StrategyMeans

LIMITS = Limits(gamma=0.3, base_accuracy=0.9, max_length=4)
START = Outcome((), "ok", 0.9, 0.0)


def step(scheme, ar, pr):
    return Outcome(scheme, "ok", 0.9 * (1 + ar), pr, ar, pr)


def test_before_any_step_means_are_the_first_guess(new_space):
    space = new_space()
    prefixes = [START, Outcome((3,), "ok", 0.8, 0.25)]
    predicted = StrategyMeans(space, LIMITS).predict(prefixes)
    assert predicted.shape == (2, 45, 2)
    for row, left in zip(predicted, (1.0, 0.75), strict=True):
        share = space.hp2 / left
        np.testing.assert_allclose(row[:, 0], -0.1 * share / (1 - share))
        np.testing.assert_allclose(row[:, 1], share)
    model = StrategyMeans(replace(space, slope=None), LIMITS)
    np.testing.assert_allclose(model.predict([START])[0, :, 0], -0.1 * space.hp2)


def test_means_lean_on_the_level_above_as_on_one_measurement(new_space):
    """Against the sums written out: one strategy measured twice, and one more of its method."""
    space = new_space(known=False)
    guess = -0.1 * space.hp2
    first = int(np.flatnonzero((space.method == 1) & (space.hp2 == 0.2))[0])
    other = int(np.flatnonzero((space.method == 1) & (space.hp2 == 0.36))[0])
    told = [step((first,), -0.3, 0.25), step((other, first), -0.1, 0.15), step((other,), 0.0, 0.36)]
    model = StrategyMeans(space, LIMITS)
    model.learn([(START, told[0]), (told[2], told[1]), (START, told[2])])
    residuals = [-0.3 - guess[first], -0.1 - guess[first], 0.0 - guess[other]]
    everything = sum(residuals) / 4
    method = (sum(residuals) + everything) / 4
    kind = (residuals[0] + residuals[1] + method) / 3
    strategy = (residuals[0] + residuals[1] + kind) / 3
    found = model.predict([START, Outcome((2,), "ok", 0.8, 0.5)])
    assert found[0, first, 0] == pytest.approx(guess[first] + strategy)
    assert found[1, first, 0] == found[0, first, 0]
    sibling = first + 1
    assert space.hp2[sibling] == 0.2
    assert found[0, sibling, 0] == pytest.approx(guess[sibling] + kind / 1)
    stranger = int(np.flatnonzero(space.method == 0)[0])
    assert found[0, stranger, 0] == pytest.approx(guess[stranger] + everything)
    # Sizes: the measured ones, and the plan as one more.
    assert found[0, first, 1] == pytest.approx((0.25 + 0.15 + 0.2) / 3)
    assert found[1, first, 1] == pytest.approx((0.25 + 0.15 + 0.2 / 0.5) / 3)
    assert found[0, stranger, 1] == pytest.approx(space.hp2[stranger])


def test_nothing_told_nothing_learned(new_space):
    model = StrategyMeans(new_space(), LIMITS)
    before = model.predict([START])
    assert model.learn([]) == 0.0
    np.testing.assert_array_equal(model.predict([START]), before)


def test_a_strategy_that_did_well_is_asked_again(new_space):
    """After one of the sampled prefixes; all else being equal, the one with the better mean is preferred."""
    space = new_space(per_level=1, methods=3, known=False)
    good = np.flatnonzero((space.method == 0) & (space.hp2 == 0.2))[0]
    alike = [i for i in np.flatnonzero(space.hp2 == 0.2) if i != good]
    shares = {}
    for better in (True, False):
        told = [
            step((i,), -0.01 if better and i == good else -0.4 * space.hp2[i] - 0.1, space.hp2[i]) for i in range(15)
        ]
        asked = []
        for seed in range(20):
            search = ProgressiveMean(space, LIMITS, seed)
            search.tell(told)
            asked += [scheme[-1] for scheme in search.ask(2)]
        shares[better] = np.bincount(asked, minlength=15) / len(asked)
    # Of fifteen strategies it is every second choice; had it done no better than the others, it would be none.
    assert shares[True][good] > 0.4, shares
    assert shares[True][good] > 3 * shares[True][alike].max(), shares
    assert shares[False][good] < 0.1, shares


def test_own_sizes_are_a_flag_away(new_space):
    space = new_space()
    for own in (False, True):
        search = ProgressiveMean(space, LIMITS, 0, own_size=own)
        search.tell([step((9,), -0.05, 0.5)] * 1)
        found = search.candidates(np.random.default_rng(0))
        removed = points(found.prefixes)[found.prefix, 1]
        predicted = search.evaluator.predict(found.prefixes)[found.prefix, found.strategy, 1]
        expected = 1 - (1 - removed) * (1 - predicted)
        assert np.allclose(found.predicted[:, 1], expected) is own


def test_blind_search_extends_measured_schemes_by_one_step_most_often_of_the_frontier(new_space, new_table):
    table = new_table(new_space(), LIMITS)
    search = ProgressiveBlind(table.space, LIMITS, 4)
    from_frontier = []
    for _ in range(40):
        known = {o.scheme for o in search.history.measured()}
        frontier = {o.scheme for o in search.history.frontier()}
        asked = search.ask(4)
        assert all(scheme[:-1] in known for scheme in asked)
        from_frontier += [scheme[:-1] in frontier for scheme in asked]
        search.tell(table.execute(asked))
    # 0.7, and those of the others that happen to lie on the frontier.
    assert 0.65 < np.mean(from_frontier) < 0.95
