"""The kernels of onnxruntime: what it makes one of, such as a convolution with its batch norm, shortcut and ReLU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from automc.latency.kernels import CONVOLUTIONS, Call, Kernel, calls_of, torch_kernels
from automc.models.pace import Runtime

_NORMS = ("native_batch_norm", "_native_batch_norm_legit_no_training", "batch_norm")
_ACTIVATIONS = ("relu", "relu_", "hardtanh", "hardtanh_", "clamp", "leaky_relu", "sigmoid", "tanh")
_ADDS = ("add", "add_")


def kernels_of(model: nn.Module, images: Tensor, runtime: Runtime) -> list[Kernel]:
    """Return the kernels of a forward pass of images (n, c, h, w) in a runtime.

    Raises:
        ModelError: the forward pass fails.
    """
    return torch_kernels(model, images) if runtime == "torch" else onnx_kernels(calls_of(model, images))


def onnx_kernels(calls: Sequence[Call]) -> list[Kernel]:
    """Return the kernels of onnxruntime on the CPU for what PyTorch calls one by one.

    A convolution takes with it the batch norm behind it, then a sum with something older, then an activation, each
    where nothing else reads what lies between.
    """
    readers: dict[int, list[int]] = defaultdict(list)
    for place, call in enumerate(calls):
        for source in call.sources:
            readers[source].append(place)
    gone: set[int] = set()
    found: list[Kernel] = []

    def next_of(place: int, kinds: Sequence[str]) -> int | None:
        """The only reader of a call, where it is of some kinds."""
        (*_, last) = readers[place] or [-1]
        return last if len(readers[place]) == 1 and calls[last].kernel.kind in kinds else None

    for place, call in enumerate(calls):
        if place in gone or not call.sources:
            continue  # what is computed of parameters alone belongs to the layer that multiplies with it
        kernel, last = call.kernel, place
        if call.dequantised:
            kernel = replace(kernel, kind=f"{kernel.kind}+dequantised")
        if call.kernel.kind in CONVOLUTIONS:
            for kinds in (_NORMS, _ADDS, _ACTIVATIONS):
                then = next_of(last, kinds)
                if then is None or then in gone:
                    continue
                if kinds is _ADDS:
                    if any(source > last for source in calls[then].sources) or len(calls[then].sources) < 2:
                        continue
                    kernel = replace(kernel, kind=f"{kernel.kind}+add")
                gone.add(then)
                last = then
        found.append(kernel)
    return found
