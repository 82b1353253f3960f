"""One pass of a training: loss and gradients of a batch, computed as usual, or replayed as a CUDA graph."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from automc.training.recipe import Precision

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, normalised batch, labels) → scalar; runs under the recipe's autocast."""

LEAST = 40
"""Iterations of a training from which a graph pays: recording one takes as long as some dozen passes."""
SWITCH = "AUTOMC_CUDA_GRAPHS"
"""Variable of the environment that turns graphs off where it is 0."""
WARMUP = 3
"""Passes before one is recorded: libraries choose their algorithms in the first, the last is watched."""
NEAR = 0.02
"""Distance from a usual pass, relative to its norm, beyond which a replay is another one."""
_WAITS, _PROTOTYPE = "synchronizing CUDA operation", "Synchronization debug mode"
_PLAIN = (int, float, bool, str, bytes, type(None))


class Usual:
    """Passes as PyTorch runs them, operation by operation.

    Args:
        model: in training mode.
        parameters: those that are trained; afterwards they hold their gradients.
        precision: bfloat16 is autocast over float32 weights.
    """

    reason = ""
    """Why this is no graph where it should have been one, for a person."""

    def __init__(self, model: nn.Module, loss: Loss, parameters: list[nn.Parameter], precision: Precision) -> None:
        self.model, self._loss, self.parameters = model, loss, parameters
        self._half = precision == "bfloat16"

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch, detached."""
        value = self.forward(x, y)
        self.forget()
        torch.autograd.backward(value)
        return value.detach()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._half):
            return self._loss(self.model, x, y)

    def forget(self) -> None:
        """Leave the parameters without gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def end(self) -> None:
        """Say that no pass follows."""


