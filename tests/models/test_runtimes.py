"""What runs a model, and whether a smaller model is slower there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from automc.errors import EnvironmentFault, ModelError, StudyError
from automc.models import runtimes
from automc.models.export import export
from automc.models.load import load
from automc.models.pace import Comparison, checked, judged
from automc.models.runtimes import beside_original, compare, compare_models, runner


class Clock:
    """Stands in for the time module: only what a run says passes."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter

    def run(self, *milliseconds: float):
        """A run that takes these times in turn, again and again."""
        calls = 0

        def run() -> None:
            nonlocal calls
            self.now += milliseconds[calls % len(milliseconds)] / 1000
            calls += 1

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(runtimes, "time", made)
    return made


def test_a_slower_model_is_called_slower(clock):
    found = compare(clock.run(2.0), clock.run(3.0), "onnx", "cpu")
    assert (found.before_ms, found.after_ms) == (pytest.approx(2.0), pytest.approx(3.0))
    assert found.ratio == pytest.approx(1.5)
    assert found.slower
    assert found.turns >= 11
    assert "in onnxruntime on cpu one forward pass takes 3 ms instead of 2, 1.50 times as long" in found.warning
    assert "--round-to auto --runtime onnx" in found.warning


def test_what_disturbs_single_runs_does_not_count(clock):
    """Every other run of the faster model takes ten times as long."""
    found = compare(clock.run(2.0), clock.run(1.0, 10.0), "torch", "cpu")
    assert found.ratio == pytest.approx(0.5)
    assert found.warning == ""


@pytest.mark.parametrize(
    ("after", "slower"),
    [
        ([1.0] * 8, False), ([1.02] * 8, False), ([1.05] * 8, True), ([0.9, 1.2] * 4, False),
        ([0.99, 1.1, 1.1, 1.1] * 2, True), ([0.8, 0.9, 2.0, 2.0] * 2, False),
    ],
)  # fmt: skip
def test_slower_is_said_beyond_the_spread_only(after, slower):
    found = judged([(1.0, seconds) for seconds in after], "torch", "cpu")
    assert found.slower is slower
    assert bool(found.warning) is slower


def test_each_place_gives_the_models_own_logits_in_evaluation_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 36, 5))
    images = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = model.eval()(images)
    model.train()
    known = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = runner(model, images, "onnx")
    assert torch.allclose(run(), expected, atol=1e-5)
    for place in ("torch", "exported"):
        runner(model, images, place)()
    assert model.training
    assert all(torch.equal(tensor, known[name]) for name, tensor in model.state_dict().items())
    found = compare_models(model, model, images)
    assert found is not None
    assert found.place == "torch"


class Asks(nn.Module):
    """Its path depends on the pixels: no runtime but PyTorch takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * (x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3)))


def test_what_does_not_run_there_is_not_compared():
    images = torch.ones(1, 3, 4, 4)
    assert compare_models(Asks(), Asks(), images, "onnx") is None
    with pytest.raises(ModelError, match=r"(?i)data-dependent|depends on the"):
        runner(Asks(), images, "onnx")
    assert compare_models(Asks(), Asks(), images) is not None


@pytest.mark.parametrize(
    ("kind", "place"), [pytest.param("torch", "exported", marks=pytest.mark.slow), ("onnx", "onnx")]
)
def test_an_export_is_timed_beside_the_network_it_was_made_from(tmp_path: Path, kind, place):
    whole = load("resnet8")
    done = export(whole.model, torch.zeros(1, 3, 8, 8), tmp_path / "m", kind=kind)
    assert beside_original(whole, done) is None, "no smaller"
    found = beside_original(replace(whole, model=nn.Linear(1, 1)), done)
    assert isinstance(found, Comparison)
    assert found.place == place


def test_runtimes_by_name():
    assert checked("onnx") == "onnx"
    with pytest.raises(StudyError, match="--runtime must be torch or onnx, it is 'tensorrt'"):
        checked("tensorrt")


def test_missing_packages_are_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(EnvironmentFault, match="onnxruntime"):
        runner(nn.Linear(2, 2), torch.zeros(1, 3, 4, 4), "onnx")
