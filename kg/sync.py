"""Cards and experience into the graph, and out of it what is learned from.

`sync` compares what the files say with what the graph holds and writes the difference, in one transaction: it may
be run any number of times, and what studies have found is never touched.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from kg import nodes
from kg.cards import enumerate_strategies
from kg.errors import NotInGraph
from kg.schema import (
    Experience,
    Hyperparameter,
    Method,
    Paper,
    Strategy,
    Technique,
    Value,
    format_value,
    hyperparameter_order,
    parse_value,
    setting_id,
)
from kg.store.base import BATCH, WRITE_SECONDS, Changes, GraphStore

Triple = tuple[str, str, str]
"""(head, relation, tail), by ids and relationship type."""

Row = dict[str, Any]

DIMENSION = 32
"""Length of a strategy's vector."""

_LINKS = (
    ("HAS_HYPERPARAMETER", "Method", "Hyperparameter"),
    ("USES_TECHNIQUE", "Method", "Technique"),
    ("HAS_VALUE", "Hyperparameter", "Setting"),
    ("NEXT_VALUE", "Setting", "Setting"),
    ("OF_METHOD", "Strategy", "Method"),
    ("HAS_SETTING", "Strategy", "Setting"),
    ("OF_STRATEGY", "Experience", "Strategy"),
    ("ON_TASK", "Experience", "Task"),
    ("REPORTED_IN", "Experience", "Paper"),
)
# Users first: a node goes only when nothing that stays needs it.
_REMOVAL = {
    "Experience": (),
    "Strategy": ("(:Scheme)-[:STEP]->(n)", "(:Experience)-[:OF_STRATEGY]->(n)"),
    "Setting": ("(:Strategy)-[:HAS_SETTING]->(n)",),
    "Method": ("(:Strategy)-[:OF_METHOD]->(n)",),
    "Hyperparameter": (),
    "Technique": (),
    "Paper": (),
    "Task": ("()-[:ON_TASK]->(n)",),
}


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did, per label and relationship type."""

    changes: Mapping[str, Changes]

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return any(change.changed for change in self.changes.values())


@dataclass(slots=True)
class _Wanted:
    """What the files say: nodes by label and id, relationships by type and (from, to)."""

    nodes: dict[str, dict[str, Row]] = field(default_factory=lambda: {label: {} for label in _REMOVAL})
    rels: dict[str, dict[tuple[str, str], Row]] = field(default_factory=lambda: {type: {} for type, _, _ in _LINKS})

    def node(self, label: str, row: Row) -> None:
        self.nodes[label].setdefault(row["id"], row)

    def rel(self, type: str, start: str, end: str, **properties: Any) -> None:
        self.rels[type].setdefault((start, end), {"from": start, "to": end, **properties})

    def strategy(self, strategy: Strategy, searchable: bool) -> None:
        if strategy.id in self.nodes["Strategy"]:
            return
        self.node("Strategy", {"id": strategy.id, "searchable": searchable})
        self.rel("OF_METHOD", strategy.id, strategy.method)
        for name, value in strategy.settings:
            self.node("Setting", nodes.setting_row(name, value, None))
            self.rel("HAS_SETTING", strategy.id, setting_id(name, value))


def sync(
    store: GraphStore, methods: Sequence[Method], experience: Iterable[Experience], papers: Iterable[Paper]
) -> SyncReport:
    """Bring the graph up to the method cards and the published experience.

    Strategies on the grid of a card are `searchable`, unless it is off the default grid: those are in the graph only
    where something uses them, and are not; see `grid_triples`. Those of experience that lie elsewhere become nodes with
    their known settings that are not. What a card or file no longer holds is removed, unless a scheme or a trial uses
    it: then it only stops being searchable. A retired method keeps its node, without a grid; a node that carries an
    added document is never removed. Nothing is written where nothing changed; an error leaves the graph as it was.

    Raises:
        NotInGraph: an experience names an unknown method or paper.
        GraphUnavailable: the store cannot be reached.
    """
    changes: dict[str, Changes] = {}
    with store.transaction():
        wanted = _wanted(methods, experience, papers, _ids(store, "Method", "n.retired_at IS NOT NULL"))
        known = {label: _known_nodes(store, label, rows) for label, rows in wanted.nodes.items()}
        for label, rows in wanted.nodes.items():
            changes[label] = store.write_nodes(label, list(rows.values()), known[label])
        for type, start, end in _LINKS:
            changes[type] = _sync_links(store, type, start, end, wanted)
        for label, users in _REMOVAL.items():
            stale = set(known[label]) - set(wanted.nodes[label])
            if stale:
                stale -= _ids(store, label, "n.document IS NOT NULL")
            changes[label] += _remove(store, label, users, sorted(stale), known[label])
    return SyncReport(changes)


def _ids(store: GraphStore, label: str, condition: str) -> set[str]:
    return set(store.read(f"MATCH (n:{label}) WHERE {condition} RETURN n.id AS id").column("id"))


def _wanted(
    methods: Sequence[Method], experience: Iterable[Experience], papers: Iterable[Paper], retired: set[str]
) -> _Wanted:
    wanted = _Wanted()
    _want_grids(wanted, methods, retired)
    for ordinal, method in enumerate(methods):
        texts = {name: getattr(method, name) for name in ("id", "title", "citation", "label", "url", "family")}
        searched = bool(method.hyperparameters) and method.default_grid and method.id not in retired
        said = {"searchable": searched, "default_grid": method.default_grid}
        wanted.node("Method", {**texts, "ordinal": ordinal, **said})
        for place, technique in enumerate(method.techniques):
            wanted.node("Technique", {"id": technique.id, "title": technique.title})
            wanted.rel("USES_TECHNIQUE", method.id, technique.id, ordinal=place)
        for strategy in enumerate_strategies(method) if searched else ():
            wanted.strategy(strategy, searchable=True)
    for paper in papers:
        wanted.node("Paper", nodes.paper_row(paper))
    for record in experience:
        wanted.node("Task", nodes.task_row(record.task))
        wanted.strategy(record.strategy, searchable=False)
        wanted.node("Experience", nodes.experience_row(record))
        wanted.rel("OF_STRATEGY", record.id, record.strategy.id)
        wanted.rel("ON_TASK", record.id, record.task.id)
        wanted.rel("REPORTED_IN", record.id, record.source)
    return wanted


def _want_grids(wanted: _Wanted, methods: Sequence[Method], retired: set[str]) -> None:
    """Hyperparameters with the union of their values over all methods that are searched, in order."""
    grids: dict[str, list[Value]] = {}
    for method in methods:
        for knob in method.hyperparameters:
            wanted.node("Hyperparameter", {"id": knob.id, "meaning": knob.meaning, "unit": knob.unit})
            values = [format_value(value) for value in knob.values]
            wanted.rel("HAS_HYPERPARAMETER", method.id, knob.id, meaning=knob.meaning, unit=knob.unit, values=values)
            if method.id in retired or not method.default_grid:
                continue
            grid = grids.setdefault(knob.id, [])
            seen = {format_value(value) for value in grid}
            grid += [parse_value(text) for text in values if text not in seen]
    for name, grid in grids.items():
        numbers = [value for value in grid if not isinstance(value, str)]
        ordered: list[Value] = [*sorted(numbers), *(value for value in grid if isinstance(value, str))]
        for ordinal, value in enumerate(ordered):
            wanted.node("Setting", nodes.setting_row(name, value, ordinal))
            wanted.rel("HAS_VALUE", name, setting_id(name, value))
        # Only numbers have neighbours; the order of categories says nothing.
        for before, after in pairwise(sorted(numbers)):
            wanted.rel("NEXT_VALUE", setting_id(name, before), setting_id(name, after))


def _known_nodes(store: GraphStore, label: str, rows: Mapping[str, Row]) -> dict[str, Row]:
    """What the graph holds of a label by id, with the properties sync writes; of experience only the published."""
    names = list(next(iter(rows.values()), {"id": None}))
    where = "WHERE n.origin = 'paper' " if label == "Experience" else ""
    columns = ", ".join(f"n.{name} AS {name}" for name in names)
    table = store.read(f"MATCH (n:{label}) {where}RETURN {columns}", timeout=WRITE_SECONDS)
    return {row["id"]: row for row in table.dicts()}


def _sync_links(store: GraphStore, type: str, start: str, end: str, wanted: _Wanted) -> Changes:
    """Write the links of a type that are missing, and remove those of the files' nodes that are no longer said."""
    rows = wanted.rels[type]
    table = store.read(
        f"MATCH (a:{start})-[r:{type}]->(b:{end}) RETURN a.id AS start, b.id AS end, properties(r) AS p",
        timeout=WRITE_SECONDS,
    )
    known = {(head, tail): properties for head, tail, properties in table.rows}
    mine = wanted.nodes[start]
    stale = [{"from": head, "to": tail} for head, tail in sorted(known) if head in mine and (head, tail) not in rows]
    for i in range(0, len(stale), BATCH):
        store.write(
            f"UNWIND $rows AS row MATCH (a:{start} {{id: row.from}})-[r:{type}]->(b:{end} {{id: row.to}}) DELETE r",
            {"rows": stale[i : i + BATCH]},
        )
    ordered = list(rows.values())
    there = {i: known[pair] for i, pair in enumerate(rows) if pair in known}
    return store.write_rels(type, start, end, ordered, there) + Changes(removed=len(stale))


