"""What time models are predicted to take, or how many FLOPs, where a study limits that: what is missing to it."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Figure = Literal["latency_ms", "flops"]
"""What may be predicted of models where it is limited, besides their size."""

NEAR = 1.1
"""What is predicted to take this many times the limit at most may come near: a prediction is no verdict."""
AIM = 0.95
"""Share of the limit that closing steps aim at: a measured time counts with half of its spread on top."""


@dataclass(frozen=True, eq=False)
class Pace:
    """Predicted times, or FLOPs, as shares of M's, by method and by the parameters that are left.

    What a step makes of a model is predicted from the model's own time: as a first step of its method does with M, by
    the share of the input that it removes, or where the method had a part in the input by the ratio of two points of
    its curve. So what a method does once, such as layers that take longer at any size, counts once.
    """

    left: FloatArray
    """Shares of M's parameters, ascending up to 1, (k,)."""
    curves: FloatArray
    """Time of what a method makes of M when it leaves so much, as a share of M's, (methods, k)."""
    limit: float
    """The longest time asked for, as a share of M's."""
    figure: Figure = "latency_ms"
    aim: float = AIM
    """As AIM: share of the limit."""
    near: float = NEAR
    """As NEAR: multiple of the limit."""

    def at(self, method: int, left: FloatArray | float) -> FloatArray:
        """Return a method's curve where so many parameters are left."""
        return np.asarray(np.interp(left, self.left, self.curves[method]))

    def missing(self, now: float, left: float, used: Container[int] = ()) -> FloatArray:
        """Return the parameters that one step of each method must remove to meet the limit, as shares of M's.

        Args:
            now: time of the step's input as a share of M's; `left`: the parameters that it has.
            used: methods that had a part in the input.

        Returns:
            (methods,), 0 where nothing is missing, infinite for a method that never comes near the limit. One that
            comes near it but not to what is aimed at removes as much as makes it fastest.
        """
        found = np.full(len(self.curves), np.inf)
        if now <= self.limit:
            return np.zeros(len(self.curves))
        for method in range(len(self.curves)):
            lefts, times = self._from(method, now, left, used)
            times = np.where(lefts < left, times, np.inf)
            (enough,) = np.nonzero(times <= max(self.aim * self.limit, float(times.min(initial=np.inf))))
            if len(enough) and times[enough[-1]] <= self.near * self.limit:
                found[method] = left - lefts[enough[-1]]
        return found

    def after(
        self, now: float, left: float, gone: FloatArray, method: npt.NDArray[np.int64], used: Container[int] = ()
    ) -> FloatArray:
        """Return the time after each strategy, (n,), that removes `gone`, (n,), from a model; as shares of M's."""
        found = np.full(len(method), now)
        for one in np.unique(method):
            mine = method == one
            found[mine] = np.interp(left - gone[mine], *self._from(int(one), now, left, used))
        return found

    def _from(self, method: int, now: float, left: float, used: Container[int]) -> tuple[FloatArray, FloatArray]:
        """Return the parameters, ascending, that steps of a method leave of a model, and the times after them."""
        if method in used:
            return self.left, now * self.curves[method] / self.at(method, left)
        return left * self.left, now * self.curves[method]

    def fastest(self, left: FloatArray, least: float) -> FloatArray:
        """Return what one more step can make of the time at best, as a factor of at most 1, where so much is left.

        Args:
            least: parameters that are left at least.
        """
        reachable = np.where(self.left >= least - 1e-9, self.curves, np.inf)
        best = np.minimum.accumulate(reachable, axis=1)
        again = np.min(best / self.curves, axis=0)
        again = np.interp(left, self.left, np.where(np.isfinite(again), again, 1.0))
        first = np.minimum.accumulate(self.curves.min(axis=0)[::-1])[::-1]
        first = np.interp(least / np.maximum(left, least), self.left, first)
        return np.asarray(np.minimum(1.0, np.minimum(again, first)))
