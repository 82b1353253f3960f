"""The light multi-segment activation: k linear pieces between breakpoints that follow the batch's mean and deviation.

Xu et al. 2020, "Light Multi-segment Activation for Model Compression", section 3. With μ and σ over all elements of
the input tensor, the breakpoints are μ + (6j/k − 3)·σ for j = 1 … k−1, and y = α_j·x + β_j on the j-th of the k
segments; the two outer ones have no end. One α and one β for each segment are shared by the whole layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from automc.models.edits import insertable

REACH = 3.0
"""The breakpoints lie within this many standard deviations of the mean."""
CACHED = 1 << 16
"""Elements worked on at once by each CPU thread, so that intermediate results stay in the cache."""
ON_DEVICE = 1 << 24
"""The same on an accelerator, where only memory limits it."""
COPIES, COPIES_ON_DEVICE = 16, 4096
"""Copies of the segments into which gradients are summed, so that neighbours seldom wait for each other."""


@insertable("LMA")
class LMA(nn.Module):
    """Piecewise linear activation of any tensor; the output has the input's shape, type and memory format.

    Training uses the batch's own μ and σ (σ unbiased, both detached) and averages them; evaluation uses the averages,
    so an image's output does not depend on its batch. The averages start with the first batch, weigh all alike until
    there were 100, and then forget by a factor of 0.99; they are buffers. Statistics and segments are computed in
    float32 at least, also under autocast. Fresh parameters have the shape of a ReLU at μ: slope 0 on the lower ⌊k/2⌋
    segments, else 1, offset 0.

    Differs from the authors' code, whose averages start at 0 and are neither saved nor moved between devices.

    Args:
        segments: k, at least 2; there are 2k parameters.
    """

    mean: Tensor
    std: Tensor
    batches: Tensor

    def __init__(self, segments: int) -> None:
        super().__init__()
        if segments < 2:
            raise ValueError(f"an LMA needs at least 2 segments, not {segments}")
        self.segments = int(segments)
        self.momentum: float | None = 0.01
        self.slope = nn.Parameter((torch.arange(segments) >= segments // 2).float())
        self.offset = nn.Parameter(torch.zeros(segments))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the segment's line to every element."""
        if self.training:
            mean, std = statistics(x.detach())
            self._average(mean, std)
        else:
            mean, std = self.mean, self.std
        dtype = torch.promote_types(x.dtype, torch.float32)
        scale, shift = (t.to(dtype) for t in grid(mean, std, self.segments))
        if _exporting():
            index = segment(x.to(dtype), scale, shift, self.segments).long()
            return (self.slope[index] * x + self.offset[index]).to(x.dtype)
        out: Tensor = Pieces.apply(x, self.slope, self.offset, scale, shift)
        return out

    def reset_running_stats(self) -> None:
        """Forget the averages with the next batch; with `momentum` None all batches then weigh alike, as in BN."""
        self.batches.zero_()

    def spec(self) -> dict[str, Any]:
        """Arguments that rebuild this module."""
        return {"segments": self.segments}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> LMA:
        """Rebuild from `spec()`."""
        return cls(spec["segments"])

    def extra_repr(self) -> str:
        """Show k."""
        return f"{self.segments}"

    @torch.no_grad()
    def _average(self, mean: Tensor, std: Tensor) -> None:
        self.batches += 1
        share = self.batches.to(self.mean.dtype).reciprocal().clamp_min(self.momentum or 0.0)
        self.mean.lerp_(mean.to(self.mean.dtype), share)
        self.std.lerp_(std.to(self.std.dtype), share)


