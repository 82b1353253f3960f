"""Convolutions at a lower resolution: the old size whatever the shape, FLOPs as counted, and a way to elsewhere."""

from __future__ import annotations

import itertools

import pytest
import torch
from group_nets import build
from torch import nn

from automc.models.edits import from_spec, spec_of
from automc.models.measure import count_flops
from automc.surgery.downsampled import Downsampled, Resolutions, exact, places
from automc.surgery.groups import Groups

EXAMPLE = torch.zeros(2, 3, 16, 16)
SHAPES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 5, "padding": 4, "dilation": 2, "padding_mode": "circular"},
    {"kernel_size": (1, 3), "padding": "same"},
    {"kernel_size": 2, "stride": (1, 2), "groups": 3},
]


@pytest.mark.parametrize("place", SHAPES, ids=str)
def test_the_output_has_its_old_size_and_one_is_the_same(place) -> None:
    conv = nn.Conv2d(3, 6, **place)
    for rows, columns in itertools.product((16, 19), (21, 24)):
        images = torch.randn(2, 3, rows, columns)
        wanted = conv(images)
        assert torch.equal(Downsampled(conv, 1)(images), wanted)
        for factor in (2, 4):
            output = Downsampled(conv, factor)(images)
            assert output.shape == wanted.shape
            assert output.unique().numel() < wanted.numel() / factor


def test_what_is_flat_stays_as_it_is() -> None:
    conv = nn.Conv2d(2, 3, 1)
    images = torch.randn(2, 2, 1, 1).expand(2, 2, 9, 11)
    torch.testing.assert_close(Downsampled(conv, 4)(images), conv(images))


@pytest.mark.parametrize("net", ["vgg", "resnet-a", "inverted", "grouped"])
def test_counted_flops_are_those_of_the_model(net: str) -> None:
    model = build(net)
    whole = count_flops(model, EXAMPLE)
    found = places(model, EXAMPLE)
    assert found
    for place in found[:3]:
        conv = model.get_submodule(place.name)
        assert place.factors[0] == 1
        for factor, flops in zip(place.factors, place.flops, strict=True):
            model.set_submodule(place.name, Downsampled(conv, factor))
            assert count_flops(model, EXAMPLE) == whole - place.flops[0] + flops
        model.set_submodule(place.name, conv)


def test_small_maps_kept_layers_and_lowered_ones_are_left_out() -> None:
    model = build("vgg")
    assert [p.name for p in places(model, EXAMPLE)] == ["features.0", "features.4", "features.8"]
    assert [p.factors for p in places(model, EXAMPLE)] == [(1, 2, 4), (1, 2, 4), (1, 2)]
    assert [p.name for p in places(model, torch.zeros(2, 3, 8, 8), ("features.0",))] == ["features.4"]
    model.features[0] = Downsampled(model.features[0], 2)
    assert "features.0.conv" not in [p.name for p in places(model, EXAMPLE)]


def test_a_sum_of_resolutions_is_one_of_them_with_all_score() -> None:
    conv = nn.Conv2d(3, 5, 3, padding=1)
    images = torch.randn(2, 3, 9, 9)
    mixture = Resolutions(conv, (1, 2, 4), torch.device("cpu"))
    for place, factor in enumerate(mixture.factors):
        with torch.no_grad():
            mixture.lambda_.zero_()
            mixture.lambda_[place] = 60
        torch.testing.assert_close(mixture(images), Downsampled(conv, factor)(images))


def test_it_is_rebuilt_from_its_description_and_proved_by_an_equal_one() -> None:
    layer = Downsampled(nn.Conv2d(3, 4, 3, stride=2, bias=False), 2)
    again = from_spec(spec_of(layer))
    again.load_state_dict(layer.state_dict())
    images = torch.randn(1, 3, 16, 16)
    assert torch.equal(again(images), layer(images))
    model = build("vgg")
    place = places(model, EXAMPLE)[1]
    wanted = model(torch.ones(2, 3, 16, 16))
    exact(model, place)
    assert torch.equal(model(torch.ones(2, 3, 16, 16)), wanted)


def test_channels_are_followed_through_it() -> None:
    model, before = build("resnet-a"), Groups(build("resnet-a"), EXAMPLE)
    for place in places(model, EXAMPLE):
        model.set_submodule(place.name, Downsampled(model.get_submodule(place.name), 2).eval())
    after = Groups(model, EXAMPLE)
    assert [group.units for group in after.groups] == [group.units for group in before.groups]
    plan = after.removal([[0] for _ in after.groups], 0)
    after.apply(plan)
    assert sum(p.numel() for p in model.parameters()) == plan.params
