"""The strategies a study may combine, as its searcher sees them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from automc import methods
from automc.models.stored import FLOAT, Stored
from automc.search.base import MORE, FloatArray, Outcome, Reason, Space, bare, level_of
from automc.search.pace import Pace
from automc.study.bits import Kinds, Way, factoring, widening
from automc.study.closing import DIGITS, siblings, solved, straight, template
from automc.study.limits import MAX_GAMMA
from automc.study.trial import Trial
from automc.training.recipe import Recipe
from kg.embedding.vectors import Vectors
from kg.schema import Scheme, Strategy, Task


@dataclass(frozen=True)
class SpaceReport:
    """How many strategies a study has, and why not more."""

    total: int
    without_code: Mapping[str, int]
    """Strategies on the grid whose method cannot be executed here, per method."""
    infeasible: Mapping[str, int]
    """Strategies whose method cannot work on this model, per method."""
    beyond: Mapping[str, int]
    """Strategies that plan to remove more than their method can on this model, per method that works."""
    distinct: int
    """Searchable strategies that differ once lengths are rounded to iterations: of twins, one is asked for."""
    closing: int = 0
    """Strategies off the grid that remove what is missing to the target, of which the same holds."""

    @property
    def searchable(self) -> int:
        """Strategies that can be executed."""
        masked = (self.without_code, self.infeasible, self.beyond)
        return self.total - sum(sum(counts.values()) for counts in masked)


BEYOND = 1e-4
"""By how much a planned removal may exceed what a method can remove: the rounding to whole parameters."""


class StrategySpace:
    """The Space of a study and the way back from its indices to strategies."""

    def __init__(
        self, vectors: Vectors, task: Task, infeasible: Mapping[str, str], recipe: Recipe, n_train: int,
        reach: Mapping[str, float] | None = None, model: Stored | None = None, levels: bool = False,
    ) -> None:  # fmt: skip
        """Mask what cannot run here, and of twins under the recipe all but the first.

        Args:
            infeasible: reason by method, for methods that failed their probe on this model.
            n_train: images that a step trains on.
            reach: share of M's parameters that a step of a method can remove at most; what plans more is masked.
            model: counts of M where its size in bits is asked for; None masks quantisers, which remove no parameter.
            levels: whether schemes are executed at levels.
        """
        self._levels = levels
        self.strategies = tuple(Strategy.parse(identifier) for identifier in vectors.strategies)
        self._index = {strategy: i for i, strategy in enumerate(self.strategies)}
        names = tuple(dict.fromkeys(strategy.method for strategy in self.strategies))
        registry = methods.registered()
        method = np.array([names.index(s.method) for s in self.strategies], dtype=np.int64)
        runs = np.array([name in registry and name not in infeasible for name in names])
        self.kinds, self._model, self._law = Kinds(self.strategies), model, vectors.guess
        kept = () if model is None else self.kinds.kept(model)
        runs_here = runs[method] & ((self.kinds.of < 0) | bool(kept))
        mask = runs_here & first_of_twins(self.strategies, recipe, n_train)
        cost = [registry[s.method].relative_cost(s) if s.method in registry else 0.0 for s in self.strategies]
        hp2 = np.array([s.removal for s in self.strategies])
        most = np.array([(reach or {}).get(name, 1.0) for name in names]) + BEYOND
        far = hp2 > most[method]
        beyond = runs[method] & far
        self.space = Space(
            strategies=vectors.strategies,
            methods=names,
            method=method,
            embeddings=np.asarray(vectors.vectors, dtype=np.float32),
            hp2=hp2,
            cost=np.array(cost),
            mask=mask & ~far,
            task=np.asarray(vectors.scale(task), dtype=np.float32),
            slope=self._slope(task, names, recipe, n_train),
            reach=most,
            bits=self.kinds.bits,
            kind=self.kinds.of,
            kept=kept,
            factors=factoring(self.strategies),
        )
        counts = {name: int(np.sum(method == i)) for i, name in enumerate(names)}
        self._recipe, self._n_train, self._runs, self._distinct = recipe, n_train, runs_here, mask
        self._aim, self._templates, self._ahead = 0.0, tuple[Strategy, ...](), tuple[Strategy, ...]()
        self.report = SpaceReport(
            total=len(self.strategies),
            without_code={n: c for n, c in counts.items() if n not in registry},
            infeasible={n: c for n, c in counts.items() if n in infeasible},
            beyond={n: c for i, n in enumerate(names) if (c := int(np.sum(beyond[method == i])))},
            distinct=int(self.space.mask.sum()),
        )

    def _slope(self, task: Task, names: Sequence[str], recipe: Recipe, n_train: int) -> FloatArray | None:
        """Return what experience says of each method's steps on this task, at the method's usual length here."""
        law, registry = self._law, methods.registered()
        if law is None:
            return None

        def usual(name: str) -> float | None:
            mine = [s for s in self.strategies if s.method == name] if name in registry else []
            lengths = [registry[name].iterations(s, recipe, n_train) for s in mine]
            return float(np.median(lengths)) if lengths else None

        return np.array([law.slope(name, usual(name), task.accuracy) for name in names])

    @property
    def largest(self) -> float:
        """The most that a step on the grid plans to remove; 0 where none may be asked for."""
        return float(max(self.space.hp2[: len(self.strategies)][self._allowed], default=0.0))

    def reachable(self, length: int) -> float:
        """Return the largest share of M's size that schemes of so many steps plan to remove."""
        allowed = self.space.kind[: len(self.strategies)][self._allowed]
        kept = min((self.space.kept[kind] for kind in set(allowed) - {-1}), default=1.0)
        floats, before = (min(MAX_GAMMA, steps * self.largest) for steps in (length, length - 1))
        return max(floats, 1 - (1 - before) * kept if kept < 1 else 0.0)

    def kept(self, trial: Trial) -> tuple[float, ...]:
        """Return the share of its bits that quantisers of each kind would leave of a trial's model; () if unknown."""
        return self.kinds.kept(Stored(*trial.counts)) if self.space.kept and trial.counts else ()

    def outcome(self, trial: Trial) -> Outcome:
        """Return what a searcher is told of a trial."""
        told = trial.outcome(self.indices(trial.scheme), self.kept(trial))
        counted = self.space.pace is not None and self.space.pace.figure == "flops"
        return replace(told, pace=1 - trial.fr) if counted and trial.fr is not None else told

    def allowed(self) -> list[Strategy]:
        """Return the strategies on the grid that may be asked for."""
        return [s for s, allowed in zip(self.strategies, self._allowed, strict=True) if allowed]

    def promising(self) -> list[str]:
        """Return the names of the methods, those first that lose least by experience; as they are without any.

        At equal length: how long the grid lets a method train says nothing of it, and what is chosen trains on.
        """
        return sorted(self.space.methods, key=self._law.slope) if self._law else list(self.space.methods)

    def runnable(self) -> list[Strategy]:
        """Return the strategies on the grid whose method works on this model, whatever they remove; twins once.

        Quantisers are none of them.
        """
        floats = self._distinct & (self.kinds.of < 0)
        return [s for s, runs in zip(self.strategies, floats, strict=True) if runs]

    def first(
        self, aim: float, reach: Mapping[str, float], seconds: Callable[[Strategy], float], most: float | None
    ) -> list[Scheme]:
        """Return what a search begins with: each method straight to the aim, see `closing.straight`.

        Where sizes count: the quantiser that is enough alone, and each method before the most promising one that is
        not, so far that this one then meets the aim.
        """
        floats, order, ways = self.runnable(), self.promising(), self.ways(aim)
        if not ways:
            needed = dict(zip(self.space.methods, self._needed(), strict=True))
            aims = {name: max(aim, float(needed[name])) for name in self.space.methods}
            return straight(floats, aims, reach, seconds, most, order)
        alone = [Scheme((self._longest(way.kind),)) for way in ways if not way.removed][:1]
        ahead = [way for way in ways if way.removed][:1]
        if not ahead:
            return alone
        last = self._longest(ahead[0].kind)
        widens = {s.method for s, more in zip(self.strategies, widening(self.strategies), strict=True) if more}
        way = ahead[0]
        removed = {name: way.widened if name in widens else way.removed for name in self.space.methods}
        before = straight(floats, removed, reach, lambda step: seconds(step) + seconds(last), most, order)
        return [*alone, *(Scheme((*scheme.steps, last)) for scheme in before)]

    def _longest(self, kind: int) -> Strategy:
        """Return the strategy of a kind of quantiser that trains longest."""
        own = [s for s, same in zip(self.strategies, self.kinds.of == kind, strict=True) if same]
        return max(own, key=methods.get(own[0].method).relative_cost)

    @property
    def _allowed(self) -> npt.NDArray[np.bool_]:
        return self.space.mask[: len(self.strategies)]

    def admissible(self) -> dict[str, set[float]]:
        """Return what the strategies that are not masked plan to remove (HP2), by method."""
        chosen = self.allowed()
        return {name: {s.removal for s in chosen if s.method == name} for name in self.space.methods}

    def ways(self, aim: float) -> list[Way]:
        """Return how floats and a quantiser meet the aim, the most promising first; none where only parameters count.

        Of equal widths that of the kind that may be asked for.
        """
        if self._model is None or not self.space.kept:
            return []
        able = set(self.space.kind[: len(self.strategies)][self._allowed])
        return [way for way in self.kinds.ways(self._model, aim, MAX_GAMMA) if way.kind in able]

    def closing_at(self, aim: float) -> StrategySpace:
        """Return this space with strategies off the grid, behind it: those that remove what a prefix has left of `aim`.

        Behind these, where sizes count, those with which a quantiser of each width then meets the aim from the start.
        A strategy off the grid has the vector of its sibling on the grid whose HP2 is nearest to what it removes.
        """
        floats = [s for s, kind in zip(self.strategies, self.kinds.of, strict=True) if kind < 0]
        found = siblings(floats)
        if len(floats) < len(self.strategies):
            found = {t: [self._index[floats[i]] for i in places] for t, places in found.items()}
        near = [min(places, key=lambda i: abs(self.space.hp2[i] - aim)) for places in found.values()]
        one = [places[0] for places in found.values()]
        first = first_of_twins([self.strategies[i] for i in one], self._recipe, self._n_train)
        able = np.array([any(self._runs[i] for i in places) for places in found.values()], dtype=bool)
        old = self.space
        more = copy.copy(self)
        more._aim, more._templates = aim, tuple(found)
        more._index = {**self._index, **{t: len(self.strategies) + n for n, t in enumerate(found)}}
        more.space = replace(
            old,
            strategies=(*old.strategies, *(t.id for t in found)),
            method=np.concatenate([old.method, old.method[one]]),
            embeddings=np.concatenate([old.embeddings, old.embeddings[near]]),
            hp2=np.concatenate([old.hp2, np.full(len(found), np.nan)]),
            cost=np.concatenate([old.cost, old.cost[one]]),
            mask=np.concatenate([old.mask, first & able]),
            closing=np.arange(len(old.strategies) + len(found)) >= len(old.strategies),
            bits=np.concatenate([old.bits, np.full(len(found), float(FLOAT))]),
            kind=np.concatenate([old.kind, np.full(len(found), -1)]),
            factors=np.concatenate([old.factors, old.factors[one]]),
        )
        more.report = replace(self.report, closing=int(np.sum(first & able)))
        return more._ahead_of_quantisers(found, first & able)

    def _ahead_of_quantisers(self, found: Mapping[Strategy, list[int]], able: npt.NDArray[np.bool_]) -> StrategySpace:
        """Add what floats remove before a quantiser of each width, of the templates that may be asked for."""
        widens = widening(self.strategies)
        old, ahead, beside = self.space, list[Strategy](), list[int]()
        for way in self.ways(self._aim):
            for (open_, places), asked in zip(found.items(), able, strict=True):
                strategy = solved(open_, way.widened if widens[places[0]] else way.removed)
                share = strategy.removal
                if way.removed > 0 and asked and strategy not in self._index and share <= self._most(places[0]):
                    ahead.append(strategy)
                    beside.append(min(places, key=lambda i: abs(old.hp2[i] - share)))
        if not ahead:
            return self
        more, total = copy.copy(self), len(old.mask)
        more._ahead = tuple(ahead)
        more._index = {**self._index, **{s: total + n for n, s in enumerate(ahead)}}
        more.space = replace(
            old,
            strategies=(*old.strategies, *(s.id for s in ahead)),
            hp2=np.concatenate([old.hp2, [s.removal for s in ahead]]),
            mask=np.concatenate([old.mask, np.ones(len(ahead), dtype=bool)]),
            closing=np.concatenate([old.closing, np.zeros(len(ahead), dtype=bool)]),
            method=np.concatenate([old.method, old.method[beside]]),
            embeddings=np.concatenate([old.embeddings, old.embeddings[beside]]),
            cost=np.concatenate([old.cost, old.cost[beside]]),
            bits=np.concatenate([old.bits, old.bits[beside]]),
            kind=np.concatenate([old.kind, old.kind[beside]]),
            factors=np.concatenate([old.factors, old.factors[beside]]),
        )
        return more

    def _most(self, place: int) -> float:
        """The most that a step of a strategy's method can remove."""
        return 1.0 if self.space.reach is None else float(self.space.reach[self.space.method[place]])

    def with_pace(self, pace: Pace) -> StrategySpace:
        """Return this space, whose closing steps meet a limit on time, or on FLOPs, too, where it is predicted."""
        more = copy.copy(self)
        more.space = replace(self.space, pace=pace)
        return more

    @property
    def enough(self) -> dict[str, float]:
        """The least share of M's size with whose removal one step is predicted to come near a limit, by its figure.

        All of it where no step does: then several must, and who removes more is nearer. Empty: nothing is predicted.
        """
        if self.space.pace is None:
            return {}
        need = self._needed()
        able = np.zeros(len(need), dtype=bool)
        able[self.space.method[: len(self.strategies)][self._runs]] = True
        return {self.space.pace.figure: float(need[able & (need <= MAX_GAMMA)].min(initial=1.0))}

    def _needed(self) -> FloatArray:
        """What one step of each method must remove of M to meet the limit on time, 0 without one; (methods,)."""
        pace = self.space.pace
        return np.zeros(len(self.space.methods)) if pace is None else pace.missing(1.0, 1.0)

    def step(self, index: int, removed: float = 0.0, grain: float = 1.0, before: Outcome | None = None) -> Strategy:
        """Return the strategy behind an index; one that closes removes what `removed` has left of the aim.

        Args:
            removed: share of M's size that the steps before have removed, as measured.
            grain: mean bits of a parameter then, as a share of a float's.
            before: outcome of those steps, None for none; only a limit on time asks for it.
        """
        if index < len(self.strategies):
            return self.strategies[index]
        if index >= len(self.strategies) + len(self._templates):
            return self._ahead[index - len(self.strategies) - len(self._templates)]
        missing = max(0.0, self._aim - removed) / grain
        if self.space.pace is not None:
            start = Outcome((), "ok", None, 0.0)
            missing = float(self.space.missing(before or start, self._aim)[index]) / grain
        strategy = solved(self._templates[index - len(self.strategies)], missing)
        # On the grid it would be that strategy, of which the searcher was told under another index.
        return solved(strategy, missing + 10.0**-DIGITS) if strategy in self._index else strategy

    def scheme(
        self, indices: tuple[int, ...], removed: float = 0.0, grain: float = 1.0, before: Outcome | None = None
    ) -> Scheme:
        """Return the scheme behind indices; `removed`, `grain` and `before` of all but its last step, see `step`."""
        level = level_of(indices) if self._levels else 0
        return Scheme(tuple(self.step(i, removed, grain, before) for i in bare(indices))).at(level)

    def expected(
        self, reason: Reason | None, removed: float = 0.0, grain: float = 1.0, before: Outcome | None = None
    ) -> dict[str, Any]:
        """Return what a searcher expected of a step as fields of its trial; none where it predicts nothing."""
        if reason is None:
            return {}
        return {
            "predicted_step_ar": reason.step_ar,
            "predicted_step_pr": reason.step_pr,
            "drawn": reason.drawn,
            "rivals": tuple((self.step(i, removed, grain, before).id, ar, pr) for i, ar, pr in reason.rivals),
        }

    def indices(self, scheme: Scheme) -> tuple[int, ...]:
        """Return the indices of a scheme of this space; a step off the grid is one that closes."""
        steps = (self._index[step if step in self._index else template(step)] for step in scheme.steps)
        return (*steps, *(MORE,) * (scheme.level - 1))

    def on_grid(self, scheme: Scheme) -> bool:
        """Tell whether all steps of a scheme are strategies of the paper's grid."""
        return all(self._index.get(step, len(self.strategies)) < len(self.strategies) for step in scheme.steps)


