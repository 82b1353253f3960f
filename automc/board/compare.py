"""Two trials, or two studies, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from automc.board import live, pages, trials
from automc.board.reading import read
from automc.cli.figures import percent
from automc.errors import StudyError
from automc.knowledge.words import in_words
from automc.report import page as report
from automc.study import pulse
from automc.study.outline import Outline
from automc.study.protocol import settled
from automc.study.spec import StudySpec

Side = dict[str, Any]
"""Its "title" and "address", "rows" of names to texts, and a "plot" or ""."""


async def compare(request: Request) -> Response:
    """Both sides, each a trial's number, STUDY:number, or a study."""
    asked = request.query_params
    names = [asked.get(name, "").strip() for name in ("left", "right")]
    sides = await read(partial(_both, names, asked.get("study", "").strip()))
    rows = dict.fromkeys(name for side in sides for name in side["rows"])
    table = [(name, *(side["rows"].get(name, "") for side in sides)) for name in rows]
    return pages.page("compare.html.j2", sides=sides, table=table)


def _both(names: list[str], study: str) -> list[Side]:
    places = [_place(name, study) for name in names]
    if len({ordinal is None for _, ordinal in places}) > 1:
        raise StudyError("Compare two trials or two studies: one of these is a trial and the other a study.")
    return [_study(name) if ordinal is None else _trial(name, ordinal) for name, ordinal in places]


def _place(name: str, study: str) -> tuple[str, int | None]:
    """Return the study and the trial's number that a name stands for; None: the study itself."""
    before, colon, number = name.rpartition(":")
    if number.isdecimal() and (study or colon):
        return (before if colon else study), int(number)
    if not name:
        raise StudyError("Name both: a trial's number, STUDY:number, or a study.")
    return name, None


def _trial(study: str, ordinal: int) -> Side:
    _, trial = trials.find(study, ordinal)
    steps = {f"step {i}": in_words(step) for i, step in enumerate(trial.scheme.steps, 1)}
    return {
        "title": f"{study}, trial {ordinal}", "address": f"/study/{study}/trial/{ordinal}",
        "rows": steps | trials.figures(trial), "plot": "",
    }  # fmt: skip


def _study(name: str) -> Side:
    seen = live.study(name, pulse.read(name))
    record, protocol, done = seen.record, seen.protocol, seen.trials
    choice = settled(record, protocol, done)
    chosen = choice.trial if choice else None
    final = record.get("final") or {}
    best: Mapping[str, Any] = {
        "recommended": in_words(chosen.scheme) if chosen else "nothing yet",
        "validation": percent(chosen.accuracy) if chosen else "",
        "removed": percent(chosen.pr) if chosen else "",
        "FLOPs removed": percent(chosen.fr) if chosen else "",
        "test": percent(final.get("test_accuracy")),
        "parameters saved": f"{final['params']:,}" if final else "",
    }
    how = {
        "target": protocol.asked, "status": str(record["status"]), "trials": f"{len(done):,}",
        "failed": f"{sum(t.status != 'ok' for t in done):,}", "on the front": str(len(protocol.front(done))),
        "seconds of steps": f"{sum(t.seconds for t in done):,.0f}",
    }  # fmt: skip
    outline = Outline.of(done)
    plot = report.front_plot(outline, done, protocol, chosen) if outline.measured.any() else ""
    return {
        "title": name, "address": f"/study/{name}", "plot": plot,
        "rows": {**how, **best, **_flat(StudySpec.from_dict(record["spec"]).as_dict())},
    }  # fmt: skip


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested values by dotted names, as text; what is not set is left out."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        elif value not in (None, "", [], ()) and name != "id":
            found[f"{above}{name}"] = str(value)
    return found
