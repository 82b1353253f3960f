"""The network of F_mo against its layout written out naively, Eq. 5 against NumPy, and whether it learns."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from automc.search import get
from automc.search.base import Limits, Outcome
from automc.search.linear import FirstGuess
from automc.search.network import NetModel, StepNet, step_loss

LIMITS = Limits(gamma=0.3, base_accuracy=0.9, max_length=4)


def alone(space):
    return NetModel(space, LIMITS, 0, FirstGuess(space, LIMITS))


def naive(net, prefix, figures, strategy, task):
    """One candidate: run the recurrent encoder over its prefix, concatenate, one plain first layer."""
    state = torch.zeros(net.encoder.hidden_size)
    if len(prefix):
        state = net.encoder(prefix[None])[1][0, 0]
    weight = torch.cat([net.of_strategy.weight, net.of_task.weight, net.of_prefix.weight], dim=1)
    row = torch.cat([strategy, task, state, figures])
    return net.out(torch.relu(weight @ row + net.of_task.bias))


def test_the_split_first_layer_is_the_naive_one():
    torch.manual_seed(0)
    net = StepNet(34, 7)
    torch.nn.init.normal_(net.out.weight)
    strategies, task = torch.randn(50, 34), torch.randn(7)
    prefixes = [strategies[list(p)] for p in [(), (1,), (4, 4, 2), (9, 8, 7, 6), (3, 1)]]
    padded = torch.nn.utils.rnn.pad_sequence(prefixes, batch_first=True, padding_value=3.0)
    lengths = torch.tensor([len(p) for p in prefixes])
    figures = torch.randn(5, 2)
    with torch.no_grad():
        encoded = net.encode(padded, lengths, figures)
        grid = net.grid(encoded, strategies, task)
        pairs = net.pairs(encoded, strategies[:5], task)
        for i, prefix in enumerate(prefixes):
            for s in (0, 13, 49):
                expected = naive(net, prefix, figures[i], strategies[s], task)
                torch.testing.assert_close(grid[i, s], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(pairs[i], grid[i, i], atol=1e-5, rtol=1e-5)


def test_equation_5_in_numpy():
    rng = np.random.default_rng(0)
    predicted, truth = rng.normal(size=(2, 30, 2)) * 0.3
    scale = np.array([0.1, 0.3])
    distance = np.abs(predicted - truth) / scale
    expected = np.where(distance < 1, distance**2 / 2, distance - 0.5).sum(axis=1).mean()
    assert (distance > 1).any()
    loss = step_loss(*(torch.tensor(a) for a in (predicted, truth, scale)))
    assert float(loss) == pytest.approx(expected)


def test_before_any_step_it_is_the_guess(new_space):
    space = new_space()
    prefixes = [Outcome((), "ok", 0.9, 0.0), Outcome((3,), "ok", 0.8, 0.25)]
    guess = FirstGuess(space, LIMITS)
    np.testing.assert_allclose(alone(space).predict(prefixes), guess.predict(prefixes), atol=1e-6)
    both = np.array([7, 31])
    np.testing.assert_allclose(alone(space).pairs(prefixes, both), guess.predict(prefixes)[[0, 1], both], atol=1e-6)


def test_nothing_told_nothing_learned(new_space):
    evaluator = alone(new_space())
    before = evaluator.predict([Outcome((), "ok", 0.9, 0.0)])
    assert evaluator.learn([]) == 0.0
    np.testing.assert_array_equal(evaluator.predict([Outcome((), "ok", 0.9, 0.0)]), before)


@pytest.mark.parametrize("known", [True, False])
def test_it_learns_to_rank_steps_it_never_saw(new_space, new_table, known):
    table = new_table(new_space(known=known), LIMITS)
    table.search(get("random")(table.space, LIMITS, 4), 4, 12)
    start = Outcome((), "ok", 0.9, 0.0)
    steps = [(table.told.get(s[:-1], start), o) for s, o in table.told.items()]
    evaluator = alone(table.space)
    first, *_, last = [evaluator.learn(steps) for _ in range(12)]
    assert last < 0.5 * first
    parents = [o for o in table.told.values() if len(o.scheme) == 1][:4]
    unseen = [(p, s) for p in range(len(parents)) for s in range(45) if (*parents[p].scheme, s) not in table.told]
    truth = [table.answer((*parents[p].scheme, s)) for p, s in unseen]
    predicted = evaluator.predict(parents)
    for figure, name in enumerate(("step_ar", "step_pr")):
        found = spearmanr([predicted[p, s, figure] for p, s in unseen], [getattr(o, name) for o in truth]).statistic
        assert found > 0.8, name
