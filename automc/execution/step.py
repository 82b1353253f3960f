"""Executing one step of a scheme, on the model after its parent, at most once per key."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from automc import methods
from automc.errors import ArtefactError, AutoMCError, EnvironmentFault, Infeasible, ModelError
from automc.execution.cache import STATE
from automc.execution.memory import PeakMemory
from automc.execution.monitor import Monitor
from automc.execution.outcome import StepOutcome
from automc.execution.setup import Bench
from automc.execution.worker import failure
from automc.methods.base import StepContext, StepReport
from automc.methods.quantising import quantisable
from automc.methods.step import go_on
from automc.models import structure
from automc.models.bits import count_bits, stored
from automc.models.measure import count_flops, count_params
from automc.surgery.layer_table import layer_table
from automc.training import evaluate
from automc.training.loop import Diverged, all_finite
from automc.training.seeds import seeded
from automc.training.state import FitState
from kg.schema import LEVELS, Scheme, Status, Strategy


class PrefixError(AutoMCError):
    """A scheme cannot be executed because one of its earlier steps did not end well."""

    def __init__(self, outcome: StepOutcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


@dataclass(slots=True)
class _Counter:
    """Counts a step's iterations on their way to the monitor."""

    monitor: Monitor
    done: int = field(default=0)

    def __call__(self, done: int, of: int) -> None:
        self.done = done
        self.monitor.progress(done, of)


def execute(bench: Bench, scheme: Scheme, monitor: Monitor | None = None) -> StepOutcome:
    """Execute the last step of a scheme and measure the model after it; START measures M.

    Costs that step alone: its input comes from the prefix cache, and only where its weights were evicted are
    the steps before it run again, on a CPU with the same result. An accelerator adds in no fixed order: unless the
    setup is deterministic it is the same but for rounding there, which training enlarges, and the first record stays.
    What is in the cache is returned as recorded, and of two processes that want the same key one waits for the other.
    Accuracy is float32 top-1 on validation.

    A method's failure is a status, never an exception; a failed earlier step is the scheme's status too.

    Raises:
        MethodError: the scheme names a method that is not registered.
    """
    monitor = monitor or Monitor()
    with bench.repeatable():
        return _executed(bench, scheme, monitor)


def _executed(bench: Bench, scheme: Scheme, monitor: Monitor) -> StepOutcome:
    key = bench.key(scheme)
    found = bench.cache.outcome(key)
    if found is not None:
        return found
    with _alone(bench, key, monitor):
        found = bench.cache.outcome(key)
        if found is not None:
            return found
        if not scheme.steps:
            outcome, model, state = _measure_original(bench, monitor), None, None
        else:
            try:
                outcome, model, state = _last_step(bench, scheme, monitor)
            except PrefixError as failed:
                return failed.outcome
        return _keep(bench, key, outcome, model, scheme, state)[0]


def model_after(bench: Bench, scheme: Scheme, monitor: Monitor | None = None) -> nn.Module:
    """Return the model after a scheme: M, from the cache, or by running its steps again.

    It has always been through a file, so that a step sees the same input whether or not it was cached.

    Raises:
        PrefixError: a step of the scheme does not end with status ok.
    """
    return _after(bench, scheme, monitor or Monitor()).model


@dataclass(slots=True)
class _Kept:
    """What is left of an executed scheme. `state` is where its training stands, at the levels below the last."""

    model: nn.Module
    outcome: StepOutcome | None = None
    state: FitState | None = None


def _after(bench: Bench, scheme: Scheme, monitor: Monitor, to_go_on: bool = False) -> _Kept:
    """As `model_after`; `to_go_on`: with the state of its training and what it came to."""
    if not scheme.steps:
        return _Kept(bench.model)
    key = bench.key(scheme)
    if (kept := _read(bench, key, to_go_on)) is not None:
        return kept
    with _alone(bench, key, monitor):
        if (kept := _read(bench, key, to_go_on)) is not None:
            return kept
        recorded = bench.cache.outcome(key)
        if recorded is not None and recorded.status != "ok":
            raise PrefixError(_of_prefix(recorded, scheme))
        outcome, model, state = _last_step(bench, scheme, monitor)
        if model is None:
            _keep(bench, key, outcome, None, scheme)
            raise PrefixError(_of_prefix(outcome, scheme))
        # The first record stays: it is what was charged for this step.
        _, reloaded = _keep(bench, key, recorded or outcome, model, scheme, state, reload=True)
        return _Kept(model if reloaded is None else reloaded, recorded or outcome, state)


