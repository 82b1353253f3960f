"""The layer table: what it counts, whom a layer's output reaches, and models that cannot be followed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from group_nets import NETS, build
from torch import Tensor, nn

from automc.methods.quantising import quantisable
from automc.models import zoo
from automc.models.layers import LayerTable, compare
from automc.models.measure import count_flops, count_params
from automc.surgery import lowrank
from automc.surgery.groups import Groups
from automc.surgery.layer_table import layer_table
from automc.surgery.levels import uniform
from automc.surgery.lma import LMA
from automc.surgery.quantised import quantise

EXAMPLE = torch.zeros(2, 3, 16, 16)


def arrows(table: LayerTable) -> set[tuple[str, str]]:
    return {(table.layers[a].name, table.layers[b].name) for a, b in table.edges}


@pytest.mark.parametrize("name", NETS)
def test_it_counts_what_the_model_counts(name: str) -> None:
    model = build(name)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    table = layer_table(model, EXAMPLE)
    weighted = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert {layer.name for layer in table.layers} == set(weighted)
    assert sum(2 * layer.macs for layer in table.layers) == count_flops(model, EXAMPLE)
    for layer in table.layers:
        module = weighted[layer.name]
        assert layer.params == count_params(module)
        assert (layer.outputs, layer.bits) == (len(module.weight), 32)
    assert LayerTable.from_dict(json.loads(json.dumps(table.as_dict()))) == table
    # What shrinks together in the table is what the surgery knows, but for what it refuses.
    of = {name: set(layer.writes) for layer in table.layers for name in [layer.name]}
    for group in Groups(model, EXAMPLE).groups:
        makers = [of[m.name] for m in group.members if m.side == "out" and m.name in of]
        assert all(makers)
        assert set.intersection(*makers)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet20", "vgg16"])
def test_shipped_networks(name: str) -> None:
    model, example = zoo.build(name), torch.zeros(1, 3, 32, 32)
    table = layer_table(model, example)
    assert not table.missing
    assert sum(2 * layer.macs for layer in table.layers) == count_flops(model, example)


def test_an_output_reaches_through_shortcuts_and_stops_at_weights() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.two = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4))
            self.norm, self.fc = nn.BatchNorm2d(4), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.norm(self.stem(x)))
            y = torch.relu(self.one(x)) + x
            z = torch.cat([self.two(y), y[:, :4]], 1)
            return self.fc(z.mean((2, 3)))

    table = layer_table(Two(), torch.zeros(1, 3, 6, 8))
    assert [layer.name for layer in table.layers] == ["stem", "one", "two", "fc"]
    assert arrows(table) == {
        ("stem", "one"), ("stem", "two"), ("stem", "fc"), ("one", "two"), ("one", "fc"), ("two", "fc"),
    }  # fmt: skip
    first = table.layers[0]
    assert (first.kind, first.kernel_h, first.stride, first.out_h, first.out_w) == ("conv", 3, 1, 6, 8)
    assert first.reads == ()  # the image stays
    assert first.writes == table.layers[1].writes == table.layers[2].reads  # added up, so coupled


def test_factors_activations_and_bits() -> None:
    model = build("vgg")
    site = next(s for s in lowrank.sites(model) if s.name == "features.4")
    lowrank.factor(model, site, 5)
    model.features[2] = LMA(8)
    layers = quantisable(model)
    quantise(layers["hidden"], uniform(layers["hidden"].weight, 4))
    table = {layer.name: layer for layer in layer_table(model, EXAMPLE).layers}
    assert [(n, layer.rank) for n, layer in table.items() if layer.rank] == [("features.4.0", 5), ("features.4.1", 5)]
    assert {n: layer.bits for n, layer in table.items() if layer.bits != 32} == {"hidden": 4}
    assert table["features.0"].writes == table["features.4.0"].reads != ()  # through the activation


def test_kinds() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1, groups=2), nn.ConvTranspose2d(8, 4, 2, 2),
        nn.Flatten(2), nn.Linear(144, 6),
    )  # fmt: skip
    table = layer_table(model, torch.zeros(1, 3, 10, 10))
    assert [layer.kind for layer in table.layers] == ["conv", "depthwise", "grouped", "transposed", "linear"]
    assert table.layers[-1].out_w == 4  # vectors of an image
    assert sum(2 * layer.macs for layer in table.layers) == count_flops(model, torch.zeros(1, 3, 10, 10))


class Refusing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Any:
        raise ValueError("not today")


def test_what_cannot_be_followed_is_empty_and_says_why() -> None:
    table = layer_table(Refusing(), EXAMPLE)
    assert table.layers == ()
    assert "not today" in table.missing
    late = layer_table(build("vgg"), EXAMPLE, seconds=0.0)
    assert late.layers == ()
    assert "longer than 0 s" in late.missing
    assert LayerTable.from_dict(late.as_dict()) == late


def test_two_tables_beside_each_other() -> None:
    before = layer_table(build("vgg"), EXAMPLE)
    model = build("vgg")
    lowrank.factor(model, next(s for s in lowrank.sites(model) if s.name == "features.4"), 5)
    found = compare(before, layer_table(model, EXAMPLE))
    assert [(name, a is None, b is None) for name, a, b in found] == [
        ("features.0", False, False), ("features.4", False, True), ("features.4.0", True, False),
        ("features.4.1", True, False), ("features.8", False, False), ("hidden", False, False), ("fc", False, False),
    ]  # fmt: skip
