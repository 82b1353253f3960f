"""Graphs as data: what a traced forward pass reads of a tensor's shape survives a file."""

from __future__ import annotations

import json

import torch
from torch import Tensor, fx, nn
from user_nets import transformer

from automc.models import graphs
from automc.surgery.sites import activation_sites, split_activations


class Shaped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.fc(x.reshape(x.shape[0], -1)))


def test_shapes_are_read_by_name() -> None:
    traced = fx.symbolic_trace(Shaped())
    nodes = graphs.dump(traced.graph)
    assert "getattr" in {node["target"] for node in nodes}
    back = graphs.load(json.loads(json.dumps(nodes)), traced)
    for n in (1, 3):
        images = torch.randn(n, 3, 2, 2)
        assert torch.equal(back(images), traced(images))


def test_activations_of_a_transformer_are_told_apart() -> None:
    torch.manual_seed(0)
    model = transformer().eval()
    split = split_activations(model)
    assert len(activation_sites(split)) == 2
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(split(images), model(images))
