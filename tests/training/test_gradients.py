"""Passes of a training: when they are replayed as a CUDA graph, and that they give the same as usual ones."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from automc.datasets import TrainData
from automc.training.distill import taught
from automc.training.gradients import LEAST, SWITCH, WARMUP, Recorded, Usual, host_state, near, passes, same_state
from automc.training.loop import cross_entropy, fit
from automc.training.recipe import Recipe

RECIPE = Recipe(batch=16, lr=0.05)
CPU, CARD = torch.device("cpu"), torch.device("cuda")
gpu = pytest.mark.gpu


def net(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8, 4),
    )  # fmt: skip


def some(n: int = 70, device: str = "cpu") -> TrainData:
    x = torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
    return TrainData(x, torch.arange(n) % 4, mean=mean, std=std, augment="crop-flip", device=device)


class Counting(nn.Module):
    """Counts its passes on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x


class Tossing(nn.Module):
    """Goes one way or another by a random number of the host's."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.draw() < 0.5 else x


class Reading(nn.Module):
    """Reads a number from the device."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.detach().mean()) > 0 else x


HOST = [Counting(), Tossing(random.random), Tossing(np.random.rand), Tossing(lambda: torch.rand(1).item())]


def usual(model: nn.Module) -> Usual:
    return Usual(model, cross_entropy, list(model.parameters()), "float32")


def test_graphs_are_for_long_trainings_on_a_card_by_a_loss_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    given = (model, cross_entropy, list(model.parameters()), "float32")
    assert isinstance(passes(*given, CARD, LEAST, same=True), Recorded)  # type: ignore[arg-type]
    for device, iterations, same in ((CPU, LEAST, True), (CARD, LEAST - 1, True), (CARD, LEAST, False)):
        assert isinstance(passes(*given, device, iterations, same=same), Usual)  # type: ignore[arg-type]
    for value, kind in (("0", Usual), ("1", Recorded)):
        monkeypatch.setenv(SWITCH, value)
        assert isinstance(passes(*given, CARD, LEAST, same=True), kind)  # type: ignore[arg-type]


def test_where_no_graph_can_be_recorded_passes_run_as_usual_and_it_is_said() -> None:
    """A device without graphs refuses, for real: the CPU."""
    data, one = some(32), net(dropout=0.3)
    other = copy.deepcopy(one)
    recorded, plain = Recorded(usual(one)), usual(other)
    for turn in range(WARMUP + 2):
        x, y = data.normalised(slice(turn, turn + 16)), data.y[turn : turn + 16]
        found = []
        for run in (recorded, plain):
            torch.manual_seed(turn)
            found.append(run(x, y))
        assert torch.equal(*found)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(one.parameters(), other.parameters(), strict=True))  # type: ignore[arg-type]
    assert "cuda" in recorded.reason.lower()
    assert plain.reason == ""


def test_a_pass_that_the_host_has_a_part_in_is_noticed() -> None:
    x, y = some().normalised(slice(0, 8)), torch.arange(8) % 4
    for part in (nn.Identity(), nn.Dropout(0.0), *HOST):
        model = nn.Sequential(part, net())
        before = host_state(model)
        usual(model)(x, y)
        assert same_state(before, host_state(model)) is (part not in HOST), part


def test_gradients_of_another_batch_are_not_near() -> None:
    model, data = net(), some(64)

    def gradients(begin: int, dtype: torch.dtype = torch.float32) -> list[Tensor | None]:
        run = Usual(model.to(dtype), cross_entropy, list(model.parameters()), "float32")
        value = run(data.normalised(slice(begin, begin + 16)).to(dtype), data.y[begin : begin + 16])
        return [value, *(p.grad for p in model.parameters())]

    ours = gradients(0)
    assert near(gradients(0, torch.float64), ours)
    model.float()
    assert not near(gradients(16), ours)
    assert not near([ours[0], None, *ours[2:]], ours)
    assert not near([ours[0], torch.full_like(model[0].weight, torch.nan), *ours[2:]], ours)


def trained(
    model: nn.Module, least: int, monkeypatch: pytest.MonkeyPatch, recipe: Recipe = RECIPE, **options: Any
) -> tuple[Tensor, float, str]:
    model = copy.deepcopy(model).to("cuda")
    monkeypatch.setattr("automc.training.gradients.LEAST", least)
    report = fit(model, some(87, "cuda"), iterations=30, recipe=recipe, seed=3, **options)
    found = torch.cat([t.detach().flatten().double() for t in model.state_dict().values()])
    return found.cpu(), report.loss, report.no_graph


@gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [16, 50], ids=["whole batches", "a last one that is smaller"])
def test_a_graph_trains_as_usual_passes_do(precision: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, precision=precision, batch=batch)
    teacher = net(1).to("cuda").eval()
    masked: list[int] = []
    options: dict[str, Any] = {
        "loss": taught(cross_entropy, teacher, 0.5), "after_update": masked.append,
        "gradient_hook": lambda step, rate, model: model[0].weight.grad.mul_(0.5),
    }  # fmt: skip
    with_graph, loss, reason = trained(net(), 1, monkeypatch, recipe, **options)
    plain, expected, _ = trained(net(), 10**9, monkeypatch, recipe, **options)
    assert reason == ""
    assert loss == pytest.approx(expected, rel=0.05)
    torch.testing.assert_close(with_graph, plain, rtol=0.05, atol=0.02)
    assert len(masked) == 60


@gpu
def test_dropout_draws_anew_in_each_replay() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 4)).to("cuda").train()
    run, data = Recorded(usual(model)), some(16, "cuda")
    x, y = data.normalised(slice(0, 16)), data.y
    found = {float(run(x, y)) for _ in range(WARMUP + 8)}
    assert run.reason == ""
    assert len(found) == WARMUP + 8


@gpu
@pytest.mark.parametrize("part", [*HOST, Reading()], ids=lambda part: type(part).__name__)
def test_what_is_another_pass_each_time_is_not_recorded(part: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _, reason = trained(nn.Sequential(part, net()), 1, monkeypatch)
    assert reason
    assert found.isfinite().all()
