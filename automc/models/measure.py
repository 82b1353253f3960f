"""What a model costs: parameters, FLOPs, latency, file size."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from automc.errors import ModelError
from automc.models.factory import FactoryRef


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one forward pass of `batch` images, in milliseconds, over `repeats` timed runs."""

    median_ms: float
    iqr_ms: float
    """Spread: upper minus lower quartile."""
    batch: int
    threads: int
    repeats: int
    device: str


def count_params(model: nn.Module) -> int:
    """Count the elements of all parameters; a shared parameter counts once."""
    return sum(p.numel() for p in model.parameters())


def count_flops(model: nn.Module, example: Tensor) -> int:
    """Count the FLOPs of one image: 2 × multiply-accumulates of convolutions and matrix products.

    Elementwise work (BN, activations, sums) is not counted. Only the first image of `example` (n, c, h, w) is used.
    Training flags are as before afterwards.

    Raises:
        ModelError: the forward pass fails on this input.
    """
    counter = FlopCounterMode(display=False)
    with _evaluating(model), torch.no_grad(), counter:
        try:
            model(example[:1])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ModelError(
                f"The model does not run on images of shape {tuple(example.shape[1:])}: {error}"
            ) from error
    return int(counter.get_total_flops())


def latency(model: nn.Module, example: Tensor, *, repeats: int = 30, warmup: int = 5) -> Latency:
    """Time the forward pass on `example` (n, c, h, w) in eval mode, without gradients.

    Every run is timed alone (on a GPU with a wait at its end), after `warmup` runs that are not.
    """
    device = example.device
    times = []
    with _evaluating(model), torch.inference_mode():
        for i in range(warmup + repeats):
            start = time.perf_counter()
            model(example)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i >= warmup:
                times.append(1000 * (time.perf_counter() - start))
    low, _, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else (0.0, 0.0, 0.0)
    return Latency(statistics.median(times), high - low, len(example), torch.get_num_threads(), repeats, str(device))


def artefact_bytes(model: nn.Module, source: FactoryRef) -> int:
    """Return the size of the file that `structure.save` writes for this model, without further metadata.

    Raises:
        ArtefactError: the model cannot be saved.
    """
    from automc.models import structure

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.am"
        structure.save(path, model, source, metadata={})
        return path.stat().st_size


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to eval mode, and every module's own flag back afterwards."""
    flags = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag
