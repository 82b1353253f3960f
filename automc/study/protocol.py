"""Which trials meet what a study was asked for, and which one it recommends: both protocols of AMC (He et al., 2018).

Resource-constrained: the most accurate model within limits on parameters (γ), FLOPs, file size and latency.
Accuracy-guaranteed: the smallest model that loses no more accuracy than allowed. What is asked for holds together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from automc.knowledge.words import in_words
from automc.models.pace import Runtime
from automc.search.base import meets
from automc.search.pareto import non_dominated
from automc.study.limits import MAX_GAMMA, Limit, drop_text
from automc.study.spec import GammaOf, StudySpec
from automc.study.trial import Trial

BYTES = 4
"""Of a float parameter in a file."""
LEAST_AIM = 0.04
"""What a searcher aims to remove where nothing says how much: the smallest step of the grid."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The one trial to take from a front, and why."""

    trial: Trial
    why: str


@dataclass(frozen=True, slots=True)
class Miss:
    """One thing asked for that a trial does not meet, in words, and by how much, as a share of what was asked for."""

    text: str
    excess: float


@dataclass(frozen=True, slots=True)
class Protocol:
    """What a study asks of a scheme, on its own model."""

    gamma: float | None
    """Share of the parameters to remove; None: no limit on parameters."""
    limits: tuple[Limit, ...]
    max_drop: float | None
    """Accuracy that may be lost, in [0, 1); with it the smallest model is recommended."""
    base: Mapping[str, float]
    """The base model's accuracy, params, flops, and, where limited, file_bytes and latency_ms."""
    validation_images: int
    runtime: Runtime = "torch"
    """What latencies are those of."""
    gamma_of: GammaOf = "params"
    """What γ is a share of."""
    measure: str = "accuracy"
    """What says how good a model is: accuracy, or the name of the user's metric."""

    @classmethod
    def of(cls, spec: StudySpec, record: Mapping[str, Any]) -> Protocol:
        """Return the protocol of a study: what its spec asks, measured against the figures of its node in the graph."""
        base = {name.removeprefix("base_"): v for name, v in record.items() if name.startswith("base_")}
        images = int(record["validation_images"])
        return cls(
            spec.gamma, spec.limits, spec.max_drop, base, images, spec.runtime, spec.gamma_of, spec.recipe.figure
        )  # fmt: skip

    @property
    def gamma_alone(self) -> bool:
        """Whether nothing but γ is asked for."""
        return not self.limits and self.max_drop is None

    def limited(self, figure: str) -> bool:
        """Tell whether there is a limit on a figure."""
        return any(limit.figure == figure for limit in self.limits)

    @property
    def noun(self) -> str:
        """What γ is a share of, in words."""
        return "bits" if self.gamma_of == "size" else "parameters"

    def removed(self, trial: Trial) -> float:
        """Return the share of what γ counts that a trial removed."""
        return (trial.size if self.gamma_of == "size" else trial.pr) or 0.0

    @property
    def asked(self) -> str:
        """All that is asked for, in words."""
        parts = [] if self.gamma is None else [f"at least {self.gamma:.0%} of the {self.noun} removed"]
        parts += [_limit_text(limit, self.base[limit.figure]) for limit in self.limits]
        if self.max_drop is not None:
            parts.append(f"at most {drop_text(self.max_drop)} of validation {self.measure} lost")
        return ", ".join(parts)

    @property
    def unmet(self) -> str:
        """What no scheme did, as the end of a sentence that begins with No scheme, or Nothing."""
        return f"removed {self.gamma:.0%} of the {self.noun}" if self.gamma_alone else f"met the target ({self.asked})"

    @property
    def loose(self) -> list[str]:
        """Sentences on the limits that the base model meets already: a smaller one may still be slower."""
        return [
            f"{limit.kind.option} {limit} is looser than the model itself: {limit.kind.text(self.base[limit.figure])}."
            for limit in self.limits
            if limit.most(self.base[limit.figure]) >= self.base[limit.figure]
        ]

    def aim(self, reachable: float = MAX_GAMMA, enough: Mapping[str, float] | None = None) -> float:
        """Return the share of the size that a searcher, which plans in sizes, is to remove; of floats, parameters.

        Of a file what is no parameter stays as it is.

        γ; and where a limit asks for a larger part of its own figure to go, that part, as far as it is `reachable`.

        Args:
            reachable: the largest share that can go.
            enough: share at which a limit is predicted to be met, by its figure, where that is known.
        """
        parts = [(enough or {}).get(limit.figure, self._part(limit)) for limit in self.limits]
        return max(self.gamma or LEAST_AIM, min(max(parts, default=0.0), reachable))

    def _part(self, limit: Limit) -> float:
        """Return the share of its figure that a limit asks to go; of a file, of what its parameters take in it."""
        base, most = self.base[limit.figure], limit.most(self.base[limit.figure])
        rest = max(0.0, base - BYTES * self.base["params"]) if limit.figure == "file_bytes" else 0.0
        return 1 - (most - rest) / (base - rest)

    @property
    def least_accuracy(self) -> float | None:
        """Validation accuracy that must be kept; None: any."""
        return None if self.max_drop is None else self.base["accuracy"] - self.max_drop

    def misses(self, trial: Trial, leave_out: str = "") -> list[Miss]:
        """Return what an `ok` trial does not meet; nothing: it is feasible.

        A figure that was not measured counts where all else is met: a latency is measured only then.

        Args:
            leave_out: a figure whose limit is not looked at.
        """
        found: list[Miss] = []
        removed = self.removed(trial)
        if self.gamma is not None and not meets(removed, self.gamma):
            short = f"{100 * (self.gamma - removed):.2f}pp short of {self.gamma:.0%}"
            found.append(Miss(f"{removed:.2%} of the {self.noun} removed, {short}", _over(1 - removed, 1 - self.gamma)))
        looked_at = [limit for limit in self.limits if limit.figure != leave_out]
        known = [limit for limit in looked_at if getattr(trial, limit.figure) is not None]
        found += [miss for limit in known if (miss := _miss(limit, trial, self.base[limit.figure])) is not None]
        if self.least_accuracy is not None and self.max_drop is not None:
            lost = self.base["accuracy"] - (trial.accuracy or 0.0)
            if lost > self.max_drop + _ROUNDING:
                more = f"{100 * (lost - self.max_drop):.2f}pp more than allowed"
                excess = (lost - self.max_drop) / self.base["accuracy"]
                found.append(Miss(f"{100 * lost:.2f}pp of validation {self.measure} lost, {more}", excess))
            if self.gamma is None and not self.limits and (trial.size or 0.0) <= 0:
                found.append(Miss("no smaller than the model before", -(trial.size or 0.0)))
        return found or [Miss(f"its {m.kind.noun} was not measured", math.inf) for m in looked_at if m not in known]

    def feasible(self, trial: Trial) -> bool:
        """Tell whether a trial is ok and meets all that is asked for."""
        return trial.status == "ok" and trial.pr is not None and not self.misses(trial)

    def front(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the non-dominated feasible trials, smallest removal first; repeats of a point once.

        Of the highest level that any of them has: accuracies after different lengths do not compare.
        """
        meeting = highest([t for t in trials if self.feasible(t)])
        points = np.array([(t.accuracy, t.size) for t in meeting], dtype=float).reshape(-1, 2)
        chosen = [t for t, kept in zip(meeting, non_dominated(points), strict=True) if kept]
        distinct = {(t.accuracy, t.params, t.bits): t for t in reversed(chosen)}
        return sorted(distinct.values(), key=lambda t: (t.size or 0.0, t.ordinal))

    def standard_error(self, accuracy: float) -> float:
        """Return that of an accuracy, a share measured on `validation_images`."""
        return math.sqrt(accuracy * (1 - accuracy) / max(1, self.validation_images))

    def recommended(self, trials: Sequence[Trial]) -> Recommendation | None:
        """Return the trial to take from the front, None without a front.

        Where accuracy is guaranteed the smallest model; else the most accurate one, of equal ones the smaller.
        """
        front = self.front(trials)
        if not front:
            return None
        if self.max_drop is not None:
            change = f"{self.base['accuracy']:.2%} -> {front[-1].accuracy:.2%}, n = {self.validation_images:,}"
            return Recommendation(front[-1], f"the smallest model with {self.asked} ({change})")
        trial = max(front, key=lambda t: (t.accuracy or 0.0, t.size or 0.0))
        within = f"removes at least {self.gamma:.0%} of the {self.noun}" if self.gamma_alone else f"has {self.asked}"
        best = "the most accurate scheme" if self.measure == "accuracy" else f"the scheme of highest {self.measure}"
        return Recommendation(trial, f"{best} that {within}")

    def nearest(self, trials: Sequence[Trial]) -> Trial | None:
        """Return the `ok` trial whose worst miss is the smallest, None where none is ok."""

        def distance(trial: Trial) -> tuple[float, float]:
            excess = [miss.excess for miss in self.misses(trial)]
            return max(excess, default=0.0), sum(excess)

        return min((t for t in trials if t.status == "ok" and t.pr is not None), key=distance, default=None)

    def nearest_text(self, trials: Sequence[Trial]) -> str:
        """Say which trial of a study that met nothing came nearest, and what it misses by how much; "" for none."""
        trial = self.nearest(trials)
        if trial is None:
            return ""
        missed = "; ".join(miss.text for miss in self.misses(trial))
        gone = f"removed {self.removed(trial):.2%} at {trial.accuracy:.2%}"
        head = f"Nearest: trial {trial.ordinal} {gone}: {in_words(trial.scheme)}"
        return f"{head}\nIt misses: {missed}."


def _limit_text(limit: Limit, base: float) -> str:
    printed = limit.kind.text(limit.most(base))
    if limit.of_base:
        return f"at most {limit} of the {limit.kind.noun} ({printed})"
    return f"at most {printed}" if limit.figure == "flops" else f"at most {printed} of {limit.kind.noun}"


def _miss(limit: Limit, trial: Trial, base: float) -> Miss | None:
    """What a trial misses of one limit. A latency counts with half of its spread on top: met, and not by luck."""
    kind, half = limit.kind, 0.0
    value: float = getattr(trial, limit.figure)
    if limit.figure == "latency_ms":
        # What the base model took at the same time: a machine's speed changes with what else it does.
        base, half = trial.base_latency_ms or base, (trial.latency_iqr_ms or 0.0) / 2
    most = limit.most(base)
    if value + half <= most * (1 + _ROUNDING):
        return None
    spread = f" (with half of its spread {kind.text(value + half)})" if half else ""
    return Miss(
        f"{kind.noun} {kind.text(value)}{spread}, {_over(value + half, most):.1%} over the limit of {kind.text(most)}",
        _over(value + half, most),
    )


def _over(value: float, most: float) -> float:
    """By what share a value exceeds its limit."""
    return value / most - 1


def highest(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials of the highest level that there is among them; all where nothing has levels."""
    top = max((t.scheme.level for t in trials), default=0)
    return [t for t in trials if t.scheme.level == top]


def settled(
    record: Mapping[str, Any], protocol: Protocol, trials: Sequence[Trial], total: int | None = None
) -> Recommendation | None:
    """Return what a study recommends: the scheme whose runs were best, if they were of these trials.

    Args:
        record: the study's node.
        protocol: what it asks for.
        trials: all of it, or at least its front and what was saved.
        total: how many there are; None: these.
    """
    saved = record.get("final")
    if saved and saved.get("trials") == (len(trials) if total is None else total):
        trial = next((t for t in trials if t.scheme.id == saved["scheme"]), None)
        if trial is not None:
            return Recommendation(trial, saved["why"])
    return protocol.recommended(trials)
