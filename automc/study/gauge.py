"""The figures that only limits need: file size, and latency on the study's device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from automc.errors import ArtefactError, ModelError
from automc.execution.setup import Bench
from automc.models import structure
from automc.models.measure import Latency, latency_of_one
from automc.study.limits import Limit
from automc.study.protocol import Protocol
from automc.study.task import Subject
from automc.study.trial import Trial

_LEAST_RUNS = 3
_LEAST_SECONDS = 0.5


def quiet_latencies(models: Sequence[nn.Module], example: Tensor) -> list[Latency]:
    """Time models in turns, three times and half a second at least; return of each what was disturbed least.

    Other work on the machine only ever makes a model slower, and comes and goes.
    """
    began, found = time.monotonic(), [[latency_of_one(model, example)] for model in models]
    while len(found[0]) < _LEAST_RUNS or time.monotonic() - began < _LEAST_SECONDS:
        for model, of_model in zip(models, found, strict=True):
            of_model.append(latency_of_one(model, example))
    return [min(of_model, key=lambda one: one.median_ms + one.iqr_ms / 2) for of_model in found]


def base_figures(limits: tuple[Limit, ...], subject: Subject, file: Path) -> dict[str, float]:
    """Return what limits need of the base model, saved as `file`, as properties of a study's node."""
    limited = {limit.figure for limit in limits}
    found: dict[str, float] = {}
    if "file_bytes" in limited:
        found["base_file_bytes"] = file.stat().st_size
    if "latency_ms" in limited:
        (timed,) = quiet_latencies([subject.model], subject.example)
        found |= {"base_latency_ms": timed.median_ms, "base_latency_iqr_ms": timed.iqr_ms}
    return found


def gauge(trial: Trial, protocol: Protocol, file: Path, base: nn.Module, example: Tensor) -> Trial:
    """Return a trial with the figures that the protocol limits, measured on its model, saved as `file`.

    What the trial has is not measured again. Latency is measured only where everything else is met, in turns with that
    of the base model.

    Raises:
        OSError, ArtefactError, ModelError: the file cannot be read.
    """
    if _lacks_size(trial, protocol):
        trial = replace(trial, file_bytes=file.stat().st_size)
    if _lacks_latency(trial, protocol):
        model = structure.read(file).model.to(example.device)
        timed, beside = quiet_latencies([model, base], example)
        trial = replace(
            trial, latency_ms=timed.median_ms, latency_iqr_ms=timed.iqr_ms, base_latency_ms=beside.median_ms
        )
    return trial


def _lacks_size(trial: Trial, protocol: Protocol) -> bool:
    return protocol.limited("file_bytes") and trial.file_bytes is None


def _lacks_latency(trial: Trial, protocol: Protocol) -> bool:
    """Tell whether a latency is missing that could decide: all else must be met."""
    wanted = protocol.limited("latency_ms") and trial.latency_ms is None
    return wanted and not protocol.misses(trial, leave_out="latency_ms")


def gauge_with(bench: Bench, protocol: Protocol) -> Callable[[Trial], Trial]:
    """Return a function that measures what the protocol limits of a trial whose model is still in the cache."""

    def measured(trial: Trial) -> Trial:
        # Whoever asks the cache for a model counts as its user, and keeps it from eviction.
        if trial.status != "ok" or not (_lacks_size(trial, protocol) or _lacks_latency(trial, protocol)):
            return trial
        file = bench.cache.model_path(bench.key(trial.scheme))
        try:
            return trial if file is None else gauge(trial, protocol, file, bench.model, bench.example)
        except (OSError, ArtefactError, ModelError):
            # Evicted or damaged meanwhile: the trial stays as it was, and says that it was not measured.
            return trial

    return measured
