"""What will and will not work on a model, before a search: its layers, and every method tried once."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from automc import knowledge, methods
from automc.execution.jobs import Inspection, local_workers, probe_with
from automc.execution.setup import Setup
from automc.execution.workers import Workers
from automc.home import home
from automc.models import structure
from automc.models.keeping import Held
from automc.study.forecast import Forecast
from automc.study.html import share, table
from automc.study.space import BEYOND, lightest, widest
from automc.study.task import Subject
from automc.study.teaching import TEACHER_FILE, Teacher
from automc.surgery.diagnosis import ModelReport
from automc.temporary import prefix
from automc.training.recipe import Recipe
from kg.cards import enumerate_strategies, on_grid

LIMIT_SECONDS = 300.0
"""For looking at the layers, and for each method."""


@dataclass(frozen=True, slots=True)
class MethodReport:
    """What one method can do on a model. Seconds are None where it cannot, or has no code here."""

    method: str
    works: bool
    reason: str
    """Why it does not work; empty where it does."""
    strategies: int
    seconds_per_iteration: float | None
    shortest_seconds: float | None
    longest_seconds: float | None
    """Forecast of its shortest and its longest step on the grid, under the recipe."""
    reach: float | None
    """Share of the parameters that one step can remove at most; None where nobody could tell."""
    within: int
    """Strategies that plan to remove no more than that (HP2)."""
    levels: tuple[float, ...]
    """The removals (HP2) of those."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Of a model on its data under a recipe."""

    model: ModelReport
    methods: tuple[MethodReport, ...]
    seconds: float
    """That the looking took."""

    @property
    def searchable(self) -> int:
        """Strategies of the methods that work, as far as they get on this model."""
        return sum(m.within for m in self.methods if m.works)

    def _repr_html_(self) -> str:
        """Show itself in a notebook: what each method can do, and why not."""
        rows = [
            (m.method, "yes" if m.works else "no", share(m.reach), m.within, m.strategies, m.reason)
            for m in self.methods
        ]
        said = [reason for reason in (self.model.pruning, self.model.activations) if reason]
        return table(("method", "works", "can remove", "strategies", "of", "why not"), rows, said)


def examine(subject: Subject, recipe: Recipe, held: Held = Held()) -> Diagnosis:
    """Look at a model's layers and try each method once: its lightest strategy, one batch, a few iterations.

    Each method runs in a worker process of its own turn, so a crash is a reason and not the end.
    """
    grids = {m.id: tuple(enumerate_strategies(m)) for m in on_grid(knowledge.methods()) if m.hyperparameters}
    able = {name: grid for name, grid in grids.items() if name in methods.registered()}
    began = time.monotonic()
    strategies = [s for grid in able.values() for s in grid]
    with scratch(subject, recipe, held=held) as setup, local_workers(setup) as workers:
        layers = _looked_at(workers)
        found = probe_with(workers, lightest(strategies), widest(strategies), LIMIT_SECONDS)
    n_train = subject.splits.train.n
    forecast = Forecast(found.seconds_per_iteration, found.overhead_seconds, recipe, n_train)
    reports = []
    for name, grid in grids.items():
        reason = "there is no code for it in this installation" if name not in able else found.reasons[name]
        seconds = [] if reason else [forecast.step(strategy) for strategy in grid]
        pace = found.seconds_per_iteration.get(name)
        span = (min(seconds, default=None), max(seconds, default=None))
        far = found.reach.get(name)
        within = [] if reason or far is None else [s.number("HP2") for s in grid if s.number("HP2") <= far + BEYOND]
        levels = tuple(sorted(set(within)))
        reports.append(
            MethodReport(name, reason is None, reason or "", len(grid), pace, *span, far, len(within), levels)
        )
    return Diagnosis(layers, tuple(reports), time.monotonic() - began)


def _looked_at(workers: Workers) -> ModelReport:
    """Look at the layers in a worker, where a limit of time holds: a model's code may hang, or take all memory."""
    workers.submit(Inspection(), LIMIT_SECONDS)
    ((_, outcome),) = workers.collect()
    report = outcome.details.get("report")
    if isinstance(report, ModelReport):
        return report
    why = f"The layers were not looked at ({outcome.status}): {outcome.reason}"
    return ModelReport((), why, None, 0)


@contextmanager
def scratch(
    subject: Subject, recipe: Recipe, run_seed: int = 0, held: Held = Held(), teacher: Teacher | None = None,
    proved: bool = False,
) -> Iterator[Setup]:  # fmt: skip
    """Yield a setup for work outside of any study; its model and its cache vanish at the end.

    Args:
        proved: the model is known to read back in another process, as `structure.check` shows.
    """
    with _folder() as folder:
        base = folder / "base.am"
        shape = subject.example.shape[1:]
        structure.save(base, subject.model, subject.source, metadata={"model": subject.name}, shape=shape)
        if not proved:
            structure.prove_elsewhere(base, subject.source)
        teaching = None if teacher is None else folder / TEACHER_FILE
        if teacher is not None and teaching is not None:
            teacher.save(teaching, tuple(shape))
        yield Setup(
            base=base, data=subject.data, recipe=recipe, cache=folder / "cache", data_cache=home() / "data",
            run_seed=run_seed, keep=held.uncut, still=held.still, device=str(subject.device), teacher=teaching,
        )  # fmt: skip


@contextmanager
def _folder() -> Iterator[Path]:
    """Yield a new folder in the home, which is gone at the end; at the next start where this process is killed."""
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix()}scratch-", dir=home()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
