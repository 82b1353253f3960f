"""Channel groups: exact counts, budgets met, surgery equal to masking."""

from __future__ import annotations

import copy
import functools
import gc
import weakref

import numpy as np
import pytest
import torch
import torch.fx
from group_nets import NETS, build
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from user_nets import transformer

from automc.errors import Infeasible
from automc.models.shortcuts import GatherShortcut
from automc.surgery.groups import Group, Groups, Plan

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def random_plan(groups: Groups, seed: int, share: float) -> Plan:
    """Random units of every group, up to a share of what may go."""
    rng = np.random.default_rng(seed)
    units = []
    for group, cap in zip(groups.groups, groups.caps(), strict=True):
        units.append(rng.permutation(group.units)[: rng.integers(0, int(cap * share) + 1)].tolist())
    return groups.removal(units, 0)


def mask(model: nn.Module, groups: Groups, plan: Plan) -> None:
    """Zero the input slices of everything that reads a removed channel; the widths stay."""
    modules = dict(model.named_modules())
    lost: dict[str, set[int]] = {}
    for group, units in zip(groups.groups, plan.removed, strict=True):
        for member in group.members:
            if member.side != "in" or not units:
                continue
            layer = modules[member.name]
            gone = member.rows[list(units)].flatten()
            lost.setdefault(member.name, set()).update(gone.tolist())
            with torch.no_grad():
                if isinstance(layer, _ConvNd) and layer.groups > 1:
                    inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
                    for channel in gone:
                        part = channel // inputs
                        layer.weight[part * outputs : (part + 1) * outputs, channel % inputs] = 0
                else:
                    layer.weight[:, gone] = 0
    for name, layer in modules.items():
        if isinstance(layer, GatherShortcut):  # reads what the block's first convolution reads
            gone_too = lost.get(name.replace("shortcut", "conv1"), set())
            layer._map([-1 if s in gone_too else s for s in layer.src])


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(0.1, 1.0))
def test_predicted_count_is_the_real_one(name: str, seed: int, share: float) -> None:
    model = build(name)
    groups = Groups(model, EXAMPLE)
    plan = random_plan(groups, seed, share)
    groups.apply(plan)
    assert count(model) == plan.params
    assert model(EXAMPLE).shape == (2, 10)


@pytest.mark.parametrize("name", [n for n in NETS if n != "norms"])
def test_deletion_equals_masking(name: str) -> None:
    model = build(name)
    masked = copy.deepcopy(model)
    groups = Groups(model, EXAMPLE)
    plan = random_plan(groups, 3, 0.8)
    assert plan.units > 0
    mask(masked, groups, plan)
    before = model(EXAMPLE)
    groups.apply(plan)
    with torch.no_grad():
        pruned, wanted = model(EXAMPLE), masked(EXAMPLE)
    assert (pruned - wanted).norm() <= 1e-5 * wanted.norm()
    assert (pruned - before).norm() > 1e-3 * before.norm()


@pytest.mark.parametrize(
    ("name", "number", "streams"),
    [("resnet-a", 6, 3), ("resnet-b", 6, 3), ("vgg", 4, 0), ("grouped", 3, 0), ("concat", 4, 0), ("inverted", 3, 1)],
)
def test_groups_found(name: str, number: int, streams: int) -> None:
    groups = Groups(build(name), EXAMPLE).groups
    assert len(groups) == number
    assert sum(group.stream for group in groups) == streams
    assert not any("fc" in group.root or "linear" in group.root for group in groups)


def by_root(groups: Groups) -> dict[str, Group]:
    return {group.root: group for group in groups.groups}


def test_units_of_grouped_convolutions_are_one_channel_per_part() -> None:
    groups = by_root(Groups(build("grouped"), EXAMPLE))
    assert (groups["conv1"].units, groups["conv1"].copies) == (4, 4)
    assert (groups["conv2"].units, groups["conv2"].copies) == (6, 4)
    assert groups["conv1"].channels([1]) == [1, 5, 9, 13]


