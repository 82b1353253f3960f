"""Float32 or bfloat16 for training: measured per device and size of step, because flags do not tell which is faster."""

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
from statistics import median

import torch
from torch import nn

from automc.datasets.base import TrainData
from automc.errors import EnvironmentFault
from automc.models.measure import synchronise
from automc.temporary import prefix
from automc.training.loop import Diverged, fit
from automc.training.recipe import Precision, Recipe

MARGIN = 1.2
"""bfloat16 is chosen only when it is at least this many times as fast."""
WARMUP = 2
"""Training steps in either precision before any is timed."""
ROUNDS, MOST_ROUNDS = 3, 9
"""Steps timed in either precision, in turns: so many, and up to so many while they disagree about the choice."""
CPU_FLOPS = 2e11
"""FLOPs of a timed step on a CPU at most, some seconds on one thread: a larger batch of large images tells no more."""

Step = Callable[[int], float]
"""Runs so many training steps and returns the seconds of the last one."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of training steps in either precision, timed in turns; infinite where one does not run."""

    float32: tuple[float, ...]
    bfloat16: tuple[float, ...]

    @property
    def factors(self) -> tuple[float, ...]:
        """How many times as fast bfloat16 is, turn by turn: what else the machine does disturbs both of a turn."""
        return tuple(a / b for a, b in zip(self.float32, self.bfloat16, strict=True))

    @property
    def factor(self) -> float:
        """The median of `factors`."""
        return median(self.factors)

    @property
    def settled(self) -> bool:
        """Whether there are enough turns, and all of them say the same."""
        return len(self.factors) >= ROUNDS and len({f >= MARGIN for f in self.factors}) == 1

    @property
    def choice(self) -> Precision:
        """bfloat16 where it is faster by a clear margin, else float32."""
        return "bfloat16" if self.factor >= MARGIN else "float32"


def choose(
    device: torch.device | str, folder: Path, model: nn.Module, data: TrainData, flops: int, batch: int,
    say: Callable[[str], None] | None = None,
) -> Precision:  # fmt: skip
    """Return the training precision for steps of a size on `device`: remembered in `folder`, else measured now.

    Remembered in precision.json per device (on a CPU also per processor model), version of torch and size of step:
    FLOPs and parameters of the model, batch, images. What holds for a small model says nothing of a large one. Two
    processes may measure at once; either result is kept. A damaged file is measured anew.

    Args:
        flops: of one image through `model`.
        batch: images of a training step.

    Raises:
        EnvironmentFault: `folder` cannot be written.
    """
    device = torch.device(device)
    file = folder / "precision.json"
    key = f"{device_key(device)}, {size_key(model, data, flops, batch)}"
    known = _read(file)
    if known.get(key) in ("float32", "bfloat16"):
        return known[key]
    if device.type == "cpu":
        batch = max(min(batch, 2), min(batch, int(CPU_FLOPS / max(1, 3 * flops))))
    timing = measure(model, data, device, batch)
    _write(file, {**_read(file), key: timing.choice})
    if say is not None:
        say(f"Precision: {timing.choice}; a training step in bfloat16 is {timing.factor:.2f} times as fast on {key}.")
    return timing.choice


def measure(model: nn.Module, data: TrainData, device: torch.device, batch: int) -> Timing:
    """Time training steps of copies of `model` in both precisions in turns; on a CPU with one thread, as workers do."""
    with _one_thread(data.device):
        float32 = _stepper(copy.deepcopy(model).to(device), data, batch, "float32")
        float32(WARMUP)
        bfloat16 = _stepper(copy.deepcopy(model).to(device), data, batch, "bfloat16")
        try:
            bfloat16(WARMUP)
        except (Diverged, RuntimeError):  # an operation without bfloat16, or numbers out of its range
            return Timing((1.0,), (math.inf,))
        timing = Timing((), ())
        while not timing.settled and len(timing.float32) < MOST_ROUNDS:
            timing = Timing((*timing.float32, float32(2)), (*timing.bfloat16, bfloat16(2)))
    return timing


def device_key(device: torch.device) -> str:
    """What the choice depends on: the processor's or the accelerator's name, and torch's version."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return f"{device.type} {name}, torch {torch.__version__}"


def size_key(model: nn.Module, data: TrainData, flops: int, batch: int) -> str:
    """What of a step's size the choice depends on; equal for equal models, on images of one size."""
    _, channels, height, width = data.example_shape
    params = sum(p.numel() for p in model.parameters())
    return f"{flops:.3g} FLOPs, {params} parameters, batches of {min(batch, data.n)} of {channels}×{height}×{width}"


def _stepper(model: nn.Module, data: TrainData, batch: int, precision: Precision) -> Step:
    recipe = replace(Recipe(), lr=1e-6, batch=batch, precision=precision)

    def run(iterations: int) -> float:
        marks: list[float] = []

        def mark(done: int, total: int) -> None:
            synchronise(data.device)
            marks.append(time.perf_counter())

        fit(model, data, iterations=iterations, recipe=recipe, seed=0, progress=mark)
        return marks[-1] - marks[-2]

    return run


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
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=prefix())
        with os.fdopen(handle, "w") as out:
            json.dump(values, out, indent=1, sort_keys=True)
        os.replace(name, file)
    except OSError as error:
        raise EnvironmentFault(
            f"The measured precision cannot be kept in {file}: {error.strerror}. Set AUTOMC_HOME to another folder."
        ) from None
