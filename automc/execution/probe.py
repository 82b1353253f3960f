"""Trying each method once on one batch: can it work on this model at all, and how long do its steps take?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from automc import methods
from automc.datasets.base import TrainData
from automc.errors import Infeasible
from automc.execution.monitor import Monitor
from automc.execution.outcome import StepOutcome
from automc.execution.setup import Bench, Setup
from automc.execution.step import run_step
from automc.execution.workers import Workers
from automc.models.measure import count_flops, synchronise
from automc.training import evaluate
from kg.schema import Scheme, Strategy

ITERATIONS = 2
"""Iterations of each training phase of a probe: the first warms up, the other is timed."""

_TIMED_IMAGES = 128
_LONG = 1000.0
"""Epochs that make every phase long enough to be cut at ITERATIONS, under any recipe."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A job: try one strategy on M, briefly, and ask how far `widest` could go."""

    strategy: Strategy
    widest: Strategy | None = None


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What probing found. Keys are names of methods."""

    reasons: dict[str, str | None]
    """Why a method cannot work on this model; None where it can."""
    seconds_per_iteration: dict[str, float]
    """Seconds of one training iteration, of the methods that can."""
    overhead_seconds: float
    """Seconds of a step besides training: surgery, recalibration, measuring."""
    reach: dict[str, float]
    """Share of M's parameters that one step can remove at most, of all that were asked and did not hang."""

    @property
    def infeasible(self) -> dict[str, str]:
        """Methods that cannot work on this model, with the reason."""
        return {name: reason for name, reason in self.reasons.items() if reason is not None}


class _Clock(Monitor):
    """Notes when each iteration was done: by the device, not only handed to it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.marks: list[float] = []
        self._device = device

    def progress(self, done: int, of: int) -> None:
        super().progress(done, of)
        synchronise(self._device)
        self.marks.append(time.perf_counter())


def probe(
    setup: Setup, strategies: Mapping[str, Strategy], widest: Mapping[str, Strategy] | None = None
) -> ProbeReport:
    """Try one strategy of each method in this process; `strategies` by method, the lightest ones are best."""
    bench, far = setup.open(), widest or {}
    return _report({name: probe_method(bench, Probe(s, far.get(name))) for name, s in strategies.items()})


def probe_with(
    workers: Workers, strategies: Mapping[str, Strategy], widest: Mapping[str, Strategy] | None = None,
    timeout: float | None = 300.0,
) -> ProbeReport:  # fmt: skip
    """Like `probe`, in started workers: a method that hangs or takes all memory loses a worker, not the study.

    No other job may be under way.
    """
    far = widest or {}
    tickets = {workers.submit(Probe(s, far.get(name)), timeout): name for name, s in strategies.items()}
    outcomes: dict[str, StepOutcome] = {}
    while len(outcomes) < len(tickets):
        outcomes.update((tickets[ticket], outcome) for ticket, outcome in workers.collect())
    return _report({name: outcomes[name] for name in strategies})


def probe_method(bench: Bench, job: Probe, monitor: Monitor | None = None) -> StepOutcome:
    """Try a strategy on M with one batch of training images and a few iterations.

    The outcome's details hold `per_iteration` and `overhead` in seconds. Nothing enters the prefix cache.
    """
    clock = _Clock(bench.device)
    if monitor is not None:
        monitor.begin()
    data = _one_batch(bench)
    context = bench.context(Scheme((job.strategy,)), clock)
    recipe = replace(context.recipe, unit_epochs=max(_LONG, context.recipe.unit_epochs))
    context = replace(context, data=data, recipe=recipe, max_iterations=ITERATIONS)
    light = replace(bench, validation=data)
    # What a process pays once, such as torch's first count, is no part of a step.
    count_flops(bench.model, bench.example)
    outcome, model = run_step(bench.model, job.strategy, context, light, clock)
    if job.widest is not None:
        outcome = replace(outcome, details={**outcome.details, "reach": reach(bench, job.widest)[0]})
    if model is None:
        return outcome
    gaps = [after - before for before, after in zip(clock.marks, clock.marks[1:], strict=False)]
    # The fastest: a process pays for its first iterations, and between two phases of a step lies more than one.
    per_iteration = min(gaps) if gaps else outcome.seconds / max(1, outcome.iterations)
    # A real step measures all of validation and recalibrates on more than one batch.
    images = bench.validation.n + min(bench.setup.recipe.recalibration_images, bench.train.n)
    surgery = max(0.0, outcome.seconds - per_iteration * len(clock.marks))
    overhead = surgery + images * _seconds_per_image(bench)
    details: dict[str, Any] = {**outcome.details, "per_iteration": per_iteration, "overhead": overhead}
    return replace(outcome, details=details)


def reach(bench: Bench, strategy: Strategy) -> tuple[float, str]:
    """Return the largest share of M's parameters that a step can remove with a strategy's settings, and why if none.

    The share is in [0, 0.85]. Nothing is trained. 1 where the method fails on the way: then nobody knows, and its probe
    tells why. The reason is empty but where the method cannot do anything to this model.
    """
    two = bench.train.subset(torch.arange(min(2, bench.train.n), device=bench.train.y.device))
    context = bench.context(Scheme((strategy,)), Monitor())
    context = replace(context, data=two, recipe=replace(context.recipe, batch=2, recalibration_images=2))
    try:
        return methods.get(strategy.method).reach(bench.model, strategy, context), ""
    except Infeasible as told:
        return 0.0, str(told).partition("]: ")[2] or str(told)  # without the strategy: it asked for everything
    except Exception:  # the user's model can raise anything
        return 1.0, ""


def _seconds_per_image(bench: Bench) -> float:
    """Time the evaluation of M, warmed up by what ran before."""
    sample = bench.validation.take(_TIMED_IMAGES)
    synchronise(bench.device)
    started = time.perf_counter()
    evaluate.accuracy(bench.model, sample)
    return (time.perf_counter() - started) / sample.n


def _one_batch(bench: Bench) -> TrainData:
    size = bench.setup.recipe.batch_size(bench.train.n)
    return bench.train.subset(torch.arange(size, device=bench.train.y.device))


def _report(outcomes: Mapping[str, StepOutcome]) -> ProbeReport:
    able = {name: outcome for name, outcome in outcomes.items() if outcome.status == "ok"}
    return ProbeReport(
        reasons={
            name: None if name in able else (o.reason if o.status == "infeasible" else f"{o.status}: {o.reason}")
            for name, o in outcomes.items()
        },
        seconds_per_iteration={name: float(outcome.details["per_iteration"]) for name, outcome in able.items()},
        overhead_seconds=median(float(outcome.details["overhead"]) for outcome in able.values()) if able else 0.0,
        reach={name: float(o.details["reach"]) for name, o in outcomes.items() if "reach" in o.details},
    )
