"""F_mo's closed form: a Bayesian linear model on what decides a step, and one on what steps miss of their plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from automc.search.base import FloatArray, Indices, Limits, Outcome, Space, grains, sizes, these

MOST = 0.8
"""A removal relative to the step's input counts as this at most, where x/(1−x) would grow beyond all bounds."""
_SLOPE = -0.1
"""Without experience: accuracy lost per share of parameters removed; only its sign matters before the first round."""
HALF = 2.0
"""Measured steps after which experience counts half in the first guess: see docs/results/searchers/forgetting.md."""
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

    The normal-inverse-gamma posterior of a linear model: before `fit` the prior itself. Beside the weights of features
    that rows share there may be groups, each with a weight of its own: of rows of one group only that feature is not 0.
    Only the shared weights' covariance is inverted, so groups may be thousands.
    """

    def __init__(self, size: int, noise: tuple[float, float]) -> None:
        """Begin with `size` shared weights, and noise that counts as (n measurements, with this deviation)."""
        self._count, deviation = noise
        self._squares = self._count * deviation**2
        self.mean: FloatArray = np.zeros(size)
        self.own: FloatArray = np.zeros(0)
        """Weights of the groups, (groups,)."""
        self._covariance: FloatArray = np.eye(size)
        self._with_own: FloatArray = np.zeros((size, 0))
        self._of_own: FloatArray = np.zeros(0)
        self.noise = deviation

    def fit(self, rows: FloatArray, values: FloatArray, group: Indices | None = None, scale: float = 1.0) -> None:
        """Learn rows of features, (b, size), and what was measured there, (b,); replaces what was learned before.

        Args:
            group: of each row, from 0, (b,); None: there are no groups.
            scale: the value of a group's own feature in its rows.
        """
        group = np.zeros(0, dtype=np.intp) if group is None else group
        groups = int(group.max(initial=-1)) + 1
        # Blocks of the precision matrix; that of the groups is diagonal.
        own = 1 + scale**2 * np.bincount(group, minlength=groups)
        between: FloatArray = np.zeros((rows.shape[1], groups))
        sums: FloatArray = np.zeros(groups)
        if groups:
            between = scale * np.stack([np.bincount(group, column, groups) for column in rows.T])
            sums = scale * np.bincount(group, values, groups)
        self._covariance = np.linalg.inv(rows.T @ rows + np.eye(rows.shape[1]) - (between / own) @ between.T)
        self._with_own = -self._covariance @ between / own
        self._of_own = (1 - (between * self._with_own).sum(axis=0)) / own
        self.mean = self._covariance @ (rows.T @ values - between @ (sums / own))
        self.own = (sums - between.T @ self.mean) / own
        error = values - self.predict(rows, group, scale)
        squares = self._squares + error @ error + self.mean @ self.mean + self.own @ self.own
        self.noise = float(np.sqrt(squares / (self._count + len(values))))

    def predict(self, rows: FloatArray, group: Indices | None = None, scale: float = 1.0) -> FloatArray:
        """Return the expected values of rows, (b,); arguments as of `fit`."""
        shared = rows @ self.mean
        return np.asarray(shared if group is None or not len(group) else shared + scale * self.own[group])

    def covariance(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the covariance of shared weights, theirs with groups', and groups' variances.

        (size, size), (size, groups), (groups,).
        """
        return self._covariance * self.noise**2, self._with_own * self.noise**2, self._of_own * self.noise**2


def removed(prefixes: Sequence[Outcome]) -> FloatArray:
    """Return the parameters that measured prefixes removed, as a share of M's, at most 0.99; (p,)."""
    return np.array([min(o.pr or 0.0, 0.99) for o in prefixes], dtype=float)


def cut(space: Space, prefixes: Sequence[Outcome], gone: FloatArray, strategy: Indices | None = None) -> FloatArray:
    """Return what steps that remove `gone` of M's size take of what accuracy hangs on, of M's; shaped like `gone`.

    That is parameters; of a quantiser, which leaves all, what the rounding of weights is in their squares. `strategy`
    says which steps, as of `Space.planned`.
    """
    which = these(strategy)
    left = 1 - removed(prefixes)[:, None]
    return np.where(space.quantises[which], space.rounding[which] * left, gone / grains(prefixes)[:, None])


