"""The choice of precision is measured, remembered and said."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from automc.datasets import TrainData
from automc.errors import EnvironmentFault
from automc.training.precision import Timing, choose, device_key, measure

DATA = TrainData(
    torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8),
    torch.arange(40) % 2, mean=(0.5,) * 3, std=(0.2,) * 3, augment="crop-flip",
)  # fmt: skip


class Net(nn.Module):
    """A small net that counts its training steps."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).steps += 1
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


class NoBfloat16(Net):
    """Refuses bfloat16, as an operation without it does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.conv(x).dtype == torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        return super().forward(x)


@pytest.mark.parametrize(
    ("float32", "bfloat16", "choice"),
    [
        (1.0, 0.5, "bfloat16"),
        (1.0, 0.9, "float32"),
        (1.0, 5.0, "float32"),
        (1.0, math.inf, "float32"),
        (1.2, 1.0, "bfloat16"),
    ],
)
def test_bfloat16_needs_a_clear_margin(float32: float, bfloat16: float, choice: str) -> None:
    assert Timing(float32, bfloat16).choice == choice


def test_measured_once_then_remembered(tmp_path: Path) -> None:
    said: list[str] = []
    model = Net()
    before = copy.deepcopy(model.state_dict())
    first = choose("cpu", tmp_path / "home", model, DATA, said.append)
    steps = Net.steps
    assert steps > 0
    assert len(said) == 1
    assert first in said[0]
    assert choose("cpu", tmp_path / "home", model, DATA, said.append) == first
    assert Net.steps == steps
    assert len(said) == 1
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.__version__ in device_key(torch.device("cpu"))


def test_what_is_remembered_counts_and_other_devices_stay(tmp_path: Path) -> None:
    key = device_key(torch.device("cpu"))
    (tmp_path / "precision.json").write_text(json.dumps({key: "bfloat16", "other": "float32"}))
    assert choose("cpu", tmp_path, Net(), DATA) == "bfloat16"
    (tmp_path / "precision.json").write_text(json.dumps({key: "int3", "other": "float32"}))
    found = choose("cpu", tmp_path, Net(), DATA)
    assert json.loads((tmp_path / "precision.json").read_text()) == {key: found, "other": "float32"}


def test_a_damaged_file_is_measured_anew(tmp_path: Path) -> None:
    (tmp_path / "precision.json").write_text("{")
    assert choose("cpu", tmp_path, Net(), DATA) in ("float32", "bfloat16")


def test_a_model_that_cannot_bfloat16_gets_float32(tmp_path: Path) -> None:
    assert measure(NoBfloat16(), DATA, torch.device("cpu")).bfloat16 == math.inf
    assert choose("cpu", tmp_path, NoBfloat16(), DATA) == "float32"


def test_threads_are_restored() -> None:
    before = torch.get_num_threads()
    timing = measure(Net(), DATA, torch.device("cpu"))
    assert torch.get_num_threads() == before
    assert 0 < timing.float32 < 10
    assert 0 < timing.bfloat16 < 10


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="AUTOMC_HOME"):
        choose("cpu", tmp_path / "file" / "home", Net(), DATA)
