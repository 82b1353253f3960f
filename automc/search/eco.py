"""Hierarchical evolution: many schemes are trained for a third of their length, few for all of it.

Zhou et al. 2020, "EcoNAS: Finding Proxies for Economical Neural Architecture Search", section 4: three populations,
of which the best move up and are trained on from where their training stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from automc.search import register
from automc.search.base import MORE, Limits, Outcome, SchemeIndices, Searcher, Space, bare, level_of, meets
from automc.search.evolution import TRIES, changed, repaired
from automc.search.history import History, points
from automc.search.pareto import hypervolume_gain, non_dominated
from automc.search.random_search import fill

CHILDREN = 4
"""Schemes of a cycle at the first level. EcoNAS has 16; here a search is some hundred steps, not thousands."""
PROMOTED = {2: 2, 3: 1}
"""Of so many children as many move up to each level."""
RANDOM = 8
"""Schemes at the first level that are drawn at random to begin with."""
LIFE = 10
"""Cycles after which a member of a population is no parent any more, and is not promoted."""
SHARES = {1: 6, 2: 5, 3: 5}
"""How often a parent is of each level (the authors' code)."""


@register
class EcoSearch(Searcher):
    """Evolution on three levels: a third of the length, two, and all of it.

    When CHILDREN schemes of the first level have been told, the best two of all alive there are trained on, and of
    those alive at the second level the best one. Best is who meets γ (and the least accuracy) and adds most
    hypervolume to those of its level that have moved up, so that the last level gets a front and not its accurate
    end alone; who meets nothing is ranked by how much is missing. Children extend or change a parent that has won a
    tournament by Pareto rank in its level, whatever its size, since a scheme that removes too little may be
    extended. Accuracies of two levels are never compared. EcoNAS has accuracy alone, as its networks need not be
    small.
    """

    name: ClassVar[str] = "eco"
    levels: ClassVar[bool] = True

    def __init__(self, space: Space, limits: Limits, seed: int) -> None:
        super().__init__(space, limits, seed)
        self.history = History(self.space, limits)
        """Of the first level, from which every longer scheme goes on."""
        self._told: dict[int, dict[SchemeIndices, Outcome]] = {level: {} for level in SHARES}
        self._born: dict[SchemeIndices, int] = {}
        """Cycle in which a scheme was told at its level."""

    def ask(self, k: int, pending: Sequence[SchemeIndices] = ()) -> list[SchemeIndices]:
        """Return up to `k` schemes: promotions that are due, else children."""
        asked: list[SchemeIndices] = []
        while len(asked) < k:
            waiting = [*pending, *asked]
            self.history.expect([scheme for scheme in waiting if MORE not in scheme])
            total = sum(map(len, self._told.values()))
            rng = np.random.default_rng((self.seed, total, len(waiting)))
            found = self._promotion(waiting) or self._child(rng)
            if found is None:
                break
            asked.append(found)
        return asked

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Put what was measured into the population of its level."""
        self.history.expect(())
        for outcome in outcomes:
            self._told[level_of(outcome.scheme)][outcome.scheme] = outcome
            self._born[outcome.scheme] = self._cycle
        self.history.record([o for o in outcomes if MORE not in o.scheme])

    @property
    def _cycle(self) -> int:
        return len(self._told[1]) // CHILDREN

    def _promotion(self, waiting: Sequence[SchemeIndices]) -> SchemeIndices | None:
        """Return what is to be trained on next; None where nothing is due, or there is nobody."""
        under_way = set(waiting)
        for level, share in PROMOTED.items():
            begun = len(self._told[level]) + sum(level_of(scheme) == level for scheme in under_way)
            members = [o for o in self._alive(level - 1) if (*o.scheme, MORE) not in under_way]
            if begun < self._cycle * share and members:
                above = {*self._told[level], *under_way}
                moved = [o for scheme, o in self._told[level - 1].items() if (*scheme, MORE) in above]
                return (*members[self._best(members, moved)].scheme, MORE)
        return None

    def _alive(self, level: int) -> list[Outcome]:
        """Return the measured members of a level that are not too old and have not moved up, as told."""
        above = self._told.get(level + 1, {})
        return [
            o for scheme, o in self._told[level].items()
            if o.status == "ok" and (*scheme, MORE) not in above and self._cycle - self._born[scheme] <= LIFE
        ]  # fmt: skip

    def _best(self, members: Sequence[Outcome], moved: Sequence[Outcome]) -> int:
        """Return the place of the member to promote; `moved` are those of its level that were promoted before."""
        gamma, base = self.limits.gamma, self.limits.base_accuracy
        gains = hypervolume_gain(points(members), points(moved), (0.5 * base, gamma))

        def standing(place: int) -> tuple[float, float, float]:
            size, accuracy = members[place].size or 0.0, members[place].accuracy or 0.0
            missing = 0.0 if meets(size, gamma) else gamma - size
            return missing + self.limits.accuracy_short(accuracy), -float(gains[place]), -accuracy

        return min(range(len(members)), key=standing)

    def _child(self, rng: np.random.Generator) -> SchemeIndices | None:
        """Return a new scheme of the first level: a parent's child, or one drawn at random; None if all are known."""
        populations = {level: found for level in SHARES if (found := self._alive(level))}
        if populations and len(self._told[1]) >= RANDOM:
            shares = np.array([SHARES[level] for level in populations], dtype=float)
            for _ in range(TRIES):
                level = int(rng.choice(list(populations), p=shares / shares.sum()))
                child = self._varied(self._winner(populations[level], rng), rng)
                if child and not self.history.known(child):
                    return child
        drawn = fill([], 1, self.history, rng)
        return drawn[0] if drawn else None

    def _winner(self, members: Sequence[Outcome], rng: np.random.Generator) -> SchemeIndices:
        """Return the scheme of best Pareto rank of a quarter of a level, drawn at random."""
        rank = ranks(members)
        drawn = rng.choice(len(members), len(members) // 4 + 1, replace=False)
        return bare(members[min(drawn, key=lambda i: rank[i])].scheme)

    def _varied(self, parent: SchemeIndices, rng: np.random.Generator) -> SchemeIndices:
        """Return a parent with one more step, or changed: half the time each."""
        if rng.random() < 0.5:
            further = np.flatnonzero(self.history.unexplored(parent))
            return (*parent, int(rng.choice(further))) if len(further) else ()
        return repaired(changed(parent, self.space, self.limits.max_length, rng), self.history, rng)


def ranks(outcomes: Sequence[Outcome]) -> npt.NDArray[np.int64]:
    """Return the Pareto rank of measured outcomes in accuracy and size, 0 for the non-dominated; (n,)."""
    found, rest, rank = np.zeros(len(outcomes), dtype=np.int64), np.arange(len(outcomes)), 0
    where = points(outcomes)
    while len(rest):
        best = non_dominated(where[rest])
        found[rest[best]] = rank
        rest, rank = rest[~best], rank + 1
    return found
