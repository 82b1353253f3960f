"""The kernels of one forward pass: which operations run on which shapes, followed while the model runs once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from automc.models.modes import Watching, evaluating
from automc.models.outputs import failed

CONVOLUTIONS = ("conv", "depthwise", "grouped")
LINEAR = ("addmm", "mm")
_FREE = frozenset(
    {
        "view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "squeeze", "unsqueeze", "slice",
        "select", "split", "chunk", "unbind", "detach", "alias", "as_strided", "as_strided_", "empty", "empty_like",
        "empty_strided", "lift_fresh", "_to_copy", "flatten",
    }
)  # fmt: skip
"""Operations that touch no data, or that are the caller's."""

Argument = Any
"""A plain value, or {"shape": …, "last": channels last, "whole": integers} in place of a tensor."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One operation on tensors of one shape; numbers of channels, pixels and elements.

    `kind` is "conv", "depthwise", "grouped" or "linear", or the operation's name. In onnxruntime behind a "+" stands
    what its tensors hold, where that is no float32, and "blocked" where channels lie in blocks.
    """

    kind: str
    batch: int
    inputs: int
    """Channels read."""
    outputs: int
    """Channels written."""
    height: int
    width: int
    """Of the output."""
    size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    read: int = 0
    """Elements of activations."""
    written: int = 0
    operation: str = ""
    """As the runtime calls it."""
    arguments: tuple[Argument, ...] = ()
    """What torch called it with, of which tensors of the same shapes are made to run it alone."""

    @property
    def weights(self) -> int:
        """Elements of the weight; 0 where there is none."""
        return self.outputs * self.inputs // self.groups * prod(self.size) if self.multiplies else 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates; 0 where there is no weight."""
        return self.weights * self.batch * self.height * self.width

    @property
    def multiplies(self) -> bool:
        """Whether it is a product with a weight."""
        return self.kind.partition("+")[0] in (*CONVOLUTIONS, "linear")

    @property
    def padding(self) -> tuple[int, int]:
        """Pixels added at each side of a convolution's images."""
        return _pair(self.arguments[4])

    @property
    def form(self) -> tuple[object, ...]:
        """What kernels have in common that differ in channels and pixels alone."""
        return self.kind, self.size, self.stride, self.groups > 1

    @property
    def tied(self) -> bool:
        """Whether it writes as many channels as it reads."""
        return self.kind == "depthwise" or (not self.multiplies and self.inputs == self.outputs)


def torch_kernels(model: nn.Module, images: Tensor) -> list[Kernel]:
    """Return what PyTorch runs in one forward pass of `images` (n, c, h, w) in evaluation mode, in order.

    Raises:
        ModelError: the forward pass fails.
    """
    seen = _Followed(model)
    try:
        with evaluating(model), torch.no_grad(), seen:
            model(images)
    except Exception as error:  # the user's forward pass can raise anything
        raise failed(model, images, error) from error
    return seen.kernels


class _Followed(Watching):
    """Notes each operation that computes something."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: list[Kernel] = []
        self._alive: list[Tensor] = []
        """So that no two tensors of a pass have the same id."""
        self._own = {id(t) for t in (*model.parameters(), *model.buffers())}
        """What is a parameter, or was computed of parameters alone."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        results = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        given = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
        self._alive += results
        if given and all(id(t) in self._own for t in given):
            self._own |= {id(t) for t in results}
        if name not in _FREE and results:
            read = [t for t in given if id(t) not in self._own]
            self.kernels.append(_kernel(name, args, given, read, results[0]))
        return result


def _kernel(name: str, args: Sequence[Any], given: list[Tensor], read: list[Tensor], made: Tensor) -> Kernel:
    operation, arguments = name, tuple(_plain(a) for a in args)
    first = read[0] if read else made
    size, stride, groups, kind = (1, 1), (1, 1), 1, name
    inputs, outputs = _channels(first), _channels(made)
    if name in ("convolution", "_convolution") and first.ndim == 4:
        weight, groups = given[1], int(args[8])
        size, stride = (int(weight.shape[2]), int(weight.shape[3])), _pair(args[3])
        kind = "conv" if groups == 1 else "depthwise" if groups == inputs == outputs else "grouped"
    elif name in LINEAR:
        kind = "linear"
    height, width = (int(made.shape[2]), int(made.shape[3])) if made.ndim == 4 else (1, 1)
    return Kernel(
        kind, int(made.shape[0]) if made.ndim else 1, inputs, outputs, height, width, size, stride, groups,
        sum(t.numel() for t in read), made.numel(), operation, arguments,
    )  # fmt: skip


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return int(values[0]), int(values[-1])


def _channels(tensor: Tensor) -> int:
    return int(tensor.shape[1]) if tensor.ndim > 1 else tensor.numel()


def _plain(value: Any) -> Argument:
    if isinstance(value, Tensor):
        last = value.ndim == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last)
        turned = value.ndim == 2 and not value.is_contiguous()
        return {"shape": list(value.shape), "last": last, "turned": turned, "whole": not value.is_floating_point()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def resized(kernel: Kernel, inputs: int, outputs: int) -> Kernel:
    """Return a kernel on other numbers of channels; a tied one takes `outputs` for both.

    Groups of a grouped convolution stay, so that both numbers must be multiples of them.
    """
    if kernel.tied:
        inputs = outputs
    groups = outputs if kernel.kind == "depthwise" else kernel.groups
    old = {"in": kernel.inputs, "out": kernel.outputs}

    def tensor(argument: Argument, place: int) -> Argument:
        shape = list(argument["shape"])
        if kernel.multiplies:
            shape = _of_product(kernel, shape, place, inputs, outputs, groups)
        elif kernel.operation == "index_select" and argument["whole"]:
            shape = [outputs]
        else:
            axis = 1 if len(shape) > 1 else 0
            if shape and shape[axis] in old.values():
                shape[axis] = inputs if shape[axis] == old["in"] else outputs
        return {**argument, "shape": shape}

    changed = [
        tensor(a, i) if isinstance(a, dict) else [tensor(b, i) if isinstance(b, dict) else b for b in a]
        if isinstance(a, list) else a for i, a in enumerate(kernel.arguments)
    ]  # fmt: skip
    if kernel.operation in ("convolution", "_convolution") and len(changed) > 8:
        changed[8] = groups
    return replace(
        kernel, inputs=inputs, outputs=outputs, groups=groups, arguments=tuple(changed),
        read=kernel.read * inputs // max(1, kernel.inputs), written=kernel.written * outputs // max(1, kernel.outputs),
    )  # fmt: skip


def _of_product(kernel: Kernel, shape: list[int], place: int, inputs: int, outputs: int, groups: int) -> list[int]:
    """The shape of an argument of a convolution (images, weight, bias) or of addmm (bias, rows, weight) or mm."""
    if kernel.kind == "linear":
        if len(shape) == 1:
            return [outputs]
        return [shape[0], inputs] if place == len(_tensors(kernel)) - 2 else [inputs, outputs]
    if place == 0:
        return [shape[0], inputs, *shape[2:]]
    return [outputs, inputs // groups, *shape[2:]] if place == 1 else [outputs]


def _tensors(kernel: Kernel) -> list[Argument]:
    return [a for a in kernel.arguments if isinstance(a, dict)]
