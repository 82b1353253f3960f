"""Whole networks: which kernels a runtime makes of them, and how long they take beside the model they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from automc.errors import EnvironmentFault, ModelError
from automc.latency.kernels import Kernel, torch_kernels
from automc.latency.nodes import profiled
from automc.latency.timing import in_turns
from automc.models.pace import Runtime
from automc.models.runtimes import Run, content_runner, onnx_content, runner

_PROFILED = 60
"""Runs of a network of which each node's fastest ones count."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A network that ran."""

    kernels: tuple[Kernel, ...]
    seconds: tuple[float, ...]
    """Of each kernel in its place, in onnxruntime; none in PyTorch, where kernels are timed alone."""
    ms: float
    base_ms: float
    """Of the model, in turns with the network."""
    settled: bool
    """False: other work went on, so that the times did not settle."""


def kernels_of(model: nn.Module, images: Tensor, runtime: Runtime) -> list[Kernel]:
    """Return the kernels of a forward pass of images (n, c, h, w) in a runtime.

    Raises:
        ModelError: the forward pass fails, or the model cannot be exported.
        EnvironmentFault: the runtime's packages are missing.
    """
    if runtime == "torch":
        return torch_kernels(model, images)
    return [kernel for kernel, _ in profiled(onnx_content(model, images), images.cpu())]


def timed(base: nn.Module, made: Sequence[nn.Module], images: Tensor, runtime: Runtime) -> Iterator[Timed | None]:
    """Yield what each network took beside `base`; None where it does not run in the runtime.

    Raises:
        ModelError, EnvironmentFault: `base` does not.
    """
    beside = runner(base, images, runtime)
    for one in made:
        try:
            pairs, run = _opened(one, images, runtime)
        except (ModelError, EnvironmentFault):
            yield None
            continue
        own, other, settled = in_turns(run, beside)
        kernels, seconds = tuple(k for k, _ in pairs), tuple(s for _, s in pairs if s is not None)
        yield Timed(kernels, seconds, 1000 * own, 1000 * other, settled)


def _opened(model: nn.Module, images: Tensor, runtime: Runtime) -> tuple[list[tuple[Kernel, float | None]], Run]:
    """Return a network's kernels, with their seconds in their places where they are known, and what runs it."""
    if runtime == "torch":
        return [(kernel, None) for kernel in torch_kernels(model, images)], runner(model, images, runtime)
    content = onnx_content(model, images)
    return list(profiled(content, images.cpu(), _PROFILED)), content_runner(content, images.cpu())
