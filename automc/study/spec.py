"""What a study is asked to do, as plain values that the graph can hold."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from automc.bounds import check
from automc.datasets.ref import DataRef
from automc.errors import AutoMCError, StudyError
from automc.execution.cluster import address
from automc.models.pace import Runtime, checked
from automc.study.limits import Limit
from automc.training.recipe import Recipe

GammaOf = Literal["params", "size"]
MAX_REMOVED = 0.85
"""Upper bound of the planned removals of one scheme."""
LEAST_WINDOW, WINDOW = 6, 2
"""Asks under way: so many at least, so that one to three workers search alike, and so many for each worker: with one
for each, workers wait for the slowest step (benchmarks/workers.py)."""
_UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a search may spend: executed steps, or seconds in which a cached step is charged its recorded cost."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise StudyError("A budget is a number of steps, or of seconds.")
        if self.steps is not None:
            check("--budget in steps", self.steps, StudyError)
        else:
            check("--budget", self.seconds, StudyError)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "40steps", "30m", "2h", "90s" or "1h30m".

        Raises:
            StudyError: the text is none of these, or nothing would be left to spend.
        """
        compact = str(text).strip().lower().replace(" ", "")
        steps = re.fullmatch(r"([0-9]{1,18})steps?", compact)
        amount = int(steps.group(1)) if steps else seconds_in(compact)
        if amount is None:
            raise StudyError(f"--budget {str(text)[:40]!r} is not understood. Write 30m, 2h, 90s, 1h30m or 40steps.")
        if not amount:
            raise StudyError(
                f"--budget {str(text)[:40]!r} leaves nothing to spend. Give at least 1step or some seconds."
            )
        return cls(steps=int(amount)) if steps else cls(seconds=amount)

    def __str__(self) -> str:
        if self.steps is not None:
            return f"{self.steps} steps"
        seconds = self.seconds or 0.0
        if seconds < 90:
            return f"{seconds:.3g} s"
        return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def seconds_in(text: str) -> float | None:
    """Read "30m", "2h", "90s" or "1h30m"; None where the text is none of these."""
    compact = text.strip().lower().replace(" ", "")
    parts = re.findall(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)(sec|min|s|m|h|d)", compact)
    if not parts or "".join(a + b for a, b in parts) != compact:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def window_for(workers: int) -> int:
    """Return how many asks must be under way for so many workers to be busy."""
    return max(LEAST_WINDOW, WINDOW * workers)


