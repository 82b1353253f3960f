"""Labels: for each element of a tensor, whose channel it is (see `channels`).

Most tensors carry the same labels at all their positions. Such dimensions have stride 0, and what compares labels
looks at one of their elements.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Labels = Tensor
"""int64, of the shape of the tensor that it belongs to; 0 where an element is no channel's."""

FAR = 2**62
"""Behind every label."""
_SEEN = "_automc_seen"
_MANY = 2048


def nobody(shape: Sequence[int]) -> Labels:
    """Labels of what holds no channels."""
    return torch.zeros((), dtype=torch.int64).expand(tuple(shape))


def compact(*labels: Labels) -> tuple[Labels, ...]:
    """Leave out the dimensions along which all are alike by construction, of all that are broadcast against each other.

    Raises:
        RuntimeError: these labels do not broadcast against each other.
    """
    if len(labels) > 1 and len({w.shape for w in labels}) > 1:
        labels = torch.broadcast_tensors(*labels)  # type: ignore[no-untyped-call]
    strides = [w.stride() for w in labels]
    varying = strides[0] if len(strides) == 1 else [max(steps) for steps in zip(*strides, strict=True)]
    if all(varying):
        return labels
    shape = labels[0].shape
    small = [size if step or size == 0 else 1 for size, step in zip(shape, varying, strict=True)]
    return tuple(w.as_strided(small, steps) for w, steps in zip(labels, strides, strict=True))


def anyone(labels: Labels) -> bool:
    """Whether any of these elements is a channel's."""
    if labels.is_inference():  # has no version
        return bool(compact(labels)[0].any())
    version, found = getattr(labels, _SEEN, (None, False))
    if version != labels._version:  # labels may be written to
        found = bool(compact(labels)[0].any())
        setattr(labels, _SEEN, (labels._version, found))
    return found


def alike(labels: Labels, dim: int) -> bool:
    """Whether labels are the same along a dimension because they were spread over it."""
    return labels.shape[dim] > 1 and labels.stride(dim) == 0


def spread(labels: Labels) -> Labels:
    """Spread many labels over the dimensions along which all are alike, so that what follows has few to compare."""
    (small,) = compact(labels)
    if small.numel() < _MANY:
        return labels
    for d in range(small.ndim):
        first = small.narrow(d, 0, 1)
        if torch.equal(first, small.narrow(d, small.shape[d] - 1, 1)) and bool((small == first).all()):
            small = first
    return small.expand(labels.shape)


def varies(labels: Labels, dims: Sequence[int]) -> bool:
    """Whether different channels lie along these dimensions."""
    dims = [d for d in dims if labels.shape[d] > 1 and labels.stride(d) != 0]
    if not dims or not labels.numel():
        return False
    (labels,) = compact(labels)
    highest, lowest = labels.amax(dims), labels.masked_fill(labels == 0, FAR).amin(dims)
    return bool((highest > lowest).any())


def rides(labels: Labels) -> bool:
    """Whether channels lie along other dimensions than the last, and not along that."""
    return not varies(labels, [labels.ndim - 1]) and varies(labels, range(1, labels.ndim - 1))
