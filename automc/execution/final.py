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
from automc.execution.step import execute, run_step
from automc.models import structure
from automc.training import evaluate
from kg.schema import Scheme


@dataclass(frozen=True, slots=True)
class Final:
    """A job: execute a whole scheme and save the model to `out`."""

    scheme: Scheme
    out: Path
    metadata: Mapping[str, Any] = field(default_factory=dict)


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
) -> StepOutcome:
    """Execute a scheme from M on everything but validation, save the model and return its figures.

    `seconds` and `iterations` are of all steps, the figures of the model that was saved; details hold the
    outcome of every step. The artefact's metadata are recipe, scheme, seed, data and figures, and what the
    caller adds (graph ids …), which wins. Where a step does not end well, nothing is written.
    `progress` is called with the iterations done and in all of the scheme.

    Raises:
        EnvironmentFault: the file cannot be written; what was there is left as it was.
    """
    return run_final(setup.open(), Final(scheme, out, metadata or {}), Monitor(), progress)


def run_final(
    bench: Bench, job: Final, monitor: Monitor, progress: Callable[[int, int], None] | None = None
) -> StepOutcome:
    """Run the job: see `final`."""
    original = execute(bench, Scheme(), monitor)
    recipe, images = replace(bench.setup.recipe, fraction=1.0), bench.rest.n
    planned = [methods.get(step.method).iterations(step, recipe, images) for step in job.scheme.steps]
    whole = _Whole(monitor, planned, progress)
    model, outcome = bench.model, replace(original, cached=False, seconds=0.0, iterations=0)
    steps: list[dict[str, Any]] = []
    for length, strategy in enumerate(job.scheme.steps, 1):
        prefix = Scheme(job.scheme.steps[:length])
        outcome, after = run_step(model, strategy, bench.final_context(prefix, whole), bench, whole)
        steps.append({"strategy": strategy.id, **outcome.as_dict()})
        if after is None:
            return replace(outcome, reason=f"step {length}, {strategy.id}: {outcome.reason}")
        model = after
    outcome = replace(
        outcome,
        seconds=sum(step["seconds"] for step in steps),
        iterations=sum(step["iterations"] for step in steps),
        reached=all(step["reached"] for step in steps),
        details={"steps": steps},
    )
    about = {**describe(bench, job.scheme, outcome, original), **job.metadata}
    structure.save(job.out, model, bench.source, metadata=about)
    return outcome


def describe(bench: Bench, scheme: Scheme, outcome: StepOutcome, original: StepOutcome) -> dict[str, Any]:
    """What an artefact says about its making, as plain values."""
    names = ("accuracy", "params", "flops")
    setup = bench.setup
    return {
        "scheme": scheme.id,
        "recipe": {**setup.recipe.as_dict(), "fraction": 1.0},
        "run_seed": setup.run_seed,
        "keep": list(setup.keep),
        "data": setup.data.as_dict(),
        "data_hash": bench.dataset.hash,
        "normalisation": [list(bench.dataset.mean), list(bench.dataset.std)],
        "figures": {name: getattr(outcome, name) for name in names},
        "original_figures": {name: getattr(original, name) for name in names},
        "seconds": outcome.seconds,
    }


def accuracy_on_test(setup: Setup, model: Path | None = None) -> float | None:
    """Read a saved model (None: M) and return its top-1 accuracy in [0, 1] on the test images; None without any.

    For the end of a study only.
    """
    bench = setup.open()
    if bench.splits.test is None:
        return None
    network = bench.model if model is None else structure.read(model).model.to(bench.device)
    return evaluate.accuracy(network, bench.dataset.data(bench.splits.test, bench.device))
