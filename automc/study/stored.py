"""Studies as the graph holds them: read without opening their model or data, and deleted."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Collection
from typing import Any

from automc import knowledge
from automc.errors import NotThere
from automc.execution.cache import PrefixCache
from automc.home import home
from automc.study.place import folder, held
from automc.study.trial import Trial
from kg import studies
from kg.errors import NotInGraph


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


def load_trials(name: str, *, but: Collection[int] = ()) -> list[Trial]:
    """Return a study's trials in ordinal order, without those of the ordinals `but`."""
    with knowledge.graph() as store:
        return [Trial.from_row(row) for row in studies.load_trials(store, name, but=but)]


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
