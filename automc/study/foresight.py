"""What a study that limits latency or FLOPs predicts before it measures: what each method could make of M.

Latencies need a calibration of M (`automc latency calibrate`), and those of trials' models are predicted too; without
one a study plans in sizes, and hears of latencies only by measuring them. FLOPs are counted, of every trial's model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from automc.errors import ArtefactError, ModelError, StudyError
from automc.execution.jobs import Dry
from automc.execution.outcome import StepOutcome
from automc.execution.setup import Bench
from automc.execution.workers import Workers
from automc.latency import calibration
from automc.latency.kernels import torch_kernels
from automc.latency.networks import kernels_of
from automc.latency.predictor import Predictor
from automc.models import structure
from automc.models.load import layout
from automc.models.measure import one_image
from automc.models.pace import Runtime
from automc.search.base import Limits, Space
from automc.search.history import History
from automc.search.pace import Figure, Pace
from automc.study.latency import briefly, calibration_command, folder, place
from automc.study.limits import KINDS
from automc.study.protocol import Protocol
from automc.study.space import StrategySpace
from automc.study.spec import StudySpec
from automc.study.trial import Trial
from kg.schema import Strategy

LEVELS = (0.12, 0.25, 0.4, 0.55, 0.7, 0.84)
"""Shares of M's parameters that dry runs of each method remove, as far as the method gets."""
COUNTED = {"aim": 0.98, "near": 1.05}
"""Of a `Pace` of FLOPs: they are counted, so only what training chooses is not foreseen."""
_REFINED = 2
"""Times that dry runs are made where the limit is, by what is known by then."""
_POINTS = np.linspace(0.1, 1.0, 361)
_TIMEOUT = 300.0
Curves = Mapping[str, Sequence[Sequence[float]]]
"""By method: (share of M's parameters that is left, time or FLOPs as a share of M's), of its dry runs."""


@dataclass(frozen=True)
class Foresight:
    """Predicts the times of models as shares of M's."""

    predictor: Predictor
    images: Tensor
    runtime: Runtime
    base_ms: float
    """Predicted of M."""

    def pace(self, model: nn.Module) -> float:
        """Return the predicted time of a model, as a share of M's.

        Raises:
            ModelError: it does not run.
        """
        return self.predictor.ms(kernels_of(model, self.images, self.runtime)) / self.base_ms

    def of(self, outcome: StepOutcome) -> float:
        """Return the predicted time of a dry run's result, as a share of M's."""
        return self.predictor.ms(outcome.details["kernels"]) / self.base_ms

    def foresee(self, bench: Bench) -> Callable[[Trial], Trial]:
        """Return a function that adds the prediction to a trial whose model is in the cache."""

        def foreseen(trial: Trial) -> Trial:
            file = bench.cache.model_path(bench.key(trial.scheme)) if trial.status == "ok" else None
            with suppress(OSError, ArtefactError, ModelError):  # then it is not predicted
                if file is not None:
                    return replace(trial, pace=self.pace(structure.read(file).model))
            return trial

        return foreseen


def open_foresight(spec: StudySpec, model: nn.Module, example: Tensor, say: Callable[[str], None]) -> Foresight | None:
    """Return what predicts the latencies of a study; None where it limits none, or nothing was calibrated.

    Args:
        say: hears why there is none where a latency is limited.
    """
    if not any(limit.figure == "latency_ms" for limit in spec.limits) or example.device.type != "cpu":
        return None
    images = one_image(model, example).to(memory_format=layout(model, example))
    here = place(spec.runtime, len(images))
    try:
        known = calibration.load(folder(), calibration.identity(torch_kernels(model, images)), here)
    except ModelError as stale:
        say(f"{stale} Until then this study predicts no latency.")
        return None
    if known is None:
        command = calibration_command(spec.model, spec.data.spec, spec.data.size, spec.runtime)
        say(f"No latency is predicted: {command}, once, lets a search ask only for what comes near --max-latency.")
        return None
    predictor = known.predictor()
    return Foresight(predictor, images, spec.runtime, predictor.ms(kernels_of(model, images, spec.runtime)))