def _remove(
    store: GraphStore, label: str, users: Sequence[str], stale: Sequence[str], known: Mapping[str, Row]
) -> Changes:
    """Remove nodes that no file names any more; those still used stay, but cannot be searched."""
    used: set[str] = set()
    if users and stale:
        condition = " OR ".join(f"EXISTS {{ MATCH {pattern} }}" for pattern in users)
        table = store.read(
            f"UNWIND $ids AS id MATCH (n:{label} {{id: id}}) WHERE {condition} RETURN n.id AS id", {"ids": list(stale)}
        )
        used = set(table.column("id"))
    gone = [id for id in stale if id not in used]
    for i in range(0, len(gone), BATCH):
        store.write(f"UNWIND $ids AS id MATCH (n:{label} {{id: id}}) DETACH DELETE n", {"ids": gone[i : i + BATCH]})
    demoted = [{"id": id, "searchable": False} for id in sorted(used) if known[id].get("searchable")]
    store.write_nodes(label, demoted, known)
    return Changes(updated=len(demoted), removed=len(gone))


def triples(store: GraphStore, *, next_value: bool = False) -> list[Triple]:
    """Return the triples that the embedding learns from, in a fixed order.

    The five relations of the AutoMC paper, section 3.2, on the searchable grid, and the techniques of every
    method, also of those that are knowledge only. Nothing of an experience, and nothing retired, is among them.

    Args:
        next_value: add the links between neighbouring numbers, which the paper does not have.
    """
    patterns = {
        "OF_METHOD": "(h:Strategy {searchable: true})-[:OF_METHOD]->(t:Method)",
        "HAS_SETTING": "(h:Strategy {searchable: true})-[:HAS_SETTING]->(t:Setting)",
        "HAS_HYPERPARAMETER": "(h:Method {searchable: true})-[:HAS_HYPERPARAMETER]->(t:Hyperparameter)",
        "USES_TECHNIQUE": "(h:Method)-[:USES_TECHNIQUE]->(t:Technique) WHERE h.retired_at IS NULL",
        "HAS_VALUE": "(h:Hyperparameter)-[:HAS_VALUE]->(t:Setting)",
    }
    if next_value:
        patterns["NEXT_VALUE"] = "(h:Setting)-[:NEXT_VALUE]->(t:Setting)"
    found: list[Triple] = []
    for relation, pattern in patterns.items():
        rows = store.gather(f"MATCH {pattern} RETURN collect([h.id, t.id]) AS rows", {})
        found += [(head, relation, tail) for head, tail in sorted(rows)]
    return found


