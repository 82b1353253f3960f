"""Studies as the graph holds them: read without opening their model or data, and deleted."""

from __future__ import annotations

import difflib
import json
import shutil
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any

from automc import knowledge
from automc.errors import NotThere
from automc.execution.cache import PrefixCache
from automc.home import home
from automc.study.outline import FIGURES, Outline
from automc.study.place import folder, held
from automc.study.protocol import Protocol
from automc.study.spec import StudySpec
from automc.study.trial import Trial
from kg import studies, trial_tables
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


def load_outline(name: str) -> Outline:
    """Return all trials of a study by their figures."""
    with knowledge.graph() as store:
        return Outline(trial_tables.read(store, name, FIGURES))


def load_some(name: str, ordinals: Iterable[int], *schemes: Scheme) -> list[Trial]:
    """Return some trials of a study in ordinal order: those of the ordinals, and of the schemes at any level."""
    with knowledge.graph() as store:
        wanted = {*ordinals, *studies.ordinals_of(store, name, schemes)}
        return [Trial.from_row(row) for row in studies.load_trials(store, name, only=sorted(wanted))]


def load_best(name: str) -> tuple[dict[str, Any], Protocol, list[Trial], Outline]:
    """Return of a study what a front is made of, without reading it whole: it may have any number of trials.

    Returns:
        Its node; what it asks for; the trials of the front, or what came nearest, and that of the saved model; and all
        by their figures.

    Raises:
        NotThere: there is no such study.
        NotInGraph: there is no graph.
    """
    with knowledge.graph(create=False):  # opened once for all that is read
        record = load_record(name)
        protocol = Protocol.of(StudySpec.from_dict(record["spec"]), record)
        outline, saved = load_outline(name), record.get("final")
        wanted = {trial.ordinal for trial in outline.front(protocol)}
        if not wanted and (nearest := outline.nearest(protocol)):
            wanted = {nearest.ordinal}
        schemes = (Scheme.parse(saved["scheme"]),) if saved else ()
        return record, protocol, load_some(name, wanted, *schemes), outline


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