def try_dry(
    workers: Workers, strategies: Iterable[Strategy], reach: Mapping[str, float], protocol: Protocol,
    foresight: Foresight | None,
) -> dict[str, Any]:  # fmt: skip
    """Try steps of each method dry, one strategy a method; return `pace`, Curves, and what figure they are `pace_of`.

    Latency where there is foresight, else FLOPs; without a limit on these no curves. Dry runs are made at LEVELS, and
    then where by these a step would meet the limit: between them nothing is straight. No other job may be under way.
    """
    if foresight is None and not protocol.limited("flops"):
        return {"pace": {}}
    figure: Figure = "latency_ms" if foresight else "flops"
    runtime, base = foresight.runtime if foresight else None, protocol.base
    sized = {one.method: one for one in strategies if one.get("HP2") is not None}
    found: dict[str, list[list[float]]] = {name: [[1.0, 1.0]] for name in sized}

    def run(jobs: Sequence[Strategy]) -> None:
        tickets = {workers.submit(Dry(step, runtime), _TIMEOUT): step for step in jobs}
        outcomes: dict[int, StepOutcome] = {}
        while len(outcomes) < len(tickets):
            outcomes.update(workers.collect())
        for ticket, outcome in sorted(outcomes.items()):
            if outcome.status == "ok" and outcome.params and outcome.flops:
                share = foresight.of(outcome) if foresight else outcome.flops / base["flops"]
                found[tickets[ticket].method].append([outcome.params / base["params"], share])

    run([step for name, one in sized.items() for step in _levels(one, reach.get(name, 1.0))])
    for _ in range(_REFINED):
        need = _pace(figure, found.values(), protocol).missing(1.0, 1.0)
        close = {name: float(n) for name, n in zip(found, need, strict=True) if 0 < n <= reach.get(name, 1.0)}
        run([briefly(sized[name], round(removed, 4)) for name, removed in close.items()])
    return {"pace": found, "pace_of": figure}


def paced(space: StrategySpace, figure: Figure, curves: Curves, protocol: Protocol) -> StrategySpace:
    """Return a space that knows how much of a limited figure models are predicted to take."""
    return space.with_pace(_pace(figure, [curves.get(name, ()) for name in space.space.methods], protocol))


def _pace(figure: Figure, curves: Iterable[Sequence[Sequence[float]]], protocol: Protocol) -> Pace:
    """What methods' dry runs say of the limit on a figure."""
    (limit,) = (one for one in protocol.limits if one.figure == figure)
    most, close = limit.most(protocol.base[figure]) / protocol.base[figure], {} if figure == "latency_ms" else COUNTED
    return Pace(_POINTS, np.array([_curve(points) for points in curves]), most, figure, **close)


def insist_near(space: StrategySpace, protocol: Protocol, spec: StudySpec) -> None:
    """Refuse a limit of which it is predicted that no scheme comes near it.

    Raises:
        StudyError: it names how far one step of each method gets.
    """
    pace, length = space.space.pace, spec.max_length
    limits = Limits(protocol.aim(space.reachable(length), space.enough), protocol.base["accuracy"], length)
    if pace is None or History(space.space, limits).admissible(()).any():
        return
    (limit,) = (one for one in spec.limits if one.figure == pace.figure)
    least = sorted(zip(pace.curves.min(axis=1), space.space.methods, strict=True))
    far = ", ".join(f"{name} {share:.1%}" for share, name in least if share < 1)
    raise StudyError(
        f"{limit.kind.option} {limit} is out of reach, as far as steps without training tell: one step leaves at least "
        f"so much of the model's {limit.kind.noun}: {far}; and {length} steps do not come near. Ask for less"
        f"{'' if length > 2 else ', or allow longer schemes'}."
    )


def _curve(points: Sequence[Sequence[float]]) -> np.ndarray:
    """A method's curve through its dry runs; beyond them as at the last. Without any, nothing becomes faster."""
    return np.asarray(np.interp(_POINTS, *np.array(sorted(map(tuple, points)) or [(1.0, 1.0)]).T))


def _levels(strategy: Strategy, reach: float) -> list[Strategy]:
    levels = [level for level in LEVELS if level < reach] + ([round(reach, 4)] if 0 < reach < LEVELS[-1] else [])
    return [briefly(strategy, level) for level in levels]


def in_words(space: Space) -> str:
    """Say at what sizes one step of each method is predicted to meet the limit of its pace, or to come near it."""
    pace = space.pace
    assert pace is not None
    need, option = pace.missing(1.0, 1.0), KINDS[pace.figure].option
    times = np.array([float(pace.at(m, 1 - need[m])) if np.isfinite(need[m]) else np.inf for m in range(len(need))])
    order = [int(m) for m in np.argsort(need, kind="stable") if np.isfinite(need[m])]
    able = [f"{space.methods[m]} {need[m]:.0%}" for m in order if times[m] <= pace.limit]
    near = [f"{space.methods[m]} {need[m]:.0%}" for m in order if times[m] > pace.limit]
    never = [name for name, share in zip(space.methods, need, strict=True) if not np.isfinite(share)]
    meets = f"Predicted to meet {option}: one step that removes of the parameters with"
    found = f"{meets} {', '.join(able)}" if able else f"No single step is predicted to meet {option}"
    near_it = f"; to come within {pace.near - 1:.0%}: {', '.join(near)}" if near else ""
    rest = f"; none with {', '.join(never)}" if never and (able or near) else ""
    return f"{found}{near_it}{rest}."
