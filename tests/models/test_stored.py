"""Bits: the figures of whole networks, by arithmetic and by counting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from automc.models import zoo
from automc.models.bits import count_bits, stored
from automc.models.edits import insertable
from automc.models.stored import Stored

# Share of the bits that goes: what bit widths come to on whole networks, first by a scale for each channel.
SCALES = {
    "resnet20": {8: 0.7436, 6: 0.8057, 5: 0.8368, 4: 0.8679, 3: 0.8990, 2: 0.9301},
    "resnet56": {8: 0.7440, 4: 0.8684, 2: 0.9306},
    "vgg16": {8: 0.7491, 4: 0.8740, 2: 0.9364},
}
CODEBOOKS = {
    "resnet20": {8: 0.7272, 6: 0.8036, 5: 0.8370, 4: 0.8693, 3: 0.9010, 2: 0.9324},
    "vgg16": {8: 0.7491, 4: 0.8742, 2: 0.9367},
}


@insertable("TestHalved")
class Halved(nn.Linear):
    """A linear layer that says it stores four bits of each weight, with a scale for each output."""

    scale: Tensor

    def __init__(self, inputs: int, outputs: int, bits: int = 4) -> None:
        super().__init__(inputs, outputs)
        self.bits = bits
        self.register_buffer("scale", torch.ones(outputs))


def of(model: nn.Module, but: int = 0) -> Stored:
    return stored(model, [m for m in model.modules() if type(m) in (nn.Conv2d, nn.Linear)][but:])


@pytest.fixture(scope="module")
def counted() -> dict[str, Stored]:
    with torch.device("meta"):
        return {name: of(zoo.build(name)) for name in SCALES}


@pytest.mark.parametrize("name", SCALES)
def test_scales_for_each_channel(counted: dict[str, Stored], name: str) -> None:
    model = counted[name]
    found = {b: round(1 - model.quantised(b, ends=None) / (32 * model.params), 4) for b in SCALES[name]}
    assert found == SCALES[name]


@pytest.mark.parametrize("name", CODEBOOKS)
def test_a_codebook_for_each_layer(counted: dict[str, Stored], name: str) -> None:
    model = counted[name]
    found = {
        b: round(1 - model.quantised(b, ends=None, codebook=2**b) / (32 * model.params), 4) for b in CODEBOOKS[name]
    }
    assert found == CODEBOOKS[name]


def test_the_counts_of_a_network(counted: dict[str, Stored]) -> None:
    # 20 layers; the first has 3·3·3·16 weights and the last 64·10; batch norm and one bias are the rest.
    assert counted["resnet20"] == Stored(269_722, 32 * 269_722, 20, 268_336, 432 + 640, 698, 16 + 10)
    # Both ends at 8 bits take next to nothing.
    one = counted["resnet20"]
    assert 0 < (one.quantised(2) - one.quantised(2, ends=None)) / (32 * one.params) < 0.0008
    assert one.quantised(8) == one.quantised(8, ends=None)
    # With codebooks the ends have scales, as many as they have outputs.
    apart = one.quantised(3, codebook=8) - one.quantised(3, ends=None, codebook=8)
    assert apart == 5 * (432 + 640) + 32 * (16 + 10) - 2 * 32 * 8


def test_a_float_model_has_32_bits_for_each_parameter_and_none_for_statistics() -> None:
    model = zoo.build("resnet8")
    assert count_bits(model) == 32 * sum(p.numel() for p in model.parameters())


def test_a_layer_tells_its_own_bits() -> None:
    model = nn.Sequential(Halved(6, 5), nn.ReLU(), nn.Linear(5, 2))
    assert count_bits(model) == 4 * 30 + 32 * (5 + 5) + 32 * 12
    model[2].bits = 4  # a number of the user's own on a layer of torch says nothing
    assert count_bits(model) == 4 * 30 + 32 * (5 + 5) + 32 * 12
    shared = nn.Sequential(layer := Halved(5, 5), nn.ReLU(), layer)
    assert count_bits(shared) == 4 * 25 + 32 * (5 + 5)


def test_what_is_kept_stays_float_in_the_arithmetic() -> None:
    model = zoo.build("resnet8")
    whole, part = of(model), of(model, but=3)
    assert (part.params, part.bits) == (whole.params, whole.bits)
    assert part.layers == whole.layers - 3
    assert part.weights < whole.weights
    assert part.quantised(4) > whole.quantised(4)
