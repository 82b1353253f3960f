"""One study's result for one scheme."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from automc.execution.outcome import StepOutcome
from automc.models.stored import FLOAT
from automc.search.base import Outcome
from kg.schema import Scheme, Status


@dataclass(frozen=True, slots=True)
class Figures:
    """What is measured of a model. `flops` is 2 × MACs of one image; `accuracy` lies in [0, 1]."""

    accuracy: float
    params: int
    flops: int
    bits: int | None = None
    """Of all parameters as they are stored; None: 32 of each."""

    @property
    def stored(self) -> int:
        """Bits of all parameters as they are stored."""
        return FLOAT * self.params if self.bits is None else self.bits


@dataclass(frozen=True, slots=True)
class Trial:
    """The outcome of a scheme's last step. ar, pr, fr, sr are against M; step_* against the step's input model.

    `sr` is the share of the bits that went, of 32 for each parameter of M: it is `pr` for a model of floats.

    `predicted_step_ar` and `predicted_step_pr` are what the searcher expected when it asked, None where it predicts
    nothing; `drawn`: it took this step at random. `rivals` are the other next steps that it weighed: strategy, and
    predicted step AR and PR.
    """

    ordinal: int
    round: int
    """Number of the ask that it came of."""
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
    bits: int | None = None
    sr: float | None = None
    step_sr: float | None = None
    counts: tuple[int, ...] = ()
    """What the arithmetic of bit widths needs of its model, as of `models.stored.Stored`; () in old trials."""
    seconds: float = 0.0
    iterations: int = 0
    reached: bool | None = None
    predicted_step_ar: float | None = None
    predicted_step_pr: float | None = None
    drawn: bool = False
    rivals: tuple[tuple[str, float, float], ...] = ()
    told: int = 0
    """Rounds that the searcher had been told when it asked."""
    target: str = ""
    """Id of the scheme that was asked for: this one, or one that extends it; "" in studies of old versions."""
    file_bytes: int | None = None
    """Of the saved model; None where the study does not limit it."""
    latency_ms: float | None = None
    """Median time of one forward pass of one image on the study's device; None where it is not limited, or where
    the trial misses something else."""
    latency_iqr_ms: float | None = None
    """Its spread: upper minus lower quartile."""
    base_latency_ms: float | None = None
    """Of the base model, timed in turns with this one."""
    pace: float | None = None
    """Predicted time of one forward pass, as a share of M's; None where nobody predicted it."""
    grid: bool = True
    """False: a step's HP2 was solved for the target, and is not on the paper's grid."""

    @classmethod
    def of(
        cls, ordinal: int, round_number: int, scheme: Scheme, outcome: StepOutcome,
        base: Figures, parent: Figures,
    ) -> Trial:  # fmt: skip
        """Derive a trial's rates from measured figures: AR = (A(S[M]) − A(M))/A(M), PR and FR the share removed."""
        rates: dict[str, Any] = {}
        if outcome.accuracy is not None and outcome.params is not None and outcome.flops is not None:
            for prefix, reference in (("", base), ("step_", parent)):
                rates[f"{prefix}ar"] = outcome.accuracy / reference.accuracy - 1 if reference.accuracy > 0 else None
                rates[f"{prefix}pr"] = 1 - outcome.params / reference.params
                rates[f"{prefix}fr"] = 1 - outcome.flops / reference.flops
            bits = Figures(outcome.accuracy, outcome.params, outcome.flops, outcome.bits).stored
            rates |= {"bits": bits, "sr": size_ratio(bits, base.params), "step_sr": 1 - bits / parent.stored}
        return cls(
            ordinal, round_number, scheme, outcome.status, outcome.reason, outcome.cached, outcome.accuracy,
            outcome.params, outcome.flops, seconds=outcome.seconds, iterations=outcome.iterations,
            reached=outcome.reached, counts=tuple(outcome.details.get("stored", {}).values()), **rates,
        )  # fmt: skip

    @property
    def figures(self) -> Figures | None:
        """What was measured; None unless the trial is ok."""
        if self.accuracy is None or self.params is None or self.flops is None:
            return None
        return Figures(self.accuracy, self.params, self.flops, self.bits)

    @property
    def quantised(self) -> bool:
        """Whether bits went that were not those of removed parameters."""
        return self.sr is not None and self.pr is not None and abs(self.sr - self.pr) > 1e-9

    def as_row(self) -> dict[str, Any]:
        """Plain values; the scheme as its id, and its level."""
        return {**asdict(self), "scheme": self.scheme.id, "level": self.scheme.level}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Trial:
        """Read what `as_row` wrote, also where the graph left out what was None, and of before there was SR."""
        known = cls.__dataclass_fields__
        values = {name: value for name, value in row.items() if name in known and value is not None}
        if "sr" not in values and "pr" in values:
            values |= {"sr": values["pr"], "step_sr": values.get("step_pr"), "bits": FLOAT * values["params"]}
        rivals = tuple((str(strategy), float(ar), float(pr)) for strategy, ar, pr in values.get("rivals", ()))
        counts = tuple(int(count) for count in values.get("counts", ()))
        return cls(**{**values, "scheme": Scheme.parse(values["scheme"]), "rivals": rivals, "counts": counts})

    @property
    def size(self) -> float | None:
        """The share of M's bits that went, which is that of its parameters for a model of floats."""
        return self.pr if self.sr is None else self.sr

    @property
    def removed(self) -> float:
        """The share of M's bits that went, 0 where nothing was measured."""
        return self.size or 0.0

    @property
    def grain(self) -> float:
        """The mean bits of a parameter, as a share of a float's."""
        return (1 - self.removed) / (1 - (self.pr or 0.0))

    def outcome(self, indices: tuple[int, ...], kept: tuple[float, ...] = ()) -> Outcome:
        """Return what a searcher is told of this trial.

        Args:
            kept: share of its bits that quantisers of each kind would leave.
        """
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
            self.sr,
            kept,
            self.pace,
        )


def size_ratio(bits: int, params: int) -> float:
    """Return SR: the share of the bits that went, of 32 for each of M's parameters."""
    return 1 - bits / (FLOAT * params)
