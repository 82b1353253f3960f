from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from automc.errors import ModelError
from automc.models import measure, structure, zoo
from automc.models.load import load
from automc.models.measure import artefact_bytes, count_flops, count_params, latency, peak_memory


def test_flops_count_each_multiply_accumulate_twice() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, groups=1), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(32, 5)
    )
    macs = 8 * 3 * 9 * 16 + 8 * 9 * 4 + 32 * 5
    example = torch.zeros(6, 3, 8, 8)
    assert count_flops(model, example) == 2 * macs, "of one image, whatever the batch"


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(4, 4)
    assert count_params(nn.Sequential(layer, nn.ReLU(), layer)) == 20


def test_measuring_leaves_modes_and_statistics() -> None:
    model = zoo.build("resnet8").train()
    model.layer1[0].bn1.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    count_flops(model, torch.randn(1, 3, 16, 16))
    found = latency(model, torch.randn(4, 3, 16, 16), repeats=3, warmup=1)
    assert model.training
    assert not model.layer1[0].bn1.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert (found.batch, found.repeats, found.threads, found.device) == (4, 3, torch.get_num_threads(), "cpu")
    assert found.median_ms > 0
    assert found.iqr_ms >= 0


def test_latency_is_the_middle_of_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(nn.Module):
        """A network that takes these seconds in turn, on a clock that nothing else moves."""

        now, waits = 0.0, iter([0.05, 0.001, 0.02, 0.003])

        def perf_counter(self) -> float:
            return self.now

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.now += next(self.waits)
            return x

    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    found = latency(clock, torch.zeros(1), repeats=3, warmup=1)
    assert found.median_ms == pytest.approx(3.0)
    assert found.iqr_ms == pytest.approx((3.0 + 20.0) / 2 - (1.0 + 3.0) / 2)


def test_wrong_images_are_said() -> None:
    with pytest.raises(ModelError, match=r"\(1, 16, 16\)"):
        count_flops(zoo.build("resnet8"), torch.zeros(1, 1, 16, 16))


def test_file_size(tmp_path: Path) -> None:
    loaded = load("resnet8")
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})
    size = artefact_bytes(loaded.model, loaded.source)
    assert size == (tmp_path / "m.am").stat().st_size
    assert 4 * count_params(loaded.model) < size < 4 * count_params(loaded.model) + 20_000


def test_peak_memory_is_what_lives_at_the_same_time() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    weights = 4 * (3 * 8 + 8 + 8 * 16 + 16)
    # Both maps are alive while the second convolution runs: 4 bytes, 5 images, 8 + 16 channels, 6 x 6 pixels.
    expected = weights + 4 * 5 * (8 + 16) * 36
    example = torch.zeros(5, 3, 6, 6)
    assert peak_memory(model, example) == expected
    assert peak_memory(model, example) == expected, "nothing of the first run is left"
    narrow = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert peak_memory(narrow, example) < expected
