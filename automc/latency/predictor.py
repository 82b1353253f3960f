"""What kernels take, learned from measured ones, and what a network takes: their sum, corrected on whole networks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import Any

import numpy as np
import numpy.typing as npt

from automc.latency.kernels import Kernel

FloatArray = npt.NDArray[np.floating]
LANES = 16
"""Numbers in a register, at most: widths cost in steps of it."""
_LEAST = 12
"""Of fewer samples of a kind nothing is learned beyond what they compute and touch."""
_FITS, _GOOD = 4, 0.05
"""Rounds of leaving out networks, and the relative error of those that always stay."""
OTHERS = "others"
"""Of all kinds without a weight together, for a kind that was not measured."""


def features(kernel: Kernel) -> list[float]:
    """Return what a kernel's time hangs on; logarithms, and channels in steps of a register."""
    padded = [ceil(c / LANES) for c in (kernel.inputs, kernel.outputs)]
    return [
        log(kernel.batch * kernel.height * kernel.width),
        log(max(1, kernel.inputs)),
        log(max(1, kernel.outputs)),
        log(kernel.size[0] * kernel.size[1]),
        float(kernel.size[0]),
        float(kernel.stride[0] * kernel.stride[1]),
        log(kernel.groups),
        log(1 + kernel.macs),
        log(1 + kernel.weights),
        log(1 + kernel.read),
        log(1 + kernel.written),
        log(1 + padded[0]),
        log(1 + padded[1]),
        float(kernel.inputs % LANES),
        float(kernel.outputs % LANES),
        float(kernel.inputs % 4 == 0) + float(kernel.inputs % 8 == 0),
        float(kernel.outputs % 4 == 0) + float(kernel.outputs % 8 == 0),
        log(1 + kernel.macs * padded[0] * padded[1] * LANES**2 / max(1, kernel.inputs * kernel.outputs)),
    ]


class KindModel:
    """Seconds of kernels of one kind: a sum over what they compute and touch, and boosted trees on what that leaves.

    No addend of the sum is negative, so it holds between a few samples as well; trees see logarithms.
    """

    def __init__(self, kernels: Sequence[Kernel], seconds: Sequence[float]) -> None:
        from scipy.optimize import nnls
        from sklearn.ensemble import HistGradientBoostingRegressor

        times = np.asarray(seconds, dtype=float)
        # Relative errors, in columns of about the same size, which nnls needs to stop where it should.
        rows = _work(kernels) / times[:, None]
        scale = rows.mean(axis=0) + np.finfo(float).tiny
        self._shares = nnls(rows / scale, np.ones(len(times)))[0] / scale
        self._trees: Any = None
        if len(times) >= _LEAST:
            self._trees = HistGradientBoostingRegressor(
                max_iter=300, learning_rate=0.06, max_leaf_nodes=12, min_samples_leaf=4, l2_regularization=0.1,
                random_state=0,
            ).fit(_rows(kernels), np.log(times) - self._sum(kernels))  # fmt: skip
        self._low, self._high = np.log(times.min()) - 1.0, np.log(times.max()) + 1.0

    def predict(self, kernels: Sequence[Kernel]) -> FloatArray:
        """Return seconds, (n,); never far from what was measured."""
        found = self._sum(kernels) + (0 if self._trees is None else self._trees.predict(_rows(kernels)))
        return np.asarray(np.exp(np.clip(found, self._low, self._high)))

    def _sum(self, kernels: Sequence[Kernel]) -> FloatArray:
        """The logarithm of the sum, (n,)."""
        return np.asarray(np.log(np.maximum(_work(kernels) @ self._shares, np.finfo(float).tiny)))


def _work(kernels: Sequence[Kernel]) -> FloatArray:
    return np.array(
        [[1, k.macs, k.weights, k.read, k.written, k.batch * k.height * k.width] for k in kernels], dtype=float
    )


def _rows(kernels: Sequence[Kernel]) -> FloatArray:
    return np.array([features(k) for k in kernels], dtype=float)


@dataclass(frozen=True, slots=True)
class Fit:
    """Milliseconds of a network: a·(sum of its kernels) + b·(their number) + c; a and c are not negative.

    b is: in PyTorch what a layer takes beside its kernel; in onnxruntime less than 0, by what a profile takes itself.
    """

    sums: float = 1.0
    each: float = 0.0
    whole: float = 0.0

    @classmethod
    def of(cls, sums: Sequence[float], numbers: Sequence[int], measured: Sequence[float]) -> Fit:
        """Fit measured networks, each one's relative error alike; those that fit the others badly are left out."""
        from scipy.optimize import lsq_linear

        ms = np.asarray(measured, dtype=float)
        if len(ms) == 0:
            return cls()
        rows = np.stack([np.asarray(sums, float), np.asarray(numbers, float), np.ones(len(ms))], axis=1)
        if len(ms) < 3:
            return cls(sums=float(np.mean(ms / rows[:, 0])))
        # Columns of about the same size, for the solver.
        rows = rows / ms[:, None]
        scale = rows.mean(axis=0)
        kept = np.ones(len(ms), dtype=bool)
        for _ in range(_FITS):
            bounds = ([0, -np.inf, 0], np.inf)
            found = lsq_linear(rows[kept] / scale, np.ones(int(kept.sum())), bounds=bounds).x / scale
            error = np.abs(rows @ found - 1)
            kept = error <= max(_GOOD, 2.5 * float(np.median(error)))
        return cls(*map(float, found))

    def ms(self, total: float, number: int) -> float:
        """Return the milliseconds of a network whose kernels take `total` milliseconds together."""
        return max(0.0, self.sums * total + self.each * number + self.whole)


class Predictor:
    """Milliseconds of kernels and networks, from samples of kernels and a fit on whole networks."""

    def __init__(self, kernels: Sequence[Kernel], seconds: Sequence[float], fit: Fit | None = None) -> None:
        """Learn from kernels and the seconds that each took."""
        self.fit = fit or Fit()
        self._kinds: dict[str, KindModel] = {}
        groups: dict[str, list[int]] = {}
        for i, kernel in enumerate(kernels):
            groups.setdefault(kernel.kind, []).append(i)
            if not kernel.multiplies:
                groups.setdefault(OTHERS, []).append(i)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the threads that scikit-learn would like
            for kind, places in groups.items():
                self._kinds[kind] = KindModel([kernels[i] for i in places], [seconds[i] for i in places])

    def unknown(self, kernels: Sequence[Kernel]) -> list[str]:
        """Return the kinds of kernels that were not measured: they are guessed by what they touch."""
        return sorted({k.kind for k in kernels if k.kind not in self._kinds})

    def kernel_ms(self, kernels: Sequence[Kernel]) -> FloatArray:
        """Return the milliseconds of kernels, (n,). Where not even a like kind was measured they count as nothing."""
        found = np.zeros(len(kernels))
        groups: dict[str, list[int]] = {}
        for i, kernel in enumerate(kernels):
            plain = kernel.kind.partition("+")[0]
            kind = kernel.kind if kernel.kind in self._kinds else plain if plain in self._kinds else OTHERS
            groups.setdefault(kind, []).append(i)
        for kind, places in groups.items():
            if kind in self._kinds:
                found[places] = 1000 * self._kinds[kind].predict([kernels[i] for i in places])
        return found

    def ms(self, kernels: Sequence[Kernel]) -> float:
        """Return the milliseconds of a network of these kernels."""
        return self.fit.ms(float(self.kernel_ms(kernels).sum()), len(kernels))