def grid_triples(method: Method) -> list[Triple]:
    """Return what `triples` would say of a method's grid where it is off the default one, from its card."""
    found = [(method.id, "HAS_HYPERPARAMETER", knob.id) for knob in method.hyperparameters]
    found += [(k.id, "HAS_VALUE", setting_id(k.id, value)) for k in method.hyperparameters for value in k.values]
    for strategy in enumerate_strategies(method):
        found.append((strategy.id, "OF_METHOD", method.id))
        found += [(strategy.id, "HAS_SETTING", setting_id(name, value)) for name, value in strategy.settings]
    return found


def strategy_ids(store: GraphStore) -> list[str]:
    """Return the ids of the searchable strategies, sorted."""
    return sorted(store.read("MATCH (s:Strategy {searchable: true}) RETURN s.id AS id").column("id"))


def read_methods(store: GraphStore) -> tuple[Method, ...]:
    """Return the method cards as the graph has them, in the order in which they were given, without retired ones."""
    knobs: dict[str, list[Hyperparameter]] = {}
    for row in store.read(
        "MATCH (m:Method)-[r:HAS_HYPERPARAMETER]->(h:Hyperparameter) "
        "RETURN m.id AS method, h.id AS id, r.meaning AS meaning, r.unit AS unit, r.values AS values"
    ).dicts():
        values = tuple(parse_value(text) for text in row["values"])
        knobs.setdefault(row["method"], []).append(Hyperparameter(row["id"], row["meaning"], row["unit"], values))
    techniques: dict[str, list[Technique]] = {}
    for method, id, title in store.read(
        "MATCH (m:Method)-[r:USES_TECHNIQUE]->(t:Technique) "
        "RETURN m.id AS method, t.id AS id, t.title AS title ORDER BY r.ordinal"
    ).rows:
        techniques.setdefault(method, []).append(Technique(id, title))
    rows = store.read(
        "MATCH (m:Method) WHERE m.retired_at IS NULL RETURN m.id AS id, m.title AS title, m.citation AS citation, "
        "m.label AS label, m.url AS url, m.family AS family, coalesce(m.default_grid, true) AS default_grid "
        "ORDER BY m.ordinal"
    ).dicts()
    return tuple(
        Method(
            **row,
            techniques=tuple(techniques.get(row["id"], ())),
            hyperparameters=tuple(sorted(knobs.get(row["id"], ()), key=lambda knob: hyperparameter_order(knob.id))),
        )
        for row in rows
    )


