"""What will and will not work on a model, before a search: its layers, and every method tried once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from automc import knowledge, methods
from automc.execution.jobs import local_workers, probe_with
from automc.execution.setup import Setup
from automc.home import home
from automc.models import structure
from automc.models.diagnosis import ModelReport, diagnose
from automc.models.keeping import Held
from automc.study.forecast import Forecast
from automc.study.space import lightest
from automc.study.task import Subject
from automc.training.recipe import Recipe
from kg.cards import enumerate_strategies


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


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Of a model on its data under a recipe."""

    model: ModelReport
    methods: tuple[MethodReport, ...]

    @property
    def searchable(self) -> int:
        """Strategies of the methods that work."""
        return sum(m.strategies for m in self.methods if m.works)


def examine(subject: Subject, recipe: Recipe, held: Held = Held()) -> Diagnosis:
    """Look at a model's layers and try each method once: its lightest strategy, one batch, a few iterations.

    Each method runs in a worker process of its own turn, so a crash is a reason and not the end.
    """
    grids = {m.id: tuple(enumerate_strategies(m)) for m in knowledge.methods() if m.hyperparameters}
    able = {name: grid for name, grid in grids.items() if name in methods.registered()}
    layers = diagnose(subject.model, subject.example, held.uncut)
    with scratch(subject, recipe, held=held) as setup, local_workers(setup) as workers:
        found = probe_with(workers, lightest([s for grid in able.values() for s in grid]))
    n_train = subject.splits.train.n
    forecast = Forecast(found.seconds_per_iteration, found.overhead_seconds, recipe, n_train)
    reports = []
    for name, grid in grids.items():
        reason = "there is no code for it in this installation" if name not in able else found.reasons[name]
        seconds = [] if reason else [forecast.step(strategy) for strategy in grid]
        pace = found.seconds_per_iteration.get(name)
        span = (min(seconds, default=None), max(seconds, default=None))
        reports.append(MethodReport(name, reason is None, reason or "", len(grid), pace, *span))
    return Diagnosis(layers, tuple(reports))


@contextmanager
def scratch(subject: Subject, recipe: Recipe, run_seed: int = 0, held: Held = Held()) -> Iterator[Setup]:
    """Yield a setup for work outside of any study; its model and its cache vanish at the end."""
    with _folder() as folder:
        base = folder / "base.am"
        shape = subject.example.shape[1:]
        structure.save(base, subject.model, subject.source, metadata={"model": subject.name}, shape=shape)
        structure.prove_elsewhere(base, subject.source)
        yield Setup(
            base=base, data=subject.data, recipe=recipe, cache=folder / "cache", data_cache=home() / "data",
            run_seed=run_seed, keep=held.uncut, still=held.still, device=str(subject.device),
        )  # fmt: skip


@contextmanager
def _folder() -> Iterator[Path]:
    """Yield a new folder in the home, which is gone at the end; those of processes that were killed go now."""
    with FileLock(home() / "scratch.lock"):
        for left in home().glob("scratch-*/"):
            with suppress(Timeout), FileLock(left / "lock", blocking=False):
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix="scratch-", dir=home()))
        lock = FileLock(folder / "lock")
        lock.acquire()
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
