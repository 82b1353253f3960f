"""The controller's probabilities against a naive softmax, its rewards, and that it learns from them."""

import numpy as np
import pytest
import torch

from automc.search.base import Limits, Outcome
from automc.search.reinforce import ReinforceSearch

LIMITS = Limits(gamma=0.3, base_accuracy=0.9, max_length=3)


def naive(search, scheme):
    """Log-probability of a scheme, choice by choice, in NumPy."""
    controller, total, state, read = search.controller, 0.0, None, search.controller.start
    ended = [*scheme, *([45] if len(scheme) < 3 else [])]
    for position, choice in enumerate(ended):
        state = controller.cell(read[None], state)
        query = controller.query(state[0])[0]
        scores = [float(v @ query) / len(query) ** 0.5 for v in controller.vectors]
        scores.append(float(controller.end(state[0])))
        prefix = scheme[:position]
        allowed = [*search.history.admissible(prefix), position > 0 and prefix not in search.history.outcomes]
        chances = np.exp(np.where(allowed, scores, -np.inf))
        total += np.log(chances[choice] / chances.sum())
        read = controller.vectors[choice] if choice < 45 else None
    return total


@pytest.mark.parametrize("scheme", [(7,), (0, 44), (5, 5, 21)])
def test_probability_of_a_scheme_is_the_product_of_its_choices(new_space, scheme):
    search = ReinforceSearch(new_space(), LIMITS, 0)
    search.history.record([Outcome((5,), "ok", 0.85, 0.14, -0.05, 0.14), Outcome((30,), "crashed")])
    with torch.no_grad():
        episode = search._replay(scheme)
        assert episode.scheme == scheme
        assert float(episode.log_probability) == pytest.approx(naive(search, scheme), rel=1e-4)


def test_what_cannot_be_written_has_no_episode(new_space):
    search = ReinforceSearch(new_space(), LIMITS, 0)
    search.history.record([Outcome((5,), "ok", 0.85, 0.14, -0.05, 0.14), Outcome((30,), "crashed")])
    assert search._replay((30,)) is None
    assert search._replay((30, 2)) is None
    assert search._replay((5,)) is None  # told already


def test_reward_counts_what_dominates_and_what_is_missing_of_the_target(new_space):
    search = ReinforceSearch(new_space(), LIMITS, 0)
    told = [
        Outcome((0,), "ok", 0.80, 0.40, -0.1, 0.4),
        Outcome((1,), "ok", 0.70, 0.35, -0.2, 0.35),
        Outcome((2,), "ok", 0.85, 0.15, -0.1, 0.15),
        Outcome((3,), "diverged"),
    ]
    search.history.record(told)
    assert search._reward(told[0]) == 1.0
    assert search._reward(told[1]) == pytest.approx(1 - 1 / 4)  # of START and three
    assert search._reward(told[2]) == pytest.approx(1 - 0.5)
    assert search._reward(told[3]) == -1.0


def test_an_update_is_williams_rule(new_space):
    """The gradient is that of −mean((reward − baseline)·log p) − the entropy bonus, by finite differences."""
    search = ReinforceSearch(new_space(), LIMITS, 0)
    search.tell([Outcome((3,), "ok", 0.85, 0.05, -0.05, 0.05)])
    baseline = search._baseline
    weight = search.controller.end.bias

    def objective(offset):
        with torch.no_grad():
            weight.add_(offset)
            episode = search._replay((9, 3))
            weight.sub_(offset)
        return (-1.0 - baseline) * float(episode.log_probability) + 0.01 * float(episode.entropy)

    expected = (objective(1e-2) - objective(-1e-2)) / 2e-2
    before = {name: value.clone() for name, value in search.controller.named_parameters()}
    search.tell([Outcome((9,), "ok", 0.8, 0.2, -0.1, 0.2), Outcome((9, 3), "diverged")])
    assert float(weight.grad) == pytest.approx(-expected, rel=2e-2)
    assert any(not torch.equal(before[name], value) for name, value in search.controller.named_parameters())


def test_it_learns_which_method_is_good(new_space):
    """Schemes of the second method are rewarded, all others are dominated: its probability rises."""
    space = new_space(per_level=20)
    limits = Limits(gamma=0.04, base_accuracy=0.9, max_length=1)
    search = ReinforceSearch(space, limits, 3)
    good = space.method == 1
    shares = []
    for _ in range(25):
        asked = search.ask(4)
        shares.append(np.mean([good[s[0]] for s in asked]))
        # Successes are equal, so none dominates another; the others are dominated by all of them.
        told = [(s, 0.85, 0.3) if good[s] else (s, 0.1, 0.05) for (s,) in asked]
        search.tell([Outcome((s,), "ok", a, pr, a / 0.9 - 1, pr) for s, a, pr in told])
    assert np.mean(shares[-8:]) > np.mean(shares[:8]) + 0.3


def test_what_falls_short_of_a_guaranteed_accuracy_is_rewarded_less(new_space):
    outcome = Outcome((9,), "ok", 0.8, 0.4, -0.1, 0.4)
    free, bound = (
        ReinforceSearch(new_space(), Limits(gamma=0.3, base_accuracy=0.9, max_length=3, least_accuracy=least), 1)
        for least in (None, 0.89)
    )
    assert bound._reward(outcome) == pytest.approx(free._reward(outcome) - 0.09)
