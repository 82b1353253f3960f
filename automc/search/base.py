"""The contract of a searcher: what it is told, and what it is asked.

A searcher sees strategies as indices into a Space and outcomes as figures; never a model, never a graph.
The life of a search: `ask` → the study executes what it was given, parents first → `tell` with the outcomes of
one ask, in ordinal order. Several asks are under way at once, as many as the study's workers need: what was asked
and not told yet is `pending`, and is named in each ask. Asks are told in the order in which they were made, whatever
finished first. A searcher stores nothing: resuming builds it anew with the same seed and tells it again what it was
told, so `ask` must depend on the seed, on what was told, on what is pending, and on nothing else. What takes long to
learn again the study keeps for it (`learned`, `recall`); without that, or where it does not fit, it asks the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from automc.search.pace import Pace
from kg.schema import Status

FloatArray = npt.NDArray[np.floating]
Indices = npt.NDArray[np.intp]
"""Of strategies of a Space."""
FLOAT = 32.0
"""Bits of a parameter that no quantiser has touched."""
SchemeIndices = tuple[int, ...]
"""A scheme as indices into Space.strategies; () is START. With levels MORE may follow them, see there."""
MORE = -1
"""Where a searcher has `levels` every scheme is executed at a third of its length; one that ends with MORE is then
trained on by another third. So the last level ends with two, and what a scheme is trained on from is its prefix."""


def these(strategies: Indices | None) -> Indices | slice:
    """Return what picks strategies out of an array over all of a Space: None are all."""
    return slice(None) if strategies is None else strategies


def bare(scheme: SchemeIndices) -> SchemeIndices:
    """Return the strategies of a scheme, at whatever level it is."""
    return scheme[: len(scheme) - scheme.count(MORE)]


def level_of(scheme: SchemeIndices) -> int:
    """Return the level of a scheme of a searcher with levels, from 1."""
    return 1 + scheme.count(MORE)


@dataclass(frozen=True, eq=False)
class Space:
    """All strategies a searcher may combine; n of them."""

    strategies: tuple[str, ...]
    """Ids, (n,)."""
    methods: tuple[str, ...]
    """Names of the methods."""
    method: npt.NDArray[np.int64]
    """Index into `methods`, (n,)."""
    embeddings: FloatArray
    """(n, 32)."""
    hp2: FloatArray
    """Planned removal as a share of the original parameters, (n,); NaN where `closing`, 0 for quantisers."""
    cost: FloatArray
    """Relative training cost, (n,)."""
    mask: npt.NDArray[np.bool_]
    """True where a strategy may be asked for, (n,)."""
    task: FloatArray
    """The study's task features, log-scaled and standardised, (7,)."""
    slope: FloatArray | None = None
    """What experience says of each method: a step's AR is −slope·x/(1−x), x being its removal relative to its input;
    never negative, (methods,). None: no experience."""
    closing: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """True where a strategy removes exactly what is missing to γ after its prefix, so that it is a last step, (n,);
    none by default."""
    reach: FloatArray | None = None
    """The most that a step of each method can remove, as a share of the original parameters, (methods,); closing
    strategies keep to it, for the others the mask does. None: no bound."""
    bits: FloatArray = field(default_factory=lambda: np.zeros(0))
    """Mean bits of a weight that quantisers store, (n,); 32 for all others, by default for all."""
    kind: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Of quantisers, which of `kept` is theirs, (n,); -1 for all others, by default for all."""
    kept: tuple[float, ...] = ()
    """Share of M's stored bits that quantisers of each kind leave; see `Outcome.kept`."""
    factors: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """True where a strategy's method writes layers as products, which quantised ones cannot be, (n,)."""

    pace: Pace | None = None
    """How long models are predicted to take, where that is limited; None: nobody knows, or nobody asks."""

    def __post_init__(self) -> None:
        """Fill in that no strategy is closing, and none a quantiser.

        Raises:
            ValueError: strategies without a planned removal are not the closing ones.
        """
        if not len(self.closing):
            object.__setattr__(self, "closing", np.zeros(len(self.mask), dtype=bool))
        if not len(self.kind):
            object.__setattr__(self, "bits", np.full(len(self.mask), FLOAT))
            object.__setattr__(self, "kind", np.full(len(self.mask), -1, dtype=np.int64))
        if not len(self.factors):
            object.__setattr__(self, "factors", np.zeros(len(self.mask), dtype=bool))
        if (np.isnan(self.hp2) != self.closing).any():
            raise ValueError("HP2 must be NaN for closing strategies, whose prefix decides it, and for no other one.")

    @property
    def quantises(self) -> npt.NDArray[np.bool_]:
        """True where a strategy is a quantiser, (n,)."""
        return np.asarray(self.kind >= 0)

    @property
    def rounding(self) -> FloatArray:
        """Squared error of quantisers' weights, relative to their squares, as of a normal distribution's; else 0; (n,).

        That of uniform levels with the best clipping: it falls to a quarter with each bit.
        """
        return np.where(self.quantises, 3 * 4.0**-self.bits, 0.0)

    def planned(
        self, prefixes: Sequence[Outcome], gamma: float, strategy: npt.NDArray[np.intp] | None = None
    ) -> FloatArray:
        """Return the size that strategies plan to remove after measured prefixes, up to γ if closing; (p, n) or (p, s).

        Sizes are shares of M's bits; in a model of floats these are parameters. HP2 are parameters, which a quantiser
        has made smaller; what a quantiser leaves is known. A closing strategy where nothing is missing plans 0.

        Args:
            strategy: which strategies, for each prefix, (p, s), or the same for all, (1, s); None: all, for each.
        """
        which = these(strategy)
        before, grain = sizes(prefixes)[:, None], grains(prefixes)[:, None]
        missing = np.maximum(gamma - before, 0.0)
        if self.pace is not None:
            every = None if strategy is None else np.broadcast_to(strategy, (len(prefixes), strategy.shape[1]))
            missing = np.array(
                [self.missing(o, gamma, None if every is None else every[p]) for p, o in enumerate(prefixes)]
            )
            missing = np.where(np.isfinite(missing), missing, 1 - before)
        found = np.where(self.closing[which], missing, self.hp2[which] * grain)
        if self.kept:
            kept = np.array([self.kept_of(outcome) for outcome in prefixes])
            left = np.take_along_axis(kept, np.broadcast_to(self.kind[which], found.shape), axis=1)
            found = np.where(self.quantises[which], (1 - before) * (1 - left), found)
        return found

    def missing(self, outcome: Outcome, gamma: float, among: Indices | None = None) -> FloatArray:
        """Return the share of M's size that a last step must remove after a measured prefix, by its method; (s,).

        What is missing to γ, or more where a limited time needs it; infinite where a method never meets that.

        Args:
            among: which strategies, (s,); None: all.
        """
        before, grain = float(sizes([outcome])[0]), float(grains([outcome])[0])
        method = self.method if among is None else self.method[among]
        found = np.full(len(method), max(gamma - before, 0.0))
        if self.pace is None:
            return found
        needed = self.pace.missing(self.pace_of(outcome), 1 - (outcome.pr or 0.0), self._used(outcome))
        return np.asarray(np.maximum(found, needed[method] * grain))

    def pace_of(self, outcome: Outcome) -> float:
        """Return the predicted time of a measured model, or where nobody predicted it that of its last method."""
        if outcome.pace is not None or self.pace is None or not outcome.scheme:
            return 1.0 if outcome.pace is None else outcome.pace
        return float(self.pace.at(int(self.method[bare(outcome.scheme)[-1]]), 1 - (outcome.pr or 0.0)))

    def paces(self, outcome: Outcome, gamma: float, among: Indices | None = None) -> FloatArray | None:
        """Return the predicted time after strategies, all or `among` them, as a share of M's; (s,).

        None where time is not limited.
        """
        if self.pace is None:
            return None
        which = these(among)
        gone = self.planned([outcome], gamma, None if among is None else among[None, :])[0]
        gone = np.where(self.quantises[which], 0.0, gone / float(grains([outcome])[0]))
        left = 1 - (outcome.pr or 0.0)
        return self.pace.after(self.pace_of(outcome), left, gone, self.method[which], self._used(outcome))

    def _used(self, outcome: Outcome) -> set[int]:
        """Return the methods that had a part in an outcome."""
        return {int(self.method[step]) for step in bare(outcome.scheme)}

    def kept_of(self, outcome: Outcome) -> tuple[float, ...]:
        """Return the shares that quantisers leave of a prefix's bits; those of M where they were not counted."""
        return outcome.kept or self.kept

    def after(self, outcome: Outcome, step: int, gamma: float) -> Outcome:
        """Return what is planned of a step after a measured or planned outcome: its sizes."""
        gone = float(self.planned([outcome], gamma, np.array([[step]]))[0, 0])
        removed, grain = outcome.size or 0.0, float(grains([outcome])[0])
        pr = (outcome.pr or 0.0) + (0.0 if self.kind[step] >= 0 else gone / grain)
        return replace(outcome, scheme=(*outcome.scheme, step), pr=pr, sr=removed + gone)


