"""Progressive search with the mean of what each strategy did so far, in place of F_mo: the trivial model to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from automc.search import register
from automc.search.base import FloatArray, Indices, Limits, Outcome, Space, these
from automc.search.linear import FirstGuess
from automc.search.progressive import ProgressiveSearch


class StrategyMeans:
    """Step AR and PR of a strategy: the mean of its measured steps, whatever came before them.

    Where little was measured the mean leans on the level above as on one more measurement: AR on the mean of
    its method and HP2, that on its method's, that on all steps', all relative to the first guess; PR on the plan.
    """

    def __init__(self, space: Space, limits: Limits) -> None:
        self._guess = FirstGuess(space, limits)
        sizes = np.where(space.closing, -1.0, space.hp2)
        kind = np.unique(np.stack([space.method, sizes], axis=1), axis=0, return_inverse=True)[1]
        strategies = np.arange(len(sizes))
        self._levels = (np.zeros_like(strategies), np.asarray(space.method), kind.reshape(-1), strategies)
        self._residual: FloatArray = np.zeros(len(sizes))
        self._removed: FloatArray = np.zeros(len(sizes))
        self._count: FloatArray = np.zeros(len(sizes))

    def predict(self, prefixes: Sequence[Outcome], among: Indices | None = None) -> FloatArray:
        """Return (step AR, step PR) of every strategy, or of those `among` them, after each prefix; (p, s, 2)."""
        guess, which = self._guess.predict(prefixes, among), these(among)
        size = (self._removed[which] + guess[..., 1]) / (self._count[which] + 1)
        return np.stack([guess[..., 0] + self._residual[which], size], axis=-1)

    def pairs(self, prefixes: Sequence[Outcome], strategies: Indices) -> FloatArray:
        """Return (step AR, step PR) of one strategy after each measured prefix; (p, 2)."""
        guess = self._guess.pairs(prefixes, strategies)
        size = (self._removed[strategies] + guess[:, 1]) / (self._count[strategies] + 1)
        return np.stack([guess[:, 0] + self._residual[strategies], size], axis=-1)

    def spread(self, prefixes: Sequence[Outcome], among: Indices | None = None) -> FloatArray:
        """Return no deviation: a mean is taken at its word; (p, s)."""
        return np.zeros((len(prefixes), len(self._residual if among is None else among)))

    def learn(self, steps: Sequence[tuple[Outcome, Outcome]]) -> float:
        """Take the means of all steps told so far; return the mean absolute error of their AR, 0 without steps."""
        if not steps:
            return 0.0
        last = np.array([o.scheme[-1] for _, o in steps], dtype=np.intp)
        guess = self._guess.pairs([p for p, _ in steps], last)[:, 0]
        residual = np.array([o.step_ar for _, o in steps], dtype=float) - guess
        self._residual = self._lean(last, residual)
        self._count = np.bincount(last, minlength=len(self._residual)).astype(float)
        sizes = np.array([o.step_pr for _, o in steps], dtype=float)
        self._removed = np.bincount(last, sizes, len(self._residual)).astype(float)
        return float(np.abs(self._residual[last] - residual).mean())

    def _lean(self, last: npt.NDArray[np.intp], values: FloatArray) -> FloatArray:
        """Return the mean value of every strategy, level by level; (n,)."""
        mean = np.zeros(len(self._residual))
        for group in self._levels:
            total = np.bincount(group[last], values, group.max() + 1)[group]
            mean = (total + mean) / (np.bincount(group[last], minlength=group.max() + 1)[group] + 1)
        return mean


@register
class ProgressiveMean(ProgressiveSearch):
    """Algorithm 2 with `StrategyMeans` in place of F_mo; everything else is that of the progressive search."""

    name: ClassVar[str] = "progressive-mean"

    def __init__(self, space: Space, limits: Limits, seed: int, *, own_size: bool = False) -> None:
        super().__init__(space, limits, seed, own_size=own_size, evaluator=StrategyMeans(space, limits))
