"""The few values that quantised weights may have: where they lie, and which one is nearest to a weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_BITS = 8
MIN_BITS = 2
CLIPS = tuple(round(0.15 + 0.01 * step, 2) for step in range(86))
"""Shares of a row's largest weight at which its uniform levels may end: 0.15 to 1."""
LLOYD = 50
"""Iterations of k-means at most; cheap on sorted values."""
TAIL = 0.002
"""Share of the values on either side that the start of k-means leaves out."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The levels of one layer: multiples of a scale for each output channel, or a codebook for all of it.

    Uniform levels are −Q…Q times the scale, Q = 2^(bits−1) − 1: symmetric, so zero is exact and 2 bits are ternary.
    A codebook holds at most 2^bits values in ascending order. Exactly one of the two is given.
    """

    bits: int
    scale: Tensor | None = None
    """(outputs,), all positive."""
    codebook: Tensor | None = None
    """(levels,), ascending."""

    def codes(self, weight: Tensor) -> Tensor:
        """Number of the nearest level of each weight (outputs, …): −Q…Q, or a place in the codebook; int64."""
        return (self._steps(weight) if self.codebook is None else self._places(weight)).long()

    def decode(self, codes: Tensor) -> Tensor:
        """Weights of these codes, in the type of scale or codebook."""
        if self.codebook is not None:
            return self.codebook[codes]
        return codes.to(self._row_scale(codes).dtype) * self._row_scale(codes)

    def nearest(self, weight: Tensor) -> Tensor:
        """The level nearest to each weight (outputs, …); what lies on a level stays bit by bit."""
        if self.codebook is not None:
            return self.codebook[self._places(weight)]
        return self._steps(weight) * self._row_scale(weight)

    def error(self, weight: Tensor) -> float:
        """‖W − Q(W)‖² / ‖W‖², 0 for weights that are all zero."""
        weight = weight.detach()
        return float((self.nearest(weight) - weight).square().sum() / weight.square().sum().clamp_min(1e-30))

    def _steps(self, weight: Tensor) -> Tensor:
        largest = 2 ** (self.bits - 1) - 1
        # What rounds to zero from below is no negative zero: codes have but one.
        return (weight / self._row_scale(weight)).round().clamp(-largest, largest) + 0.0

    def _places(self, weight: Tensor) -> Tensor:
        assert self.codebook is not None
        return torch.bucketize(weight.contiguous(), (self.codebook[1:] + self.codebook[:-1]) / 2)

    def _row_scale(self, weight: Tensor) -> Tensor:
        assert self.scale is not None
        return self.scale.view(-1, *[1] * (weight.ndim - 1))


@torch.no_grad()
def uniform(weight: Tensor, bits: int) -> Levels:
    """Uniform levels of a weight (outputs, …): each row's scale is that of the least squared error.

    Clipping the rare large weights is worth more than a better codebook: at 4 bits a third of the error is left.
    """
    rows = weight.detach().flatten(1)
    largest = rows.abs().amax(1)
    step = torch.where(largest > 0, largest, torch.ones_like(largest)) / (2 ** (bits - 1) - 1)
    best, least = step, torch.full_like(step, torch.inf)
    for clip in CLIPS:
        tried = Levels(bits, clip * step)
        error = (tried.nearest(rows) - rows).square().sum(1)
        best = torch.where(error < least, clip * step, best)
        least = torch.minimum(error, least)
    return Levels(bits, scale=best)


@torch.no_grad()
def kmeans(weight: Tensor, number: int, iterations: int = LLOYD) -> Tensor:
    """Codebook (number,) of a weight by Lloyd's algorithm, ascending; zero is one of the levels and stays.

    Starts at equal distances between the values' tails, so the same weight has the same codebook. The squared error
    never rises from one iteration to the next. A level that no value is nearest to stays where it is.
    """
    values = weight.detach().flatten().double().sort().values
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])
    low, high = (values[round(share * (len(values) - 1))] for share in (TAIL, 1 - TAIL))
    levels = low + (high - low) * torch.linspace(0, 1, number, dtype=values.dtype, device=values.device)
    zero = int(levels.abs().argmin())
    levels[zero] = 0
    ends = torch.tensor([0, len(values)], device=values.device)
    for _ in range(iterations):
        before = levels.clone()
        inner = torch.searchsorted(values, (levels[1:] + levels[:-1]) / 2)
        edges = torch.cat([ends[:1], inner, ends[1:]])
        counts = edges.diff()
        levels = torch.where(counts > 0, sums[edges].diff() / counts.clamp_min(1), levels)
        levels[zero] = 0
        if torch.equal(levels, before):
            break
    return levels.to(weight.dtype)
