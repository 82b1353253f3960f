"""F_mo's closed form: a Bayesian linear model on what decides a step, and one on what steps miss of their plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from automc.search.base import FloatArray, Limits, Outcome, Space, grains, sizes

MOST = 0.8
"""A removal relative to the step's input counts as this at most, where x/(1−x) would grow beyond all bounds."""
_SLOPE = -0.1
"""Without experience: accuracy lost per share of parameters removed; only its sign matters before the first round."""
_NOISE = (4.0, 0.03)
"""Of steps' AR before any was measured: counts as so many measurements, with this deviation."""
_CONSTANT, _SHARE, _GROWTH, _LENGTH, _SHARE_LENGTH, _BEFORE, _REMOVED = 1.0, 4.0, 0.6, 1.0, 1.0, 10.0, 2.0
_METHOD, _METHOD_SHARE, _STRATEGY = 1.0, 2.0, 1.0
"""How far weights may lie from the first guess: deviations, in units of the noise's. Features are scaled by them."""
_MISS, _INPUT = 1.0, 25.0
"""Likewise of misses: a method's own, and how much of a plan is a share of the step's input, in common to all."""


def odds(share: FloatArray) -> FloatArray:
    """Return x/(1−x) of a share, which counts as MOST at most."""
    share = np.clip(share, 0.0, MOST)
    return np.asarray(share / (1 - share))


class Ridge:
    """Weights with a standard normal prior in units of the noise, whose variance is learned too; closed form.

    The normal-inverse-gamma posterior of a linear model: before `fit` the prior itself.
    """

    def __init__(self, size: int, noise: tuple[float, float]) -> None:
        """Begin with `size` weights, and noise that counts as (n measurements, with this deviation)."""
        self._count, deviation = noise
        self._squares = self._count * deviation**2
        self.mean: FloatArray = np.zeros(size)
        self._covariance: FloatArray = np.eye(size)
        self.noise = deviation

    def fit(self, rows: FloatArray, values: FloatArray) -> None:
        """Learn rows of features, (b, size), and what was measured there, (b,); replaces what was learned before."""
        self._covariance = np.linalg.inv(rows.T @ rows + np.eye(rows.shape[1]))
        self.mean = self._covariance @ (rows.T @ values)
        error = values - rows @ self.mean
        squares = self._squares + error @ error + self.mean @ self.mean
        self.noise = float(np.sqrt(squares / (self._count + len(values))))

    def covariance(self) -> FloatArray:
        """Return the weights' covariance, (size, size)."""
        return self._covariance * self.noise**2


def removed(prefixes: Sequence[Outcome]) -> FloatArray:
    """Return the parameters that measured prefixes removed, as a share of M's, at most 0.99; (p,)."""
    return np.array([min(o.pr or 0.0, 0.99) for o in prefixes], dtype=float)


def cut(space: Space, prefixes: Sequence[Outcome], gone: FloatArray) -> FloatArray:
    """Return what steps that remove `gone` of M's size, (p, n), take of what accuracy hangs on, of M's; (p, n).

    That is parameters; of a quantiser, which leaves all, what the rounding of weights is in their squares.
    """
    left = 1 - removed(prefixes)[:, None]
    return np.where(space.quantises, space.rounding * left, gone / grains(prefixes)[:, None])


