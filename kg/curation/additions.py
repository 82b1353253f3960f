"""Knowledge that a person adds to the graph, beside what comes with AutoMC.

An added method card or experience file stays as it was written: the `document` of its Method or Paper node, with who
added it, when and from where (`added_by`, `added_at`, `added_from`, on its records too). Nothing lies beside the graph:
a sync reads these documents with the packaged files and treats all alike. What is retired stays, with who, when and
why (`retired_by`, `retired_at`, `retired_because`), and is no longer used.
"""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kg.curation.documents import Document, Source
from kg.errors import ExperienceInvalid, NothingChanges, NotInGraph
from kg.experience_file import ExperienceFile, RecordEntry
from kg.schema import Experience, Method, Paper
from kg.store.base import GraphStore
from kg.sync import SyncReport, sync

Label = Literal["Method", "Paper"]

ADDED = ("added_by", "added_at", "added_from")
RETIRED = ("retired_by", "retired_at", "retired_because")


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who brings knowledge, from where, and when (ISO 8601, UTC)."""

    by: str
    source: str
    at: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat())

    @property
    def row(self) -> dict[str, str]:
        """The properties of a node."""
        return {"added_by": self.by, "added_at": self.at, "added_from": self.source}


def added(store: GraphStore, label: Label) -> dict[str, Source]:
    """Return the documents that were added to the graph, by the id of their Method or Paper, in the order of ids."""
    table = store.read(
        f"MATCH (n:{label}) WHERE n.document IS NOT NULL RETURN n.id AS id, n.document AS text ORDER BY id"
    )
    return {id: Source(f"{id} (added to the graph)", text) for id, text in table.rows}


def origins(store: GraphStore, label: Literal["Method", "Paper", "Experience"]) -> dict[str, dict[str, Any]]:
    """Return who added or retired what, by id; nodes that only come with AutoMC, or of own trials, are left out."""
    names = (*ADDED, *RETIRED)
    columns = ", ".join(f"n.{name} AS {name}" for name in names)
    table = store.read(
        f"MATCH (n:{label}) WHERE n.added_at IS NOT NULL OR n.retired_at IS NOT NULL "
        f"RETURN n.id AS id, {columns} ORDER BY id"
    )
    return {row["id"]: {name: row[name] for name in names if row[name] is not None} for row in table.dicts()}


def write(
    store: GraphStore,
    label: Label,
    id: str,
    text: str,
    provenance: Provenance,
    knowledge: tuple[Sequence[Method], Sequence[Experience], Sequence[Paper]],
    records: Iterable[str] = (),
) -> SyncReport:
    """Keep a document in the graph and bring the graph up to all knowledge, all of it or nothing; twice is once.

    Args:
        id: of the Method or Paper that the document describes.
        text: the document.
        knowledge: all methods, experience and papers, those of the document included.
        records: ids of the records that are new or changed.

    Raises:
        GraphUnavailable: the store cannot be reached.
    """

    def work() -> SyncReport:
        report = sync(store, *knowledge)
        store.upsert_nodes(label, [{"id": id, "document": text, **provenance.row}])
        store.upsert_nodes("Experience", [{"id": record, **provenance.row} for record in records])
        return report

    return store.atomically(work)


def retire(store: GraphStore, label: Literal["Method", "Experience"], ids: Iterable[str], by: str, why: str) -> None:
    """Mark nodes as no longer used; a sync has to follow. Of several, what is retired already keeps its reason.

    Raises:
        NotInGraph: one is not in the graph; nothing was written.
        NothingChanges: all are retired already.
    """
    at = Provenance(by, "").at
    with store.transaction():
        rows = _known(store, label, ids)
        fresh = [id for id, because in rows.items() if because is None]
        if not fresh:
            one, because = next(iter(rows.items()))
            raise NothingChanges(
                f"{one} is retired already, with the reason '{because}'. For another one take that back first (--undo)."
            )
        mark = {"retired_by": by, "retired_at": at, "retired_because": why}
        store.upsert_nodes(label, [{"id": id, **mark} for id in fresh])


def restore(store: GraphStore, label: Literal["Method", "Experience"], ids: Iterable[str]) -> None:
    """Take `retire` back; a sync has to follow.

    Raises:
        NotInGraph: one is not in the graph; nothing was written.
        NothingChanges: none is retired.
    """
    with store.transaction():
        rows = _known(store, label, ids)
        if all(because is None for because in rows.values()):
            raise NothingChanges(f"{next(iter(rows))} is not retired, so there is nothing to take back.")
        store.upsert_nodes(label, [{"id": id, **dict.fromkeys(RETIRED)} for id in rows])


def _known(store: GraphStore, label: str, ids: Iterable[str]) -> dict[str, str | None]:
    """Why each is retired; None: it is not."""
    wanted = list(dict.fromkeys(ids))
    table = store.read(
        f"UNWIND $ids AS id MATCH (n:{label} {{id: id}}) RETURN n.id AS id, n.retired_because AS because",
        {"ids": wanted},
    )
    found = dict(table.rows)
    for id in wanted:
        if id not in found:
            names = store.read(f"MATCH (n:{label}) RETURN n.id AS id ORDER BY id LIMIT 10000").column("id")
            near = difflib.get_close_matches(id, names, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise NotInGraph(f"There is no {label} '{id[:80]}' in the graph. Nothing was changed.{hint}")
    return {id: found[id] for id in wanted}


def same(one: Document, other: Document) -> bool:
    """Whether two documents say the same, however they are written."""
    return one.model_dump(mode="json") == other.model_dump(mode="json")


def merge(old: ExperienceFile, new: ExperienceFile) -> ExperienceFile:
    """Return an experience file with what another of the same paper says: by id, later entries replace earlier ones.

    A record that comes again keeps why it differs.

    Raises:
        ExperienceInvalid: title, url or year of the paper differ.
    """
    if not same(old.paper, new.paper):
        raise ExperienceInvalid(
            f"paper: title, url or year differ from those of {old.paper.id} as it was added: {old.paper.title}, "
            f"{old.paper.url}, {old.paper.year}. Use the same, or change them with `automc experience edit`."
        )
    names = dict.fromkeys(name for file in (old, new) for name in file.entered_by.split("; "))
    tasks = {entry.id: entry for entry in (*old.tasks, *new.tasks)}
    records = {entry.id: entry for entry in old.records}
    for entry in new.records:
        known = records.get(entry.id)
        again = known is not None and same(known.model_copy(update={"differs_because": entry.differs_because}), entry)
        if known is None or not again or entry.differs_because:
            records[entry.id] = entry
    update = {"entered_by": "; ".join(names), "tasks": tuple(tasks.values()), "records": tuple(records.values())}
    return old.model_copy(update=update)


def changed_records(old: ExperienceFile | None, new: ExperienceFile) -> list[RecordEntry]:
    """Return the records of `new` that `old` has not, or has otherwise."""
    before = {entry.id: entry for entry in old.records} if old else {}
    return [entry for entry in new.records if entry.id not in before or not same(before[entry.id], entry)]


def explain(file: ExperienceFile, reasons: Mapping[str, str]) -> ExperienceFile:
    """Return a file in which records, by id, say why they differ."""
    records = tuple(
        entry.model_copy(update={"differs_because": reasons[entry.id]}) if entry.id in reasons else entry
        for entry in file.records
    )
    return file.model_copy(update={"records": records})


def without(file: ExperienceFile, ids: Iterable[str]) -> ExperienceFile:
    """Return a file without some records, and without the tasks that only they had."""
    gone = set(ids)
    records = tuple(entry for entry in file.records if entry.id not in gone)
    tasks = {entry.task for entry in records}
    return file.model_copy(update={"records": records, "tasks": tuple(t for t in file.tasks if t.id in tasks)})
