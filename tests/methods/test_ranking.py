"""Norms of filters under every criterion, and the rankings that affine maps make of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from group_nets import build
from test_contract import count
from torch import nn

from automc.methods.ranking import Layer, norm_table, relative, scores
from automc.surgery.groups import Groups

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def table_of(name: str, criterion: str) -> tuple[nn.Module, Groups, list[Layer]]:
    model = build(name)
    groups = Groups(model, EXAMPLE)
    return model, groups, norm_table(groups, groups.caps(0.9), criterion)


def identity(table: list[Layer]) -> np.ndarray:
    return np.array([[1.0, 0.0]] * len(table))


def test_norms_of_weights_are_sums_over_filters() -> None:
    for criterion, power in (("l1_weight", 1), ("l2_weight", 2)):
        model, _, table = table_of("vgg", criterion)
        assert [layer.name for layer in table] == ["features.0", "features.4", "features.8", "hidden"]
        for layer in table:
            weight = model.get_submodule(layer.name).weight.detach()
            wanted = [sum(abs(float(w)) ** power for w in row.flatten()) for row in weight]
            np.testing.assert_allclose(layer.norms, wanted, rtol=1e-5)


def test_norms_of_batch_norms_are_squares_and_fan_in_counts_inputs_and_kernel() -> None:
    model, _, plain = table_of("vgg", "l2_bn")
    _, _, scaled = table_of("vgg", "l2_bn_param")
    inputs = {"features.1": 3 * 9, "features.5": 16 * 9, "features.9": 24 * 9}
    assert [layer.name for layer in plain] == [*inputs, "hidden"]
    for one, other in zip(plain[:3], scaled[:3], strict=True):
        wanted = model.get_submodule(one.name).weight.detach().double().square().numpy()
        np.testing.assert_allclose(one.norms, wanted, rtol=1e-6)
        np.testing.assert_allclose(other.norms, wanted * inputs[one.name], rtol=1e-6)
    filters = model.hidden.weight.detach().double().square().sum(1).numpy()
    for table in (plain, scaled):  # no batch norm: in the order of its filters
        np.testing.assert_allclose(table[3].norms, filters, rtol=1e-5)


def test_relative_norms_tell_nothing_of_a_layers_scale() -> None:
    model, groups, before = table_of("vgg", "l2_weight")
    with torch.no_grad():
        model.features[4].weight.mul_(0.1)
    after = norm_table(groups, groups.caps(0.9), "l2_weight")
    assert after[1].norms.mean() < 0.02 * before[1].norms.mean()
    for one, other in zip(relative(before), relative(after), strict=True):
        assert one.norms.mean() == pytest.approx(1)
        np.testing.assert_allclose(one.norms, other.norms, rtol=1e-5)
    nothing = relative([Layer(0, "zeros", np.zeros(3))])
    assert nothing[0].norms.tolist() == [0, 0, 0]


def test_coupled_layers_are_entries_of_their_own_and_add_up() -> None:
    model, groups, table = table_of("resnet-b", "l2_bn_param")
    g = next(g for g, group in enumerate(groups.groups) if group.stream and group.units == 32)
    entries = {layer.name: layer.norms for layer in table if layer.group == g}
    block = model.layer2[0]
    wanted = {
        "layer2.0.bn2": block.bn2.weight.detach().square() * 32 * 9,
        "layer2.0.shortcut.1": block.shortcut[1].weight.detach().square() * 16,
    }
    assert set(entries) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(entries[name], values.numpy(), rtol=1e-6)
    maps = np.array([[2.0, 0.5] if layer.name.endswith("shortcut.1") else [3.0, -1.0] for layer in table])
    np.testing.assert_allclose(
        scores(table, maps, len(groups.groups))[g],
        3 * entries["layer2.0.bn2"] - 1 + 2 * entries["layer2.0.shortcut.1"] + 0.5,
    )


def test_a_norm_over_a_concatenation_takes_the_mean_fan_in_of_its_group() -> None:
    model, groups, table = table_of("concat", "l2_bn_param")
    g = next(g for g, group in enumerate(groups.groups) if group.root == "grow1")
    entries = {layer.name: layer.norms for layer in table if layer.group == g}
    assert set(entries) == {"bn2", "bn3"}
    for name, values in entries.items():
        gammas = model.get_submodule(name).weight.detach()[10:18]
        np.testing.assert_allclose(values, gammas.square() * 10 * 9, rtol=1e-6)


def test_units_of_several_channels_add_them_up() -> None:
    model, _, table = table_of("grouped", "l2_bn")
    gammas = model.bn1.weight.detach().square().reshape(4, 4).sum(0)  # unit u: channels u, u + 4, u + 8, u + 12
    np.testing.assert_allclose(next(layer for layer in table if layer.name == "bn1").norms, gammas, rtol=1e-6)


@pytest.mark.parametrize(("criterion", "power"), [("l1_weight", 1), ("l2_weight", 2)])
def test_inner_ranks_score_by_both_factors(criterion: str, power: int) -> None:
    model, _, table = table_of("factored", criterion)
    norms = next(layer for layer in table if layer.name == "two.0").norms
    first, second = model.two[0].weight.detach().abs().pow(power), model.two[1].weight.detach().abs().pow(power)
    np.testing.assert_allclose(norms, first.flatten(1).sum(1) * second.flatten(1).sum(0), rtol=1e-5)


def test_without_any_batch_norm_filters_rank_as_they_are() -> None:
    _, _, fallen = table_of("norms", "l2_bn")
    _, _, plain = table_of("norms", "l2_weight")
    assert all(np.array_equal(a.norms, b.norms) for a, b in zip(fallen, plain, strict=True))


@pytest.mark.parametrize("name", ["resnet-a", "resnet-b", "vgg", "concat", "inverted"])
def test_the_identity_is_the_plain_global_ranking(name: str) -> None:
    model, groups, table = table_of(name, "l1_weight")
    modules, plain = dict(model.named_modules()), []
    for group in groups.groups:
        total = np.zeros(group.units)
        for member in group.members:
            if member.side == "out" and isinstance(modules[member.name], (nn.Conv2d, nn.Linear)):
                filters = modules[member.name].weight.detach().abs().flatten(1).sum(1).double().numpy()
                total += filters[member.rows].sum(1)
        plain.append(total)
    target, caps = int(count(model) * 0.6), groups.caps(0.9)
    ranked = groups.plan(scores(table, identity(table), len(groups.groups)), target, caps)
    assert ranked.removed == groups.plan(plain, target, caps).removed


def test_a_common_factor_changes_nothing_and_a_common_shift_only_where_layers_are_coupled() -> None:
    for name, shifts in (("vgg", True), ("resnet-b", False)):
        model, groups, table = table_of(name, "l2_weight")
        rng = np.random.default_rng(0)
        maps = np.stack([np.exp(rng.normal(size=len(table))), rng.normal(size=len(table))], axis=1)

        def removed(maps: np.ndarray, model=model, groups=groups, table=table) -> object:
            ranked = scores(table, maps, len(groups.groups))
            return groups.plan(ranked, int(count(model) * 0.6), groups.caps(0.9)).removed

        assert removed(8 * maps) == removed(maps)
        assert (removed(np.add(maps, [0, 64.0])) == removed(maps)) == shifts


def test_a_negative_factor_reverses_a_layer() -> None:
    _, groups, table = table_of("vgg", "l2_weight")
    maps = identity(table)
    plus = scores(table, maps, len(groups.groups))
    maps[1, 0] = -1
    minus = scores(table, maps, len(groups.groups))
    g = table[1].group
    assert np.argsort(minus[g]).tolist() == np.argsort(plus[g])[::-1].tolist()
    assert all(np.array_equal(minus[h], plus[h]) for h in range(len(plus)) if h != g)
