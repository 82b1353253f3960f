"""Progressive search (AutoMC paper, section 3.3, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from automc.search import register
from automc.search.base import FloatArray, Limits, Outcome, Reason, SchemeIndices, Searcher, Space
from automc.search.evaluator import Evaluator, StepModel
from automc.search.history import History, points
from automc.search.linear import SizeModel
from automc.search.pareto import hypervolume_gain, non_dominated

LEAST_DROP = 0.001
"""A drop of accuracy below this counts as this."""
NEAR = 0.005
"""A predicted PR that misses γ by this share may meet it."""
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
        self.evaluator: StepModel = evaluator or Evaluator(space, limits, seed)
        self.choice = choice or Choice()
        self._sizes = None if own_size else SizeModel(space, limits)
        self._reasons: dict[SchemeIndices, Reason] = {}
        pairs = np.stack([space.method, np.where(space.closing, -1.0, space.hp2), space.kind], axis=1)
        self._kind = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)

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
        """Add the outcomes to the tree and train the evaluator on all steps told so far (Eq. 5)."""
        self.history.record(outcomes)
        known = self.history.outcomes
        steps = [(known[o.scheme[:-1]], o) for o in self.history.measured() if o.scheme and o.scheme[:-1] in known]
        steps = [(parent, o) for parent, o in steps if o.step_ar is not None and o.step_pr is not None]
        self.evaluator.learn(steps)
        if self._sizes and steps:
            self._sizes.learn(steps)

    def candidates(self, rng: np.random.Generator) -> Candidates:
        """Sample prefixes and score all their admissible unexplored next steps (Eq. 4).

        A method whose steps failed is left out of some asks.
        """
        prefixes, allowed = self._sample(rng)
        if not prefixes:
            nothing = np.zeros(0, dtype=np.intp)
            return Candidates([], nothing, nothing, np.zeros((0, 2)), np.zeros(0))
        likely = allowed & (rng.random(len(self.space.methods)) < self._success())[self.space.method]
        prefix, strategy = np.nonzero(likely if likely.any() else allowed)
        spread = self.evaluator.spread(prefixes) * points(prefixes)[:, :1]
        return Candidates(
            prefixes, prefix, strategy, self._expected(prefixes)[prefix, strategy], spread[prefix, strategy]
        )

    def _expected(self, prefixes: Sequence[Outcome]) -> FloatArray:
        """Return (ACC, removed) of every strategy after each measured prefix; (p, n, 2)."""
        steps = self.evaluator.predict(prefixes).astype(float)
        measured = points(prefixes)
        if self._sizes:
            steps[..., 1] = self._sizes.expected(prefixes) / np.maximum(1 - measured[:, 1:], 1e-6)
        return expected(measured, steps)

    def _foreseen(self) -> tuple[npt.NDArray[np.intp], FloatArray]:
        """Return of each pending step after a measured prefix its kind, (q,), and what is expected of it, (q, 2)."""
        before = {o.scheme: o for o in self.history.measured()}
        steps = [scheme for scheme in self.history.pending if scheme[:-1] in before]
        if not steps:
            return np.zeros(0, dtype=np.intp), np.zeros((0, 2))
        prefixes = list(dict.fromkeys(scheme[:-1] for scheme in steps))
        predicted = self._expected([before[prefix] for prefix in prefixes])
        last = np.array([scheme[-1] for scheme in steps])
        return self._kind[last], predicted[[prefixes.index(scheme[:-1]) for scheme in steps], last]

    def _sample(self, rng: np.random.Generator) -> tuple[list[Outcome], npt.NDArray[np.bool_]]:
        """Draw prefixes that can be extended, from the frontier first, then from all; (p), (p, n)."""
        number = self.choice.prefixes
        chosen: dict[SchemeIndices, tuple[Outcome, npt.NDArray[np.bool_]]] = {}
        for pool, limit in ((self.history.frontier(), number), (self.history.measured(), 2 * number)):
            for i in rng.permutation(len(pool)):
                if len(chosen) >= limit:
                    break
                allowed = self.history.unexplored(pool[i].scheme)
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
        good = np.zeros(len(self.space.methods))
        bad = np.zeros(len(self.space.methods))
        for scheme, outcome in self.history.outcomes.items():
            if scheme:
                (good if outcome.status == "ok" else bad)[self.space.method[scheme[-1]]] += 1
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
        picked: dict[int, bool] = {}
        while len(picked) < min(k, total):
            rest = shuffled[~np.isin(shuffled, list(picked))]
            drawn = bool(rng.random() < self.choice.explore)
            if drawn:
                # Kinds first: a method with a thousand strategies is no likelier than one with fifty.
                pick = rng.choice(rest[kind[rest] == rng.choice(np.unique(kind[rest]))])
            else:
                gain = self._gain(predicted[rest], candidates.spread[rest], seen)
                repeats = np.bincount(alike, minlength=self._kind.max() + 1)[kind[rest]]
                pick = rest[np.argmax((gain + 1e-9) * self.choice.repeat**repeats * hurry[rest])]
            picked[int(pick)] = drawn
            alike = np.append(alike, kind[pick])
            seen = np.concatenate([seen, predicted[[pick]]])
        return picked

    def _credited(self, candidates: Candidates) -> FloatArray:
        """Return what is predicted of candidates, (c, 2); those that will take too long do not count as meeting γ."""
        pace = self.space.pace
        if pace is None or not candidates.prefixes:
            return candidates.predicted
        times = np.array([self.space.paces(o, self.limits.gamma) for o in candidates.prefixes])
        late = times[candidates.prefix, candidates.strategy] > pace.limit
        return self._late(candidates.predicted, late)

    def _met(self, outcomes: Sequence[Outcome]) -> FloatArray:
        """Return `points`, (n, 2), of which those that take too long do not count as meeting γ."""
        pace = self.space.pace
        if pace is None:
            return points(outcomes)
        return self._late(points(outcomes), np.array([self.space.pace_of(o) > pace.limit for o in outcomes]))

    def _late(self, rows: FloatArray, late: npt.NDArray[np.bool_]) -> FloatArray:
        """Return (ACC, removed) with less than γ removed where that is late."""
        most = np.where(late, self.limits.gamma - 2 * NEAR, np.inf)
        return np.stack([rows[:, 0], np.minimum(rows[:, 1], most)], axis=1)


def expected(prefixes: FloatArray, steps: FloatArray) -> FloatArray:
    """Return (ACC, removed) of Eq. 4 for prefixes' (accuracy, PR), (p, 2), and step (AR, PR), (p, n, 2); (p, n, 2).

    ACC = A(seq)·(1 + ÂR); PAR = P(seq)·(1 − P̂R) as a share of the original parameters, removed = 1 − PAR.
    """
    accuracy = prefixes[:, None, 0] * (1 + steps[..., 0])
    left = (1 - prefixes[:, None, 1]) * (1 - steps[..., 1])
    return np.stack([np.clip(accuracy, 0, 1), 1 - np.clip(left, 0, None)], axis=-1)


def non_dominated_first(predicted: FloatArray, least: int) -> npt.NDArray[np.intp]:
    """Return the indices of the Pareto set, and of the sets below it until there are `least`."""
    rest = np.arange(len(predicted))
    layers: list[npt.NDArray[np.intp]] = []
    while len(rest) and sum(map(len, layers)) < least:
        best = non_dominated(predicted[rest])
        layers.append(rest[best])
        rest = rest[~best]
    return np.concatenate(layers) if layers else rest
