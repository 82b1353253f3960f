"""The figures that only limits need, file size and latency; and whether a smaller model is slower."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from automc.errors import ArtefactError, ModelError
from automc.execution.setup import Bench
from automc.models import structure
from automc.models.export import Exported
from automc.models.load import LoadedModel
from automc.models.measure import Latency, one_image, timed
from automc.models.pace import Comparison, Runtime
from automc.models.runtimes import Run, beside_original, compare_models, runner
from automc.study.limits import Limit
from automc.study.protocol import Protocol
from automc.study.task import Subject
from automc.study.trial import Trial
from kg.embedding.threads import one_thread

_LEAST_RUNS = 3
_LEAST_SECONDS = 0.5


def quiet_latencies(runs: Sequence[Run], images: Tensor) -> list[Latency]:
    """Time runs on `one_image` in turns, three times and half a second at least; return what was disturbed least.

    Times are of one image. Other work on the machine only ever makes a model slower, and comes and goes.
    """
    began, found = time.monotonic(), [[timed(run, images)] for run in runs]
    while len(found[0]) < _LEAST_RUNS or time.monotonic() - began < _LEAST_SECONDS:
        for run, of_run in zip(runs, found, strict=True):
            of_run.append(timed(run, images))
    return [min(of_run, key=lambda one: one.median_ms + one.iqr_ms / 2).of_one() for of_run in found]


def pace(subject: Subject, smaller: nn.Module, runtime: Runtime) -> Comparison | None:
    """Time a smaller model beside the subject's own; None where one of them does not run in the runtime.

    On one thread, where other work on the machine disturbs least.
    """
    with one_thread():
        images = one_image(subject.model, subject.example)
        return compare_models(subject.model, smaller, images, runtime, subject.dataset.layout)


def export_pace(loaded: LoadedModel, exported: Exported) -> Comparison | None:
    """Time what was exported of a model beside its original; see `runtimes.beside_original`."""
    with one_thread():
        return beside_original(loaded, exported)


def base_figures(limits: tuple[Limit, ...], subject: Subject, file: Path, runtime: Runtime) -> dict[str, float]:
    """Return what limits need of the base model, saved as `file`, as properties of a study's node.

    Raises:
        ModelError: its latency is limited, and it does not run in the runtime.
    """
    limited = {limit.figure for limit in limits}
    found: dict[str, float] = {}
    if "file_bytes" in limited:
        found["base_file_bytes"] = file.stat().st_size
    if "latency_ms" in limited:
        images = one_image(subject.model, subject.example)
        (known,) = quiet_latencies([runner(subject.model, images, runtime)], images)
        found |= {"base_latency_ms": known.median_ms, "base_latency_iqr_ms": known.iqr_ms}
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
        with suppress(ModelError):  # what does not run there has no latency there
            images = one_image(base, example)
            own, beside = quiet_latencies([runner(one, images, protocol.runtime) for one in (model, base)], images)
            trial = replace(
                trial, latency_ms=own.median_ms, latency_iqr_ms=own.iqr_ms, base_latency_ms=beside.median_ms
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
