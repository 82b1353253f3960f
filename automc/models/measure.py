"""What a model costs: parameters, FLOPs, latency, file size."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from automc.models.factory import FactoryRef
from automc.models.flops import count_flops, one_image
from automc.models.modes import Watching, evaluating
from automc.models.outputs import failed

__all__ = [
    "Latency",
    "artefact_bytes",
    "count_flops",
    "count_params",
    "latency",
    "latency_of_one",
    "one_image",
    "peak_memory",
]


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

    def of_one(self) -> Latency:
        """Return the time of one image where `batch` images took their share of it alike."""
        return replace(self, median_ms=self.median_ms / self.batch, iqr_ms=self.iqr_ms / self.batch, batch=1)


def count_params(model: nn.Module) -> int:
    """Count the elements of all parameters; a shared parameter counts once."""
    return sum(p.numel() for p in model.parameters())


def latency_of_one(model: nn.Module, example: Tensor) -> Latency:
    """Time one image like `latency`; where the model does not run on one, it is half of what two take."""
    return latency(model, one_image(model, example)).of_one()


def latency(model: nn.Module, example: Tensor, *, repeats: int = 30, warmup: int = 5) -> Latency:
    """Time the forward pass on `example` (n, c, h, w) in eval mode, without gradients.

    Every run is timed alone (on a GPU with a wait at its end), after `warmup` runs that are not.
    """
    with evaluating(model), torch.inference_mode():
        return timed(lambda: _run(model, example), example, repeats=repeats, warmup=warmup)


def timed(run: Callable[[], object], images: Tensor, *, repeats: int = 30, warmup: int = 5) -> Latency:
    """Time a call that computes the logits of images, each run alone; see `latency`."""
    times: list[float] = []
    for i in range(warmup + repeats):
        start = time.perf_counter()
        run()
        synchronise(images.device)
        if i >= warmup:
            times.append(1000 * (time.perf_counter() - start))
    low, _, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else (0.0, 0.0, 0.0)
    return Latency(
        statistics.median(times), high - low, len(images), torch.get_num_threads(), repeats, str(images.device)
    )


def synchronise(device: torch.device) -> None:
    """Wait until `device` has done what it was given, before a clock is read; a CPU has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory(model: nn.Module, example: Tensor) -> int:
    """Return the bytes alive at the peak of one forward pass on `example`: weights, buffers and intermediate results.

    Counted, not sampled: the same on every run and device. The input itself and scratch space inside an operation
    are not part of it.
    """
    fixed = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    live = _LiveBytes(model)
    with evaluating(model), torch.no_grad(), live:
        _run(model, example)
    return fixed + live.peak


def _run(model: nn.Module, example: Tensor) -> None:
    """Run one forward pass; an error of the user's code becomes a sentence, a full memory stays what it is."""
    try:
        model(example)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the user's forward pass can raise anything
        raise failed(model, example, error) from error


class _LiveBytes(Watching):
    """Follows the bytes of all results that still exist; the model's own tensors are not counted."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = WeakSet(t.untyped_storage() for t in (*model.parameters(), *model.buffers()))
        self._bytes = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known.add(storage)
                self._bytes += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self._bytes)
        return result

    def _free(self, size: int) -> None:
        self._bytes -= size


def artefact_bytes(model: nn.Module, source: FactoryRef) -> int:
    """Return the size of the file that `structure.save` writes for this model, without further metadata.

    Raises:
        ArtefactError: the model cannot be saved.
    """
    from automc.models import readback, structure

    return len(structure.pack(model, source, metadata={}, answers=readback.outputs(model)))