_ROUNDING = 1e-4


def meets(removed: float, gamma: float) -> bool:
    """Tell whether a measured removal meets γ. Each step rounds to whole parameters: that much is forgiven."""
    return removed >= gamma - _ROUNDING


@dataclass(frozen=True, slots=True)
class Limits:
    """What a scheme must meet. `gamma` in (0, 1): the size to remove, as a share of M's; for floats its parameters."""

    gamma: float
    base_accuracy: float
    """Accuracy of M on validation, in [0, 1]."""
    max_length: int = 5
    max_removed: float = 0.85
    """Upper bound of ΣHP2."""
    least_accuracy: float | None = None
    """Accuracy on validation that must be kept; None: as much as can be had."""
    _: KW_ONLY
    timed: bool = False
    """Whether the budget is time, so that a step's cost counts."""
    front: float = 0.5
    """Weight of the whole front beyond the target beside what will be recommended of it, in [0, 1]."""

    def accuracy_short(self, accuracy: float) -> float:
        """Return by how much an accuracy falls short of the least one; 0 where there is none."""
        return max(0.0, (self.least_accuracy or 0.0) - accuracy)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One trial as a searcher sees it. `pr` is against M; `step_ar`, `step_pr` against the step's input.

    `sr` is the share of M's bits that went; None: `pr`, as of a model of floats.
    """

    scheme: SchemeIndices
    status: Status
    accuracy: float | None = None
    pr: float | None = None
    step_ar: float | None = None
    step_pr: float | None = None
    seconds: float = 0.0
    reached: bool | None = None
    reason: str = ""
    sr: float | None = None
    kept: tuple[float, ...] = ()
    """Share of its stored bits that a quantiser of each kind would leave, (kinds,); () where that was not counted."""
    pace: float | None = None
    """Its predicted time as a share of M's; None where nobody predicted it."""

    @property
    def size(self) -> float | None:
        """The share of M's size that went: what γ is compared with."""
        return self.pr if self.sr is None else self.sr


