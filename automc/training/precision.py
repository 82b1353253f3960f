"""Float32 or bfloat16 for training: measured once per device, because a CPU's flags do not tell which is faster."""

from __future__ import annotations

import copy
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from automc.datasets.base import TrainData
from automc.errors import EnvironmentFault
from automc.training.loop import Diverged, fit
from automc.training.recipe import Precision, Recipe

MARGIN = 1.2
"""bfloat16 is chosen only when it is at least this many times as fast."""
WARMUP, TIMED = 1, 3
"""Training steps before and during timing; the fastest timed one counts."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one training step in either precision; infinite where it does not run."""

    float32: float
    bfloat16: float

    @property
    def choice(self) -> Precision:
        """bfloat16 where it is faster by a clear margin, else float32."""
        return "bfloat16" if self.bfloat16 * MARGIN <= self.float32 else "float32"


def choose(
    device: torch.device | str, folder: Path, model: nn.Module, data: TrainData,
    say: Callable[[str], None] | None = None,
) -> Precision:  # fmt: skip
    """Return the training precision for `device`: remembered in `folder`/precision.json, else measured now.

    Remembered per device (on a CPU also per processor model) and version of torch. Two processes may measure at
    once; either result is kept. A damaged file is measured anew.

    Raises:
        EnvironmentFault: `folder` cannot be written.
    """
    device = torch.device(device)
    file = folder / "precision.json"
    key = device_key(device)
    known = _read(file)
    if known.get(key) in ("float32", "bfloat16"):
        return known[key]
    timing = measure(model, data, device)
    _write(file, {**_read(file), key: timing.choice})
    if say is not None:
        factor = timing.float32 / timing.bfloat16
        say(f"Precision: {timing.choice}; a training step in bfloat16 is {factor:.2f} times as fast on {key}.")
    return timing.choice


def measure(model: nn.Module, data: TrainData, device: torch.device) -> Timing:
    """Time training steps of a copy of `model` in float32 and bfloat16, with one thread on a CPU, as workers run."""
    return Timing(*(_step_seconds(copy.deepcopy(model).to(device), data, p) for p in ("float32", "bfloat16")))


def device_key(device: torch.device) -> str:
    """What the choice depends on: the processor's or the accelerator's name, and torch's version."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return f"{device.type} {name}, torch {torch.__version__}"


def _step_seconds(model: nn.Module, data: TrainData, precision: Precision) -> float:
    recipe = replace(Recipe(), lr=1e-6, precision=precision)
    marks: list[float] = []

    def mark(done: int, total: int) -> None:
        if data.device.type == "cuda":
            torch.cuda.synchronize(data.device)
        marks.append(time.perf_counter())

    with _one_thread(data.device):
        try:
            fit(model, data, iterations=WARMUP + TIMED, recipe=recipe, seed=0, progress=mark)
        except (Diverged, RuntimeError):  # an operation without bfloat16, or numbers out of its range
            if precision == "float32":
                raise
            return math.inf
    return min(after - before for before, after in zip(marks[WARMUP - 1 :], marks[WARMUP:], strict=False))


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cpu_name() -> str:
    """Return the processor's model name, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _read(file: Path) -> dict[str, Precision]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: Path, values: dict[str, Precision]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".precision-")
        with os.fdopen(handle, "w") as out:
            json.dump(values, out, indent=1, sort_keys=True)
        os.replace(name, file)
    except OSError as error:
        raise EnvironmentFault(
            f"The measured precision cannot be kept in {file}: {error.strerror}. Set AUTOMC_HOME to another folder."
        ) from None
