"""What a step makes of M as to its structure: the step without its training, its figures and its result's kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from automc.datasets.base import TrainData
from automc.execution.monitor import Monitor
from automc.execution.outcome import StepOutcome
from automc.execution.setup import Bench
from automc.execution.step import run_step
from automc.latency.networks import kernels_of
from automc.models.measure import one_image
from automc.models.pace import Runtime
from kg.schema import Scheme, Strategy

_IMAGES, _SEEN = 16, 512
"""Images of a batch, and those that a method may look at: by fewer HOS and LFB choose other channels or forms.

By 16 they left a third of the FLOPs of a ResNet-8 where the step itself, which sees all, left two thirds.
"""


@dataclass(frozen=True, slots=True)
class Dry:
    """A job: a step on M of which each phase of training is one iteration on a few images."""

    strategy: Strategy
    runtime: Runtime | None = None
    """Whose kernels of the result are looked for; None: nobody's."""


def run_dry(bench: Bench, job: Dry, monitor: Monitor) -> StepOutcome:
    """Run one; the outcome's details hold the `kernels` in a runtime, if any. Nothing enters the prefix cache."""
    monitor.begin()
    seen, few = _spread(bench, _SEEN), _spread(bench, _IMAGES)
    context = bench.context(Scheme((job.strategy,)), monitor)
    recipe = replace(context.recipe, batch=min(context.recipe.batch, _IMAGES), recalibration_images=_IMAGES)
    context = replace(context, data=seen, recipe=recipe, max_iterations=1)
    outcome, model = run_step(bench.model, job.strategy, context, replace(bench, validation=few), monitor)
    if model is None or job.runtime is None:
        return outcome
    images = one_image(bench.model, bench.example).to(memory_format=torch.channels_last)
    return replace(outcome, details={"kernels": kernels_of(model, images, job.runtime)})


def _spread(bench: Bench, most: int) -> TrainData:
    """Return so many training images at most, of the whole length: they may lie by class."""
    places = torch.linspace(0, bench.train.n - 1, min(most, bench.train.n)).round().long()
    return bench.train.subset(places.to(bench.train.y.device))