def test_cost_of_a_block_channel_is_the_formula() -> None:
    groups = Groups(build("resnet-a"), EXAMPLE)
    for width, root in ((16, "layer1.0.conv1"), (32, "layer2.0.conv1"), (64, "layer3.0.conv1")):
        removed = [int(group.root == root) for group in groups.groups]
        inputs = max(16, width // 2)
        assert groups.params([0] * len(removed)) - groups.params(removed) == 9 * inputs + 9 * width + 2


def test_inner_ranks_may_shrink_to_one_and_score_by_both_factors() -> None:
    model = build("factored")
    groups = Groups(model, EXAMPLE)
    ranks = [group for group in groups.groups if group.rank]
    assert {group.root for group in ranks} == {"two.0", "three.0", "three.1", "fc.0"}
    assert all(group.min_units == 1 for group in ranks)
    group = by_root(groups)["two.0"]
    before = groups.weight_norms(group)
    first, second = model.two[0].weight.detach(), model.two[1].weight.detach()
    wanted = first.flatten(1).norm(dim=1) * second.flatten(1).norm(dim=0)
    torch.testing.assert_close(before, wanted)
    with torch.no_grad():
        model.two[0].weight.mul_(8)
        model.two[1].weight.div_(8)
    torch.testing.assert_close(groups.weight_norms(group), before)


def test_bn_scales_average_the_coupled_norms() -> None:
    model = build("resnet-b")
    groups = Groups(model, EXAMPLE)
    stream = next(g for g in groups.groups if g.stream and g.units == 32)
    wanted = torch.stack([model.layer2[0].bn2.weight, model.layer2[0].shortcut[1].weight]).abs().mean(0)
    torch.testing.assert_close(groups.bn_scales(stream), wanted.detach())
    assert Groups(build("norms"), EXAMPLE).bn_scales(Groups(build("norms"), EXAMPLE).groups[0]) is None


@functools.cache
def groups_of(name: str) -> Groups:
    """The groups of a net that stays as it is."""
    return Groups(build(name), EXAMPLE)


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(0.02, 0.95), cap=st.sampled_from([0.5, 0.7, 0.9]))
def test_plan_meets_the_target_with_less_slack_than_a_unit(name: str, seed: int, share: float, cap: float) -> None:
    groups = groups_of(name)
    rng = np.random.default_rng(seed)
    scores = [rng.random(group.units) for group in groups.groups]
    caps = groups.caps(cap)
    target = int(groups.params([0] * len(caps)) * (1 - share))
    for plan in (
        groups.plan(scores, target, caps),
        groups.removal(
            [np.argsort(s)[:n].tolist() for s, n in zip(scores, groups.plan_uniform(target, caps), strict=True)], target
        ),
    ):
        assert all(len(units) <= most for units, most in zip(plan.removed, caps, strict=True))
        if plan.reached:
            assert plan.params <= target
            assert target - plan.params < groups.unit_cost(plan)
        else:
            assert [len(units) for units in plan.removed] == caps


def test_plan_takes_the_lowest_scores_and_is_monotone_in_the_target() -> None:
    groups = Groups(build("vgg"), EXAMPLE)
    rng = np.random.default_rng(0)
    scores = [rng.random(group.units) for group in groups.groups]
    whole = groups.params([0] * len(scores))
    sizes = []
    for share in np.linspace(0.05, 0.8, 12):
        plan = groups.plan(scores, int(whole * (1 - share)), groups.caps(0.9))
        sizes.append(plan.params)
        for values, units, cap in zip(scores, plan.removed, groups.caps(0.9), strict=True):
            assert set(units) == set(np.argsort(values)[: len(units)])
            assert len(units) <= cap
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


def test_round_to_keeps_multiples() -> None:
    model = build("vgg")
    groups = Groups(model, EXAMPLE)
    target = int(count(model) * 0.6)
    plan = groups.plan([g.cpu().numpy() for g in map(groups.weight_norms, groups.groups)], target, groups.caps(0.9), 8)
    uniform = groups.plan_uniform(target, groups.caps(), 8)
    for group, units, lost in zip(groups.groups, plan.removed, uniform, strict=True):
        assert (group.units - len(units)) % 8 == 0
        assert (group.units - lost) % 8 == 0
    assert plan.reached
    assert groups.params(uniform) <= target


def test_ranks_without_score_stay() -> None:
    groups = Groups(build("vgg"), EXAMPLE)
    scores = [np.arange(g.units, dtype=float) if g.root == "hidden" else None for g in groups.groups]
    plan = groups.plan(scores, 0, groups.caps())
    assert not plan.reached
    assert [len(units) > 0 for units in plan.removed] == [g.root == "hidden" for g in groups.groups]


@pytest.mark.parametrize("pattern", ["layer2", "layer2.*", "layer2.0.conv*"])
def test_kept_layers_are_untouched(pattern: str) -> None:
    model = build("resnet-a")
    shapes = {n: p.shape for n, p in model.named_parameters() if n.startswith("layer2.0.conv")}
    groups = Groups(model, EXAMPLE, [pattern])
    groups.apply(groups.removal([list(range(cap)) for cap in groups.caps()], 0))
    now = dict(model.named_parameters())
    assert {n: now[n].shape for n in shapes} == shapes
    assert any(g.root.startswith("layer3") for g in groups.groups)


