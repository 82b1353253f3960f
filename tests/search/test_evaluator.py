"""F_mo: the linear model against its formulas written out, what it learns, and when the network is followed."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from automc.search import evaluator, get
from automc.search.base import Limits, Outcome
from automc.search.evaluator import LEARN, TESTED, Evaluator
from automc.search.linear import FirstGuess, LinearModel, Ridge
from automc.search.network import NetModel
from automc.search.progressive import ProgressiveSearch
from automc.search.progressive_mean import StrategyMeans

LIMITS = Limits(gamma=0.3, base_accuracy=0.9, max_length=4)
START = Outcome((), "ok", 0.9, 0.0)


def told_by_chance(table, rounds=12):
    """(parent, step) of a random search."""
    table.search(get("random")(table.space, LIMITS, 4), 4, rounds)
    return [(table.told.get(s[:-1], START), o) for s, o in table.told.items()]


def test_the_posterior_is_bayes_rule():
    """Against the joint normal of weights and measurements, conditioned; and the noise's inverse-gamma mean."""
    rng = np.random.default_rng(0)
    rows, values = rng.normal(size=(9, 4)), rng.normal(size=9)
    ridge = Ridge(4, (3.0, 0.5))
    np.testing.assert_array_equal(ridge.covariance()[0], 0.25 * np.eye(4))
    ridge.fit(rows, values)
    mean, covariance = by_conditioning(rows, values)
    np.testing.assert_allclose(ridge.mean, mean)
    np.testing.assert_allclose(ridge.covariance()[0], covariance)


def test_groups_have_weights_of_their_own_as_if_their_features_were_columns():
    rng = np.random.default_rng(0)
    rows, values, group = (
        rng.normal(size=(30, 4)),
        rng.normal(size=30),
        np.append(np.arange(7), rng.integers(7, size=23)),
    )
    ridge = Ridge(4, (3.0, 0.5))
    ridge.fit(rows, values, group, 0.6)
    whole = np.concatenate([rows, 0.6 * np.eye(7)[group]], axis=1)
    mean, covariance = by_conditioning(whole, values)
    np.testing.assert_allclose(np.append(ridge.mean, ridge.own), mean)
    np.testing.assert_allclose(ridge.predict(rows, group, 0.6), whole @ mean)
    shared, between, own = ridge.covariance()
    np.testing.assert_allclose(shared, covariance[:4, :4])
    np.testing.assert_allclose(between, covariance[:4, 4:])
    np.testing.assert_allclose(own, np.diag(covariance)[4:])


def by_conditioning(rows, values):
    """Mean and covariance of weights, whose noise counts as 3 measurements with deviation 0.5, as it is learned."""
    gram = rows @ rows.T + np.eye(len(rows))
    covariance = np.eye(rows.shape[1]) - rows.T @ np.linalg.solve(gram, rows)
    squares = 3.0 * 0.25 + values @ np.linalg.solve(gram, values)
    return rows.T @ np.linalg.solve(gram, values), covariance * squares / (3 + len(values))


def test_the_first_guess_is_the_slope_at_each_prefix(new_space):
    space = replace(new_space(), slope=np.array([0.1, 0.0, 0.4]))
    prefixes = [START, Outcome((3,), "ok", 0.8, 0.5)]
    for row, left in zip(FirstGuess(space, LIMITS).predict(prefixes), (1.0, 0.5), strict=True):
        x = np.minimum(space.hp2 / left, 0.8)
        np.testing.assert_allclose(row[:, 0], -space.slope[space.method] * x / (1 - x))
        np.testing.assert_allclose(row[:, 1], space.hp2 / left)


def test_experience_gives_way_to_what_was_measured(new_space):
    space = replace(new_space(), slope=np.array([0.1, 0.0, 0.4]))
    guess, plain = FirstGuess(space, LIMITS, half=3), FirstGuess(replace(space, slope=None), LIMITS)
    before, forgotten = guess.predict([START]), plain.predict([START])
    guess.measured = 3
    np.testing.assert_allclose(guess.predict([START]), (before + forgotten) / 2)
    guess.measured = 10**9
    np.testing.assert_allclose(guess.predict([START]), forgotten, atol=1e-8)


def test_without_experience_the_first_guess_falls_with_size(new_space):
    space = new_space(known=False)
    np.testing.assert_allclose(FirstGuess(space, LIMITS).predict([START])[0, :, 0], -0.1 * space.hp2)


