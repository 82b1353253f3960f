"""Every layer is named with what can be done to it."""

from __future__ import annotations

import group_nets
import pytest
import torch
from torch import nn

from automc.models import zoo
from automc.models.load import prepare
from automc.surgery.diagnosis import LayerReport, diagnose


def layers(model: nn.Module, keep: tuple[str, ...] = ()) -> dict[str, LayerReport]:
    example = torch.zeros(1, 3, 16, 16)
    return {row.name: row for row in diagnose(prepare(model, example), example, keep).layers}


def test_a_residual_network_names_streams_insides_and_its_head() -> None:
    rows = layers(zoo.build("resnet8"))
    assert rows["linear"].channels == "its outputs are the model's outputs"
    assert not rows["linear"].prunable
    assert rows["linear"].factorable
    inside, stream = rows["layer1.0.conv1"], rows["layer1.0.conv2"]
    assert inside.channels == "16 channels, with layer1.0.bn1"
    assert "residual stream" in stream.channels
    assert inside.prunable
    assert stream.prunable
    assert rows["conv1"].factors == "only 3 inputs"
    assert sum(row.params for row in rows.values()) == sum(p.numel() for p in zoo.build("resnet8").parameters())


def test_keep_is_the_reason_for_what_it_touches() -> None:
    rows = layers(zoo.build("resnet8"), ("layer1.0.conv1",))
    assert rows["layer1.0.conv1"].channels == "layer1.0.conv1 is kept by a pattern or its factory"
    assert rows["layer1.0.conv1"].factors == "kept by a pattern or its factory"
    assert rows["layer2.0.conv1"].prunable


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.twice(self.twice(self.stem(x))).mean((2, 3)))


def test_a_layer_that_runs_twice_is_named() -> None:
    rows = layers(Shared())
    assert "twice runs more than once" in rows["twice"].channels


class Shuffled(nn.Module):
    """Its forward pass depends on the data, so no graph holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.fc(torch.relu(x).mean((2, 3)) if x.sum() > 0 else x.mean((2, 3)))


def test_what_cannot_be_traced_is_said_once() -> None:
    example = torch.zeros(1, 3, 16, 16)
    report = diagnose(Shuffled(), example)
    assert report.activations is not None
    assert "cannot be traced" in report.activations
    assert report.activation_sites == 0


@pytest.mark.parametrize("name", ["Grouped", "Concat", "Inverted"])
def test_every_layer_has_words(name: str) -> None:
    rows = layers(getattr(group_nets, name)())
    assert all(row.channels for row in rows.values())
    assert any(row.prunable for row in rows.values())
    for row in rows.values():
        assert row.factors or row.kind not in ("Conv2d", "Linear")
