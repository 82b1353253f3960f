"""The whole scheme once more from M, on all training images but validation: the model that a user gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from automc import methods
from automc.execution.monitor import Monitor
from automc.execution.outcome import StepOutcome
from automc.execution.setup import Bench, Setup
from automc.execution.step import describe, execute, of_step, run_step
from automc.methods.base import StepContext
from automc.models import structure
from automc.training import evaluate
from kg.schema import Scheme


@dataclass(frozen=True, slots=True)
class Final:
    """A job: execute a whole scheme and save the model to `out`."""

    scheme: Scheme
    out: Path
    metadata: Mapping[str, Any] = field(default_factory=dict)
    everything: bool = True
    """Train on all images but validation; False: on the recipe's fraction, like a step of a search."""
    run_seed: int | None = None
    """Another one than the study's."""


class _Whole(Monitor):
    """Turns the progress of single steps into that of a whole scheme."""

    def __init__(self, inner: Monitor, planned: list[int], progress: Callable[[int, int], None] | None) -> None:
        self._inner = inner
        self._planned = planned
        self._progress = progress
        self._step = -1
        super().__init__()

    def begin(self) -> None:
        super().begin()
        self._inner.begin()
        self._step += 1

    def progress(self, done: int, of: int) -> None:
        before = sum(self._planned[: self._step - 1])
        done, of = before + done, max(before + of, sum(self._planned))
        self._inner.progress(done, of)
        if self._progress is not None:
            self._progress(done, of)


def final(
    setup: Setup,
    scheme: Scheme,
    out: Path,
    metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    everything: bool = True,
    run_seed: int | None = None,
) -> StepOutcome:
    """Execute a scheme from M, save the model and return its figures.

    Trains on everything but validation, or on the recipe's fraction where not `everything`.
    `seconds` and `iterations` are of all steps, the figures of the model that was saved; details hold the
    outcome of every step. The artefact's metadata are recipe, scheme, seed, data and figures, and what the
    caller adds (graph ids …), which wins. Where a step does not end well, nothing is written.
    `progress` is called with the iterations done and in all of the scheme. `run_seed` takes the place of the setup's.

    Raises:
        EnvironmentFault: the file cannot be written; what was there is left as it was.
    """
    return run_final(setup.open(), Final(scheme, out, metadata or {}, everything, run_seed), Monitor(), progress)


def run_final(
    bench: Bench, job: Final, monitor: Monitor, progress: Callable[[int, int], None] | None = None
) -> StepOutcome:
    """Run the job: see `final`. Every step at full length, also of a scheme that a search looked at for less."""
    job = replace(job, scheme=job.scheme.full)
    original = execute(bench, Scheme(), monitor)
    seed = bench.setup.run_seed if job.run_seed is None else job.run_seed

    def prepare(scheme: Scheme, monitor: Monitor) -> StepContext:
        return (bench.final_context if job.everything else bench.context)(scheme, monitor, seed)

    context = prepare(job.scheme, monitor)
    planned = [methods.get(s.method).iterations(s, context.recipe, context.data.n) for s in job.scheme.steps]
    whole = _Whole(monitor, planned, progress)
    model, outcome = bench.model, replace(original, cached=False, seconds=0.0, iterations=0)
    steps: list[dict[str, Any]] = []
    for length, strategy in enumerate(job.scheme.steps, 1):
        prefix = Scheme(job.scheme.steps[:length])
        outcome, after = run_step(model, strategy, prepare(prefix, whole), bench, whole)
        steps.append({"strategy": strategy.id, **outcome.as_dict()})
        if after is None:
            return replace(outcome, reason=of_step(prefix, outcome.reason))
        model = after
    outcome = replace(
        outcome,
        seconds=sum(step["seconds"] for step in steps),
        iterations=sum(step["iterations"] for step in steps),
        reached=all(step["reached"] for step in steps),
        reason="; ".join(f"step {n}: {step['reason']}" for n, step in enumerate(steps, 1) if step["reason"]),
        details={"steps": steps},
    )
    about = {
        **describe(bench, job.scheme, outcome),
        "recipe": context.recipe.as_dict(),
        "run_seed": seed,
        "original_figures": {name: getattr(original, name) for name in ("accuracy", "params", "flops")},
        "seconds": outcome.seconds,
        **job.metadata,
    }
    structure.save(job.out, model, bench.source, metadata=about, shape=bench.example.shape[1:])
    return outcome


def accuracy_on_test(setup: Setup, model: Path | None = None) -> float | None:
    """Read a saved model (None: M) and return its accuracy or metric in [0, 1] on the test images; None without any.

    For the end of a study only.
    """
    bench = setup.open()
    if bench.splits.test is None:
        return None
    network = bench.model if model is None else structure.read(model).model.to(bench.device)
    return evaluate.score(network, bench.dataset.data(bench.splits.test, bench.device), setup.recipe.metric)