@pytest.mark.parametrize("known", [True, False])
def test_it_learns_to_rank_steps_it_never_saw(new_space, new_table, known):
    table = new_table(new_space(known=known), LIMITS)
    steps = told_by_chance(table)
    model = LinearModel(table.space, LIMITS)
    model.learn(steps)
    assert model.guess.measured == len(steps)
    parents = [o for o in table.told.values() if len(o.scheme) == 1][:4]
    unseen = [(p, s) for p in range(len(parents)) for s in range(45) if (*parents[p].scheme, s) not in table.told]
    truth = [table.answer((*parents[p].scheme, s)) for p, s in unseen]
    predicted = model.predict(parents)
    for figure, name in enumerate(("step_ar", "step_pr")):
        found = spearmanr([predicted[p, s, figure] for p, s in unseen], [getattr(o, name) for o in truth]).statistic
        assert found > 0.9, name


def test_one_strategy_each_is_predicted_as_all_are(new_space, new_table):
    table = new_table(new_space(), LIMITS)
    model = LinearModel(table.space, LIMITS)
    model.learn(told_by_chance(table))
    parents = [START, *(o for o in table.told.values() if o.accuracy)][:20]
    last = np.arange(len(parents)) * 2
    every = model.predict(parents)[np.arange(len(parents)), last]
    np.testing.assert_allclose(model.pairs(parents, last), every)


@pytest.mark.parametrize(
    ("made", "last_digit"),
    # The network computes in 32 bits, where a sum of many rows may differ in its last digit.
    [(LinearModel, 0.0), (StrategyMeans, 0.0), (lambda space, limits: Evaluator(space, limits, 0), 1e-8)],
)
def test_some_strategies_are_predicted_as_among_all(new_space, new_table, monkeypatch, made, last_digit):
    monkeypatch.setattr(Evaluator, "with_net", True)
    table = new_table(new_space(), LIMITS)
    model = made(table.space, LIMITS)
    model.learn(told_by_chance(table))
    parents = [START, *(o for o in table.told.values() if o.accuracy)][:20]
    among = np.array([0, 1, 7, 20, 31, 44])
    np.testing.assert_allclose(model.predict(parents, among), model.predict(parents)[:, among], atol=last_digit)
    np.testing.assert_allclose(model.spread(parents, among), model.spread(parents)[:, among])


def test_the_spread_is_honest_and_smaller_where_more_was_measured(new_space, new_table):
    """Two thirds of the truth should lie within one deviation, noise included; and a strategy tried often is surer."""
    table = new_table(new_space(known=False), LIMITS)
    model = LinearModel(table.space, LIMITS)
    before = model.spread([START])[0]
    steps = told_by_chance(table)
    model.learn(steps)
    after = model.spread([START])[0]
    assert (after < before).all()
    counts = np.bincount([o.scheme[-1] for _, o in steps], minlength=45)
    assert after[counts >= 3].mean() < after[counts == 0].mean()
    parent = table.told[steps[0][1].scheme[:1]]
    truth = np.array([table.answer((*parent.scheme, s)).step_ar for s in range(45)])
    off = np.abs(model.predict([parent])[0, :, 0] - truth)
    total = np.hypot(model.spread([parent])[0], model._ridge.noise)
    assert 0.5 < (off < total).mean() <= 1.0
    assert (off < 3 * total).mean() > 0.95


def test_nothing_told_nothing_learned(new_space):
    evaluator = Evaluator(new_space(), LIMITS, seed=0)
    before = evaluator.predict([START])
    assert evaluator.learn([]) == 0.0
    np.testing.assert_array_equal(evaluator.predict([START]), before)


def told_in_rounds(evaluator, steps, size=8):
    for end in range(size, len(steps) + 1, size):
        evaluator.learn(steps[:end])


def test_the_network_is_not_followed_where_the_linear_model_knows(new_space, new_table):
    table = new_table(new_space(), LIMITS)
    evaluator = Evaluator(table.space, LIMITS, seed=0)
    steps = told_by_chance(table, 60)
    assert len(steps) > LEARN + TESTED
    told_in_rounds(evaluator, steps)
    assert not evaluator.with_net
    np.testing.assert_array_equal(evaluator.predict([START]), evaluator.linear.predict([START]))