def test_flags_are_restored_and_frozen_parameters_do_not_hide_groups() -> None:
    model = build("resnet-a").train()
    model.bn1.eval()
    model.conv1.requires_grad_(False)
    training = {n: m.training for n, m in model.named_modules()}
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        groups = Groups(model, EXAMPLE)
    assert len(groups.groups) == 6
    assert {n: m.training for n, m in model.named_modules()} == training
    assert not model.conv1.weight.requires_grad
    assert model.layer1[0].conv1.weight.requires_grad
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())


def test_layers_used_twice_are_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.again = nn.Conv2d(8, 8, 3, padding=1)
            self.tail = nn.Conv2d(8, 8, 3, padding=1)
            self.fc = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.again(torch.relu(self.again(torch.relu(self.stem(x)))))
            return self.fc(torch.relu(self.tail(x)).mean((2, 3)))

    assert [g.root for g in Groups(Twice(), EXAMPLE).groups] == ["tail"]


class Flattening(nn.Module):
    """Writes the width of its last convolution into its forward pass, as many tutorials do."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 4, 3, padding=1)
        self.c = nn.Linear(4 * 256, 32)
        self.d = nn.Linear(32, 10)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.d(torch.relu(self.c(x.view(self.shape))))


@pytest.mark.parametrize("shape", [(-1, 4 * 256), (4, 4 * 256)])
def test_a_width_written_into_the_code_stays_and_the_rest_is_pruned(shape: tuple[int, int]) -> None:
    net = Flattening(shape).eval()
    example = EXAMPLE.repeat(2, 1, 1, 1)  # 4 images: a channel less is 3 whole images to `view`
    groups = Groups(net, example)
    assert [g.root for g in groups.groups] == ["a", "c"]
    assert "counts on this number of channels" in groups.refused["b"]
    smaller = groups.pruned(random_plan(groups, 0, 1.0))
    assert smaller(example).shape == (4, 10)
    assert count(smaller) < count(net)


def test_a_transformers_wide_layers_are_found_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    net = torch.fx.symbolic_trace(transformer()).eval()
    groups = Groups(net, torch.zeros(1, 3, 32, 32))
    assert [g.root for g in groups.groups] == ["layers.0.widen", "layers.1.widen"]
    assert "counts on this number" in groups.refused["layers.0.qkv"]
    assert capfd.readouterr().err == ""


def test_what_cannot_be_traced_is_infeasible() -> None:
    class Shuffle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 8, 3)
            self.b = nn.Conv2d(8, 8, 3)
            self.fc = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no forward today")

    with pytest.raises(Infeasible, match="no forward today"):
        Groups(Shuffle(), EXAMPLE)


def test_nothing_of_old_modules_survives() -> None:
    references = []
    for seed in range(3):
        model = build("resnet-a", seed)
        groups = Groups(model, EXAMPLE)
        groups.apply(random_plan(groups, seed, 0.5))
        references.append((weakref.ref(model), weakref.ref(model.conv1), weakref.ref(model.conv1.weight)))
    del model, groups
    gc.collect()
    assert all(reference() is None for trio in references for reference in trio)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "resnext50_32x4d", "densenet121", "convnext_tiny"])
def test_torchvision_models(name: str) -> None:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(1, 3, 96, 96)
    for share in (0.2, 0.5):
        pruned, masked = copy.deepcopy(model), copy.deepcopy(model)
        groups = Groups(pruned, x)
        scores = [groups.weight_norms(group).numpy() for group in groups.groups]
        plan = groups.plan(scores, int(count(model) * (1 - share)), groups.caps(0.9))
        mask(masked, groups, plan)
        groups.apply(plan)
        assert plan.reached
        assert count(pruned) == plan.params
        with torch.no_grad():
            got, wanted = pruned(x), masked(x)
        assert (got - wanted).norm() <= 1e-4 * wanted.norm()


def test_groups_of_one_layer_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups with the same root: comparing their arrays of rows would be an error."""
    from dataclasses import replace

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = Groups(model.eval(), torch.zeros(1, 3, 8, 8))
    (first,) = found.groups
    twin = replace(first)
    found.groups = (first, twin)
    monkeypatch.setattr("automc.surgery.groups.flexible", lambda *_: (twin,))
    found._refuse_rigid()
    assert found.groups == (twin,)
    assert first.root in found.refused


def test_weights_with_zeros_are_followed_in_every_memory_format() -> None:
    found = []
    for order in (torch.contiguous_format, torch.channels_last):
        model = build("vgg").to(memory_format=order)
        with torch.no_grad():
            model.features[4].weight[:, 1] = 0.0
        found.append([group.root for group in Groups(model, torch.zeros(2, 3, 16, 16)).groups])
    assert found[0] == found[1]
    assert found[0]