def _last_step(bench: Bench, scheme: Scheme, monitor: Monitor) -> tuple[StepOutcome, nn.Module | None, FitState | None]:
    """Run the last step of a scheme after what comes before it, or what its level adds to the level below.

    Raises:
        PrefixError: what comes before does not end with status ok.
    """
    strategy, context = scheme.steps[-1], bench.context(scheme, monitor)
    before = _after(bench, scheme.before, monitor, to_go_on=scheme.level > 1)
    if scheme.level <= 1:
        state = FitState() if scheme.level else None
        outcome, model = run_step(before.model, strategy, replace(context, state=state), bench, monitor)
        return outcome, model, state
    below, state = before.outcome, before.state
    assert below is not None
    assert state is not None

    def further(context: StepContext) -> tuple[nn.Module, StepReport]:
        known = below.details
        report = StepReport(
            known["params_in"], below.params or 0, known["target"], bool(below.reached), below.reason
        )  # fmt: skip
        return go_on(before.model, strategy, context, state), report

    outcome, model = run_step(before.model, strategy, context, bench, monitor, further)
    return outcome, model, state if scheme.level < LEVELS else None


def run_step(
    parent: nn.Module, strategy: Strategy, context: StepContext, bench: Bench, monitor: Monitor,
    further: Callable[[StepContext], tuple[nn.Module, StepReport]] | None = None,
) -> tuple[StepOutcome, nn.Module | None]:  # fmt: skip
    """Run one step and measure its result; the model is None unless the status is ok.

    `seconds` are those of the method and of measuring; peak memory is in the details. `further` is run in the place of
    the method's whole step.
    """
    monitor.begin()
    counter = _Counter(monitor)
    context = replace(context, progress=counter)
    memory = PeakMemory(bench.device)
    started = time.perf_counter()

    def fail(status: Status, error: Exception) -> tuple[StepOutcome, None]:
        return StepOutcome(status, str(error), seconds=time.perf_counter() - started, iterations=counter.done), None

    try:
        method = methods.get(strategy.method)
        with bench.repeatable():
            with seeded(context.seed, bench.device):
                model, report = further(context) if further else method.apply(parent, strategy, context)
            if not all_finite(model):
                raise Diverged(f"{strategy.method} left weights that are not finite numbers.")
            accuracy = evaluate.score(model, bench.validation, bench.setup.recipe.metric, finite=True)
        params, flops = count_params(model), count_flops(model, bench.example)
        size = stored(model, quantisable(model, bench.setup.keep).values())
        layers = layer_table(model, bench.example).as_dict()
    except Infeasible as error:
        return fail("infeasible", error)
    except Diverged as error:
        return fail("diverged", error)
    except Exception as error:
        # Whatever a method does wrong is its outcome, with the traceback; the study goes on.
        outcome = failure(error, time.perf_counter() - started)
        del error
        _release(bench.device)
        return outcome, None
    seconds = time.perf_counter() - started
    details = {
        **report.details,
        "params_in": report.params_in,
        "target": report.target,
        "peak_memory_bytes": memory.bytes(),
        "stored": asdict(size),
        "layers": layers,
    }
    return StepOutcome(
        "ok",
        report.reason,
        accuracy=accuracy,
        params=params,
        flops=flops,
        bits=size.bits,
        reached=report.reached,
        seconds=seconds,
        iterations=counter.done or method.iterations(strategy, context.recipe, context.data.n),
        details=details,
    ), model


