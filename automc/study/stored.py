"""Studies as the graph holds them: read without opening their model or data, and deleted."""

from __future__ import annotations

import difflib
import json
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from automc import knowledge
from automc.errors import NotThere
from automc.execution.cache import PrefixCache
from automc.home import home
from automc.models.stored import FLOAT
from automc.study.place import folder, held
from automc.study.protocol import Protocol
from automc.study.trial import Trial
from kg import studies
from kg.errors import NotInGraph
from kg.schema import Scheme

_FRESH_SECONDS = 24 * 3600.0


def load_record(name: str) -> dict[str, Any]:
    """Return a study's node.

    Raises:
        NotThere: there is none of that name; the message lists the latest.
        NotInGraph: there is no graph.
    """
    with knowledge.graph(create=False) as store:
        try:
            return studies.load_study(store, name)
        except NotInGraph:
            known = [row["id"] for row in studies.list_studies(store)]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    hint += f"There are: {', '.join(known[-8:])}." if known else "There is none yet: automc search starts one."
    raise NotThere(f"There is no study '{name}' in the graph. {hint}")


def prune_given() -> int:
    """Remove the models and data that Python handed over as objects and no study uses; return the bytes freed.

    What was handed over within a day stays: a program may still work with it.
    """
    entries = [path for path in (home() / "given").glob("*/") if time.time() - path.stat().st_mtime > _FRESH_SECONDS]
    if not entries:
        return 0
    used: list[dict[str, Any]] = []
    with suppress(NotInGraph), knowledge.graph(create=False) as store:
        used = [study["spec"] for study in studies.list_studies(store)]
    named = json.dumps(used)
    freed = 0
    for path in entries:
        if path.name not in named:
            freed += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            shutil.rmtree(path, ignore_errors=True)
    return freed


def load_trials(name: str, *, but: Collection[int] = ()) -> list[Trial]:
    """Return a study's trials in ordinal order, without those of the ordinals `but`."""
    with knowledge.graph() as store:
        return [Trial.from_row(row) for row in studies.load_trials(store, name, but=but)]


def load_best(name: str, protocol: Protocol, saved: str | None) -> tuple[list[Trial], list[Trial], int]:
    """Return of a study what a front is made of, without reading it whole: it may have any number of trials.

    Args:
        name: of the study.
        protocol: which trials are on its front, or came nearest to it.
        saved: the scheme of its saved model, whose trial is wanted too.

    Returns:
        The trials of the front, or what came nearest, and that of the saved scheme; all ok trials by their figures
        alone, with schemes of no steps; and the number of trials.
    """
    with knowledge.graph() as store:
        total, rows = studies.load_figures(store, name, _FIGURES)
        done = [_outline(*row) for row in rows]
        done.sort(key=lambda trial: trial.ordinal)
        nearest = protocol.nearest(done)
        wanted = {t.ordinal for t in protocol.front(done) or ([nearest] if nearest else [])}
        if saved is not None:
            wanted |= set(studies.ordinals_of(store, name, Scheme.parse(saved)))
        full = [Trial.from_row(row) for row in studies.load_trials(store, name, only=sorted(wanted))]
    return full, done, total


_FIGURES = (
    "accuracy", "params", "flops", "pr", "sr", "bits", "file_bytes", "latency_ms", "latency_iqr_ms", "base_latency_ms",
)  # fmt: skip


def _outline(ordinal: int, level: int | None, *figures: Any) -> Trial:
    """A trial by its figures alone; of before there was SR it is PR."""
    given = dict(zip(_FIGURES, figures, strict=True))
    if given["sr"] is None and given["pr"] is not None:
        given |= {"sr": given["pr"], "bits": FLOAT * given["params"]}
    return Trial(ordinal, 0, Scheme((), level or 0), "ok", **given)


def delete(name: str) -> None:
    """Remove a study, its trials and its folder; schemes that others use stay.

    Raises:
        StudyError: there is no such study, or it is running.
    """
    load_record(name)
    with held(name):
        with knowledge.graph() as store:
            studies.delete_study(store, name)
        PrefixCache(home() / "cache").unpin(name)
        shutil.rmtree(folder(name), ignore_errors=True)