class FirstGuess:
    """What a step will do before anything was measured: sizes as planned, accuracy by experience.

    AR = −c·x/(1−x), x being the removal relative to the step's input and c the slope of the method; without experience
    AR falls with what is removed.
    """

    def __init__(self, space: Space, limits: Limits) -> None:
        self.space = space
        self.gamma = limits.gamma
        self._slope = None if space.slope is None else np.asarray(space.slope, dtype=float)[space.method]

    def predict(self, prefixes: Sequence[Outcome]) -> FloatArray:
        """Return (step AR, step PR) of every strategy after each measured prefix; (p, n, 2)."""
        gone = self.space.planned(prefixes, self.gamma)
        ar = self.after(removed(prefixes)[:, None], cut(self.space, prefixes, gone), np.arange(len(self.space.mask)))
        return np.stack([ar, gone / (1 - sizes(prefixes)[:, None])], axis=-1)

    def pairs(self, prefixes: Sequence[Outcome], strategies: npt.NDArray[np.intp]) -> FloatArray:
        """Return (step AR, step PR) of one strategy after each measured prefix; (p, 2)."""
        return np.asarray(self.predict(prefixes)[np.arange(len(strategies)), strategies])

    def after(self, before: FloatArray, gone: FloatArray, strategy: npt.NDArray[np.intp]) -> FloatArray:
        """Return the step AR of strategies that take away so much of M, as of `cut`, after prefixes; as they are."""
        if self._slope is None:
            return gone * _SLOPE
        return np.asarray(-self._slope[strategy] * odds(gone / (1 - before)))


class SizeModel:
    """What steps remove of M's size: their plan and what is missed of it, as far as was seen.

    The miss of each method, and how far plans are shares of the step's input rather than of M, as on some tables.
    """

    def __init__(self, space: Space, limits: Limits) -> None:
        self._space = space
        self._gamma = limits.gamma
        self._ridge = Ridge(len(space.methods) + 1, (4.0, 0.02))

    def learn(self, steps: Sequence[tuple[Outcome, Outcome]]) -> None:
        """Learn what (parent, step) removed."""
        prefixes, last = [p for p, _ in steps], np.array([o.scheme[-1] for _, o in steps], dtype=np.intp)
        before = sizes(prefixes)
        planned = self._space.planned(prefixes, self._gamma)[np.arange(len(last)), last]
        missed = np.array([o.size for _, o in steps], dtype=float) - before - planned
        self._ridge.fit(self._features(before, planned, self._space.method[last]), missed)

    def expected(self, prefixes: Sequence[Outcome]) -> FloatArray:
        """Return what every strategy will remove of M's size after measured prefixes; (p, n), never negative."""
        before, planned = sizes(prefixes), self._space.planned(prefixes, self._gamma)
        missed = self._features(before[:, None], planned, self._space.method) @ self._ridge.mean
        return np.clip(planned + missed, 0.0, 1 - before[:, None])

    def _features(self, before: FloatArray, planned: FloatArray, method: npt.NDArray[np.int64]) -> FloatArray:
        own = np.eye(len(self._space.methods))[method]
        shrinks = np.broadcast_to(before * planned, np.broadcast_shapes(planned.shape, method.shape))[..., None]
        own = np.broadcast_to(own, (*shrinks.shape[:-1], own.shape[-1]))
        return np.concatenate([_MISS * own, _INPUT * shrinks], axis=-1)