def _measure_original(bench: Bench, monitor: Monitor) -> StepOutcome:
    monitor.begin()
    started = time.perf_counter()
    accuracy = evaluate.score(bench.model, bench.validation, bench.setup.recipe.metric)
    flops = count_flops(bench.model, bench.example)
    seconds = time.perf_counter() - started
    return StepOutcome(
        "ok",
        accuracy=accuracy,
        params=bench.original_params,
        flops=flops,
        bits=count_bits(bench.model),
        reached=True,
        seconds=seconds,
    )


def describe(bench: Bench, scheme: Scheme, outcome: StepOutcome) -> dict[str, Any]:
    """Say what an artefact tells about its making, as plain values."""
    setup = bench.setup
    return {
        "scheme": scheme.id,
        "recipe": setup.recipe.as_dict(),
        "run_seed": setup.run_seed,
        "keep": list(setup.keep),
        "still": list(setup.still),
        "data": setup.data.as_dict(),
        "data_hash": bench.dataset.hash,
        "image_shape": list(bench.dataset.train.shape),
        "normalisation": [list(bench.dataset.mean), list(bench.dataset.std)],
        "figures": {name: getattr(outcome, name) for name in ("accuracy", "params", "flops", "bits")},
    }


def of_step(scheme: Scheme, reason: str) -> str:
    """Say which step a reason is of: the last of a scheme, named once."""
    name = f"{scheme.steps[-1].id}: "
    return f"step {len(scheme)}, {name}{reason.removeprefix(name)}"


def _of_prefix(outcome: StepOutcome, scheme: Scheme) -> StepOutcome:
    return StepOutcome(outcome.status, of_step(scheme, outcome.reason), traceback=outcome.traceback)


@contextmanager
def _alone(bench: Bench, key: str, monitor: Monitor) -> Iterator[None]:
    """Hold a key; the monitor's clock stands still while another process holds it."""
    monitor.wait()
    with bench.cache.lock(key):
        monitor.begin()
        yield


def _read(bench: Bench, key: str, to_go_on: bool) -> _Kept | None:
    path = bench.cache.model_path(key)
    if path is None:
        return None
    kept = _Kept(bench.model)
    if to_go_on:
        kept.outcome, kept.state = bench.cache.outcome(key), _read_state(bench, key)
        if kept.outcome is None or kept.state is None:
            return None
    try:
        kept.model = structure.read(path).model.to(bench.device)
    except (ArtefactError, OSError):
        bench.cache.drop(key)
        return None
    except ModelError:
        # Evicted between the look and the reading; anything else is not the cache's.
        if path.exists():
            raise
        return None
    return kept


def _read_state(bench: Bench, key: str) -> FitState | None:
    """Return where the training of a cached model stands; None where that is not kept."""
    path = bench.cache.model_path(key + STATE)
    try:
        return None if path is None else FitState.of(load_file(path))
    except (OSError, SafetensorError, KeyError):
        bench.cache.drop(key + STATE)
        return None


def _keep(
    bench: Bench, key: str, outcome: StepOutcome, model: nn.Module | None, scheme: Scheme,
    state: FitState | None = None, reload: bool = False,
) -> tuple[StepOutcome, nn.Module | None]:  # fmt: skip
    """Put a result into the cache; where the disk refuses, the result stands and says so.

    With `reload`, also return the model as it reads back.
    """
    try:
        if model is None:
            bench.cache.put(key, outcome)
            return outcome, None
        with bench.cache.temporary(key) as path:
            about = describe(bench, scheme, outcome)
            structure.save(path, model, bench.source, metadata=about, shape=bench.example.shape[1:])
            reloaded = structure.read(path).model.to(bench.device) if reload else None
            bench.cache.put(key, outcome, path)
        if state is not None:
            with bench.cache.temporary(key) as path:
                save_file(state.tensors(), path)
                bench.cache.keep(key + STATE, path)
        return outcome, reloaded
    except ArtefactError as error:
        # What no file can hold is no result: the steps after it, and the user, would get another network.
        failed = StepOutcome("infeasible", f"its result cannot be saved: {error}", seconds=outcome.seconds)
        bench.cache.put(key, failed)
        return failed, None
    except (OSError, EnvironmentFault) as error:
        outcome.details["not_cached"] = str(error)
        return outcome, None


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
