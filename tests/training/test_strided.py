"""Strided 1×1 convolutions with few inputs: their gradients in training are those of float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from automc.datasets import TrainData
from automc.training.loop import fit
from automc.training.recipe import Recipe
from automc.training.strided import sliced


def net(inputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, inputs, 3, padding=1), nn.ReLU(), nn.Conv2d(inputs, 10, 1, stride=2, bias=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


@pytest.mark.parametrize("inputs", [3, 5, 7, 12, 21])
def test_gradients_are_right_in_training(inputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 32, 32), generator=generator, dtype=torch.uint8)
    data = TrainData(pixels, torch.arange(64) % 10, mean=[0.5] * 3, std=[0.25] * 3)
    model = net(inputs)
    exact = copy.deepcopy(model).double()
    seen: list[torch.Tensor] = []
    batches: list[tuple[torch.Tensor, torch.Tensor]] = []

    def loss(trained: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        batches.append((x, y))
        return nn.functional.cross_entropy(trained(x), y)

    def keep(step: int, rate: float, trained: nn.Module) -> None:
        seen.extend(p.grad.clone() for p in trained.parameters() if p.grad is not None)

    fit(model, data, iterations=1, recipe=Recipe(batch=16), seed=0, loss=loss, gradient_hook=keep)
    x, y = batches[0]
    nn.functional.cross_entropy(exact(x.double().contiguous()), y).backward()
    for mine, parameter in zip(seen, exact.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(mine.double(), parameter.grad, rtol=1e-4, atol=1e-6)


def test_the_function_and_the_strides_stay() -> None:
    model, x = net(5).eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = model(x)
        with sliced(model):
            assert model[2].stride == (1, 1)
            torch.testing.assert_close(model(x), before)
    assert model[2].stride == (2, 2)
    assert not model[2]._forward_pre_hooks