def first_of_twins(strategies: Sequence[Strategy], recipe: Recipe, n_train: int) -> npt.NDArray[np.bool_]:
    """Tell of each strategy whether none before it is the same step under the recipe; False without code, (n,)."""
    registry, seen = methods.registered(), set[tuple[object, ...]]()
    first = np.zeros(len(strategies), dtype=bool)
    for i, strategy in enumerate(strategies):
        if strategy.method in registry:
            signature = registry[strategy.method].signature(strategy, recipe, n_train)
            first[i] = signature not in seen
            seen.add(signature)
    return first


def widest(strategies: Iterable[Strategy]) -> dict[str, Strategy]:
    """Return a strategy of each executable method that may take most of a layer (HP6, where a method has it)."""
    registry = methods.registered()

    def limit(strategy: Strategy) -> float:
        value = dict(strategy.settings).get("HP6", 1.0)
        return value if isinstance(value, float | int) else 1.0

    found: dict[str, Strategy] = {}
    for strategy in strategies:
        if strategy.method in registry and limit(strategy) > limit(found.setdefault(strategy.method, strategy)):
            found[strategy.method] = strategy
    return found


def lightest(strategies: Iterable[Strategy]) -> dict[str, Strategy]:
    """Return the lightest strategy of each executable method: the smallest HP2, then the shortest."""
    registry = methods.registered()

    def weight(strategy: Strategy) -> tuple[float, float]:
        return strategy.removal, registry[strategy.method].relative_cost(strategy)

    found: dict[str, Strategy] = {}
    for strategy in strategies:
        if strategy.method in registry:
            known = found.setdefault(strategy.method, strategy)
            if weight(strategy) < weight(known):
                found[strategy.method] = strategy
    return found
