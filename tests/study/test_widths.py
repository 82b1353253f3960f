"""Which widths pay: from times by width, and remembered."""

from __future__ import annotations

import math

import pytest
import torch

from automc.study import widths
from automc.training.recipe import Recipe

CPU = torch.device("cpu")


def stairs(step: int) -> dict[int, float]:
    """Times of a processor that computes whole groups of `step` channels: as long as the next multiple would take."""
    return {w: 1.0 + (step * math.ceil(w / step)) ** 2 for w in widths.WIDTHS}


@pytest.mark.parametrize("step", [1, 8, 16, 32])
def test_the_step_of_the_stairs_is_found(step):
    assert widths.choose(widths.wasted(stairs(step))) == step


def test_a_processor_that_likes_odd_widths_alone_wastes_nothing_at_one():
    """A dislike that no multiple avoids is no reason for coarse widths."""
    times = {w: w**2 * (1.0 if w % 2 else 1.01) for w in widths.WIDTHS}
    assert widths.choose(widths.wasted(times)) == 1


def test_waste_is_measured_from_the_best_widths():
    found = widths.wasted(stairs(16))
    assert found[16] == pytest.approx(0.0, abs=1e-9)
    assert found[1] > found[8] > found[16]
    assert all(0 <= share < 1 for share in found.values())


def test_it_is_measured_once_per_runtime_and_remembered(tmp_path, monkeypatch):
    asked: list[str] = []

    def measure(runtime, device):
        asked.append(runtime)
        return stairs(16 if runtime == "onnx" else 8)

    monkeypatch.setattr(widths, "measure", measure)
    said: list[str] = []
    for _ in range(2):
        assert widths.settle(Recipe(round_to=3), "onnx", CPU, tmp_path, said.append).round_to == 16
        assert widths.settle(Recipe(), "torch", CPU, tmp_path / "new", said.append).round_to == 8
    assert asked == ["onnx", "torch"]
    assert len(said) == 2
    assert said[0].startswith("Widths: multiples of 16.")
    (tmp_path / "widths.json").write_text("{damaged")
    assert widths.settle(Recipe(), "onnx", CPU, tmp_path).round_to == 16
    assert asked == ["onnx", "torch", "onnx"]


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_a_real_sweep_times_every_width(monkeypatch, runtime):
    monkeypatch.setattr(widths, "WIDTHS", (31, 32))
    monkeypatch.setattr(widths, "_TURNS", 1)
    threads = torch.get_num_threads()
    found = widths.measure(runtime, CPU)
    assert set(found) == {31, 32}
    assert all(0 < seconds < math.inf for seconds in found.values())
    assert torch.get_num_threads() == threads
