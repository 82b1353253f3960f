"""All studies, and one of them; live while it runs."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from automc.board import live, pages
from automc.report import page as report
from automc.study import pulse
from automc.study.headline import headline, slower
from automc.study.outline import Outline
from automc.study.place import folder
from automc.study.protocol import settled
from automc.study.spec import StudySpec
from automc.study.trial import Trial
from kg.schema import STATUSES

SILENT_SECONDS = 30.0
"""After so long without a word, the page says since when a study has been silent."""

SPARING, LONGEST = 200.0, 30.0
"""What a running study has found is shown anew only after so many times the processor time that showing it took, which
is half a percent of one core; and after so many seconds at the latest: the first look takes what later ones do not."""
_due: dict[str, float] = {}
"""By study, when that is, by the monotonic clock."""


async def all_studies(request: Request) -> Response:
    """The list of studies."""
    stamp, rows = await run_in_threadpool(_listed)
    return pages.page("studies.html.j2", stamp=stamp, rows=rows)


async def all_live(request: Request) -> Response:
    """The list again, where it has changed since `seen`."""
    seen = request.query_params.get("seen", "")
    if await run_in_threadpool(_list_stamp) == seen:
        return Response(status_code=204)
    stamp, rows = await run_in_threadpool(_listed)
    return JSONResponse({"seen": stamp, "parts": {"studies": pages.text("studies_part.html.j2", rows=rows)}})


def _list_stamp() -> str:
    told = live.pulses()
    return "-".join([live.graph_stamp(), *(live.found_stamp(name, one) for name, one in sorted(told.items()))])


def _listed() -> tuple[str, list[dict[str, Any]]]:
    told, stamp = live.pulses(), _list_stamp()
    return stamp, [row | {"live": told.get(row["id"])} for row in live.all_studies()]


async def one(request: Request) -> Response:
    """One study in depth."""
    name = request.path_params["study"]
    seen, parts, study = await run_in_threadpool(partial(_parts, name, "-", everything=True))
    spec = StudySpec.from_dict(study.record["spec"])
    return pages.page(
        "study.html.j2", study=study.name, record=study.record, protocol=study.protocol, spec=spec, seen=seen,
        parts=parts, widths=report.widths(folder(name)), command=report.command(spec), statuses=STATUSES,
        trials=len(study.trials),
    )  # fmt: skip


async def one_live(request: Request) -> Response:
    """Those parts of a study that have changed since `seen`."""
    name, before = request.path_params["study"], request.query_params.get("seen", "-")
    seen, parts, _ = await run_in_threadpool(partial(_parts, name, before))
    return JSONResponse({"seen": seen, "parts": parts}) if parts else Response(status_code=204)


def _parts(name: str, before: str, *, everything: bool = False) -> tuple[str, dict[str, str], Any]:
    """Return what changes with a study, those parts of its page that have changed since, and the study if it was read.

    Args:
        name: of the study.
        before: "<stamp of what it does>-<stamp of what it found>".
    """
    told, wait = pulse.read(name), live.waiting(name)
    way, found = live.way_stamp(told, wait), live.found_stamp(name, told)
    old_way, _, old_found = before.partition("-")
    parts, study = {}, None
    if told is not None and not everything and time.monotonic() < _due.get(name, 0.0):
        found = old_found  # later: a search must not feel that somebody looks
    if everything or found != old_found:
        began = time.thread_time()
        study = live.study(name, told)
        parts["found"] = pages.text("found.html.j2", **_found(study, running=told is not None))
        parts["trials"] = pages.text("trials.html.j2", study=name, trials=study.trials, protocol=study.protocol)
        _due[name] = time.monotonic() + min(LONGEST, SPARING * (time.thread_time() - began))
    if everything or way != old_way:
        parts["way"] = pages.text("way.html.j2", study=name, live=told, waiting=wait, silent=_silence(told))
    return f"{way}-{found}", parts, study


def _silence(told: pulse.Pulse | None) -> float | None:
    """Seconds since a running study was heard of, where they are many."""
    silent = 0.0 if told is None else time.time() - float(told.get("updated") or 0.0)
    return silent if silent > SILENT_SECONDS else None


def _found(study: live.Seen, *, running: bool) -> dict[str, Any]:
    """What the page says of what a study has found."""
    record, trials, protocol = study.record, study.trials, study.protocol
    choice = settled(record, protocol, trials)
    chosen = choice.trial if choice else None
    final = record.get("final")
    first = headline(trials, chosen, final, protocol.base["accuracy"], protocol.validation_images, protocol.measure)
    outline = Outline.of(trials)
    measured = bool(outline.measured.any())
    return {
        "study": study.name, "record": record, "protocol": protocol, "running": running, "chosen": chosen,
        "why": choice.why if choice else "", "first": first.lines() if first else [], "slower": slower(final),
        "final": final, "front": protocol.front(trials), "nearest": protocol.nearest_text(trials),
        "front_plot": report.front_plot(outline, trials, protocol, chosen) if measured else "",
        "volume_plots": report.volume_plots(outline, protocol) if measured else [],
        "failed": [t for t in trials if t.status != "ok"], "missed": [t for t in trials if _missed(t)],
        "infeasible": (record.get("probe") or {}).get("infeasible", {}), "count": len(trials),
    }  # fmt: skip


def _missed(trial: Trial) -> bool:
    return trial.status == "ok" and trial.reached is False
