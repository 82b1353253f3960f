"""The contract of a searcher: what it is told, and what it is asked.

A searcher sees strategies as indices into a Space and outcomes as figures; never a model, never a graph.
The life of a search: `ask` → the study executes what it was given, parents first → `tell` with the outcomes of
one ask, in ordinal order. Several asks are under way at once, as many as the study's workers need: what was asked
and not told yet is `pending`, and is named in each ask. Asks are told in the order in which they were made, whatever
finished first. A searcher stores nothing: resuming builds it anew with the same seed and tells it again what it was
told, so `ask` must depend on the seed, on what was told, on what is pending, and on nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kg.schema import Status

FloatArray = npt.NDArray[np.floating]
SchemeIndices = tuple[int, ...]
"""A scheme as indices into Space.strategies; () is START."""


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
    """Planned removal as a share of the original parameters, (n,); NaN where `closing`."""
    cost: FloatArray
    """Relative training cost, (n,)."""
    mask: npt.NDArray[np.bool_]
    """True where a strategy may be asked for, (n,)."""
    task: FloatArray
    """The study's task features, log-scaled and standardised, (7,)."""
    prior: FloatArray | None = None
    """A learned (step AR, step PR) of each strategy on M, (n, 2), in place of `slope`; None: nothing beats that."""
    slope: FloatArray | None = None
    """What experience says of each method: a step's AR is −slope·x/(1−x), x being its removal relative to its input;
    never negative, (methods,). None: no experience."""
    closing: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """True where a strategy removes exactly what is missing to γ after its prefix, so that it is a last step, (n,);
    none by default."""
    reach: FloatArray | None = None
    """The most that a step of each method can remove, as a share of the original parameters, (methods,); closing
    strategies keep to it, for the others the mask does. None: no bound."""

    def __post_init__(self) -> None:
        """Fill in that no strategy is closing.

        Raises:
            ValueError: strategies without a planned removal are not the closing ones.
        """
        if not len(self.closing):
            object.__setattr__(self, "closing", np.zeros(len(self.mask), dtype=bool))
        if (np.isnan(self.hp2) != self.closing).any():
            raise ValueError("HP2 must be NaN for closing strategies, whose prefix decides it, and for no other one.")

    def planned(self, removed: npt.ArrayLike, gamma: float) -> FloatArray:
        """Return what each strategy plans to remove after prefixes that removed (p,) of M, up to γ if closing; (p, n).

        A closing strategy where nothing is missing plans 0.
        """
        missing = np.maximum(gamma - np.asarray(removed, dtype=float), 0.0)[:, None]
        return np.where(self.closing, missing, self.hp2)


_ROUNDING = 1e-4


def meets(pr: float, gamma: float) -> bool:
    """Tell whether a measured PR meets γ. Each step rounds HP2·P0 to whole parameters: that much is forgiven."""
    return pr >= gamma - _ROUNDING


@dataclass(frozen=True, slots=True)
class Limits:
    """What a scheme must meet. `gamma` in (0, 0.84]: parameters to remove, as a share of the original."""

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
    """One trial as a searcher sees it. `pr` is against M; `step_ar`, `step_pr` against the step's input."""

    scheme: SchemeIndices
    status: Status
    accuracy: float | None = None
    pr: float | None = None
    step_ar: float | None = None
    step_pr: float | None = None
    seconds: float = 0.0
    reached: bool | None = None
    reason: str = ""


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

    def why(self, scheme: SchemeIndices) -> Reason | None:
        """Return why a scheme of the last `ask` was asked for; None where nothing was predicted."""
        return None
