"""One trial: why the study came to it, step by step, and what else there was."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from automc.board import live, pages
from automc.board.reading import read
from automc.errors import StudyError
from automc.knowledge.explain import record_text
from automc.report import why as accounts
from automc.study import pulse
from automc.study.trial import Trial

EVIDENCE = 3
"""Records and neighbours that are told of each step."""


async def one(request: Request) -> Response:
    """A trial of a study."""
    study, ordinal = request.path_params["study"], request.path_params["ordinal"]
    seen, trial, account = await read(partial(_account, study, ordinal))
    return pages.page(
        "trial.html.j2", study=study, trial=trial, account=account, protocol=seen.protocol, figures=figures(trial),
        record_text=record_text, evidence=EVIDENCE,
    )  # fmt: skip


def _account(study: str, ordinal: int) -> tuple[live.Seen, Trial, dict[str, Any]]:
    seen, trial = find(study, ordinal)
    return seen, trial, accounts.why(study, str(ordinal))


def find(study: str, ordinal: int) -> tuple[live.Seen, Trial]:
    """Return a study and one of its trials.

    Raises:
        StudyError: there is no such study, or it has no such trial.
    """
    seen = live.study(study, pulse.read(study))
    for trial in seen.trials:
        if trial.ordinal == ordinal:
            return seen, trial
    raise StudyError(f"The study {study} has no trial {ordinal}. It has {len(seen.trials)}.")


def figures(trial: Trial) -> dict[str, Any]:
    """Return what was measured of a trial, by name as `automc.cli.figures` has it; what is not known is left out."""
    names = (
        "status", "reason", "accuracy", "ar", "params", "pr", "flops", "fr", "sr", "step_ar", "step_pr", "step_fr",
        "latency_ms", "file_bytes", "seconds", "iterations", "round",
    )  # fmt: skip
    return {name: value for name in names if (value := getattr(trial, name)) not in (None, "")}
