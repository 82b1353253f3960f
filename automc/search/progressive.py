"""Progressive search (AutoMC paper, section 3.3, Algorithm 2)."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from automc.search import register
from automc.search.base import FloatArray, Indices, Limits, Outcome, Reason, SchemeIndices, Searcher, Space, these
from automc.search.evaluator import Evaluator, StepModel
from automc.search.history import History, is_measured, points
from automc.search.linear import SizeModel
from automc.search.pareto import hypervolume_gain, non_dominated_first

LEAST_DROP = 0.001
"""A drop of accuracy below this counts as this."""
NEAR = 0.005
"""A predicted PR that misses γ by this share may meet it."""
EACH, SELDOM = 200, 20
"""Outcomes up to which the evaluator learns at each tell; then once there are a twentieth of the further ones more."""
FEW = 512
"""Candidates that are looked at anew together."""
MANY = 10_000
"""Strategies of a space up to which an ask weighs all of them, and of a larger one so many, drawn anew for each ask."""
RIVALS = 3
"""Other next steps that are remembered beside each one that is asked for."""


@dataclass(frozen=True)
class Choice:
    """How an ask chooses among candidates; the defaults are what paid in `benchmarks/tab/choices.py`."""

    nodes: tuple[tuple[float, float], ...] = ((-1.732, 1 / 6), (0.0, 2 / 3), (1.732, 1 / 6))
    """Where a gain is evaluated, (deviations from the predicted accuracy, weight): its expectation, by quadrature."""
    on_the_way: float = 0.25
    """Weight of the front over all sizes, beside what is gained where the target is met."""
    repeat: float = 0.25
    """What a gain is multiplied with for each one of the same method and HP2 that is chosen or pending."""
    explore: float = 0.05
    """Share of the asked schemes that are drawn from all candidates, whatever is predicted of them."""
    prefixes: int = 10
    """Prefixes sampled an ask from the frontier, and again from everything measured."""
    hurry: float = 0.25
    """Where time is the budget a gain is divided by this power of the step's cost."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Admissible unexplored next steps: `prefixes[prefix[i]]` followed by `strategy[i]`; c of them."""

    prefixes: list[Outcome]
    prefix: npt.NDArray[np.intp]
    strategy: npt.NDArray[np.intp]
    predicted: FloatArray
    """(ACC, removed) of Eq. 4, removed = 1 − PAR / P0: both up; (c, 2)."""
    spread: FloatArray
    """Deviation of ACC; (c,)."""

    def scheme(self, i: int) -> SchemeIndices:
        """Return candidate i as a scheme."""
        return (*self.prefixes[self.prefix[i]].scheme, int(self.strategy[i]))

    def step(self, i: int) -> tuple[float, float]:
        """Return (step AR, step PR) that were predicted for candidate i."""
        before, (accuracy, removed) = self.prefixes[self.prefix[i]], self.predicted[i]
        left = 1 - (before.size or 0.0)
        ar = accuracy / before.accuracy - 1 if before.accuracy else 0.0
        return float(ar), float(1 - (1 - removed) / left if left > 0 else 0.0)


