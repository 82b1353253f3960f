"""What a search has been told, as a tree, and what it may ask next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from automc.search.base import FloatArray, Indices, Limits, Outcome, SchemeIndices, Space, grains, meets, these
from automc.search.pareto import non_dominated

START: SchemeIndices = ()
_ALIKE = 3
"""A method is masked under a prefix after so many equal failures there."""
_DIGITS = 5
"""Sums of HP2 are rounded to this many digits, which keeps the table small whatever values a method brings …"""
_EPS = 5e-5
"""… and this covers the rounding of a whole scheme: 0.005% of the original parameters."""
_LEAST = 1e-3
"""A closing step removes more than this share of the original parameters; what is closer to γ has all but met it."""


def reachable_sums(values: FloatArray, steps: int, limit: float) -> list[FloatArray]:
    """Return the sums of exactly 0, 1, … `steps` values, repeats allowed, within the limit; each ascending."""
    distinct = np.unique(np.round(np.asarray(values, dtype=float), _DIGITS))
    sums: list[FloatArray] = [np.zeros(1)]
    for _ in range(steps):
        grown = np.unique(np.round(np.add.outer(sums[-1], distinct).ravel(), _DIGITS))
        sums.append(grown[grown <= limit + _EPS])
    return sums


def largest_sum(values: Iterable[float], steps: int, limit: float) -> float:
    """Return the largest sum of at most `steps` values, repeats allowed, within the limit; 0 for no values."""
    sums = reachable_sums(np.array(list(values), dtype=float), steps, limit)
    return max((float(found[-1]) for found in sums if len(found)), default=0.0)


class History:
    """All told outcomes, START included, and the admissible continuations of each.

    Admissible is a next strategy when the mask lets it, the scheme is no longer than L, ΣHP2 stays within
    its bound, and the target can still be reached: some sum σ of HP2 values of at most L − length further
    steps has PR + σ ≥ γ and ΣHP2 + σ within the bound, PR being the prefix's measured PR plus the step's
    HP2. A closing strategy removes what is missing to γ, and is admissible where that is something, within ΣHP2 and
    its method's reach; others may count on one to come. Nothing follows it, nor a failed scheme, and a method that
    failed with the same status three times under a prefix is not tried there again.

    With quantisers γ is a size. One of the further steps may be a quantiser: of a prefix without one, what is left
    after σ shrinks to the smallest share that they leave. There is one in a scheme at most, after it HP2 counts as
    parameters have become smaller, and no method that factors follows.

    Where a time is limited and can be predicted, a closing strategy removes as much as that takes, and a step after
    which the limit is out of reach, for it and for what may follow, is not admissible.
    """

    def __init__(self, space: Space, limits: Limits) -> None:
        self.space = space
        self.limits = limits
        start = Outcome(START, "ok", limits.base_accuracy, 0.0, 0.0, 0.0, 0.0, True, kept=space.kept)
        self.outcomes: dict[SchemeIndices, Outcome] = {START: start}
        """In the order told."""
        self.pending: dict[SchemeIndices, None] = {}
        """What was asked and not told yet, as of the last `expect`."""
        self.tally: npt.NDArray[np.int64] = np.zeros((2, len(space.methods)), dtype=np.int64)
        """Steps of each method that went well, and that failed; (2, methods)."""
        self._measured: list[Outcome] = []
        self._frontier: list[Outcome] = []
        self._children: dict[SchemeIndices, list[int]] = {}
        self._failures: dict[SchemeIndices, Counter[tuple[int, str]]] = {}
        self._awaited: dict[SchemeIndices, list[int]] = {}
        self._count([start])
        hp2 = np.where(space.closing, 0.0, space.hp2)
        self._floats = space.mask & ~space.closing & ~space.quantises
        kinds, one = np.unique(space.kind, return_index=True)
        asked = set(space.kind[space.mask & space.quantises].tolist())
        self._kinds = {int(k): int(i) for k, i in zip(kinds, one, strict=True) if int(k) in asked}
        """Kinds of quantisers that may be asked for, and one strategy of each."""
        self._levels, level = np.unique(hp2, return_inverse=True)
        self._level = level.reshape(-1)
        self._exact = reachable_sums(hp2[self._floats], limits.max_length, limits.max_removed)
        self._at_most = [np.unique(np.concatenate(self._exact[: r + 1])) for r in range(limits.max_length + 1)]
        reach = np.full(len(space.methods), np.inf) if space.reach is None else np.asarray(space.reach, dtype=float)
        self._reach = reach[space.method]
        """The most that a closing strategy can remove, (n,)."""
        self._closes = float(self._reach[space.mask & space.closing].max(initial=-np.inf))

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """Add outcomes; one that is told again replaces what was known."""
        told = [outcome for outcome in outcomes if outcome.scheme != START]
        again = any(outcome.scheme in self.outcomes for outcome in told)
        for outcome in told:
            scheme = outcome.scheme
            if scheme not in self.outcomes:
                self._children.setdefault(scheme[:-1], []).append(scheme[-1])
                if outcome.status != "ok":
                    failed = self._failures.setdefault(scheme[:-1], Counter())
                    failed[int(self.space.method[scheme[-1]]), outcome.status] += 1
            self.outcomes[scheme] = outcome
        if again:
            self._measured, self._frontier, self.tally[:] = [], [], 0
        self._count(list(self.outcomes.values()) if again else told)

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        """Add outcomes to what is kept of all: a long history is not looked through anew at each ask."""
        for outcome in outcomes:
            if outcome.scheme:
                self.tally[int(outcome.status != "ok"), self.space.method[outcome.scheme[-1]]] += 1
        new = [outcome for outcome in outcomes if is_measured(outcome)]
        self._measured += new
        ahead = [outcome for outcome in new if not any(_dominates(best, outcome) for best in self._frontier)]
        if ahead:
            self._frontier = _best(self._frontier + ahead)

    def expect(self, pending: Sequence[SchemeIndices]) -> None:
        """Take note of what is under way: it is not new, though nothing is known of it."""
        self.pending = dict.fromkeys(pending)
        self._awaited = {}
        for scheme in self.pending:
            self._awaited.setdefault(scheme[:-1], []).append(scheme[-1])

    def generator(self, seed: int, *use: int) -> np.random.Generator:
        """Return what the next ask draws from: another one for everything that was told, and that is pending."""
        return np.random.default_rng((seed, len(self.outcomes), len(self.pending), *use))

    def known(self, scheme: SchemeIndices) -> bool:
        """Tell whether a scheme was told or is pending."""
        return scheme in self.outcomes or scheme in self.pending

    def measured(self) -> list[Outcome]:
        """Return the outcomes that have figures, START first, then as told."""
        return self._measured

    def frontier(self) -> list[Outcome]:
        """Return the non-dominated of everything measured, START included (Algorithm 2, line 4)."""
        return self._frontier

    def front(self) -> list[Outcome]:
        """Return the non-dominated of what meets the target γ: what the user gets."""
        return _best([o for o in self._measured if o.size is not None and meets(o.size, self.limits.gamma)])

    def removed(self, scheme: SchemeIndices) -> float:
        """Return the size that a scheme removes: measured, or that of its longest measured part and the plan."""
        return self.foreseen(scheme).size or 0.0

    def foreseen(self, scheme: SchemeIndices) -> Outcome:
        """Return what was measured of a scheme, or of its longest measured part with the plans of the other steps."""
        known = len(scheme)
        while (found := self.outcomes.get(scheme[:known])) is None or found.status != "ok" or found.size is None:
            known -= 1
        for step in scheme[known:]:
            found = self.space.after(found, step, self.limits.gamma)
        return found

    def quantised(self, scheme: SchemeIndices) -> bool:
        """Tell whether a step of the scheme is a quantiser."""
        return bool(self.space.quantises[list(scheme)].any())

    def failed(self, scheme: SchemeIndices) -> bool:
        """Tell whether the scheme or anything it extends failed."""
        told = (self.outcomes.get(scheme[:length]) for length in range(1, len(scheme) + 1))
        return any(outcome is not None and outcome.status != "ok" for outcome in told)

    def unexplored(self, prefix: SchemeIndices, among: Indices | None = None) -> npt.NDArray[np.bool_]:
        """Tell which next strategies are admissible and lead to a scheme that is neither told nor pending; (s,).

        Args:
            among: which strategies, (s,); None: all.
        """
        allowed = self.admissible(prefix, among=among)
        known = [*self._children.get(prefix, []), *self._awaited.get(prefix, [])]
        allowed[known if among is None else np.isin(among, known)] = False
        return allowed

    def admissible(
        self, prefix: SchemeIndices, further: int | None = None, among: Indices | None = None
    ) -> npt.NDArray[np.bool_]:
        """Tell which strategies, of all or `among` them, (s,), may come next after the prefix; (s,).

        With `further`, the target must be reached by exactly that many more steps after the next one,
        else by any number that L allows. Schemes that were told are not left out, failed ones are.
        """
        which = these(among)
        mask, room = self.space.mask[which], self.limits.max_length - len(prefix) - 1
        if room < 0 or (further or 0) > room or self.failed(prefix) or self.space.closing[list(prefix)].any():
            return np.zeros(len(mask), dtype=bool)
        reaches = self._reaches(prefix, room, further)[self._level[which]]
        closes = self._closing(prefix, among) if not further else np.zeros_like(reaches)
        allowed = np.where(self.space.closing[which], closes, reaches)
        quantised = self.quantised(prefix)
        for kind, one in self._kinds.items():
            reached = not quantised and self._reaches_after(prefix, one, room, further)
            allowed[self.space.kind[which] == kind] = reached
        if quantised:
            allowed &= ~self.space.factors[which]
        allowed &= mask & self._in_time(prefix, room, among)
        for (method, _), count in self._failures.get(prefix, Counter[tuple[int, str]]()).items():
            if count >= _ALIKE:
                allowed &= self.space.method[which] != method
        failed = [c for c in self._children.get(prefix, []) if self.outcomes[(*prefix, c)].status != "ok"]
        allowed[failed if among is None else np.isin(among, failed)] = False
        return allowed

    def _reaches(self, prefix: SchemeIndices, room: int, further: int | None) -> npt.NDArray[np.bool_]:
        """Tell of each HP2 level whether ΣHP2 holds and γ is reached: by floats alone, or with a quantiser to come."""
        now = self.foreseen(prefix)
        planned = self._used(prefix) + self._levels
        missing = (self.limits.gamma - (now.size or 0.0)) / float(grains([now])[0]) - self._levels
        found = self._sums_reach(missing, planned, room, further)
        if len(self._kinds) and not self.quantised(prefix) and room > 0 and further != 0:
            smallest = min(self.space.kept_of(now)[kind] for kind in self._kinds)
            enough = 1 - (1 - self.limits.gamma) / smallest
            rest = None if further is None else further - 1
            found |= self._sums_reach(enough - (now.size or 0.0) - self._levels, planned, room - 1, rest)
        return found

    def _reaches_after(self, prefix: SchemeIndices, quantiser: int, room: int, further: int | None) -> bool:
        """Tell whether γ is reached after a quantiser, by it alone or by what may follow."""
        then = self.space.after(self.foreseen(prefix), quantiser, self.limits.gamma)
        missing = (self.limits.gamma - (then.size or 0.0)) / float(grains([then])[0])
        return bool(self._sums_reach(np.array([missing]), np.array([self._used(prefix)]), room, further)[0])

    def _sums_reach(
        self, missing: FloatArray, planned: FloatArray, room: int, further: int | None
    ) -> npt.NDArray[np.bool_]:
        """Tell whether a sum of HP2 that fits beside `planned` removes the parameters missing, or a closing step does.

        Of at most `room` steps, or of exactly `further`.
        """
        sums = self._at_most[room] if further is None else self._exact[further]
        found = np.zeros(len(missing), dtype=bool)
        if len(sums):
            fits = np.searchsorted(sums, self.limits.max_removed - planned + _EPS, side="right") - 1
            found = (fits >= 0) & (sums[np.maximum(fits, 0)] >= missing - _EPS)
        if room > 0 if further is None else further == 1:
            most = np.minimum(self.limits.max_removed - planned, self._closes)
            found |= (missing > _LEAST) & (missing <= most + _EPS)
        return found

    def _used(self, prefix: SchemeIndices) -> float:
        """Return ΣHP2 of a prefix without a closing step."""
        return float(np.sum(self.space.hp2[list(prefix)]))

    def _closing(self, prefix: SchemeIndices, among: Indices | None) -> npt.NDArray[np.bool_]:
        """Tell of each strategy, were it closing, whether something is missing to γ that it may remove; (s,)."""
        now = self.foreseen(prefix)
        missing = self.space.missing(now, self.limits.gamma, among) / float(grains([now])[0])
        fits = self._used(prefix) + missing <= self.limits.max_removed + _EPS
        return np.asarray((missing > _LEAST) & fits & (missing <= self._reach[these(among)]))

    def _in_time(self, prefix: SchemeIndices, room: int, among: Indices | None) -> npt.NDArray[np.bool_]:
        """Tell of each strategy whether the time asked for may be met after it, or by the steps for which room is."""
        now, which = self.foreseen(prefix), these(among)
        times = self.space.paces(now, self.limits.gamma, among)
        if times is None or self.space.pace is None:
            return np.ones(len(self.space.mask[which]), dtype=bool)
        if room:
            rows = None if among is None else among[None, :]
            gone = self.space.planned([now], self.limits.gamma, rows)[0] / float(grains([now])[0])
            left = 1 - (now.pr or 0.0) - np.where(self.space.quantises[which], 0.0, gone)
            fastest = self.space.pace.fastest(left, 1 - self.limits.max_removed)
            times = np.where(self.space.closing[which], times, times * fastest)
        return np.asarray(times <= self.space.pace.near * self.space.pace.limit)


def is_measured(outcome: Outcome) -> bool:
    """Tell whether an outcome has figures."""
    return outcome.status == "ok" and outcome.accuracy is not None and outcome.size is not None


def points(outcomes: Sequence[Outcome]) -> FloatArray:
    """Return (accuracy, size removed) of measured outcomes, (n, 2)."""
    return np.array([(o.accuracy, o.size) for o in outcomes], dtype=float).reshape(-1, 2)


def _dominates(one: Outcome, other: Outcome) -> bool:
    """Tell whether a measured outcome is at least as good as another in accuracy and size, and better in one.

    Most outcomes are dominated, and end here: all of a front anew for each of 100,000 takes ten times as long.
    """
    accuracy, than = one.accuracy or 0.0, other.accuracy or 0.0
    size, beyond = one.size or 0.0, other.size or 0.0
    return accuracy >= than and size >= beyond and (accuracy > than or size > beyond)


def _best(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the non-dominated, in the order given."""
    return [outcome for outcome, kept in zip(outcomes, non_dominated(points(outcomes)), strict=True) if kept]
