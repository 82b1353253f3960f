"""Columns of a study's trials, a node for each page of ordinals: whoever reads figures of many need not look at each.

Every trial is a node, and what a table says can be counted from those. Page p holds the ordinals from p·PAGE up to
(p + 1)·PAGE; it has a table once the study has an ordinal of page p + 2, so nothing is written anew while its trials
come in, and what has no table yet is two pages at most. A trial that comes later, or changes, is written with its
table. Short studies have none; nor have those of old versions, until their next trial or `kg sync` (`build`). A page
without a table, or of which a column is wanted that its table lacks, is read from its trials.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from kg.store.base import GraphStore

PAGE = 500
"""Ordinals of a table."""
COLUMNS = (
    "ordinal", "round", "level", "status", "cached", "reached", "seconds", "accuracy", "params", "flops", "ar", "pr",
    "fr", "sr", "bits", "file_bytes", "latency_ms", "latency_iqr_ms", "base_latency_ms",
)  # fmt: skip
"""Properties of a trial that a table repeats."""

Columns = dict[str, list[Any]]


def read(store: GraphStore, study: str, names: Sequence[str]) -> Columns:
    """Return properties of all trials of a study by ordinal, each a list; None where a trial lacks one."""
    wanted = ("ordinal", *names)
    there = _tables(store, study, wanted)
    pages = {number: columns for number, columns in there.items() if None not in columns}
    if pages:
        last = max(there) + 1
        missing = [number for number in range(last) if number not in pages]
        rows = _trials(store, study, [*missing, last, last + 1], wanted)
    else:
        rows = _every_trial(store, study, wanted)
    for columns in pages.values():
        rows += zip(*map(json.loads, columns), strict=True)
    rows.sort(key=lambda row: row[0])
    return dict(zip(wanted, map(list, zip(*rows, strict=True)), strict=True)) if rows else {n: [] for n in wanted}


def update(store: GraphStore, study: str, ordinals: Iterable[int]) -> None:
    """Bring the tables up to trials that were just written in the same transaction."""
    touched = {ordinal // PAGE for ordinal in ordinals}
    due = max(touched, default=0) - 2
    if due < 0:
        return
    # The study is locked first, so that whoever else writes tables of it has seen these trials, or is seen here.
    found = store.write(
        "MATCH (s:Study {id: $study}) SET s.id = s.id WITH s UNWIND $ids AS id "
        "MATCH (s)-[:HAS_TRIALS]->(p:TrialTable {id: id}) RETURN p.number AS number",
        {"study": study, "ids": [_id(study, number) for number in {*touched, due}]},
    ).column("number")
    if due not in found:
        there = _tables(store, study, ())
        found += [number for number in range(due, -1, -1) if number not in there]
    for number in set(found):
        _write(store, study, number)


def build(store: GraphStore) -> int:
    """Write the tables that are missing, as in a graph of before there were any; return how many."""
    made = 0
    for study, last in store.read(
        "MATCH (t:Trial)-[:IN_STUDY]->(s:Study) WITH s.id AS study, max(t.ordinal) AS last WHERE last >= $least "
        "RETURN study, last", {"least": 2 * PAGE}, timeout=None,
    ).rows:  # fmt: skip
        there = _tables(store, study, ())
        # The last one first: the trials after it are then known to be few.
        for number in range(last // PAGE - 2, -1, -1):
            if number not in there:
                store.atomically(partial(_write, store, study, number))
                made += 1
    return made


def forget(store: GraphStore, study: str | None = None) -> None:
    """Remove the tables of a study, or of all, whose trials change otherwise than by `kg.studies`."""
    store.write(
        "MATCH (s:Study)-[:HAS_TRIALS]->(p:TrialTable) WHERE $study IS NULL OR s.id = $study DETACH DELETE p",
        {"study": study},
    )


def _id(study: str, number: int) -> str:
    return f"{study}/{number}"


def _tables(store: GraphStore, study: str, names: Sequence[str]) -> dict[int, list[Any]]:
    """The columns of a study's tables, as text, by page; None where a table lacks one."""
    columns = "".join(f", p.{name}" for name in names)
    found = store.gather(
        f"MATCH (:Study {{id: $study}})-[:HAS_TRIALS]->(p:TrialTable) RETURN collect([p.number{columns}]) AS rows",
        {"study": study},
    )
    return {number: columns for number, *columns in found}


def _trials(store: GraphStore, study: str, pages: Sequence[int], names: Sequence[str]) -> list[Sequence[Any]]:
    """Properties of the trials of some pages."""
    ids = [f"{study}/{ordinal}" for number in pages for ordinal in range(number * PAGE, (number + 1) * PAGE)]
    columns = ", ".join(f"t.{name}" for name in names)
    return list(
        store.gather(f"UNWIND $ids AS id MATCH (t:Trial {{id: id}}) RETURN collect([{columns}]) AS rows", {"ids": ids})
    )


def _every_trial(store: GraphStore, study: str, names: Sequence[str]) -> list[Sequence[Any]]:
    columns = ", ".join(f"t.{name}" for name in names)
    return list(
        store.gather(
            f"MATCH (:Study {{id: $id}})<-[:IN_STUDY]-(t:Trial) RETURN collect([{columns}]) AS rows", {"id": study}
        )
    )


def _write(store: GraphStore, study: str, number: int) -> None:
    """Write the table of a page as its trials are now."""
    store.write("MATCH (s:Study {id: $study}) SET s.id = s.id", {"study": study})
    rows = sorted(_trials(store, study, [number], COLUMNS), key=lambda row: row[0])
    columns = zip(COLUMNS, map(list, zip(*rows, strict=True)) if rows else ([] for _ in COLUMNS), strict=True)
    table = {name: json.dumps(values) for name, values in columns}
    store.upsert_nodes("TrialTable", [{"id": _id(study, number), "number": number, **table}])
    store.upsert_rels("HAS_TRIALS", "Study", "TrialTable", [{"from": study, "to": _id(study, number)}])
