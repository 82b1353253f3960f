"""Network slimming: the penalty, the ranking, the scopes."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from group_nets import build
from test_contract import count, same, strategy
from torch import nn

from automc import methods
from automc.errors import Infeasible
from automc.methods.ns import scales, sparsity_factor, sparsity_hook
from automc.methods.ranking import rank_by_scales
from automc.surgery.groups import Groups
from automc.training.loop import fit
from automc.training.recipe import Recipe
from kg.schema import Strategy

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_gradient_grows_by_lambda_times_sign() -> None:
    model = build("vgg")
    with torch.no_grad():
        model.features[1].weight[:4].neg_()
        model.features[1].weight[4] = 0
    model(EXAMPLE).square().sum().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    sparsity_hook(0.25)(0, 0.1, model)
    gammas = {name for name, p in model.named_parameters() if any(p is gamma for gamma in scales(model))}
    assert gammas == {"features.1.weight", "features.5.weight", "features.9.weight"}
    for name, p in model.named_parameters():
        added = 0.25 * torch.sign(p.detach()) if name in gammas else torch.zeros_like(p)
        torch.testing.assert_close(p.grad, before[name] + added, rtol=0, atol=1e-7)


def test_lambda_zero_is_plain_training(small_data) -> None:
    recipe = Recipe(batch=16)
    models = [build("vgg") for _ in range(3)]
    for model, hook in zip(models, (None, sparsity_hook(0.0), sparsity_hook(0.1)), strict=True):
        fit(model, small_data, iterations=6, recipe=recipe, seed=3, gradient_hook=hook)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


@pytest.mark.parametrize("iterations", [4, 25])
def test_lambda_moves_scales_by_half_their_mean(iterations: int) -> None:
    model, recipe = build("resnet-a"), Recipe()
    gammas = torch.cat([g.detach().abs() for g in scales(model)])
    rates = [recipe.lr * (1 + np.cos(np.pi * t / iterations)) / 2 for t in range(iterations)]
    pull = sparsity_factor(model, iterations, recipe) * sum(rates) / (1 - 0.9)
    assert pull == pytest.approx(0.5 * float(gammas.mean()), rel=1e-5)
    assert sparsity_factor(model, 0, recipe) == 0.0


def test_the_sparsity_phase_shrinks_scales(context) -> None:
    model = build("vgg")
    mean = torch.cat([g.detach().abs() for g in scales(model)]).mean()
    work, data = copy.deepcopy(model), context(1).data
    recipe = Recipe(batch=16, weight_decay=0.0)
    fit(
        work, data, iterations=80, recipe=recipe, seed=0, gradient_hook=sparsity_hook(sparsity_factor(work, 80, recipe))
    )
    plain = copy.deepcopy(model)
    fit(plain, data, iterations=80, recipe=recipe, seed=0)
    after, without = (torch.cat([g.detach().abs() for g in scales(m)]).mean() for m in (work, plain))
    assert float(without - after) > 0.25 * float(mean)


def test_selection_is_by_scale_and_blind_to_a_common_factor() -> None:
    model = build("vgg")
    groups = Groups(model, EXAMPLE)
    target = int(count(model) * 0.7)
    plan, scope = rank_by_scales(groups, target, 0.9, 1)
    assert scope == "blocks"
    with torch.no_grad():
        for gamma in scales(model):
            gamma.mul_(7.5)
    assert rank_by_scales(groups, target, 0.9, 1)[0].removed == plan.removed
    values = [groups.bn_scales(group) for group in groups.groups]
    kept = [
        v[[u for u in range(len(v)) if u not in units]]
        for v, units in zip(values, plan.removed, strict=True)
        if v is not None
    ]
    lost = [v[list(units)] for v, units in zip(values, plan.removed, strict=True) if v is not None]
    # before the give-back every removed scale is below every kept one; a returned unit may sit below a removed one
    assert float(torch.cat(lost).quantile(0.9)) <= float(torch.cat(kept).quantile(0.2))


def test_a_channel_with_zero_scale_and_shift_goes_unnoticed() -> None:
    model = build("vgg")
    with torch.no_grad():
        model.features[1].weight[3] = 0
        model.features[1].bias[3] = 0
        before = model(EXAMPLE)
    groups = Groups(model, EXAMPLE)
    cost = groups.params([0] * 4) - groups.params([int(g.root == "features.0") for g in groups.groups])
    plan, _ = rank_by_scales(groups, count(model) - cost, 0.9, 1)
    assert plan.removed[0] == (3,)
    groups.apply(plan)
    with torch.no_grad():
        torch.testing.assert_close(model(EXAMPLE), before, rtol=1e-5, atol=1e-5)


def test_scopes_widen_only_where_the_target_needs_it() -> None:
    model = build("resnet-a")
    found = {}
    for share in (0.2, 0.8):
        groups = Groups(copy.deepcopy(model), EXAMPLE)
        plan, found[share] = rank_by_scales(groups, int(count(model) * (1 - share)), 0.7, 1)
        streams = [units for g, units in zip(groups.groups, plan.removed, strict=True) if g.stream]
        assert plan.reached
        assert any(streams) == (share == 0.8)
    assert found == {0.2: "blocks", 0.8: "streams"}
    factored = Groups(build("factored"), EXAMPLE)
    plan, scope = rank_by_scales(factored, int(count(factored.model) * 0.7), 0.9, 1)
    assert (scope, plan.reached) == ("all", True)


def test_the_cap_is_a_share_of_the_input_width(context) -> None:
    model = build("vgg")
    with torch.no_grad():
        model.features[1].weight.mul_(0.01)
    widths = {}
    for share in (0.5, 0.9):
        out, report = methods.get("NS").apply(
            model, strategy("NS", HP2=0.3, HP6=share), context(count(model), epochs=0.1)
        )
        widths[share] = len(out.features[0].weight)
        assert report.reached
    assert widths == {0.5: 8, 0.9: 2}


def test_no_batch_norm_is_infeasible(context) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    with pytest.raises(Infeasible, match="batch norm"):
        methods.get("NS").apply(model, strategy("NS", HP2=0.2), context(count(model)))


def test_the_recipe_asks_for_the_sparsity_phase(context) -> None:
    model = build("vgg")
    p0 = count(model)
    factors = []
    for share in (0.0, 0.5):
        given = context(p0)
        given = replace(given, recipe=replace(given.recipe, sparsity=share))
        _, report = methods.get("NS").apply(model, Strategy("NS", (("HP1", 0.5), ("HP2", 0.2), ("HP6", 0.9))), given)
        assert report.params_out < p0
        factors.append(report.details["sparsity"])
    assert factors[0] == 0
    assert factors[1] > 0