def read_experience(store: GraphStore, *, idle: bool = True, own: bool = True) -> tuple[Experience, ...]:
    """Return all experience, published and of our own trials, sorted by id; nothing that is retired.

    Args:
        idle: also what teaches nothing (`Experience.idle`).
        own: also that of our own trials, of which there may be any number.
    """
    tasks = {
        row["id"]: nodes.read_task(row)
        for row in store.read("MATCH (t:Task) RETURN properties(t) AS task", timeout=WRITE_SECONDS).column("task")
    }
    learned = "" if idle else "AND (coalesce(e.not_taught, '') = '' OR NOT s.id ENDS WITH '[]') "
    way = "(t:Task)<-[:ON_TASK]-(e:Experience)"
    if not own:
        way = "(:Paper)<-[:REPORTED_IN]-(e:Experience)-[:ON_TASK]->(t:Task)"
        learned += "AND e.origin = 'paper' "
    table = store.read(
        f"MATCH {way} MATCH (e)-[:OF_STRATEGY]->(s:Strategy)-[:OF_METHOD]->(m:Method) "
        f"WHERE e.retired_at IS NULL AND m.retired_at IS NULL {learned}"
        "RETURN properties(e) AS experience, s.id AS strategy, t.id AS task",
        timeout=WRITE_SECONDS,
    )
    found = [nodes.read_experience_row(row, strategy, tasks[task]) for row, strategy, task in table.rows]
    return tuple(sorted(found, key=lambda experience: experience.id))


