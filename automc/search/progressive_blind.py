"""Progressive search without a model: what growing schemes step by step is worth alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from automc.search import register
from automc.search.base import Limits, Outcome, SchemeIndices, Searcher, Space
from automc.search.history import History

FROM_FRONTIER = 0.7
"""Share of the steps that extend a scheme of the frontier; the others extend any measured scheme."""


@register
class ProgressiveBlind(Searcher):
    """Extends a random scheme of the frontier, or any measured one, by a random admissible step that is new."""

    name: ClassVar[str] = "progressive-blind"

    def __init__(self, space: Space, limits: Limits, seed: int) -> None:
        super().__init__(space, limits, seed)
        self.history = History(self.space, limits)

    def ask(self, k: int, pending: Sequence[SchemeIndices] = ()) -> list[SchemeIndices]:
        """Return up to `k` new schemes, each one step longer than a measured one."""
        self.history.expect(pending)
        rng = self.history.generator(self.seed)
        asked: list[SchemeIndices] = []
        while len(asked) < k:
            pools = [self.history.frontier(), self.history.measured()]
            if rng.random() >= FROM_FRONTIER:
                pools = pools[1:]
            drawn = (self._extend(pool, asked, rng) for pool in pools)
            scheme = next((found for found in drawn if found is not None), None)
            if scheme is None:
                break
            asked.append(scheme)
        return asked

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Add the outcomes to the tree."""
        self.history.record(outcomes)

    def _extend(
        self, pool: Sequence[Outcome], asked: Sequence[SchemeIndices], rng: np.random.Generator
    ) -> SchemeIndices | None:
        """Return a new scheme, one step longer than one of the pool; None where there is none."""
        for i in rng.permutation(len(pool)):
            prefix = pool[i].scheme
            new = self.history.unexplored(prefix)
            new[[scheme[-1] for scheme in asked if scheme[:-1] == prefix]] = False
            if new.any():
                return (*prefix, int(rng.choice(np.flatnonzero(new))))
        return None
