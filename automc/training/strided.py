"""Around a fault of oneDNN: strided 1×1 convolutions with few inputs, as pruning leaves them in shortcuts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

FEW = 16
"""Inputs of the block that oneDNN's kernels work on: 8 with AVX2, 16 with AVX-512."""


@contextmanager
def sliced(model: nn.Module) -> Iterator[None]:
    """Let strided 1×1 convolutions with few inputs read only the pixels they step on, with stride 1.

    That is the same function. As they are, the gradient of their weights is computed past the end of a buffer on a CPU
    when images are channels last: the process crashes, hangs, or learns from wrong gradients (uxlfoundation/oneDNN,
    issue 6035; seen with torch 2.15 on AVX2). Strides are restored at the end.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d) and _affected(module)]
    strides = [layer.stride for layer in layers]
    hooks = [layer.register_forward_pre_hook(_Slice(layer.stride)) for layer in layers]
    try:
        for layer in layers:
            layer.stride = (1, 1)
        yield
    finally:
        for layer, stride, hook in zip(layers, strides, hooks, strict=True):
            layer.stride = stride
            hook.remove()


class _Slice:
    def __init__(self, stride: tuple[int, ...]) -> None:
        self.down, self.right = stride

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        return (inputs[0][:, :, :: self.down, :: self.right],)


def _affected(layer: nn.Conv2d) -> bool:
    unpadded = layer.padding in ((0, 0), "valid")
    strided = layer.kernel_size == (1, 1) and max(layer.stride) > 1 and unpadded
    return strided and layer.in_channels // layer.groups < FEW and layer.weight.device.type == "cpu"
