"""Accuracy in float32 and recalibrated batch norm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from automc.datasets import TrainData
from automc.training import evaluate
from automc.training.evaluate import accuracy, recalibrate
from automc.training.loop import Diverged


def some(n: int = 90, channels: int = 3, side: int = 6) -> TrainData:
    g = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (n, channels, side, side), generator=g).to(torch.uint8)
    return TrainData(x, torch.arange(n) % 4, mean=(0.5,) * channels, std=(0.25,) * channels, augment="crop-flip")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.3), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def norms(model: nn.Module) -> list[torch.Tensor]:
    return [t.clone() for name, t in model.state_dict().items() if "running" in name]


@pytest.mark.parametrize("batch", [7, 90, 500])
def test_accuracy_is_a_plain_count(batch: int) -> None:
    data, model = some(), net().eval()
    with torch.no_grad():
        plain = (data.x.float() / 255 - 0.5) / 0.25
        expected = (model(plain).argmax(1) == data.y).double().mean().item()
    assert accuracy(model.train(), data, batch) == expected
    assert 0 < expected < 1


def test_accuracy_leaves_the_model_as_it_was() -> None:
    model = net().train()
    model[1].eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    flags = [m.training for m in model.modules()]
    accuracy(model, some())
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


class Recorder(nn.Module):
    """Gives the same answer for all, and remembers in what type it was asked."""

    def __init__(self, answer: list[float]) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.answer = torch.tensor(answer)
        self.types: list[torch.dtype] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.types.append(self.linear(x[:, :1, 0, 0]).dtype)
        return self.answer.expand(len(x), -1)


def test_accuracy_is_float32_even_inside_autocast() -> None:
    model = Recorder([0.0, 1.0, 0.0, 0.0])
    with torch.autocast("cpu", torch.bfloat16):
        accuracy(model, some())
    assert set(model.types) == {torch.float32}


def test_not_a_number_is_a_wrong_answer() -> None:
    assert accuracy(Recorder([0.0, 1.0, 0.0, 0.0]), some(80)) == 0.25
    assert accuracy(Recorder([math.nan, 1.0, 0.0, 0.0]), some(80)) == 0.0


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_outputs_must_be_finite_where_that_is_asked_for(broken: float) -> None:
    assert accuracy(Recorder([0.0, 1.0, 0.0, 0.0]), some(80), finite=True) == 0.25
    with pytest.raises(Diverged, match="80 of 80 images"):
        accuracy(Recorder([broken, 1.0, 0.0, 0.0]), some(80), finite=True)


def test_large_images_come_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "PIXELS_AT_ONCE", 36 * 10)
    model = Recorder([0.0, 1.0, 0.0, 0.0])
    accuracy(model, some(95))
    assert len(model.types) == 10


def test_recalibration_gives_the_statistics_of_the_images() -> None:
    data, model = some().without_augmentation(), net()
    fit_weights = {name: t.clone() for name, t in model.named_parameters()}
    assert recalibrate(model, data) == 90
    with torch.no_grad():
        activations = model[0]((data.x.float() / 255 - 0.5) / 0.25)
    torch.testing.assert_close(model[1].running_mean, activations.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[1].running_var, activations.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(t, fit_weights[name]) for name, t in model.named_parameters())


def test_recalibration_sees_the_images_as_training_does() -> None:
    """Augmented, always in the same views: crops with black borders move the mean."""
    data, model = some(), net()
    assert data.augment != "none"
    recalibrate(model, data)
    sample = data.take(2000)
    views = sample.draw(sample.n, torch.Generator().manual_seed(evaluate.VIEWS))
    with torch.no_grad():
        activations = model[0](sample.views(torch.arange(sample.n), views))
        plain = model[0](data.normalised(slice(None)))
    torch.testing.assert_close(model[1].running_mean, activations.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model[1].running_mean, plain.mean((0, 2, 3)), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_recalibration_is_idempotent_and_restores(training: bool) -> None:
    model = net().train(training)
    model[5].train(not training)
    flags = [m.training for m in model.modules()]
    recalibrate(model, some(), images=60, batch=17)
    first = norms(model)
    torch.manual_seed(99)
    assert recalibrate(model, some(), images=60, batch=17) == 60
    for before, after in zip(first, norms(model), strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=1e-6)
    assert (model[1].momentum, model[5].momentum) == (0.3, 0.1)
    assert [m.training for m in model.modules()] == flags


def test_recalibration_does_not_depend_on_old_statistics() -> None:
    one, other = net(), net()
    other[1].running_mean.fill_(100)
    other[1].running_var.fill_(7)
    recalibrate(one, some())
    recalibrate(other, some())
    assert all(torch.equal(a, b) for a, b in zip(norms(one), norms(other), strict=True))


def test_a_model_without_batch_norm_needs_none() -> None:
    assert recalibrate(nn.Sequential(nn.Flatten(), nn.Linear(108, 4)), some()) == 0