class Recorded:
    """Passes that are recorded once and then replayed: what launching hundreds of small kernels costs is paid once.

    A graph holds forward and backward pass alone. The optimiser, its learning rate and what methods do between passes
    run as usual, so nothing of them has to be capturable (SGD reads its rate on the host); weights are written in
    place, where the graph reads them. Batches of another shape than the first, such as the last one of an epoch, run as
    usual. Dropout draws from the device's generator, which replays move on. A pass that waits for the device, draws
    random numbers on the host or changes plain attributes of a module would be another one each time: then all run as
    usual, and so where recording fails, or where the first replay gives other gradients than a usual pass.
    `reason` says why.
    """

    def __init__(self, usual: Usual) -> None:
        self._usual = usual
        self._seen = 0
        self._stream: torch.cuda.Stream | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._x = self._y = self._value = torch.empty(0)
        self._gradients: list[Tensor | None] = []
        self.reason = ""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch, detached; parameters hold their gradients, until the next call."""
        if self.reason or (self._seen and x.shape != self._x.shape):
            return self._usual(x, y)
        if self._seen < WARMUP:
            return self._warm(x, y)
        if self._graph is None:
            return self._first(x, y)
        return self._replay(x, y)

    def end(self) -> None:
        """Let go of the graph's memory, in which the gradients lie."""
        if self._graph is not None:
            self._usual.forget()
            self._graph, self._gradients, self._value = None, [], torch.empty(0)

    def _warm(self, x: Tensor, y: Tensor) -> Tensor:
        """Run a pass as usual beside the stream of everything else, as recording will; watch the last one."""
        try:
            stream = self._stream = self._stream or torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError, AssertionError) as error:  # no CUDA device, or a build without CUDA
            self.reason = _first_line(error)
            return self._usual(x, y)
        self._seen += 1
        self._x = x
        here = torch.cuda.current_stream(x.device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            if self._seen < WARMUP:
                value = self._usual(x, y)
            else:
                before = host_state(self._usual.model)
                with waits() as found:
                    value = self._usual(x, y)
                if found:
                    self.reason = "a pass waits for the device: it reads a number from there, or chooses by a mask"
                elif not same_state(before, host_state(self._usual.model)):
                    self.reason = "a pass draws random numbers on the host, or changes attributes of a module"
        here.wait_stream(stream)
        return value

    def _first(self, x: Tensor, y: Tensor) -> Tensor:
        """Record a pass, and use it if a replay of it gives what a usual pass gives on this batch."""
        if not self._record(x, y):
            return self._usual(x, y)
        buffers = list(self._usual.model.buffers())
        draws, before = torch.cuda.get_rng_state(x.device), [buffer.clone() for buffer in buffers]

        def again() -> None:
            torch.cuda.set_rng_state(draws, x.device)
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)

        expected = [self._usual(x, y), *(parameter.grad for parameter in self._usual.parameters)]
        again()
        found = self._replay(x, y)
        if near([found, *self._gradients], expected):
            return found
        again()
        self.reason = "a recorded pass gives other gradients than the same pass as usual"
        self.end()
        return self._usual(x, y)

    def _record(self, x: Tensor, y: Tensor) -> bool:
        """Record a pass; nothing of it is executed. False, with the reason, where that fails."""
        graph = torch.cuda.CUDAGraph()
        self._x, self._y = x.clone(), y.clone()
        self._usual.forget()
        parameters = self._usual.parameters
        try:
            # The stream of the passes before: what libraries keep for each stream is there already.
            with torch.cuda.graph(graph, stream=self._stream):
                value = self._usual.forward(self._x, self._y)
                # Into these alone: what else has gradients would be added to where its gradient lay once.
                torch.autograd.backward(value, inputs=parameters)
                self._value = value.detach()
        except RuntimeError as error:
            self.reason = _first_line(error)
            self._usual.forget()
            _free_generator(x.device)
            return False
        self._graph, self._gradients = graph, [parameter.grad for parameter in parameters]
        return True

    def _replay(self, x: Tensor, y: Tensor) -> Tensor:
        assert self._graph is not None
        self._x.copy_(x)
        self._y.copy_(y)
        self._graph.replay()
        # A pass of another shape in between has put its own ones there.
        for parameter, gradient in zip(self._usual.parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._value


def passes(
    model: nn.Module, loss: Loss, parameters: list[nn.Parameter], precision: Precision, device: torch.device,
    iterations: int, same: bool,
) -> Usual | Recorded:  # fmt: skip
    """Return how a training computes its gradients: by a graph on a CUDA device, if it is long enough to pay.

    And if the user has not turned graphs off.

    Args:
        iterations: of the training.
        same: whether a loss is the same function at each call, as far as is known; code of the user's own may not be.
    """
    usual = Usual(model, loss, parameters, precision)
    wanted = device.type == "cuda" and iterations >= LEAST and same and parameters and os.environ.get(SWITCH) != "0"
    return Recorded(usual) if wanted else usual


def near(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> bool:
    """Whether a loss and its gradients, all together, are others' but for the order of sums."""
    if any((a is None) != (b is None) for a, b in zip(found, expected, strict=True)):
        return False
    pairs = [(a.double(), b.double()) for a, b in zip(found, expected, strict=True) if a is not None and b is not None]
    apart = torch.stack([(a - b).square().sum() for a, b in pairs]).sum()
    norm = torch.stack([b.square().sum() for _, b in pairs]).sum()
    return bool(apart.sqrt() <= NEAR * norm.sqrt())


def host_state(model: nn.Module) -> list[Any]:
    """What a pass could change without the device knowing: generators of the host, and plain attributes of modules."""
    kind, keys, *numbers = np.random.get_state()
    generators = [random.getstate(), torch.get_rng_state().tolist(), (kind, np.asarray(keys).tolist(), *numbers)]
    plain = [
        {name: value for name, value in vars(module).items() if isinstance(value, _PLAIN)} for module in model.modules()
    ]
    return [*generators, plain]


def same_state(before: list[Any], after: list[Any]) -> bool:
    """Whether a pass in between has left it as it was."""
    return before == after


@contextmanager
def waits() -> Iterator[list[str]]:
    """Collect what waits for a CUDA device inside the block; what else is warned of passes."""
    mode = torch.cuda.get_sync_debug_mode()
    found: list[str] = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            found += [str(w.message) for w in heard if _WAITS in str(w.message)]
    for warning in heard:
        if not any(ours in str(warning.message) for ours in (_WAITS, _PROTOTYPE)):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _free_generator(device: torch.device) -> None:
    """Let the device's generator draw again: after a recording that failed it believes that one is under way."""
    with suppress(RuntimeError):
        generator = torch.cuda.default_generators[device.index or 0]
        generator.graphsafe_set_state(generator.clone_state())


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
