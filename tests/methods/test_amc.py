"""AMC: the bound on actions, episodes by masks, repair by least squares, and what its search never does worse than."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from group_nets import build
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contract import count

from automc import methods
from automc.methods import StepContext, ddpg
from automc.methods.amc import Bound, Judge, divide, importance, mask
from automc.methods.policy import Choice, Value
from automc.methods.ranking import narrowest
from automc.methods.step import Step
from automc.models.measure import count_flops
from automc.surgery.coupling import removed_rows
from automc.surgery.groups import Groups
from automc.surgery.least_squares import Repair
from kg.schema import Strategy

EXAMPLE = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
DEFAULTS = {"HP1": 0.1, "HP2": 0.4, "HP6": 0.9, "HP17": 6, "HP18": "none", "HP28": "accuracy"}


def strategy(**settings: float | str) -> Strategy:
    return Strategy("AMC", tuple({**DEFAULTS, **settings}.items()))


def begun(context: StepContext, net: str, **settings: float | str) -> tuple[Step, Groups, list[int]]:
    step = Step(build(net), strategy(**settings), context, (1,))
    groups = step.groups()
    caps, _, plan = narrowest(groups, step.target, 0.9, 1)
    assert plan.reached
    return step, groups, caps


@pytest.mark.parametrize("net", ["resnet-a", "vgg", "inverted", "concat", "factored"])
def test_whatever_the_actions_the_target_is_met_and_nothing_goes_that_need_not(net: str, context) -> None:
    step, groups, caps = begun(context(count(build(net))), net)
    bound = Bound(step, groups, caps)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(st.lists(st.floats(0, 1), min_size=bound.length, max_size=bound.length))
    def walk(actions: list[float]) -> None:
        done: list[int] = []
        for action in actions:
            state = bound.state(done, 0.0)
            assert state.shape == (bound.features,)
            assert (state >= -1e-6).all()
            done.append(bound.bounded(done, action))
        assert bound.params(done) <= step.target
        plan = bound.plan(tuple(done))
        assert plan.reached
        assert step.target - plan.params < groups.unit_cost(plan)

    walk()
    for choice in bound.given():
        assert bound.plan(choice).reached


def test_a_masked_model_gives_what_the_cut_one_gives(context) -> None:
    for net in ("resnet-a", "vgg", "inverted"):
        step, groups, caps = begun(context(count(build(net))), net)
        bound = Bound(step, groups, caps)
        assert Judge(step, groups, bound, flops=False).maskable
        plan = bound.plan(bound.given()[0])
        cut = groups.pruned(plan)
        mask(groups, plan)
        torch.testing.assert_close(step.model.eval()(EXAMPLE), cut.eval()(EXAMPLE), rtol=1e-4, atol=1e-5)


def test_judging_leaves_the_model_and_says_the_same_either_way(context) -> None:
    step, groups, caps = begun(context(count(build("vgg"))), "vgg")
    before = copy.deepcopy(step.model.state_dict())
    bound = Bound(step, groups, caps)
    judge, other = Judge(step, groups, bound, flops=False), Judge(step, groups, bound, flops=False)
    other.maskable = False
    for choice in bound.given():
        assert judge(choice) == pytest.approx(other(choice), rel=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in step.model.state_dict().items())
    costs = Judge(step, groups, bound, flops=True)(bound.given()[0])[0]
    plain = judge(bound.given()[0])[0]
    assert plain < costs < 0.5 * plain  # fewer FLOPs, so a smaller penalty


@pytest.mark.parametrize("repair", ["none", "ls"])
def test_never_worse_than_what_is_given_and_the_same_seed_the_same(repair: str, context) -> None:
    step, groups, caps = begun(context(count(build("resnet-a"))), "resnet-a")
    found = divide(step, groups, caps, strategy(HP18=repair, HP17=8))
    assert found.value[0] >= max(found.given)
    assert 2 <= found.tried <= 8
    two = divide(step, groups, caps, strategy(HP17=2))
    judge = Judge(step, groups, Bound(step, groups, caps), flops=False)
    bound = Bound(step, groups, caps)
    assert two.plan == bound.plan(max(bound.given(), key=judge))
    again = divide(step, groups, caps, strategy(HP18=repair, HP17=8))
    assert (again.plan, again.value) == (found.plan, found.value)


def test_a_repair_never_fits_worse_and_undoes_what_can_be_undone() -> None:
    model = build("vgg")
    with torch.no_grad():  # the second half of what the hidden layer reads is twice the first
        model.features[8].weight[16:] = 2 * model.features[8].weight[:16]
        model.features[8].bias[16:] = 2 * model.features[8].bias[:16]
    groups = Groups(model, EXAMPLE[:2])
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def run() -> None:
        model.eval()(images)

    fit = Repair(model, [m.name for g in groups.groups for m in g.members if m.side == "in"], run, seed=0)
    rng = np.random.default_rng(0)
    plan = groups.removal([rng.permutation(g.units)[: g.units // 3].tolist() for g in groups.groups], 0)
    cut = groups.pruned(plan)
    errors = fit.apply(cut, removed_rows(groups.groups, plan.removed))
    assert {"features.4", "features.8", "hidden", "fc"} <= set(errors)
    assert all(after <= before for before, after in errors.values())
    assert sum(after for _, after in errors.values()) < 0.7 * sum(before for before, _ in errors.values())


def test_importance_reads_the_layers_behind() -> None:
    model = build("grouped")
    groups = Groups(model, EXAMPLE[:2])
    for group in groups.groups:
        values = importance(groups, group)
        assert values.shape == (group.units,)
        assert values.mean() == pytest.approx(1)
    vgg = build("vgg")
    groups = Groups(vgg, EXAMPLE[:2])
    (group,) = (g for g in groups.groups if g.root == "features.0")
    expected = vgg.features[4].weight.detach().abs().sum((0, 2, 3)).double().numpy()
    np.testing.assert_allclose(importance(groups, group), expected / expected.mean(), rtol=1e-5)


class Line:
    """A walk of six steps whose actions are taken as they are, in tenths."""

    length, features = 6, 6

    def state(self, done: Choice, last: float) -> torch.Tensor:
        return torch.eye(6)[len(done)]

    def bounded(self, done: Choice, action: float) -> int:
        return round(10 * action)

    def action(self, step: int, chosen: int) -> float:
        return chosen / 10


def test_the_agent_learns_what_pays() -> None:
    seen: list[float] = []

    def worth(choice: Choice) -> Value:
        seen.append(sum(choice[::2]) / 30 - sum(choice[1::2]) / 30)
        return seen[-1], 0.0

    known = ddpg.search(Line(), worth, [(5,) * 6], 60, seed=0)
    assert len(known) == len(seen)
    assert seen[0] == 0  # what is given comes first
    assert np.mean(seen[-15:]) > np.mean(seen[1:20]) + 0.3
    assert ddpg.search(Line(), worth, [(5,) * 6], 12, 3) == ddpg.search(Line(), worth, [(5,) * 6], 12, 3)


def test_the_reward_of_flops_removes_more_of_them(context) -> None:
    model = build("resnet-a")
    out, report = methods.get("AMC").apply(model, strategy(HP18="ls"), context(count(model), max_iterations=4))
    assert report.details["judged"] >= max(report.details["given"])
    assert sum(report.details["by_group"].values()) == report.details["channels"]
    assert count_flops(out, EXAMPLE) < count_flops(model, EXAMPLE)
