"""Predictions from recorded times, and the file in which they are kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from automc.errors import ModelError
from automc.latency.calibration import Calibration, identity, load
from automc.latency.kernels import Kernel, torch_kernels
from automc.latency.predictor import Fit, Predictor
from automc.latency.sampling import drawn

PLACE = {"device": "cpu", "runtime": "torch", "threads": 1, "batch": 1}
IMAGES = torch.zeros(1, 3, 8, 8)


def network(width: int) -> nn.Module:
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def time_of(kernel: Kernel) -> float:
    """A machine on which a kernel takes 5 µs, and what it computes and touches."""
    return 5e-6 + 1e-10 * kernel.macs + 1e-9 * (kernel.read + kernel.written)


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    return drawn(torch_kernels(network(48), IMAGES))


@pytest.fixture(scope="module")
def predictor(kernels: list[Kernel]) -> Predictor:
    return Predictor(kernels, [time_of(k) for k in kernels])


def test_a_machine_whose_times_add_up_is_predicted(predictor: Predictor) -> None:
    for width in (7, 13, 24, 31, 47):
        mine = torch_kernels(network(width), IMAGES)
        true = 1000 * sum(map(time_of, mine))
        assert predictor.ms(mine) == pytest.approx(true, rel=0.05)


def test_wider_layers_of_a_kind_are_predicted_to_take_longer(predictor: Predictor) -> None:
    times = [predictor.ms(torch_kernels(network(width), IMAGES)) for width in (4, 8, 16, 32, 48)]
    assert times == sorted(times)


def test_a_kind_that_was_not_measured_is_named_and_guessed_by_its_bytes(predictor: Predictor) -> None:
    mine = torch_kernels(nn.Sequential(network(16), nn.Softmax(1)), IMAGES)
    assert predictor.unknown(mine) == ["_softmax"]
    assert 0 < predictor.kernel_ms([k for k in mine if k.kind == "_softmax"])[0] < 0.1


def test_whole_networks_correct_sums_of_kernels() -> None:
    random = np.random.default_rng(0)
    sums, numbers = random.uniform(0.2, 2, 20), random.integers(5, 60, 20)
    measured = 1.1 * sums + 0.004 * numbers + 0.05
    fit = Fit.of(list(sums), [int(n) for n in numbers], list(measured))
    assert (fit.sums, fit.each, fit.whole) == pytest.approx((1.1, 0.004, 0.05), rel=1e-3)
    # A profile takes time of its own: more for each kernel than the network loses between two.
    profiled = Fit.of(list(sums), [int(n) for n in numbers], list(0.98 * sums - 0.002 * numbers))
    assert (profiled.sums, profiled.each, profiled.whole) == pytest.approx((0.98, -0.002, 0.0), rel=1e-2, abs=1e-3)
    assert Fit.of([], [], []) == Fit(1.0, 0.0, 0.0)
    assert Fit.of([2.0], [5], [3.0]).ms(4.0, 5) == pytest.approx(6.0)


def test_a_calibration_reads_back_and_predicts_the_same(kernels: list[Kernel], tmp_path: Path) -> None:
    few = kernels[:80]
    known = Calibration("net", identity(few), PLACE, few, [time_of(k) for k in few], [(1.0, 9, 1.2)], 1.2)
    known.save(tmp_path)
    again = load(tmp_path, known.identity, PLACE)
    assert again is not None
    assert list(again.kernels) == few
    mine = torch_kernels(network(20), IMAGES)
    assert again.predictor().ms(mine) == known.predictor().ms(mine)
    assert load(tmp_path, "another", PLACE) is None


@pytest.mark.parametrize("changed", [{"threads": 2}, {"device": "another"}, {"onnxruntime": "9"}])
def test_a_calibration_of_another_place_is_refused_with_the_way_out(
    kernels: list[Kernel], tmp_path: Path, changed: dict[str, object]
) -> None:
    Calibration("net", "net", PLACE, kernels[:1], [1e-3]).save(tmp_path)
    with pytest.raises(ModelError, match=f"{next(iter(changed))} was .*automc latency calibrate"):
        load(tmp_path, "net", {**PLACE, **changed})


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": 0}', json.dumps({"format": 2, "kernels": [{}], "networks": []})]
)
def test_a_damaged_calibration_is_refused_with_the_way_out(tmp_path: Path, content: str) -> None:
    file = Calibration("net", "net", PLACE, [], []).save(tmp_path)
    file.write_text(content)
    with pytest.raises(ModelError, match=r"cannot be read.*automc latency calibrate"):
        load(tmp_path, "net", PLACE)