class LinearModel:
    """AR of a step, linear in what decides it; sizes by a SizeModel.

    Features: x/(1−x) with x what the step takes away of its input, see `cut`, and its product with the logarithm of
    the training length; the growth of total/(1−total); that logarithm; the prefix's AR and PR; each method and its
    x/(1−x); each strategy that was tried. The prior mean is the first guess.
    """

    def __init__(self, space: Space, limits: Limits) -> None:
        self.space = space
        self.guess = FirstGuess(space, limits)
        self.sizes = SizeModel(space, limits)
        self._base = limits.base_accuracy
        length = np.log(np.maximum(space.cost, 0.05))
        self._length = length - (length[space.mask].mean() if space.mask.any() else 0.0)
        self._shared = 7 + 2 * len(space.methods)
        self._ridge = Ridge(self._shared, _NOISE)
        self._tried: npt.NDArray[np.intp] = np.zeros(0, dtype=np.intp)

    def predict(self, prefixes: Sequence[Outcome]) -> FloatArray:
        """Return (step AR, step PR) of every strategy after each measured prefix; (p, n, 2)."""
        found, features = self._seen(prefixes, self._every())
        found[..., 0] += features @ self._ridge.mean[: self._shared] + self._own()
        return found

    def pairs(self, prefixes: Sequence[Outcome], strategies: npt.NDArray[np.intp]) -> FloatArray:
        """Return (step AR, step PR) of one strategy after each measured prefix; (p, 2)."""
        found, features = self._seen(prefixes, strategies[:, None])
        found[..., 0] += features @ self._ridge.mean[: self._shared] + self._own()[strategies[:, None]]
        return found[:, 0]

    def spread(self, prefixes: Sequence[Outcome]) -> FloatArray:
        """Return the posterior deviation of every step's AR, measurement noise apart; (p, n)."""
        _, features = self._seen(prefixes, self._every())
        covariance = self._ridge.covariance()
        shared = covariance[: self._shared, : self._shared]
        variance = np.einsum("pnd,pnd->pn", features @ shared, features)
        own = np.full(len(self.space.mask), (_STRATEGY * self._ridge.noise) ** 2)
        own[self._tried] = _STRATEGY**2 * np.diag(covariance)[self._shared :]
        variance += own
        with_shared = covariance[: self._shared, self._shared :]
        variance[:, self._tried] += 2 * _STRATEGY * np.einsum("pnd,dn->pn", features[:, self._tried], with_shared)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def learn(self, steps: Sequence[tuple[Outcome, Outcome]]) -> float:
        """Learn all (parent, step) outcomes told so far; return the mean absolute error of AR, 0 without steps."""
        if not steps:
            return 0.0
        self.sizes.learn(steps)
        last = np.array([o.scheme[-1] for _, o in steps], dtype=np.intp)
        guess, features = self._seen([p for p, _ in steps], last[:, None])
        self._tried, column = np.unique(last, return_inverse=True)
        own = np.eye(len(self._tried))[column.reshape(-1)] * _STRATEGY
        rows = np.concatenate([features[:, 0], own], axis=1)
        missing = np.array([o.step_ar for _, o in steps], dtype=float) - guess[:, 0, 0]
        self._ridge = Ridge(rows.shape[1], _NOISE)
        self._ridge.fit(rows, missing)
        return float(np.abs(missing - rows @ self._ridge.mean).mean())

    def _every(self) -> npt.NDArray[np.intp]:
        return np.arange(len(self.space.mask))[None, :]

    def _own(self) -> FloatArray:
        """Return what was learned of each strategy itself; (n,)."""
        own = np.zeros(len(self.space.mask))
        own[self._tried] = _STRATEGY * self._ridge.mean[self._shared :]
        return own

    def _seen(self, prefixes: Sequence[Outcome], strategy: npt.NDArray[np.intp]) -> tuple[FloatArray, FloatArray]:
        """Return (step AR, step PR) before accuracies were learned, and features, of strategies after prefixes.

        `strategy` is (p or 1, s); (p, s, 2) and (p, s, features).
        """
        gone = self.sizes.expected(prefixes)
        strategy = np.broadcast_to(strategy, (len(prefixes), strategy.shape[1]))
        step = np.take_along_axis(cut(self.space, prefixes, gone), strategy, axis=1)
        rows, left = removed(prefixes)[:, None], 1 - sizes(prefixes)[:, None]
        shrinks = np.take_along_axis(gone, strategy, axis=1) / left
        guess = np.stack([self.guess.after(rows, step, strategy), shrinks], axis=-1)
        share, total = odds(step / (1 - rows)), rows + step
        ar = np.array([(o.accuracy or 0.0) / self._base - 1 for o in prefixes])[:, None]
        length, one = self._length[strategy], np.ones_like(share)
        columns = [
            _CONSTANT * one, _SHARE * share, _GROWTH * (odds(total) - odds(rows)), _LENGTH * length,
            _SHARE_LENGTH * length * share, _BEFORE * ar * one, _REMOVED * rows * one,
        ]  # fmt: skip
        method = np.eye(len(self.space.methods))[self.space.method[strategy]]
        own = np.concatenate([_METHOD * method, _METHOD_SHARE * share[..., None] * method], axis=-1)
        return guess, np.concatenate([np.stack(columns, axis=-1), own], axis=-1)
