"""What a study is asked to do, as plain values that the graph can hold."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from automc.datasets.base import DataRef
from automc.errors import StudyError
from automc.study.limits import MAX_GAMMA, Limit
from automc.training.recipe import Recipe

MAX_REMOVED = 0.85
"""Upper bound of the planned removals of one scheme."""
_UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a search may spend: executed steps, or seconds in which a cached step is charged its recorded cost."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "40steps", "30m", "2h", "90s" or "1h30m".

        Raises:
            StudyError: the text is none of these, or nothing would be left to spend.
        """
        compact = text.strip().lower().replace(" ", "")
        steps = re.fullmatch(r"(\d+)steps?", compact)
        if steps:
            budget = cls(steps=int(steps.group(1)))
        else:
            parts = re.findall(r"(\d+(?:\.\d+)?)(sec|min|s|m|h|d)", compact)
            if not parts or "".join(a + b for a, b in parts) != compact:
                raise StudyError(f"--budget {text!r} is not understood. Write 30m, 2h, 90s, 1h30m or 40steps.")
            budget = cls(seconds=sum(float(amount) * _UNITS[unit] for amount, unit in parts))
        if not (budget.steps or budget.seconds):
            raise StudyError(f"--budget {text!r} leaves nothing to spend. Give at least 1step or some seconds.")
        return budget

    def __str__(self) -> str:
        if self.steps is not None:
            return f"{self.steps} steps"
        seconds = self.seconds or 0.0
        return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


@dataclass(frozen=True, slots=True)
class StudySpec:
    """One search on one task with one recipe; everything that is needed to resume it."""

    id: str
    model: str
    """What the user named, for people; the model itself is kept as base.am in the study's folder."""
    data: DataRef
    gamma: float | None
    """Share of the parameters to remove, in (0, 0.84]; None: parameters are not limited."""
    budget: Budget
    recipe: Recipe
    searcher: str = "progressive"
    max_length: int = 5
    seed: int = 0
    run_seed: int = 0
    round_size: int = 4
    """Schemes asked for in a round; part of the study, so that results do not depend on the workers."""
    keep: tuple[str, ...] = ()
    device: str = "cpu"
    workers: int = 1
    step_timeout: float | None = None
    """Seconds; None: five times the forecast of the step, at least a minute."""
    cache_bytes: int = 20 * 2**30
    final: bool = True
    use_graph: bool = True
    """False: ablation, vectors are learned without the graph's links."""
    use_experience: bool = True
    """False: ablation, vectors are learned without any experience, and the search has no first guess."""
    own_experience: bool = True
    """False: of the experience, only published results count."""
    only: tuple[str, ...] = ()
    """Ablation: the methods whose strategies, links and experience alone are used; () for all."""
    versions: dict[str, str] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()
    """What the smaller model may have of FLOPs, file size and latency."""
    max_drop: float | None = None
    """Validation accuracy that it may lose, in [0, 1), where the smallest model within is to be recommended."""

    def __post_init__(self) -> None:
        if self.gamma is None and not self.limits and self.max_drop is None:
            raise StudyError("A study needs a target: --gamma, --max-flops, --max-size, --max-latency or --max-drop.")
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            raise StudyError(f"--max-drop must lie in [0, 100) points, it is {100 * self.max_drop:g}pp.")
        if self.gamma is not None and not 0 < self.gamma <= MAX_GAMMA:
            raise StudyError(
                f"--gamma must lie in (0, {MAX_GAMMA}], it is {self.gamma:g}: the share of the parameters to remove "
                "(0.3 leaves 70% of them)."
            )
        if self.max_length < 1:
            raise StudyError(f"--max-length must be at least 1, it is {self.max_length}.")
        if self.workers < 1:
            raise StudyError(f"--workers must be at least 1, it is {self.workers}.")
        if self.step_timeout is not None and not self.step_timeout > 0:
            raise StudyError(f"--step-timeout must be above 0 seconds, it is {self.step_timeout:g}.")

    @property
    def ablations(self) -> tuple[str, ...]:
        """What this study goes without, for people and queries; see also `searcher`."""
        gone = (
            ("no graph", self.use_graph),
            ("no experience", self.use_experience),
            ("no own experience", self.own_experience),
        )
        return (*(name for name, used in gone if not used), *(f"only {name}" for name in self.only))

    def with_budget(self, budget: Budget | None) -> StudySpec:
        """The same study with another budget; itself for None."""
        return replace(self, budget=budget) if budget else self

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StudySpec:
        """Read what `as_dict` wrote, also after a trip through JSON.

        Raises:
            StudyError: it was written by an incompatible version.
        """
        try:
            parts = {
                "data": DataRef.from_dict(values["data"]),
                "budget": Budget(**values["budget"]),
                "recipe": Recipe(**values["recipe"]),
                "keep": tuple(values["keep"]),
                "only": tuple(values.get("only", ())),
                "limits": tuple(Limit(**limit) for limit in values.get("limits", ())),
            }
            return cls(**{**values, **parts})
        except (TypeError, KeyError, ValueError) as error:
            raise StudyError(
                f"This study was written by another version of AutoMC ({error}). Start a new one."
            ) from None
