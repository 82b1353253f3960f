"""Convolutions at a lower resolution: the input is averaged over squares, the output repeated to its old size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automc.models.edits import from_spec, insertable, spec_of
from automc.models.keeping import kept
from automc.models.modes import observe
from automc.surgery.whole import stays

FACTORS = (1, 2, 4)
LEAST_OUT, LEAST = 4, 2
"""Smallest side of an output that may have a lower resolution, and what must be left of it."""


@insertable("Downsampled")
class Downsampled(nn.Module):
    """A convolution on an input that is averaged over squares of `factor` pixels, its output brought back to size.

    (n, c, h, w) → what the convolution alone gives, up to the loss of detail; the same, for a factor of 1. Squares that
    reach over the border are averaged over what lies within. Pixels of the output are repeated, never interpolated.
    """

    def __init__(self, conv: nn.Module, factor: int) -> None:
        super().__init__()
        self.conv, self.factor = conv, int(factor)

    def forward(self, x: Tensor) -> Tensor:
        """Average, convolve, repeat."""
        if self.factor == 1:
            return cast(Tensor, self.conv(x))
        size = out_size(cast(nn.Conv2d, self.conv), (x.shape[2], x.shape[3]))
        small = self.conv(F.avg_pool2d(x, self.factor, ceil_mode=True))
        return F.interpolate(small, size=size, mode="nearest")

    def spec(self) -> dict[str, Any]:
        """Arguments that rebuild this module."""
        return {"conv": spec_of(self.conv), "factor": self.factor}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Downsampled:
        """Rebuild from `spec()`."""
        return cls(from_spec(spec["conv"]), spec["factor"])

    def extra_repr(self) -> str:
        """Show the factor."""
        return f"factor={self.factor}"


class Resolutions(nn.Module):
    """A convolution in a search: the weighted sum of itself at several resolutions, with the same weights.

    `lambda_` are the scores of the factors; a plain tensor: only who asks for it trains it.
    """

    def __init__(self, conv: nn.Module, factors: Sequence[int], device: torch.device) -> None:
        super().__init__()
        self.conv, self.factors = conv, tuple(factors)
        self.lambda_ = torch.zeros(len(self.factors), device=device, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        shares = self.lambda_.softmax(0)
        parts = zip(shares, self.factors, strict=True)
        outputs = [share * Downsampled(self.conv, factor)(x) for share, factor in parts]
        return torch.stack(outputs).sum(0)


@dataclass(frozen=True, slots=True)
class Place:
    """A convolution whose resolution can be lowered; `flops[i]` of one image at `factors[i]`, the first is 1."""

    name: str
    factors: tuple[int, ...]
    flops: tuple[int, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)


def places(model: nn.Module, example: Tensor, keep: Sequence[str] = ()) -> list[Place]:
    """List the convolutions that run once, on maps, and whose output has at least four rows and columns.

    Left out: subclasses, layers matched by `keep`, those of `whole.stays`, and those that are lowered already.
    """
    whole, sizes = stays(model), _sizes(model, example)
    inside = {id(m.conv) for m in model.modules() if isinstance(m, Downsampled)}
    found = []
    for name, conv in model.named_modules():
        if type(conv) is not nn.Conv2d or conv not in sizes or id(conv) in inside:
            continue
        if name in whole or kept(name, keep) or min(out_size(conv, sizes[conv])) < LEAST_OUT:
            continue
        factors = tuple(f for f in FACTORS if _fits(conv, sizes[conv], f))
        if len(factors) > 1:
            found.append(Place(name, factors, tuple(_flops(conv, sizes[conv], f) for f in factors)))
    return found


def exact(model: nn.Module, place: Place) -> None:
    """Put another module that computes the same in the place of a convolution."""
    conv = model.get_submodule(place.name)
    copy = Downsampled(from_spec(spec_of(conv)).to(next(conv.parameters())), 1).train(conv.training)
    copy.conv.load_state_dict(conv.state_dict())
    model.set_submodule(place.name, copy)


def out_size(conv: nn.Conv2d, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that a convolution gives for an input of so many."""
    if conv.padding == "same":
        return size
    pads = (0, 0) if isinstance(conv.padding, str) else conv.padding
    parts = zip(size, pads, conv.dilation, conv.kernel_size, conv.stride, strict=True)
    rows, columns = (
        (n + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for n, pad, dilation, kernel, stride in parts
    )
    return rows, columns


def _pooled(size: tuple[int, int], factor: int) -> tuple[int, int]:
    return -(-size[0] // factor), -(-size[1] // factor)


def _fits(conv: nn.Conv2d, size: tuple[int, int], factor: int) -> bool:
    """Whether enough is left of the output, and of the input for borders that repeat or mirror it."""
    pooled = _pooled(size, factor)
    border = 0 if isinstance(conv.padding, str) or conv.padding_mode == "zeros" else max(conv.padding)
    return factor == 1 or (min(out_size(conv, pooled)) >= LEAST and min(pooled) > border)


def _flops(conv: nn.Conv2d, size: tuple[int, int], factor: int) -> int:
    rows, columns = out_size(conv, _pooled(size, factor))
    return 2 * conv.weight.numel() * rows * columns


def _sizes(model: nn.Module, example: Tensor) -> dict[nn.Module, tuple[int, int]]:
    """Rows and columns of the input of each convolution that runs once on a batch of maps."""
    seen: dict[nn.Module, tuple[int, int]] = {}
    runs: Counter[nn.Module] = Counter()

    def watch(module: nn.Module, args: tuple[Any, ...]) -> None:
        runs[module] += 1
        if len(args) == 1 and isinstance(args[0], Tensor) and args[0].ndim == 4:
            seen[module] = (args[0].shape[2], args[0].shape[3])

    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    observe(model, example, [m.register_forward_pre_hook(watch) for m in convs])
    return {module: size for module, size in seen.items() if runs[module] == 1}