class FirstGuess:
    """What a step will do before anything was measured: sizes as planned, accuracy by experience.

    AR = −c·x/(1−x), x being the removal relative to the step's input and c the slope of the method; without experience
    AR falls with what is removed. With every step that was measured here the former gives way to the latter.
    """

    def __init__(self, space: Space, limits: Limits, half: float = HALF) -> None:
        """Guess; with `half` steps measured experience counts half, with infinitely many for ever."""
        self.space = space
        self.gamma = limits.gamma
        self._half = half
        self._slope = None if space.slope is None else np.asarray(space.slope, dtype=float)[space.method]
        self.measured = 0
        """Steps that were measured here so far."""

    def predict(self, prefixes: Sequence[Outcome], among: Indices | None = None) -> FloatArray:
        """Return (step AR, step PR) of every strategy, or of those `among` them, after each prefix; (p, s, 2)."""
        return self._of(prefixes, (np.arange(len(self.space.mask)) if among is None else among)[None, :])

    def pairs(self, prefixes: Sequence[Outcome], strategies: Indices) -> FloatArray:
        """Return (step AR, step PR) of one strategy after each measured prefix; (p, 2)."""
        return self._of(prefixes, strategies[:, None])[:, 0]

    def _of(self, prefixes: Sequence[Outcome], strategy: Indices) -> FloatArray:
        gone = self.space.planned(prefixes, self.gamma, strategy)
        ar = self.after(removed(prefixes)[:, None], cut(self.space, prefixes, gone, strategy), strategy)
        return np.stack([ar, gone / (1 - sizes(prefixes)[:, None])], axis=-1)

    def after(self, before: FloatArray, gone: FloatArray, strategy: Indices) -> FloatArray:
        """Return the step AR of strategies that take away so much of M, as of `cut`, after prefixes; as they are."""
        plain = gone * _SLOPE
        if self._slope is None:
            return plain
        known = 1 / (1 + self.measured / self._half)
        return np.asarray((1 - known) * plain - known * self._slope[strategy] * odds(gone / (1 - before)))


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
        planned = self._space.planned(prefixes, self._gamma, last[:, None])[:, 0]
        missed = np.array([o.size for _, o in steps], dtype=float) - before - planned
        self._ridge.fit(self._features(before, planned, self._space.method[last]), missed)

    def expected(self, prefixes: Sequence[Outcome], strategy: Indices | None = None) -> FloatArray:
        """Return what strategies will remove of M's size after measured prefixes, never negative; (p, n) or (p, s).

        Args:
            strategy: which strategies, for each prefix, (p, s); None: all, for each.
        """
        which = these(strategy)
        before, planned = sizes(prefixes), self._space.planned(prefixes, self._gamma, strategy)
        missed = self._features(before[:, None], planned, self._space.method[which]) @ self._ridge.mean
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

    def __init__(self, space: Space, limits: Limits, half: float = HALF) -> None:
        """Begin with the first guess; `half` is of `FirstGuess`."""
        self.space = space
        self.guess = FirstGuess(space, limits, half)
        self.sizes = SizeModel(space, limits)
        self._base = limits.base_accuracy
        length = np.log(np.maximum(space.cost, 0.05))
        self._length = length - (length[space.mask].mean() if space.mask.any() else 0.0)
        self._shared = 7 + 2 * len(space.methods)
        self._ridge = Ridge(self._shared, _NOISE)
        self._tried: Indices = np.zeros(0, dtype=np.intp)
        self._latest: tuple[tuple[list[Outcome], Indices | None], tuple[FloatArray, FloatArray]] | None = None

    def predict(self, prefixes: Sequence[Outcome], among: Indices | None = None) -> FloatArray:
        """Return (step AR, step PR) of every strategy, or of those `among` them, after each prefix; (p, s, 2)."""
        guess, features = self._everywhere(prefixes, among)
        found = guess.copy()
        found[..., 0] += features @ self._ridge.mean + self._own(among)
        return found

    def pairs(self, prefixes: Sequence[Outcome], strategies: Indices) -> FloatArray:
        """Return (step AR, step PR) of one strategy after each measured prefix; (p, 2)."""
        found, features = self._seen(prefixes, strategies[:, None])
        found[..., 0] += features @ self._ridge.mean + self._own(strategies[:, None])
        return found[:, 0]

    def spread(self, prefixes: Sequence[Outcome], among: Indices | None = None) -> FloatArray:
        """Return the posterior deviation of every step's AR, measurement noise apart; (p, s)."""
        _, features = self._everywhere(prefixes, among)
        shared, with_own, of_own = self._ridge.covariance()
        weighted = features @ shared
        there, tried = self._tried_at(np.arange(len(self.space.mask)) if among is None else among)
        weighted[:, there] += 2 * _STRATEGY * with_own.T[tried]
        own = np.full(features.shape[1], (_STRATEGY * self._ridge.noise) ** 2)
        own[there] = _STRATEGY**2 * of_own[tried]
        variance = np.einsum("pnd,pnd->pn", weighted, features) + own
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def learn(self, steps: Sequence[tuple[Outcome, Outcome]]) -> float:
        """Learn all (parent, step) outcomes told so far; return the mean absolute error of AR, 0 without steps."""
        if not steps:
            return 0.0
        self._latest = None
        self.guess.measured = len(steps)
        self.sizes.learn(steps)
        last = np.array([o.scheme[-1] for _, o in steps], dtype=np.intp)
        guess, features = self._seen([p for p, _ in steps], last[:, None])
        self._tried, group = np.unique(last, return_inverse=True)
        rows, group = features[:, 0], group.reshape(-1)
        missing = np.array([o.step_ar for _, o in steps], dtype=float) - guess[:, 0, 0]
        self._ridge.fit(rows, missing, group, _STRATEGY)
        return float(np.abs(missing - self._ridge.predict(rows, group, _STRATEGY)).mean())

    def _own(self, which: Indices | None) -> FloatArray:
        """Return what was learned of strategies themselves, of all by default; shaped like `which`."""
        own = np.zeros(len(self.space.mask))
        own[self._tried] = _STRATEGY * self._ridge.own
        return own if which is None else own[which]

    def _tried_at(self, among: Indices) -> tuple[Indices, Indices]:
        """Return where tried strategies are among others, and which of the tried these are."""
        _, there, tried = np.intersect1d(among, self._tried, return_indices=True)
        return there, tried

    def _everywhere(self, prefixes: Sequence[Outcome], among: Indices | None) -> tuple[FloatArray, FloatArray]:
        """Return `_seen` of every strategy; what is predicted and how surely is asked of the same prefixes in turn."""
        asked = (list(prefixes), among)
        if self._latest is None or self._latest[0][0] != asked[0] or self._latest[0][1] is not among:
            self._latest = (asked, self._seen(prefixes, None if among is None else among[None, :]))
        return self._latest[1]

    def _seen(self, prefixes: Sequence[Outcome], strategy: Indices | None = None) -> tuple[FloatArray, FloatArray]:
        """Return (step AR, step PR) before accuracies were learned, and features, of strategies after prefixes.

        (p, s, 2) and (p, s, features); `strategy` is (p, s), None for all of them after each.
        """
        gone = self.sizes.expected(prefixes, strategy)
        step = cut(self.space, prefixes, gone, strategy)
        strategy = np.arange(len(self.space.mask))[None, :] if strategy is None else strategy
        rows, left = removed(prefixes)[:, None], 1 - sizes(prefixes)[:, None]
        guess = np.stack([self.guess.after(rows, step, strategy), gone / left], axis=-1)
        share, total = odds(step / (1 - rows)), rows + step
        ar = np.array([(o.accuracy or 0.0) / self._base - 1 for o in prefixes])[:, None]
        length, one = self._length[strategy], np.ones_like(share)
        columns = [
            _CONSTANT * one, _SHARE * share, _GROWTH * (odds(total) - odds(rows)), _LENGTH * length * one,
            _SHARE_LENGTH * length * share, _BEFORE * ar * one, _REMOVED * rows * one,
        ]  # fmt: skip
        method = np.broadcast_to(
            np.eye(len(self.space.methods))[self.space.method[strategy]], (*share.shape, len(self.space.methods))
        )
        own = np.concatenate([_METHOD * method, _METHOD_SHARE * share[..., None] * method], axis=-1)
        return guess, np.concatenate([np.stack(columns, axis=-1), own], axis=-1)
