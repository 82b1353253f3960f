"""Singular values and vectors of weights, as often as a training asks for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NOTHING = 1e-12
"""Squared singular values below this share of the largest are what rounding to float32 leaves, or nothing."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The decomposition of a matrix (m, n) by the Gram matrix of its shorter side; float64."""

    squares: Tensor
    """Squared singular values, descending (min(m, n),)."""
    vectors: Tensor
    """Singular vectors of the shorter side, one a column, in that order."""
    wide: Tensor
    """The matrix, its shorter side first."""
    turned: bool
    """Whether that is its transpose."""

    @property
    def energies(self) -> list[float]:
        """Share of the squared entries that each rank from 1 up retains."""
        shares: list[float] = (self.squares.cumsum(0) / self.squares.sum().clamp_min(1e-300)).tolist()
        return shares

    @property
    def nuclear(self) -> float:
        """The sum of the singular values."""
        return float(self.squares.sqrt().sum())

    def low(self, rank: int) -> Tensor:
        """The best approximation of that rank (Eckart and Young)."""
        leading = self.vectors[:, :rank]
        return self._back(leading @ (leading.T @ self.wide))

    def direction(self, rank: int) -> Tensor:
        """U·Vᵀ of the largest singular values, up to that rank: a sub-gradient of the nuclear norm of `low`.

        Its own largest singular value is 1. Values that are nothing but rounding have no direction.
        """
        leading = self.vectors[:, :rank][:, self.squares[:rank] > NOTHING * self.squares[0]]
        rows = leading.T @ self.wide
        return self._back(leading @ (rows / rows.norm(dim=1, keepdim=True)))

    def _back(self, found: Tensor) -> Tensor:
        return found.T if self.turned else found


@torch.no_grad()
def spectrum(whole: Tensor) -> Spectrum:
    """Decompose a matrix: a fraction of a full decomposition's time where one side is long."""
    turned = whole.shape[0] > whole.shape[1]
    wide = (whole.T if turned else whole).double()
    values, vectors = torch.linalg.eigh(wide @ wide.T)
    return Spectrum(values.flip(0).clamp_min(0), vectors.flip(1), wide, turned)
