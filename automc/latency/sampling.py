"""Which kernels of PyTorch are measured: those of a model, and the same on other numbers of channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import exp, log

import numpy as np

from automc.latency.kernels import Kernel, resized

NUMBERS = {"conv": 600, "depthwise": 100, "grouped": 100, "linear": 100}
"""Samples of each kind; of all others together OTHERS."""
OTHERS = 160
_OWN = 0.6
"""Of the samples of a kind so many have a form that the model itself has, others one that compressing brings."""
_LEAST = 2


def drawn(own: Sequence[Kernel], brought: Sequence[Kernel] = (), seed: int = 0, share: float = 1.0) -> list[Kernel]:
    """Draw kernels in the ranges of a model's: its own once, the rest on channels from few to as many as it has.

    Args:
        own: the model's kernels.
        brought: those of compressed models, of which the forms that the model has not are measured too.
        share: of the numbers of samples, for a quick look.
    """
    random = np.random.default_rng(seed)
    brought = [*brought, *(half for kernel in own for half in _halves(kernel))]
    forms = {kernel.form for kernel in own}
    new = _distinct([kernel for kernel in brought if kernel.form not in forms])
    found = _distinct(own)
    kinds = {
        k.kind: ([o for o in found if o.kind == k.kind], [n for n in new if n.kind == k.kind]) for k in found + new
    }
    simple = sum(kind not in NUMBERS for kind in kinds)
    for kind, (mine, others) in kinds.items():
        number = NUMBERS.get(kind, OTHERS // max(1, simple))
        more = _variants(mine, others, random)
        found += [next(more) for _ in range(max(1, round(share * number)))]
    return _distinct(found)


def _halves(kernel: Kernel) -> list[Kernel]:
    """Return what a convolution becomes as a product of two: k×1 and 1×k, and 1×1."""
    if kernel.kind != "conv" or max(kernel.size) == 1:
        return []
    (high, wide), (down, right), padding = kernel.size, kernel.stride, kernel.padding
    forms = (
        ((high, 1), (down, 1), (padding[0], 0)),
        ((1, wide), (1, right), (0, padding[1])),
        ((1, 1), (1, 1), (0, 0)),
    )
    found = []
    for size, stride, pads in forms:
        given = list(kernel.arguments)
        given[1] = {**given[1], "shape": [*given[1]["shape"][:2], *size]}
        given[3], given[4] = list(stride), list(pads)
        images = given[0]["shape"]
        height, width = (1 + (n + 2 * p - s) // t for n, p, s, t in zip(images[2:], pads, size, stride, strict=True))
        written = kernel.batch * kernel.outputs * height * width
        found.append(
            replace(
                kernel, size=size, stride=stride, arguments=tuple(given), height=height, width=width, written=written
            )
        )
    return found


def _distinct(kernels: Sequence[Kernel]) -> list[Kernel]:
    return list({repr(kernel): kernel for kernel in kernels}.values())


def _variants(own: Sequence[Kernel], brought: Sequence[Kernel], random: np.random.Generator) -> Iterator[Kernel]:
    """Yield kernels like those given, each as likely as others of its group, on other channels."""
    while True:
        group = own if own and (not brought or random.random() < _OWN) else brought
        kernel = group[int(random.integers(len(group)))]
        step = kernel.groups if kernel.kind == "grouped" else 1
        yield resized(kernel, _some(kernel.inputs, step, random), _some(kernel.outputs, step, random))


def _some(most: int, step: int, random: np.random.Generator) -> int:
    """Draw a number of channels up to a model's own, evenly or evenly in its logarithm, in multiples of a step."""
    least = min(_LEAST, most)
    even = random.random() < 0.5
    channels = random.uniform(least, most + 1) if even else exp(random.uniform(log(least), log(most + 1)))
    return max(step, min(most, int(channels)) // step * step)
