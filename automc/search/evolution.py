"""Multi-objective evolution: NSGA-II (Deb et al., 2002), by pymoo, on schemes of variable length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pymoo.core.crossover import Crossover
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.mating import Mating
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from automc.search import register
from automc.search.base import Limits, Outcome, SchemeIndices, Searcher, Space, meets
from automc.search.history import History
from automc.search.random_search import fill

POPULATION = 20
"""Schemes that survive; until so many were measured, schemes are drawn at random."""
TRIES = 20
"""Matings in a round, at most, before what is missing is drawn at random."""
END = -1
"""Gene that follows the last step of a scheme shorter than L."""

Genes = npt.NDArray[np.int64]
"""Schemes as rows of L genes, (m, L)."""


@register
class EvolutionSearch(Searcher):
    """NSGA-II on accuracy and PR, with PR ≥ γ and the least accuracy as a constraint (Deb's constrained domination).

    A generation is one ask: all that it executed, parents included, competes with the survivors. Schemes are
    spliced at random points, steps are replaced, inserted and removed, and steps that are not admissible
    are replaced by one of the same method, or cut off with all that follows.
    """

    name: ClassVar[str] = "evolution"

    def __init__(self, space: Space, limits: Limits, seed: int) -> None:
        super().__init__(space, limits, seed)
        self.history = History(self.space, limits)
        self._problem = Problem(n_var=limits.max_length, n_obj=2, n_ieq_constr=1)
        self._survival = RankAndCrowding()
        self._mating = Mating(
            TournamentSelection(func_comp=winners),
            Splice(),
            Change(self.space),
            repair=Admissible(self.history),
            eliminate_duplicates=Known(self.history),
            n_max_iterations=TRIES,
        )
        self._population = Population()

    def ask(self, k: int, pending: Sequence[SchemeIndices] = ()) -> list[SchemeIndices]:
        """Return up to `k` new schemes, children of the population as far as they are new."""
        self.history.expect(pending)
        rng = self.history.generator(self.seed)
        asked: list[SchemeIndices] = []
        if len(self._population) >= POPULATION:
            children = self._mating.do(self._problem, self._population, k, random_state=rng)
            asked = [decode(child.X) for child in children]
        return fill(asked, k, self.history, rng)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Let what was measured compete with the population."""
        self.history.expect(())
        rng = self.history.generator(self.seed, 1)
        self.history.record(outcomes)
        figures = [(o.scheme, o.accuracy, o.size) for o in outcomes if o.status == "ok"]
        measured = [(s, a, pr) for s, a, pr in figures if a is not None and pr is not None]
        if not measured:
            return
        gamma, short = self.limits.gamma, self.limits.accuracy_short
        born = Population.new(
            X=encode((s for s, _, _ in measured), self.limits.max_length),
            F=np.array([(-a, -pr) for _, a, pr in measured]),
            G=np.array([[max(0.0 if meets(pr, gamma) else gamma - pr, short(a))] for _, a, pr in measured]),
        )
        everyone = Population.merge(self._population, born)
        self._population = self._survival.do(self._problem, everyone, n_survive=POPULATION, random_state=rng)


def encode(schemes: Iterable[SchemeIndices], length: int) -> Genes:
    """Return schemes as genes."""
    return np.array([(*scheme, *(END,) * (length - len(scheme))) for scheme in schemes], dtype=np.int64)


def decode(genes: Genes) -> SchemeIndices:
    """Return the scheme of one row of genes."""
    return tuple(int(gene) for gene in genes if gene != END)


def winners(population: Any, pairs: npt.NDArray[np.intp], **_: Any) -> npt.NDArray[np.intp]:
    """Return the winner of each pair, (t, 1): less violation, then a better front, then more space around it."""

    def loses_by(index: int) -> tuple[float, float, float]:
        one = population[index]
        return float(one.CV[0]), one.get("rank") or 0, -(one.get("crowding") or 0.0)

    return np.array([[min(pair, key=loses_by)] for pair in pairs])


class Splice(Crossover):  # type: ignore[misc]
    """The first steps of one parent and the last of the other, cut at random points."""

    def __init__(self) -> None:
        super().__init__(n_parents=2, n_offsprings=2)

    def _do(self, problem: Problem, X: Genes, *_: Any, random_state: np.random.Generator, **__: Any) -> Genes:
        """Return the children, (2, matings, L), of parents of that shape."""
        length = problem.n_var
        children: tuple[list[SchemeIndices], list[SchemeIndices]] = ([], [])
        for one, other in zip(*X, strict=True):
            a, b = decode(one), decode(other)
            i, j = (int(random_state.integers(len(scheme) + 1)) for scheme in (a, b))
            children[0].append((a[:i] + b[j:])[:length])
            children[1].append((b[:j] + a[i:])[:length])
        return np.stack([encode(schemes, length) for schemes in children])


class Change(Mutation):  # type: ignore[misc]
    """Each step replaced with chance 1/L, half the time within its method; one inserted, one removed, with 1/L each."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self._space = space

    def _do(self, problem: Problem, X: Genes, *_: Any, random_state: np.random.Generator, **__: Any) -> Genes:
        """Return changed schemes, (m, L)."""
        return encode((changed(decode(row), self._space, problem.n_var, random_state) for row in X), problem.n_var)


def changed(scheme: SchemeIndices, space: Space, length: int, rng: np.random.Generator) -> SchemeIndices:
    """Return a scheme of at most `length` steps, changed at random as `Change` says; it may not be admissible."""
    steps, every, chance = list(scheme), np.flatnonzero(space.mask), 1 / length
    for i, step in enumerate(steps):
        if rng.random() < chance:
            own = every[space.method[every] == space.method[step]]
            steps[i] = int(rng.choice(own if rng.random() < 0.5 and len(own) else every))
    if rng.random() < chance and len(steps) < length:
        steps.insert(int(rng.integers(len(steps) + 1)), int(rng.choice(every)))
    if rng.random() < chance and len(steps) > 1:
        steps.pop(int(rng.integers(len(steps))))
    return tuple(steps)


def repaired(scheme: SchemeIndices, history: History, rng: np.random.Generator) -> SchemeIndices:
    """Return a scheme with steps that may not be asked replaced by ones of the same method, or cut off there."""
    kept: SchemeIndices = ()
    method = history.space.method
    for step in scheme:
        allowed = history.admissible(kept)
        if not allowed[step]:
            alike = np.flatnonzero(allowed & (method == method[step]))
            if not len(alike):
                break
            step = int(rng.choice(alike))
        kept = (*kept, step)
    return kept


class Admissible(Repair):  # type: ignore[misc]
    """Replaces or cuts off steps that may not be asked."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    def _do(self, problem: Problem, X: Genes, random_state: np.random.Generator, **_: Any) -> Genes:
        """Return repaired schemes, (m, L)."""
        return encode((repaired(decode(row), self._history, random_state) for row in X), problem.n_var)


class Known(DuplicateElimination):  # type: ignore[misc]
    """Leaves out schemes that were told or are pending, START, and repeats."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    def _do(self, pop: Any, other: Any, is_duplicate: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Tell of each of `pop` whether it is told or pending, in `other`, or earlier in `pop`."""
        seen = {*self._history.outcomes, *self._history.pending} | {
            decode(one.X) for one in (() if other is None else other)
        }
        for i, one in enumerate(pop):
            scheme = decode(one.X)
            is_duplicate[i] = scheme in seen
            seen.add(scheme)
        return is_duplicate