@torch.no_grad()
def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """μ and unbiased σ over all elements, each (), float32 or better; σ of one element is 0."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    (flat,) = _vectors(x)
    mean = flat.mean(dtype=dtype)
    squares = torch.zeros((), dtype=dtype, device=x.device)
    for (part,) in _parts(flat):
        squares += torch.linalg.vector_norm(part.to(dtype) - mean).square()
    return mean, (squares / max(1, x.numel() - 1)).sqrt()


def grid(mean: Tensor, std: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """(scale, shift), each (): x lies in segment ⌊x·scale + shift⌋, limited to 0 … k−1. Finite where σ = 0 too."""
    scale = segments / (2 * REACH * _deviation(mean, std))
    return scale, segments / 2 - mean * scale


def segment(x: Tensor, scale: Tensor, shift: Tensor, segments: int) -> Tensor:
    """Index of the segment of every element, int32 in [0, k−1]; 0 for what is not a number."""
    return (x * scale + shift).to(torch.int32).clamp(0, segments - 1)


def _deviation(mean: Tensor, std: Tensor) -> Tensor:
    """σ, but never so small that the breakpoints fall together."""
    return torch.maximum(std, 1e-5 * mean.abs() + 1e-12)


class Pieces(torch.autograd.Function):
    """y = α_j·x + β_j on a fixed grid of segments. Only x is kept for the backward pass.

    Autograd would keep an index and both lines of every element, and sum their gradients one by one into 2k places,
    each addition waiting for the one before. Here parts that fit the cache are worked on from end to end, and the
    gradients of α and β (Σ g·x and Σ g over each segment) are summed into several copies of these places in turn.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor, offset: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Map x of any shape; slope and offset (k,); scale and shift from `grid`."""
        ctx.save_for_backward(x, slope, scale, shift)
        dtype, order = scale.dtype, _order(x)
        slopes, offsets = slope.to(dtype), offset.to(dtype)
        x = x.contiguous(memory_format=order)
        out = torch.empty_like(x, memory_format=order)
        for part, result in _parts(*_vectors(x, out)):
            part = part.to(dtype)
            index = segment(part, scale, shift, len(slope))
            torch.addcmul(offsets.index_select(0, index), slopes.index_select(0, index), part, out=result)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Gradients of x, slope and offset."""
        x, slope, scale, shift = ctx.saved_tensors
        dtype, order, k = scale.dtype, _order(x), len(slope)
        copies = COPIES if x.device.type == "cpu" else COPIES_ON_DEVICE
        slopes = slope.to(dtype).repeat(copies)
        sums = torch.zeros(2, copies * k, dtype=dtype, device=x.device)
        x, grad = x.contiguous(memory_format=order), grad.contiguous(memory_format=order)
        out = torch.empty_like(x, memory_format=order)
        turn = torch.arange(min(_size(x), x.numel()), dtype=torch.int32, device=x.device).remainder_(copies).mul_(k)
        for part, given, result in _parts(*_vectors(x, grad, out)):
            part, given = part.to(dtype), given.to(dtype)
            index = segment(part, scale, shift, k).add_(turn[: len(part)])
            torch.mul(slopes.index_select(0, index), given, out=result)
            place = index.long()
            sums[0].scatter_add_(0, place, given * part)
            sums[1].scatter_add_(0, place, given)
        slope_grad, offset_grad = sums.view(2, copies, k).sum(1).to(slope.dtype)
        return out, slope_grad, offset_grad, None, None


def _exporting() -> bool:
    """Whether a graph is being recorded: then only standard operations will do."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _order(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _vectors(*tensors: Tensor) -> list[Tensor]:
    """View dense tensors of one shape and memory format as vectors, in the order of memory."""
    last = _order(tensors[0]) is torch.channels_last
    return [(t.permute(0, 2, 3, 1) if last else t).reshape(-1) for t in tensors]


def _size(x: Tensor) -> int:
    return CACHED * torch.get_num_threads() if x.device.type == "cpu" else ON_DEVICE


def _parts(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut vectors into parts that are worked on at once."""
    return zip(*(torch.split(v, _size(v)) for v in vectors), strict=True)


@torch.no_grad()
def fit(function: Callable[[Tensor], Tensor], mean: Tensor, std: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """Slopes and offsets, (k,) float64, that come closest to an elementwise function: the warm start of an LMA.

    Least squares on each segment under N(μ, σ), by a sum over 16,001 points within 8σ.
    """
    z = torch.linspace(-8, 8, 16001, dtype=torch.float64, device=mean.device)
    mean = mean.double()
    std = _deviation(mean, std.double())
    x = mean + std * z
    index = segment(x, *grid(mean, std, segments), segments).long()
    y = function(x).double()
    weight = torch.exp(-z.square() / 2)
    moments = torch.stack((torch.ones_like(z), z, z * z, y, z * y)) * weight
    sums = torch.zeros(5, segments, dtype=z.dtype, device=z.device).index_add_(1, index, moments)
    one, first, second, value, product = sums
    slope = (one * product - first * value) / (one * second - first.square())
    offset = (value - slope * first) / one
    return slope / std, offset - slope / std * mean
