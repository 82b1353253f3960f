"""One trial: why the study came to it, step by step, and what else there was."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from automc import knowledge
from automc.board import live, pages
from automc.board.reading import read
from automc.cli.figures import shown
from automc.errors import NotThere, StudyError
from automc.knowledge.explain import record_text
from automc.report import layers as tables
from automc.report import why as accounts
from automc.study import pulse
from automc.study.trial import Trial

EVIDENCE = 3
"""Records and neighbours that are told of each step."""

FIGURES = {
    "status": "status", "why": "reason", "validation": "accuracy", "AR": "ar", "parameters": "params",
    "parameters removed": "pr", "FLOPs": "flops", "FLOPs removed": "fr", "bits removed": "sr",
    "AR of the last step": "step_ar", "PR of the last step": "step_pr", "latency": "latency_ms",
    "file": "file_bytes", "time of the last step": "seconds", "its iterations": "iterations", "round": "round",
}  # fmt: skip
"""Figures of a trial by what they are called here."""


async def one(request: Request) -> Response:
    """A trial of a study."""
    study, ordinal = request.path_params["study"], request.path_params["ordinal"]
    seen, trial, account, layers, missing = await read(partial(_account, study, ordinal))
    return pages.page(
        "trial.html.j2", study=study, trial=trial, account=account, protocol=seen.protocol, figures=figures(trial),
        record_text=record_text, evidence=EVIDENCE, columns=tables.COLUMNS, layers=layers, missing=missing,
    )  # fmt: skip


def _account(study: str, ordinal: int) -> tuple[live.Seen, Trial, dict[str, Any], list[tuple[str, ...]], str]:
    with knowledge.graph(create=False):  # opened once for all that is read
        seen, trial = find(study, ordinal)
        layers, missing = [], ""
        try:
            layers = tables.rows(tables.layers(study, str(ordinal)))
        except StudyError as error:
            missing = str(error)
        return seen, trial, accounts.why(study, str(ordinal)), layers, missing


def find(study: str, ordinal: int) -> tuple[live.Seen, Trial]:
    """Return a study and one of its trials.

    Raises:
        NotThere: there is no such study, or it has no such trial.
    """
    seen = live.study(study, pulse.read(study))
    for trial in seen.trials:
        if trial.ordinal == ordinal:
            return seen, trial
    raise NotThere(f"The study {study} has no trial {ordinal}. It has {len(seen.trials)}.")


def figures(trial: Trial) -> dict[str, str]:
    """Return what was measured of a trial, in words and for reading; what is not known is left out."""
    found = {}
    for label, name in FIGURES.items():
        value = getattr(trial, name)
        if value not in (None, ""):
            found[label] = str(shown(name.removeprefix("step_"), value))
    return found