@dataclass(frozen=True, slots=True)
class StudySpec:
    """One search on one task with one recipe; everything that is needed to resume it."""

    id: str
    model: str
    """What the user named, for people; the model itself is kept as base.am in the study's folder."""
    data: DataRef
    gamma: float | None
    """Share of the parameters to remove, in (0, 0.84], or of their bits, in (0, 0.99]; None: they are not limited."""
    budget: Budget
    recipe: Recipe
    searcher: str = "progressive"
    max_length: int = 5
    seed: int = 0
    run_seed: int = 0
    window: int = 0
    """Asks under way at once; 0: as many as the workers need. Fixed for a study: what its searcher knows when it is
    asked must not depend on how fast which step is, nor on the workers with which it is resumed."""
    keep: tuple[str, ...] = ()
    """Patterns of layers that are neither cut nor trained."""
    keep_shape: tuple[str, ...] = ()
    """Patterns of layers that are not cut, but trained."""
    train_frozen: bool = False
    """Cut and train what the model's factory froze, too."""
    device: str = "cpu"
    workers: int = 1
    cluster: str = ""
    """The Ray cluster whose nodes run the workers: "local", "auto" or "ray://HOST:PORT"; "" for processes here."""
    gpus_per_worker: float = 0.0
    """Cards of the cluster for each worker; 0 for a CPU."""
    deterministic: bool = False
    """On an accelerator, use only kernels that give the same bits each time; on a CPU all do."""
    step_timeout: float | None = None
    """Seconds; None: five times the forecast of the step, at least a minute."""
    cache_bytes: int = 20 * 2**30
    final: bool = True
    """Run the best schemes once more from M, and save the best of these runs; False: save the trial's own model."""
    recover: str = "auto"
    """How long the saved model trains on: "30m", "20epochs", "none"; "auto": while a budget of seconds lasts."""
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
    runtime: Runtime = "torch"
    """What the smaller model is made for: latencies are those of this runtime."""
    grid_only: bool = False
    """Search on the paper's grid alone: no strategies that close the distance to the target, no first trials."""
    front: float = 0.5
    """What the front beyond the target is worth to the search beside the scheme that it will recommend, in [0, 1]."""
    gamma_of: GammaOf = "params"
    """What gamma is a share of: parameters, or the bits in which they are stored."""
    max_drop: float | None = None
    """Validation accuracy that it may lose, in [0, 1), where the smallest model within is to be recommended."""
    teacher_model: str = ""
    """What the user named as the teacher, for people: it is kept as teacher.am in the study's folder; "": M teaches."""

    def __post_init__(self) -> None:
        checked(self.runtime)
        if self.cluster:
            address(self.cluster)
        elif self.gpus_per_worker:
            raise StudyError("--gpus-per-worker says what a worker gets of a cluster: say which with --cluster.")
        if self.gamma_of not in get_args(GammaOf):
            raise StudyError(f"--gamma-of {str(self.gamma_of)[:40]!r} is neither params nor size.")
        if not self.window:
            object.__setattr__(self, "window", window_for(self.workers))
        if self.gamma is None and not self.limits and self.max_drop is None:
            raise StudyError("A study needs a target: --gamma, --max-flops, --max-size, --max-latency or --max-drop.")
        if self.max_drop is not None:
            check("--max-drop", 100 * self.max_drop, StudyError, shown=f"{100 * self.max_drop:g}pp")
        if self.gamma is not None:
            check("--gamma" if self.gamma_of == "params" else "--gamma of the size", self.gamma, StudyError)
        for option, value in (
            ("--max-length", self.max_length), ("--workers", self.workers), ("--seed", self.seed),
            ("--run-seed", self.run_seed), ("--cache-size", self.cache_bytes), ("--front", self.front),
            ("--gpus-per-worker", self.gpus_per_worker),
        ):  # fmt: skip
            check(option, value, StudyError)
        if self.step_timeout is not None:
            check("--step-timeout", self.step_timeout, StudyError)

    @property
    def sized(self) -> bool:
        """Whether fewer bits of a parameter help: the size is asked for, or the file's."""
        size = self.gamma is not None and self.gamma_of == "size"
        return size or any(limit.figure == "file_bytes" for limit in self.limits)

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

    def with_workers(self, workers: int | None, cluster: str | None = None) -> StudySpec:
        """The same study with another number of workers, and a window that is large enough, and on another cluster.

        It stays as it is for None. The cluster "" is this machine.
        """
        spec = self if cluster is None else replace(self, cluster=cluster)
        if workers is None:
            return spec
        return replace(
            spec, workers=workers, window=max(self.window, window_for(workers) if workers > self.window else 0)
        )

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
                "keep_shape": tuple(values.get("keep_shape", ())),
                "only": tuple(values.get("only", ())),
                "limits": tuple(Limit(**limit) for limit in values.get("limits", ())),
            }
            # Once the schemes asked for in a round; such studies go on with asks of one.
            known = {name: value for name, value in values.items() if name != "round_size"}
            # Studies of before there was anything else.
            known = {"grid_only": True, "recover": "none", **known}
            return cls(**{**known, **parts})
        except (TypeError, KeyError, ValueError, AutoMCError) as error:
            raise StudyError(
                f"The study {values.get('id')} was written by another version of AutoMC ({error}). Start a new one."
            ) from None
