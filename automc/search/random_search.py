"""Random search: the baseline every other searcher has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from automc.search import register
from automc.search.base import Limits, Outcome, SchemeIndices, Searcher, Space
from automc.search.history import START, History


@register
class RandomSearch(Searcher):
    """Draws a length, then each strategy uniformly among those with which the plan still reaches γ at that length.

    The plan is the measured PR of the longest executed part, plus the HP2 of the rest.
    """

    name: ClassVar[str] = "random"

    def __init__(self, space: Space, limits: Limits, seed: int) -> None:
        super().__init__(space, limits, seed)
        self.history = History(space, limits)
        self._rounds = 0

    def ask(self, k: int) -> list[SchemeIndices]:
        """Return up to `k` new schemes, drawn independently; fewer only when there are no more."""
        rng = np.random.default_rng((self.seed, self._rounds))
        asked: list[SchemeIndices] = []
        while len(asked) < k:
            lengths = rng.permutation(np.arange(1, self.limits.max_length + 1))
            drawn = (self._draw(START, int(length), rng, asked) for length in lengths)
            scheme = next((found for found in drawn if found is not None), None)
            if scheme is None:
                break
            asked.append(scheme)
        return asked

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Remember one round."""
        self.history.record(outcomes)
        self._rounds += 1

    def _draw(
        self, prefix: SchemeIndices, length: int, rng: np.random.Generator, asked: Sequence[SchemeIndices]
    ) -> SchemeIndices | None:
        """Return a new scheme of that length below the prefix; None where there is none.

        A dead end, where everything was asked already, is left for the next strategy in random order.
        """
        further = length - len(prefix) - 1
        for strategy in rng.permutation(np.flatnonzero(self.history.admissible(prefix, further))):
            scheme = (*prefix, int(strategy))
            if further:
                found = self._draw(scheme, length, rng, asked)
                if found is not None:
                    return found
            elif scheme not in self.history.outcomes and scheme not in asked:
                return scheme
        return None
