"""The choice of precision is measured, remembered and said."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from automc.datasets import TrainData
from automc.errors import EnvironmentFault
from automc.models.measure import count_flops
from automc.training.precision import CPU_FLOPS, Timing, choose, device_key, measure, size_key
from automc.training.recipe import Recipe

DATA = TrainData(
    torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8),
    torch.arange(40) % 2, mean=(0.5,) * 3, std=(0.2,) * 3, augment="crop-flip",
)  # fmt: skip

FLOPS = 15552
RECIPE = Recipe(batch=32)


class Net(nn.Module):
    """A small net that counts its training steps and the images of the last one."""

    steps = images = 0

    def __init__(self, channels: int = 3, width: int = 8) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).steps += 1
        type(self).images = len(x)
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
    assert Timing((float32,), (bfloat16,)).choice == choice


def test_turns_that_agree_settle_it_and_one_disturbed_turn_does_not_decide() -> None:
    assert not Timing((1.0, 1.0), (0.5, 0.5)).settled
    assert Timing((1.0, 9.0, 1.0), (0.5, 4.5, 0.5)).settled, "what slows both of a turn changes nothing"
    disturbed = Timing((1.0, 9.0, 1.0), (0.95, 1.0, 0.95))
    assert not disturbed.settled
    assert disturbed.choice == "float32"


def test_measured_once_then_remembered(tmp_path: Path) -> None:
    said: list[str] = []
    model = Net()
    before = copy.deepcopy(model.state_dict())
    first = choose("cpu", tmp_path / "home", model, DATA, FLOPS, 40, said.append)
    steps = Net.steps
    assert steps > 0
    assert len(said) == 1
    assert first in said[0]
    assert choose("cpu", tmp_path / "home", model, DATA, FLOPS, 40, said.append) == first
    assert Net.steps == steps
    assert len(said) == 1
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.__version__ in device_key(torch.device("cpu"))


@pytest.mark.parametrize("change", ["flops", "width", "batch", "image"])
def test_another_size_of_step_is_measured_for_itself(tmp_path: Path, change: str) -> None:
    key = f"{device_key(torch.device('cpu'))}, {size_key(Net(), DATA, FLOPS, 40)}"
    (tmp_path / "precision.json").write_text(json.dumps({key: "bfloat16"}))
    assert choose("cpu", tmp_path, Net(), DATA, FLOPS, 40) == "bfloat16"
    small = TrainData(DATA.x[:, :, :6, :6].contiguous(), DATA.y, mean=DATA.mean, std=DATA.std)
    model, data, flops, batch = {
        "flops": (Net(), DATA, 100 * FLOPS, 40),
        "width": (Net(width=64), DATA, FLOPS, 40),
        "batch": (Net(), DATA, FLOPS, 4),
        "image": (Net(), small, FLOPS, 40),
    }[change]
    said: list[str] = []
    choose("cpu", tmp_path, model, data, flops, batch, said.append)
    assert len(said) == 1, "what was remembered for one size was taken for another"
    assert len(json.loads((tmp_path / "precision.json").read_text())) == 2


def test_a_home_that_began_with_digits_pins_nothing_for_cifar(automc_home: Path) -> None:
    """The quick start's small network is measured first; a larger one on other images is measured for itself."""
    grey = replace(RECIPE, batch=64)
    said: list[str] = []
    for recipe, model, shape in ((grey, Net(channels=1), (1, 8, 8)), (RECIPE, Net(width=16), (3, 32, 32))):
        x = torch.zeros(64, *shape, dtype=torch.uint8)
        data = TrainData(x, torch.arange(64) % 2, mean=(0.5,) * shape[0], std=(0.2,) * shape[0])
        flops = count_flops(model, torch.zeros(1, *shape))
        choose("cpu", automc_home, model, data, flops, recipe.batch, said.append)
    assert len(said) == 2


def test_large_steps_are_timed_on_fewer_images(tmp_path: Path) -> None:
    Net.images = 0
    choose("cpu", tmp_path, Net(), DATA, flops=int(CPU_FLOPS / 12), batch=40)
    assert 0 < Net.images == 4


def test_what_is_remembered_counts_and_other_devices_stay(tmp_path: Path) -> None:
    key = f"{device_key(torch.device('cpu'))}, {size_key(Net(), DATA, FLOPS, 40)}"
    (tmp_path / "precision.json").write_text(json.dumps({key: "int3", "other": "float32"}))
    found = choose("cpu", tmp_path, Net(), DATA, FLOPS, 40)
    assert json.loads((tmp_path / "precision.json").read_text()) == {key: found, "other": "float32"}


def test_a_damaged_file_is_measured_anew(tmp_path: Path) -> None:
    (tmp_path / "precision.json").write_text("{")
    assert choose("cpu", tmp_path, Net(), DATA, FLOPS, 40) in ("float32", "bfloat16")


def test_a_model_that_cannot_bfloat16_gets_float32(tmp_path: Path) -> None:
    assert measure(NoBfloat16(), DATA, torch.device("cpu"), 40).bfloat16 == (math.inf,)
    assert choose("cpu", tmp_path, NoBfloat16(), DATA, FLOPS, 40) == "float32"


def test_threads_are_restored() -> None:
    before = torch.get_num_threads()
    timing = measure(Net(), DATA, torch.device("cpu"), 40)
    assert torch.get_num_threads() == before
    assert min(timing.float32) > 0
    assert min(timing.bfloat16) > 0
    assert len(timing.float32) == len(timing.bfloat16) >= 3


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="AUTOMC_HOME"):
        choose("cpu", tmp_path / "file" / "home", Net(), DATA, FLOPS, 40)