@register
class ProgressiveSearch(Searcher):
    """Extends schemes step by step, by those next steps that F_mo expects on the Pareto front.

    An ask samples prefixes from the frontier and from everything measured, scores every admissible
    unexplored next strategy of each and keeps the Pareto set of Eq. 4 (which prints an argmax over PAR, the
    parameters left; they are minimised). Where the paper takes the parameters from F_mo, here they are
    planned, HP2 corrected by the miss observed with that method, unless `own_size`.
    """

    name: ClassVar[str] = "progressive"
    closes: ClassVar[bool] = True

    def __init__(
        self, space: Space, limits: Limits, seed: int, *,
        own_size: bool = False, evaluator: StepModel | None = None, choice: Choice | None = None,
    ) -> None:  # fmt: skip
        """Search with F_mo, or with another `evaluator`."""
        super().__init__(space, limits, seed)
        self.history = History(space, limits)
        self._evaluator: StepModel = evaluator or Evaluator(space, limits, seed)
        self._lessons: list[int] = []
        """How many outcomes were measured at each tell from which nothing was learned yet."""
        self.choice = choice or Choice()
        self._sizes = None if own_size else SizeModel(space, limits)
        self._reasons: dict[SchemeIndices, Reason] = {}
        self._due = 0
        levels, level = np.unique(np.where(space.closing, -1.0, space.hp2), return_inverse=True)
        kinds = (space.method * len(levels) + level.reshape(-1)) * (space.kind.max() + 2) + space.kind + 1
        self._kind = np.unique(kinds, return_inverse=True)[1].reshape(-1)
        asked = np.flatnonzero(self.space.mask)
        asked = asked[np.argsort(self._kind[asked], kind="stable")]
        self._of_kinds = np.split(asked, np.flatnonzero(np.diff(self._kind[asked])) + 1)
        """The strategies of each kind that may be asked for."""

    def ask(self, k: int, pending: Sequence[SchemeIndices] = ()) -> list[SchemeIndices]:
        """Return up to `k` new schemes, each one step longer than a measured one.

        What is pending counts as chosen: it is expected to come out as F_mo predicts, and its like is asked for less.
        """
        self.history.expect(pending)
        rng = self.history.generator(self.seed)
        candidates = self.candidates(rng)
        chosen = self._choose(candidates, k, rng)
        self._reasons = self._reason(candidates, chosen)
        return [candidates.scheme(i) for i in chosen]

    def why(self, scheme: SchemeIndices) -> Reason | None:
        """Return what F_mo expected of a scheme's last step, and of the best others after the same prefix."""
        return self._reasons.get(scheme)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Add the outcomes to the tree; before the next ask the evaluator is trained on all steps told so far (Eq. 5).

        What is known of `EACH` steps hardly changes by one more: from there on it is trained when there are enough.
        """
        self.history.record(outcomes)
        known = len(self.history.outcomes)
        if known >= self._due:
            self._due = known + max(1, (known - EACH) // SELDOM)
            self._lessons.append(len(self.history.measured()))

    @property
    def evaluator(self) -> StepModel:
        """F_mo, once it has learned what is due: after a resumed search was told everything again, all that at once."""
        if self._lessons:
            places, steps = self._steps()
            lessons, self._lessons = [bisect(places, number - 1) for number in self._lessons], []
            spared = self._evaluator.resume(steps, lessons) if isinstance(self._evaluator, Evaluator) else 0
            for number in lessons[spared:]:
                self._evaluator.learn(steps[:number])
            if self._sizes and steps:
                self._sizes.learn(steps[: lessons[-1]])
        return self._evaluator

    def _steps(self) -> tuple[list[int], list[tuple[Outcome, Outcome]]]:
        """Return the (parent, step) outcomes with figures, and the place of each among what was measured."""
        known, places, steps = self.history.outcomes, [], []
        for place, o in enumerate(self.history.measured()):
            parent = known.get(o.scheme[:-1]) if o.scheme else None
            if parent is not None and o.step_ar is not None and o.step_pr is not None:
                places.append(place)
                steps.append((parent, o))
        return places, steps

    def learned(self) -> bytes | None:
        """Return F_mo's network, which takes long to train again."""
        return self._evaluator.learned() if isinstance(self._evaluator, Evaluator) else None

    def recall(self, learned: bytes) -> None:
        """Take the network of an earlier process."""
        if isinstance(self._evaluator, Evaluator):
            self._evaluator.recall(learned)

    def candidates(self, rng: np.random.Generator) -> Candidates:
        """Sample prefixes and score all their admissible unexplored next steps (Eq. 4).

        A method whose steps failed is left out of some asks.
        """
        among = self._looked_at(rng)
        prefixes, allowed = self._sample(rng, among)
        if among is not None and not prefixes:
            among, (prefixes, allowed) = None, self._sample(rng, None)
        if not prefixes:
            nothing = np.zeros(0, dtype=np.intp)
            return Candidates([], nothing, nothing, np.zeros((0, 2)), np.zeros(0))
        which = these(among)
        likely = allowed & (rng.random(len(self.space.methods)) < self._success())[self.space.method[which]]
        at = prefix, column = np.nonzero(likely if likely.any() else allowed)
        spread = self.evaluator.spread(prefixes, among) * points(prefixes)[:, :1]
        strategy = column if among is None else among[column]
        return Candidates(prefixes, prefix, strategy, self._expected(prefixes, among)[at], spread[at])

    def _looked_at(self, rng: np.random.Generator) -> Indices | None:
        """Return the strategies that an ask weighs, ascending: as many of each kind, and those on the frontier."""
        if len(self.space.mask) <= MANY:
            return None
        each = -(-MANY // len(self._of_kinds))
        drawn = [own if len(own) <= each else rng.choice(own, each, replace=False) for own in self._of_kinds]
        tried = np.array([step for o in self.history.frontier() for step in o.scheme], dtype=np.intp)
        return np.unique(np.concatenate([*drawn, tried]))

    def _expected(self, prefixes: Sequence[Outcome], among: Indices | None) -> FloatArray:
        """Return (ACC, removed) of every strategy, or of those `among` them, after each measured prefix; (p, s, 2)."""
        steps = self.evaluator.predict(prefixes, among).astype(float)
        rows = None if among is None else among[None, :]
        return self._after(prefixes, steps, self._sizes.expected(prefixes, rows) if self._sizes else None)

    def _after(self, prefixes: Sequence[Outcome], steps: FloatArray, removed: FloatArray | None) -> FloatArray:
        """Return (ACC, removed) of steps, (p, s, 2), with the sizes that they are planned to remove, if any, (p, s)."""
        measured = points(prefixes)
        if removed is not None:
            steps[..., 1] = removed / np.maximum(1 - measured[:, 1:], 1e-6)
        return expected(measured, steps)

    def _foreseen(self) -> tuple[npt.NDArray[np.intp], FloatArray]:
        """Return of each pending step after a measured prefix its kind, (q,), and what is expected of it, (q, 2)."""
        pending = [(self.history.outcomes.get(scheme[:-1]), scheme[-1]) for scheme in self.history.pending]
        found = [(o, step) for o, step in pending if o is not None and is_measured(o)]
        if not found:
            return np.zeros(0, dtype=np.intp), np.zeros((0, 2))
        prefixes, last = [o for o, _ in found], np.array([step for _, step in found], dtype=np.intp)
        predicted = self.evaluator.pairs(prefixes, last).astype(float)
        removed = self._sizes.expected(prefixes, last[:, None]) if self._sizes else None
        return self._kind[last], self._after(prefixes, predicted[:, None], removed)[:, 0]

    def _sample(self, rng: np.random.Generator, among: Indices | None) -> tuple[list[Outcome], npt.NDArray[np.bool_]]:
        """Draw prefixes that can be extended, from the frontier first, then from all; (p), (p, s)."""
        number = self.choice.prefixes
        chosen: dict[SchemeIndices, tuple[Outcome, npt.NDArray[np.bool_]]] = {}
        for pool, limit in ((self.history.frontier(), number), (self.history.measured(), 2 * number)):
            for i in rng.permutation(len(pool)):
                if len(chosen) >= limit:
                    break
                allowed = self.history.unexplored(pool[i].scheme, among)
                if allowed.any():
                    chosen[pool[i].scheme] = (pool[i], allowed)
        return [o for o, _ in chosen.values()], np.array([allowed for _, allowed in chosen.values()])

    def _gain(self, predicted: FloatArray, spread: FloatArray, seen: FloatArray) -> FloatArray:
        """Return the expected gain of candidates beside what is seen, given their accuracies' deviations; (c,).

        As shares of what can be gained: of the recommended scheme, of the front beyond the target, where a user gets
        it, and of the front over all sizes, on the way. However little accuracy may be lost, keeping within it counts
        as much as all accuracy does otherwise.
        """
        base, gamma, choice = self.limits.base_accuracy, self.limits.gamma, self.choice
        half = 0.5 * base
        least = half if self.limits.least_accuracy is None else self.limits.least_accuracy
        width = max(base - least, LEAST_DROP)
        total = np.zeros(len(spread))
        for deviations, weight in choice.nodes:
            at = predicted + np.stack([deviations * spread, np.zeros(len(spread))], axis=1)
            gain = (1 - self.limits.front) * self._recommended(at, seen)
            gain += self.limits.front * hypervolume_gain(at, seen, (least, gamma)) / (width * (1 - gamma))
            total += weight * (gain + choice.on_the_way * hypervolume_gain(at, seen, (half, 0.0)) / half)
        return total

    def _recommended(self, at: FloatArray, seen: FloatArray) -> FloatArray:
        """Return how much better than the best seen candidates are by what is recommended, as a share; (c,).

        The most accurate that meets γ; where an accuracy must be kept, the smallest of those that keep it as well.
        """
        base, gamma, least = self.limits.base_accuracy, self.limits.gamma, self.limits.least_accuracy

        def meeting(rows: FloatArray) -> npt.NDArray[np.bool_]:
            return np.asarray((rows[:, 1] >= gamma - NEAR) & (rows[:, 0] >= (least or 0.0)))

        column, worst, width = (0, 0.5 * base, 0.5 * base) if least is None else (1, gamma - NEAR, 1 - gamma)
        best = seen[meeting(seen), column].max(initial=worst)
        return np.where(meeting(at), np.maximum(at[:, column] - best, 0.0), 0.0) / width

    def _success(self) -> FloatArray:
        """Return the chance of each method to take part in an ask, in (0, 1]; 1 where nothing failed.

        The share of its steps that did not fail, one imagined success included, halved for each failure that
        outnumbers the successes: F_mo learns nothing from failures, so a method that always fails stays promising.
        """
        good, bad = self.history.tally
        return np.asarray((1 + good) / (1 + good + bad) * 0.5 ** np.maximum(bad - good, 0))

    def _reason(self, candidates: Candidates, chosen: dict[int, bool]) -> dict[SchemeIndices, Reason]:
        """Return what was expected of the chosen candidates, and of those near the Pareto set that were not chosen."""
        if not chosen:
            return {}
        best = non_dominated_first(candidates.predicted, 4 * max(RIVALS, len(chosen)))
        rest = best[~np.isin(best, list(chosen))]
        gain = self._gain(candidates.predicted[rest], candidates.spread[rest], points(self.history.frontier()))
        rest = rest[np.lexsort((rest, -gain))]
        reasons = {}
        for i, drawn in chosen.items():
            beside = rest[candidates.prefix[rest] == candidates.prefix[i]][:RIVALS]
            rivals = tuple((int(candidates.strategy[j]), *candidates.step(j)) for j in beside)
            reasons[candidates.scheme(i)] = Reason(*candidates.step(i), drawn, rivals)
        return reasons

    def _choose(self, candidates: Candidates, k: int, rng: np.random.Generator) -> dict[int, bool]:
        """Pick up to `k` candidates: the Pareto set, by hypervolume gain and diversity, and a few at random.

        Returns:
            The picked ones, and whether each was drawn at random.
        """
        total = len(candidates.strategy)
        kind = self._kind[candidates.strategy]
        alike, foreseen = self._foreseen()
        predicted = self._credited(candidates)
        seen = np.concatenate([self._met(self.history.frontier()), foreseen])
        shuffled = rng.permutation(total)
        hurry = np.ones(total)
        if self.limits.timed:
            hurry = np.maximum(self.space.cost[candidates.strategy], 1e-3) ** -self.choice.hurry
        worth = Worth(self._gain, replace(candidates, predicted=predicted), shuffled, kind, hurry, self.choice.repeat)
        picked: dict[int, bool] = {}
        while len(picked) < min(k, total):
            drawn = bool(rng.random() < self.choice.explore)
            if drawn:
                # Kinds first: a method with a thousand strategies is no likelier than one with fifty.
                rest = shuffled[~np.isin(shuffled, list(picked))]
                pick = rng.choice(rest[kind[rest] == rng.choice(np.unique(kind[rest]))])
            else:
                pick = worth.best(picked, seen, np.bincount(alike, minlength=self._kind.max() + 1))
            picked[int(pick)] = drawn
            alike = np.append(alike, kind[pick])
            seen = np.concatenate([seen, predicted[[pick]]])
        return picked

    def _credited(self, candidates: Candidates) -> FloatArray:
        """Return what is predicted of candidates, (c, 2); those that will take too long count as `_late` says."""
        pace = self.space.pace
        if pace is None or not candidates.prefixes:
            return candidates.predicted
        times = np.array([self.space.paces(o, self.limits.gamma) for o in candidates.prefixes])
        return self._late(candidates.predicted, times[candidates.prefix, candidates.strategy], pace.limit)

    def _met(self, outcomes: Sequence[Outcome]) -> FloatArray:
        """Return `points`, (n, 2); those that take too long count as `_late` says."""
        pace = self.space.pace
        if pace is None:
            return points(outcomes)
        return self._late(points(outcomes), np.array([self.space.pace_of(o) for o in outcomes]), pace.limit)

    def _late(self, rows: FloatArray, times: FloatArray, limit: float) -> FloatArray:
        """Return (ACC, removed), (n, 2); beyond the time limit as small a part of γ as of the time to be gained.

        Such a model does not meet γ; on the way there a small one that is no faster is no nearer. Times: (n,).
        """
        gained = np.clip((1 - times) / (1 - limit), 0.0, 1.0) if limit < 1 else np.ones(len(times))
        most = np.minimum(self.limits.gamma * gained, self.limits.gamma - 2 * NEAR)
        removed = np.where(times > limit, np.minimum(rows[:, 1], most), rows[:, 1])
        return np.stack([rows[:, 0], removed], axis=1)


class Worth:
    """What candidates are worth beside what is seen, repeats counting less; that of each only falls with more picks.

    So after the first pick only those are looked at anew that were worth most before, until one stays ahead of all.
    """

    def __init__(
        self, gain: Callable[[FloatArray, FloatArray, FloatArray], FloatArray], candidates: Candidates,
        order: npt.NDArray[np.intp], kind: npt.NDArray[np.intp], hurry: FloatArray, repeat: float,
    ) -> None:  # fmt: skip
        """Of equal candidates the first in `order`, (c,), is the best; `hurry`, (c,), is a factor of each."""
        self._gain, self._candidates, self._order, self._repeat = gain, candidates, order, repeat
        self._kind, self._hurry = kind[order], hurry[order]
        self._bound: FloatArray = np.full(len(order), np.inf)

    def best(self, picked: Container[int], seen: FloatArray, repeats: npt.NDArray[np.intp]) -> int:
        """Return the candidate that is worth most, none of those picked; `repeats` is the number of each kind."""
        fresh = np.zeros(len(self._order), dtype=bool)
        while True:
            first = int(np.argmax(self._bound))
            if self._order[first] in picked:
                self._bound[first] = -np.inf
            elif fresh[first]:
                return int(self._order[first])
            else:
                some = self._next(fresh)
                which = self._order[some]
                gain = self._gain(self._candidates.predicted[which], self._candidates.spread[which], seen)
                gone = self._bound[some] == -np.inf
                worth = (gain + 1e-9) * self._repeat ** repeats[self._kind[some]] * self._hurry[some]
                self._bound[some] = np.where(gone, -np.inf, worth)
                fresh[some] = True

    def _next(self, fresh: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
        """Return those to look at anew: at first all, then the most promising of the others."""
        if np.isinf(self._bound).all():
            return np.arange(len(self._bound))
        stale = np.flatnonzero(~fresh)
        few = min(FEW, len(stale))
        return stale[np.argpartition(-self._bound[stale], few - 1)[:few]]


def expected(prefixes: FloatArray, steps: FloatArray) -> FloatArray:
    """Return (ACC, removed) of Eq. 4 for prefixes' (accuracy, PR), (p, 2), and step (AR, PR), (p, n, 2); (p, n, 2).

    ACC = A(seq)·(1 + ÂR); PAR = P(seq)·(1 − P̂R) as a share of the original parameters, removed = 1 − PAR.
    """
    accuracy = prefixes[:, None, 0] * (1 + steps[..., 0])
    left = (1 - prefixes[:, None, 1]) * (1 - steps[..., 1])
    return np.stack([np.clip(accuracy, 0, 1), 1 - np.clip(left, 0, None)], axis=-1)
