"""One study's result for one scheme, and what a study's trials say together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from automc.execution.outcome import StepOutcome
from automc.search.base import Outcome, meets
from automc.search.pareto import non_dominated, recommend
from kg.schema import Scheme, Status


@dataclass(frozen=True, slots=True)
class Figures:
    """What is measured of a model. `flops` is 2 × MACs of one image; `accuracy` lies in [0, 1]."""

    accuracy: float
    params: int
    flops: int


@dataclass(frozen=True, slots=True)
class Trial:
    """The outcome of a scheme's last step. ar, pr, fr are against M; step_* against the step's input model.

    `predicted_step_ar` and `predicted_step_pr` are what the searcher expected when it asked, None where it predicts
    nothing; `drawn`: it took this step at random. `rivals` are the other next steps that it weighed: strategy, and
    predicted step AR and PR.
    """

    ordinal: int
    round: int
    asked: int
    """Schemes asked for in this round."""
    scheme: Scheme
    status: Status
    reason: str = ""
    cached: bool = False
    accuracy: float | None = None
    params: int | None = None
    flops: int | None = None
    ar: float | None = None
    pr: float | None = None
    fr: float | None = None
    step_ar: float | None = None
    step_pr: float | None = None
    step_fr: float | None = None
    seconds: float = 0.0
    iterations: int = 0
    reached: bool | None = None
    predicted_step_ar: float | None = None
    predicted_step_pr: float | None = None
    drawn: bool = False
    rivals: tuple[tuple[str, float, float], ...] = ()

    @classmethod
    def of(
        cls, ordinal: int, round_number: int, asked: int, scheme: Scheme, outcome: StepOutcome,
        base: Figures, parent: Figures,
    ) -> Trial:  # fmt: skip
        """Derive a trial's rates from measured figures: AR = (A(S[M]) − A(M))/A(M), PR and FR the share removed."""
        rates: dict[str, Any] = {}
        if outcome.accuracy is not None and outcome.params is not None and outcome.flops is not None:
            for prefix, reference in (("", base), ("step_", parent)):
                rates[f"{prefix}ar"] = outcome.accuracy / reference.accuracy - 1 if reference.accuracy > 0 else None
                rates[f"{prefix}pr"] = 1 - outcome.params / reference.params
                rates[f"{prefix}fr"] = 1 - outcome.flops / reference.flops
        return cls(
            ordinal, round_number, asked, scheme, outcome.status, outcome.reason, outcome.cached, outcome.accuracy,
            outcome.params, outcome.flops, seconds=outcome.seconds, iterations=outcome.iterations,
            reached=outcome.reached, **rates,
        )  # fmt: skip

    @property
    def figures(self) -> Figures | None:
        """What was measured; None unless the trial is ok."""
        if self.accuracy is None or self.params is None or self.flops is None:
            return None
        return Figures(self.accuracy, self.params, self.flops)

    def as_row(self) -> dict[str, Any]:
        """Plain values; the scheme as its id."""
        return {**asdict(self), "scheme": self.scheme.id}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Trial:
        """Read what `as_row` wrote, also where the graph left out what was None."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in row.items() if name in known and value is not None}
        rivals = tuple((str(strategy), float(ar), float(pr)) for strategy, ar, pr in values.get("rivals", ()))
        return cls(**{**values, "scheme": Scheme.parse(values["scheme"]), "rivals": rivals})

    def outcome(self, indices: tuple[int, ...]) -> Outcome:
        """Return what a searcher is told of this trial."""
        return Outcome(
            indices,
            self.status,
            self.accuracy,
            self.pr,
            self.step_ar,
            self.step_pr,
            self.seconds,
            self.reached,
            self.reason,
        )


def front(trials: Sequence[Trial], gamma: float) -> list[Trial]:
    """Return the non-dominated `ok` trials with PR ≥ γ, smallest removal first; repeats of a point once."""
    meeting = [t for t in trials if t.status == "ok" and t.pr is not None and meets(t.pr, gamma)]
    points = np.array([(t.accuracy, t.pr) for t in meeting], dtype=float).reshape(-1, 2)
    chosen = [t for t, kept in zip(meeting, non_dominated(points), strict=True) if kept]
    distinct = {(t.accuracy, t.params): t for t in reversed(chosen)}
    return sorted(distinct.values(), key=lambda t: (t.pr or 0.0, t.ordinal))


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The one trial to take from a front, and why."""

    trial: Trial
    why: str


def recommended(trials: Sequence[Trial], gamma: float, validation_images: int) -> Recommendation | None:
    """Return the smallest model on the front within one standard error of its best accuracy; None without a front.

    The standard error is that of a share measured on `validation_images`: closer than that is a tie.
    """
    chosen = front(trials, gamma)
    if not chosen:
        return None
    best = max(t.accuracy or 0.0 for t in chosen)
    error = math.sqrt(best * (1 - best) / max(1, validation_images))
    trial = chosen[recommend(np.array([(t.accuracy, t.pr) for t in chosen], dtype=float), error)]
    why = f"the most accurate scheme that removes at least {gamma:.0%} of the parameters"
    if trial.accuracy != best:
        why = (
            f"the smallest model whose validation accuracy is within one standard error ({error:.2%}, "
            f"n = {validation_images:,}) of the best on the front ({best:.2%})"
        )
    return Recommendation(trial, why)


def nearest_miss(trials: Sequence[Trial]) -> Trial | None:
    """Return the `ok` trial that removed most, for a study that met nothing."""
    return max((t for t in trials if t.status == "ok" and t.pr is not None), key=lambda t: t.pr or 0.0, default=None)