def own_strategies(store: GraphStore) -> list[str]:
    """Return the ids of the strategies that own trials have records of, sorted."""
    taught = "EXISTS { MATCH (s)<-[:OF_STRATEGY]-(e:Experience) WHERE e.origin = 'trial' AND e.retired_at IS NULL }"
    return sorted(store.gather(f"MATCH (s:Strategy) WHERE {taught} RETURN collect(s.id) AS ids", {}))


def own_experience(store: GraphStore, strategies: Sequence[str]) -> list[Experience]:
    """Return what own trials have measured with some strategies; nothing that is retired."""
    table = store.read(
        "UNWIND $ids AS id MATCH (s:Strategy {id: id})<-[:OF_STRATEGY]-(e:Experience)-[:ON_TASK]->(t:Task) "
        "WHERE e.origin = 'trial' AND e.retired_at IS NULL "
        "RETURN properties(e) AS experience, s.id AS strategy, properties(t) AS task",
        {"ids": list(strategies)}, timeout=WRITE_SECONDS,
    )  # fmt: skip
    return [nodes.read_experience_row(row, strategy, nodes.read_task(task)) for row, strategy, task in table.rows]


def write_embeddings(
    store: GraphStore, ids: Sequence[str], vectors: npt.NDArray[np.floating], run: Mapping[str, Any]
) -> None:
    """Write the strategies' vectors and the run they came from, together or not at all.

    Args:
        ids: of strategies, (n,).
        vectors: (n, 32) float32; they come back bit for bit.
        run: what the vectors were learned from; its "id" names it, else its fingerprint and seed do.

    Raises:
        NotInGraph: a strategy is not in the graph.
    """
    rows = [{"id": id, "vector": vector} for id, vector in zip(ids, np.asarray(vectors).tolist(), strict=True)]
    now = datetime.datetime.now(datetime.UTC).isoformat()
    id = run.get("id") or f"{run.get('fingerprint')}-{run.get('seed')}"
    with store.transaction():
        for i in range(0, len(rows), BATCH):
            batch = rows[i : i + BATCH]
            found = store.write(
                "UNWIND $rows AS row MATCH (s:Strategy {id: row.id}) SET s.embedding = row.vector RETURN s.id AS id",
                {"rows": batch},
            )
            missing = {row["id"] for row in batch} - set(found.column("id"))
            if missing:
                raise NotInGraph(f"{min(missing)} has a vector but is not in the graph. Run `automc kg sync`.")
        store.upsert_nodes("EmbeddingRun", [nodes.encode({**run, "id": id, "created_at": now})])


def read_embeddings(store: GraphStore) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """Return the searchable strategies that have a vector, sorted, (n,), and the vectors, (n, 32)."""
    table = store.read(
        "MATCH (s:Strategy {searchable: true}) WHERE s.embedding IS NOT NULL RETURN s.id AS id, s.embedding AS vector"
    )
    rows = sorted(table.rows)
    vectors = np.array([vector for _, vector in rows], dtype=np.float32)
    return tuple(id for id, _ in rows), vectors if rows else vectors.reshape(0, DIMENSION)


def latest_run(store: GraphStore) -> dict[str, Any] | None:
    """Return the run whose vectors the graph holds, None before the first."""
    table = store.read("MATCH (r:EmbeddingRun) RETURN properties(r) AS p ORDER BY r.created_at DESC LIMIT 1")
    return nodes.decode(table.rows[0][0]) if table.rows else None
