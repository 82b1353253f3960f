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
        self.history = History(self.space, limits)

    def ask(self, k: int, pending: Sequence[SchemeIndices] = ()) -> list[SchemeIndices]:
        """Return up to `k` new schemes, drawn independently; fewer only when there are no more."""
        self.history.expect(pending)
        return fill([], k, self.history, self.history.generator(self.seed))

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Remember the outcomes."""
        self.history.record(outcomes)


def fill(asked: list[SchemeIndices], k: int, history: History, rng: np.random.Generator) -> list[SchemeIndices]:
    """Return what was asked with new random schemes up to `k`; fewer only when there are no more."""
    while len(asked) < k:
        lengths = rng.permutation(np.arange(1, history.limits.max_length + 1))
        drawn = (_draw(history, START, int(length), rng, asked) for length in lengths)
        scheme = next((found for found in drawn if found is not None), None)
        if scheme is None:
            break
        asked = [*asked, scheme]
    return asked


def _draw(
    history: History, prefix: SchemeIndices, length: int, rng: np.random.Generator, asked: Sequence[SchemeIndices]
) -> SchemeIndices | None:
    """Return a new scheme of that length below the prefix; None where there is none.

    A dead end, where everything was asked already, is left for the next strategy in random order.
    """
    further = length - len(prefix) - 1
    for strategy in rng.permutation(np.flatnonzero(history.admissible(prefix, further))):
        scheme = (*prefix, int(strategy))
        if further:
            found = _draw(history, scheme, length, rng, asked)
            if found is not None:
                return found
        elif not history.known(scheme) and scheme not in asked:
            return scheme
    return None