def test_the_network_is_followed_once_it_predicts_better(new_space):
    """AR depends on the vectors alone, in strategies that are tried once, so that only the network can tell."""
    rng = np.random.default_rng(0)
    space = new_space(per_level=20, known=False)
    signs = rng.choice([-1.0, 1.0], size=(300, 1))
    space = replace(space, embeddings=signs * np.ones((300, 32)))
    steps = []
    for s in rng.permutation(300)[:240]:
        ar, pr = -0.15 + 0.1 * signs[s, 0], float(space.hp2[s])
        steps.append((START, Outcome((int(s),), "ok", 0.9 * (1 + ar), pr, ar, pr)))
    evaluator = Evaluator(space, LIMITS, seed=0)
    told_in_rounds(evaluator, steps[:LEARN], 4)
    assert not evaluator.with_net
    told_in_rounds(evaluator, steps, 4)
    assert evaluator.with_net
    unseen = np.setdiff1d(np.arange(300), [o.scheme[0] for _, o in steps])
    truth = -0.15 + 0.1 * signs[unseen, 0]
    error = [np.abs(m.predict([START])[0, unseen, 0] - truth).mean() for m in (evaluator, evaluator.linear)]
    assert error[0] < 0.9 * error[1]


def searched(table, monkeypatch, steps=70):
    """A search whose network is followed, its next ask, what it was told in which order, and what it learned."""
    monkeypatch.setattr(evaluator, "LEARN", 10)
    monkeypatch.setattr(Evaluator, "with_net", property(lambda self: self._trained))
    search, told, learned = ProgressiveSearch(table.space, LIMITS, 0), [], None
    while len(told) < steps:
        (scheme,) = search.ask(1)
        learned = search.learned() or learned
        assert search.learned() is None, "nothing new"
        told.append(table.answer(scheme))
        table.told[scheme] = told[-1]
        search.tell(told[-1:])
    return search.ask(4), told, learned


def test_a_resumed_search_asks_as_before_without_training_its_network_again(new_space, new_table, monkeypatch):
    table = new_table(new_space(), LIMITS)
    asked, told, learned = searched(table, monkeypatch)
    resumed = ProgressiveSearch(table.space, LIMITS, 0)
    resumed.recall(learned)
    taught, learn = [], NetModel.learn
    monkeypatch.setattr(NetModel, "learn", lambda self, steps: taught.append(len(steps)) or learn(self, steps))
    for outcome in told:
        resumed.tell([outcome])
    assert resumed.ask(4) == asked
    assert taught == [len(told)], "what was told since the last ask"
    with_its_own = resumed.learned()
    assert with_its_own is not None


def test_what_was_under_way_is_asked_again_with_an_older_state(new_space, new_table, monkeypatch):
    table = new_table(new_space(), LIMITS)
    _, told, learned = searched(table, monkeypatch, steps=40)
    taught, learn, asked = [], NetModel.learn, []
    monkeypatch.setattr(NetModel, "learn", lambda self, steps: taught.append(len(steps)) or learn(self, steps))
    for kept in (None, learned):
        taught.clear()
        search = ProgressiveSearch(table.space, LIMITS, 0)
        if kept:
            search.recall(kept)
        for outcome in told[:36]:
            search.tell([outcome])
        first = search.ask(4)
        for outcome in told[36:]:
            search.tell([outcome])
        asked.append((first, search.ask(4)))
    assert asked[0] == asked[1]
    assert taught == [37, 38, 39, 40], "what was told after the older state"


@pytest.mark.parametrize(
    "change", ["told otherwise", "another seed", "another length", "unreadable", "no state", "an older one"]
)
def test_what_was_learned_of_something_else_is_not_recalled(new_space, new_table, monkeypatch, change):
    table = new_table(new_space(), LIMITS)
    _, told, learned = searched(table, monkeypatch, steps=20)
    space, seed = table.space, 0
    if change == "told otherwise":
        told[3] = replace(told[3], accuracy=told[3].accuracy - 1e-9)
    elif change == "another seed":
        seed = 1
    elif change == "another length":
        space = replace(space, cost=space.cost * 2)
    elif change == "an older one":
        monkeypatch.setattr(evaluator, "LESSONS", evaluator.LESSONS + 1)
    else:
        file = io.BytesIO()
        torch.save([20], file)
        learned = file.getvalue() if change == "no state" else learned[:500]
    plain, resumed = (ProgressiveSearch(space, LIMITS, seed) for _ in range(2))
    resumed.recall(learned)
    for search in (plain, resumed):
        for outcome in told:
            search.tell([outcome])
    taught, learn = [], NetModel.learn
    monkeypatch.setattr(NetModel, "learn", lambda self, steps: taught.append(len(steps)) or learn(self, steps))
    assert resumed.ask(4) == plain.ask(4)
    assert len(taught) == 2 * len([n for n in range(1, 21) if n >= 10]), "each learned everything"
