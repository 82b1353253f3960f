"""The model that a study ends with: the recommended scheme once more on more images, or the trial's own model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from automc.errors import StudyError
from automc.execution.jobs import final
from automc.execution.setup import Setup
from automc.models import structure
from automc.models.runtimes import Comparison
from automc.study.gauge import gauge, pace
from automc.study.loop import Listener
from automc.study.outbox import now
from automc.study.protocol import Protocol
from automc.study.spec import StudySpec
from automc.study.task import Subject, open_figures
from automc.study.trial import Trial


def finish(
    spec: StudySpec, setup: Setup, subject: Subject, protocol: Protocol, trial: Trial, out: Path, listener: Listener
) -> dict[str, Any]:
    """Run the recommended scheme on everything but validation, save it as `out` and test it; return its figures.

    The trial's own model is saved instead where the spec wants no final run, where that run fails, and where its model
    misses what the trial meets. Latency is no reason: it is that of the same scheme, measured a second time.

    Raises:
        StudyError: the trial's own model is needed, and is gone.
    """
    bench = setup.open()
    kept = bench.cache.model_path(bench.key(trial.scheme))
    rerun = spec.final and _ran(spec, setup, trial, out, listener)
    if rerun and kept is not None and not protocol.gamma_alone:
        missed = protocol.misses(_saved(out, trial, subject, protocol), leave_out="latency_ms")
        if missed:
            reasons = "; ".join(miss.text for miss in missed)
            listener.say(f"The model of the final run misses the target: {reasons}. The trial's own is saved instead.")
            rerun = False
    if not rerun:
        if kept is None:
            raise StudyError(
                "The recommended model is no longer in the cache. Start the study again with --final full."
            )
        shutil.copyfile(kept, out)
    found = _saved(out, trial, subject, protocol)
    if not protocol.gamma_alone:
        for miss in protocol.misses(found):
            listener.say(f"The saved model, measured again, misses the target: {miss.text}.")
    limited = {limit.figure: getattr(found, limit.figure) for limit in protocol.limits}
    smaller = structure.read(out).model.to(subject.device)
    timed = pace(subject, smaller, spec.runtime)
    return {
        "scheme": trial.scheme.id, "path": str(out), "params": found.params, "flops": found.flops,
        "accuracy": found.accuracy, **limited,
        "test_accuracy": subject.test_accuracy(smaller), "pace": timed and asdict(timed),
        "base_test_accuracy": subject.test_accuracy(),
        "test_images": subject.test_images, "ended": now(),
    }  # fmt: skip


def slower(final: Mapping[str, Any] | None) -> str:
    """Say of a saved model's figures that it is slower than the model before, though smaller; empty where it is not."""
    pace = (final or {}).get("pace")
    return Comparison(**pace).warning if pace else ""


def _ran(spec: StudySpec, setup: Setup, trial: Trial, out: Path, listener: Listener) -> bool:
    done = final(
        setup, trial.scheme, out, metadata={"study": spec.id},
        progress=lambda did, of: listener.progress("final run", did, of),
    )  # fmt: skip
    if done.status != "ok":
        listener.say(f"The final run ended as {done.status}: {done.reason} The trial's own model is saved instead.")
    return done.status == "ok"


def _saved(file: Path, trial: Trial, subject: Subject, protocol: Protocol) -> Trial:
    """Return the trial with the figures of a saved model in place of its own."""
    figures = open_figures(structure.read(file).model.to(subject.device), subject)
    own = replace(
        trial, accuracy=figures.accuracy, params=figures.params, flops=figures.flops,
        pr=1 - figures.params / subject.params, file_bytes=None, latency_ms=None, latency_iqr_ms=None,
        base_latency_ms=None,
    )  # fmt: skip
    return gauge(own, protocol, file, subject.model, subject.example)