def sizes(outcomes: Sequence[Outcome]) -> FloatArray:
    """Return the share of M's size that went in measured outcomes, at most 0.99; (p,)."""
    return np.array([min(o.size or 0.0, 0.99) for o in outcomes], dtype=float)


def grains(outcomes: Sequence[Outcome]) -> FloatArray:
    """Return the mean stored bits of a parameter in measured outcomes, as a share of a float's 32; (p,)."""
    left = 1 - np.array([min(o.pr or 0.0, 0.99) for o in outcomes], dtype=float)
    return np.asarray((1 - sizes(outcomes)) / left)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a searcher asked for a scheme: what it expected of the last step, against its input model."""

    step_ar: float
    step_pr: float
    drawn: bool = False
    """Taken at random, whatever was expected."""
    rivals: tuple[tuple[int, float, float], ...] = ()
    """Other next steps that it weighed for the same prefix, best first: (strategy, step AR, step PR)."""


class Searcher(ABC):
    """Asks for schemes and learns from outcomes; registered by name."""

    name: ClassVar[str]
    closes: ClassVar[bool] = False
    """Whether it can ask for closing strategies; else its space masks them, though it may be told of some."""
    levels: ClassVar[bool] = False
    """Whether it looks at schemes for a part of their length first, and promotes some; see MORE."""

    def __init__(self, space: Space, limits: Limits, seed: int) -> None:
        self.space = space if self.closes else replace(space, mask=space.mask & ~space.closing)
        self.limits = limits
        self.seed = seed

    @abstractmethod
    def ask(self, k: int, pending: Sequence[SchemeIndices] = ()) -> list[SchemeIndices]:
        """Return up to `k` new admissible schemes, none told or pending; an empty list when none is left.

        Parents that were never executed are executed first by the study, as trials of their own. Asking twice, with
        the same pending and without a `tell` in between, gives the same schemes; with more pending, other ones.

        Args:
            pending: what was asked and not told yet, with the parents it needs, in ordinal order.
        """

    @abstractmethod
    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Learn the outcomes of one ask, in ordinal order: what was asked and the parents it needed."""

    def learned(self) -> bytes | None:
        """Return what was learned so far, for `recall`; None where that is nothing new, or can be had again at once."""
        return None

    def recall(self, learned: bytes) -> None:  # noqa: B027 (most searchers have nothing to recall)
        """Take what an earlier process has `learned`, before anything is told; it is used where the same is told."""

    def why(self, scheme: SchemeIndices) -> Reason | None:
        """Return why a scheme of the last `ask` was asked for; None where nothing was predicted."""
        return None
