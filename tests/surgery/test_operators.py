"""Operators: each is what its kernel says, starts nearest to the layer, and their mixture is what they are together."""

from __future__ import annotations

import copy
from typing import cast

import pytest
import torch
from group_nets import build
from torch import nn
from torch.nn import functional as F

from automc.surgery import lowrank
from automc.surgery.branches import branches
from automc.surgery.groups import Groups
from automc.surgery.operators import Built, Grouped, LowRank, Mixed, Operator, Separable, mixed, searched

GEOMETRIES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
    {"kernel_size": 5, "padding": 4, "dilation": 2, "padding_mode": "reflect"},
    {"kernel_size": (3, 1), "padding": "same"},
    {"kernel_size": 4, "padding": 1, "stride": 3},
]


def net(**place) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 12, **place)).eval()


def whole(model: nn.Module) -> Mixed:
    (site,) = searched(model)
    return mixed(model, site, torch.arange(model[0].out_channels))


@pytest.mark.parametrize("place", GEOMETRIES, ids=str)
def test_every_operator_is_the_convolution_with_its_kernel(place) -> None:
    model = net(**place)
    conv = model[0]
    mixture = whole(model)
    names = {cast(Operator, o).name.split(",")[0] for o in mixture.operators}
    assert {"keep", "rank 0.5", "rank 0.25", "grouped 2", "grouped 4"} <= names
    centred = place["kernel_size"] in (3, 5)
    assert ("1×1" in names) == centred
    images = torch.randn(2, 8, 11, 14)
    for operator in cast(list[Operator], list(mixture.operators)[1:]):
        by_kernel = conv._conv_forward(images, operator.kernel(), conv.bias)
        if isinstance(operator, Built):
            built: nn.Module = nn.Sequential(operator.layers(conv))
        else:
            assert isinstance(operator, LowRank)
            built = copy.deepcopy(model)
            lowrank.factor(built, operator.site, operator.rank)
        got = built(images)
        assert got.shape == conv(images).shape
        torch.testing.assert_close(got, by_kernel, rtol=1e-4, atol=1e-5)
        weights = sum(m.weight.numel() for m in built.modules() if isinstance(m, nn.Conv2d))
        assert weights == operator.params < conv.weight.numel()


def test_a_separable_start_is_the_best_product_for_each_input() -> None:
    weight = torch.randn(12, 8, 3, 3)
    kernel = Separable(weight).kernel()
    for column in range(8):
        left, values, right = torch.linalg.svd(weight[:, column].flatten(1), full_matrices=False)
        best = values[0] * left[:, :1] @ right[:1]
        torch.testing.assert_close(kernel[:, column].flatten(1), best, rtol=1e-3, atol=1e-5)


def test_groups_read_neighbours_and_write_in_turns() -> None:
    weight = torch.arange(1.0, 1 + 8 * 4).reshape(8, 4, 1, 1)
    kernel = Grouped(weight, 2).kernel()[..., 0, 0]
    mask = torch.tensor([[row % 2 == column // 2 for column in range(4)] for row in range(8)])
    assert torch.equal(kernel, torch.where(mask, weight[..., 0, 0], 0))


@pytest.mark.parametrize("divisor", [1, 4])
def test_a_mixture_is_the_sum_of_its_operators_in_its_rows(divisor: int) -> None:
    model = net(kernel_size=3, padding=1)
    (site,) = searched(model)
    rows = torch.tensor([1, 4, 7]) if divisor > 1 else torch.arange(12)
    mixture = mixed(model, site, rows)
    with torch.no_grad():
        mixture.alpha.copy_(torch.randn(len(mixture.operators)))
    images = torch.randn(2, 8, 6, 6)
    outputs = [F.conv2d(images, cast(Operator, o).kernel(), padding=1) for o in mixture.operators]
    total = sum(share * one for share, one in zip(mixture.alpha.softmax(0), outputs, strict=True))
    wanted = outputs[0].index_copy(1, rows, total[:, rows]) + model[0].bias.reshape(-1, 1, 1)
    torch.testing.assert_close(mixture(images), wanted, rtol=1e-4, atol=1e-5)


def test_two_factors_are_one_site_with_smaller_ranks_only() -> None:
    model = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.Conv2d(6, 12, 1)).eval()
    for form in ("channel", "spatial"):
        if form == "spatial":
            model = net(kernel_size=3, padding=1, stride=2)
            (site,) = lowrank.sites(model, form="spatial")
            lowrank.factor(model, site, 9)
            model = model[0]
        (site,) = searched(model)
        mixture = mixed(model, site, torch.arange(12))
        assert len(mixture.operators) == 4
        with torch.no_grad():
            mixture.alpha[0] = 60
        images = torch.randn(2, 8, 7, 7)
        torch.testing.assert_close(mixture(images), model(images), rtol=1e-4, atol=1e-5)


def test_residual_branches_are_those_that_only_add() -> None:
    found = {net: branches(build(net), torch.zeros(2, 3, 16, 16)) for net in ("resnet-a", "vgg", "inverted")}
    assert [(b.name, b.rectified) for b in found["resnet-a"]] == [("layer1.0", True)]
    assert not found["vgg"]
    assert not found["inverted"]  # its sum stands in the model's own forward
    assert not branches(build("resnet-a"), torch.zeros(2, 3, 16, 16), keep=("layer1.0.bn2",))
    model = build("resnet-a")
    block = model.layer1[0]
    with torch.no_grad():
        block.bn2.weight.zero_()
        block.bn2.bias.zero_()
    images = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(images), found["resnet-a"][0].rest(images))


def test_channels_are_followed_through_every_operator() -> None:
    """What a search leaves can be pruned: also a grouped layer with its shuffle, by one channel of each group."""
    model = build("vgg")
    for site, name in zip(searched(model), ("grouped 4", "separable"), strict=True):
        (operator,) = (o for o in mixed(model, site, torch.arange(2)).operators if o.name == name)
        model.set_submodule(site.name, cast(Built, operator).layers(model.get_submodule(site.name)).eval())
    before = sum(p.numel() for p in model.parameters())
    groups = Groups(model, torch.zeros(2, 3, 16, 16))
    assert {group.root: group.copies for group in groups.groups if group.root.startswith("features")} == {
        "features.0": 4, "features.4.0": 4, "features.8.1": 1,
    }  # fmt: skip
    plan = groups.removal([[0] if group.root == "features.4.0" else [] for group in groups.groups], before)
    groups.apply(plan)
    assert sum(p.numel() for p in model.parameters()) == plan.params < before
    assert model.features[4][0].out_channels == 20
    assert model.features[8][0].groups == 20
