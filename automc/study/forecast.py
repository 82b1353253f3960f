"""How long a step will take: measured seconds per iteration, corrected by what steps really took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import mean, median

from automc import methods
from automc.training.recipe import Recipe
from kg.schema import LEVELS, Scheme, Status, Strategy

_LEAST_TIMEOUT_SECONDS = 60.0
_TIMEOUT = 5.0
"""A step may take so many times its forecast …"""
_DOUBLINGS = 3
"""… and twice as many after each time-out of its method, up to so often: a wrong forecast, or a hang."""
_RECENT = 20


class Forecast:
    """Seconds of steps on one model, recipe and device."""

    def __init__(self, per_iteration: Mapping[str, float], overhead: float, recipe: Recipe, n_train: int) -> None:
        """Start from a probe.

        Args:
            per_iteration: seconds of one training iteration, by method.
            overhead: seconds of a step besides training: surgery, recalibration, measuring, saving.
            n_train: images that a step trains on.
        """
        self.per_iteration = dict(per_iteration)
        self.overhead = overhead
        self._recipe = recipe
        self._n_train = n_train
        self._ratios: list[float] = []
        self._timeouts: Counter[str] = Counter()

    def _planned(self, strategy: Strategy, n_train: int, thirds: int) -> float:
        known = self.per_iteration.get(strategy.method) or mean(self.per_iteration.values() or [0.0])
        iterations = methods.get(strategy.method).iterations(strategy, self._recipe, n_train)
        return self.overhead + known * iterations * thirds / LEVELS

    def step(self, strategy: Strategy, n_train: int | None = None, thirds: int = LEVELS) -> float:
        """Return the expected seconds of a strategy's step, also for other images, or for thirds of its length."""
        correction = median(self._ratios[-_RECENT:]) if self._ratios else 1.0
        return correction * self._planned(strategy, n_train or self._n_train, thirds)

    def seconds(self, scheme: Scheme) -> float:
        """Return the expected seconds of a scheme's last step, or of what its level adds to the one below."""
        return self.step(scheme.steps[-1], thirds=_thirds(scheme))

    def observe(self, scheme: Scheme, seconds: float, status: Status = "ok") -> None:
        """Learn how long a scheme's last step took.

        A time-out took at least as long, and lets the next step of its method run longer. Other failures may have ended
        early, and tell nothing.
        """
        if status not in ("ok", "timeout"):
            return
        strategy = scheme.steps[-1]
        self._timeouts[strategy.method] += status == "timeout"
        planned = self._planned(strategy, self._n_train, _thirds(scheme))
        if planned > 0:
            self._ratios.append(seconds / planned)

    def timeout(self, scheme: Scheme, limit: float | None) -> float:
        """Return the seconds after which a step counts as hung: the limit given, else a multiple of the forecast."""
        if limit is not None:
            return limit
        longer = 2.0 ** min(_DOUBLINGS, self._timeouts[scheme.steps[-1].method])
        return longer * max(_LEAST_TIMEOUT_SECONDS, _TIMEOUT * self.seconds(scheme))

    def mean(self, strategies: list[Strategy], n_train: int | None = None, thirds: int = LEVELS) -> float:
        """Return the mean expected seconds of steps by these strategies."""
        return mean(self.step(s, n_train, thirds) for s in strategies) if strategies else 0.0


def _thirds(scheme: Scheme) -> int:
    return 1 if scheme.level else LEVELS
