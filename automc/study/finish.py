"""The figures of the model that a study saves."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from automc.execution.setup import Setup
from automc.models import structure
from automc.study.gauge import gauge, pace
from automc.study.loop import Listener
from automc.study.outbox import now
from automc.study.protocol import Protocol
from automc.study.spec import StudySpec
from automc.study.task import Subject, open_figures
from automc.study.trial import Trial, size_ratio


def own_model(setup: Setup, trial: Trial) -> Path | None:
    """Return the file of a trial's own model; None where the cache has lost it."""
    bench = setup.open()
    return bench.cache.model_path(bench.key(trial.scheme))


def measured(file: Path, trial: Trial, subject: Subject, protocol: Protocol, model: nn.Module | None = None) -> Trial:
    """Return the trial with the figures of a saved model in place of its own; `model` where it was read already."""
    found = open_figures(structure.read(file).model.to(subject.device) if model is None else model, subject)
    own = replace(
        trial, accuracy=found.accuracy, params=found.params, flops=found.flops, pr=1 - found.params / subject.params,
        bits=found.stored, sr=size_ratio(found.stored, subject.params),
        file_bytes=None, latency_ms=None, latency_iqr_ms=None, base_latency_ms=None,
    )  # fmt: skip
    return gauge(own, protocol, file, subject.model, subject.example)


def account(
    file: Path, trial: Trial, spec: StudySpec, subject: Subject, protocol: Protocol, listener: Listener
) -> dict[str, Any]:
    """Measure and test the saved model of a trial's scheme; return its figures as plain values."""
    smaller = structure.read(file).model.to(subject.device)
    found = measured(file, trial, subject, protocol, smaller)
    if not protocol.gamma_alone:
        for miss in protocol.misses(found):
            listener.say(f"The saved model, measured again, misses the target: {miss.text}.")
    timed = pace(subject, smaller, spec.runtime)
    return {
        "scheme": trial.scheme.id, "path": str(file), "params": found.params, "flops": found.flops,
        "bits": found.bits,
        "accuracy": found.accuracy, **{limit.figure: getattr(found, limit.figure) for limit in protocol.limits},
        "test_accuracy": subject.test_accuracy(smaller), "pace": timed and asdict(timed),
        "base_test_accuracy": subject.test_accuracy(), "test_images": subject.test_images, "ended": now(),
    }  # fmt: skip
