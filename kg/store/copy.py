"""A whole graph from one store to another: nothing lost, nothing changed, all of it or none."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from kg.errors import GraphUnavailable, MigrationInvalid, NotInGraph, SchemaInvalid
from kg.schema import LABELS
from kg.store.base import BATCH, GraphStore
from kg.store.migrate import migrate, pending
from kg.store.values import unkept

REBUILT = (
    "Strategy", "Method", "Hyperparameter", "Setting", "Technique", "Paper", "Task", "Experience",
    "EmbeddingRun", "Migration", "Sync",
)  # fmt: skip
"""Labels that `kg init` and `kg embed` fill: a graph with nothing else loses nothing when it is replaced."""

Node = tuple[str, dict[str, Any]]
"""(label, properties)."""
Rel = tuple[str, str, str, str, str, dict[str, Any]]
"""(type, start's label, start's id, end's label, end's id, properties)."""


@dataclass(frozen=True)
class Contents:
    """All that a graph holds, by labels and ids of its own; the store's inner ids and order do not enter."""

    nodes: tuple[Node, ...]
    rels: tuple[Rel, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of nodes by label and of relationships by type, each by name."""
        labels, types = Counter(node[0] for node in self.nodes), Counter(rel[0] for rel in self.rels)
        return {name: found[name] for found in (labels, types) for name in sorted(found)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all nodes and relationships with their properties, numbers in full; equal graphs, equal digest."""
        lines = sorted(json.dumps(item, sort_keys=True, ensure_ascii=False) for item in (*self.nodes, *self.rels))
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def read_contents(store: GraphStore) -> Contents:
    """Read a whole graph; see `read_pages`.

    Raises:
        SchemaInvalid: a node cannot be named: it has not exactly one label and a string id of its own.
    """
    pages = list(read_pages(store))
    return Contents(*(tuple(chain.from_iterable(getattr(page, part) for page in pages)) for part in ("nodes", "rels")))


def read_pages(store: GraphStore) -> Iterator[Contents]:
    """Read a whole graph in pages, all nodes before all relationships: neither a server nor we hold it at once.

    Nodes are those that were there at the beginning, known labels first. What another process adds meanwhile is left
    out, and a relationship that has lost an end to another process goes with it.

    Raises:
        SchemaInvalid: as `read_contents`.
    """
    pages = list(_pages(_ids(store)))
    here: set[tuple[str, str]] = set()
    for label, ids in pages:
        nodes = [(label, properties) for properties in _properties(store, label, ids)]
        here.update((label, properties["id"]) for _, properties in nodes)
        yield Contents(tuple(nodes), ())
    for label, ids in pages:
        rels = _leaving(store, label, ids)
        yield Contents((), tuple(rel for rel in rels if {(rel[1], rel[2]), (rel[3], rel[4])} <= here))


def _ids(store: GraphStore) -> dict[str, list[str]]:
    """The ids of all nodes, by label."""
    table = store.read("MATCH (n) RETURN labels(n) AS labels, n.id AS id", timeout=None)
    found: dict[str, dict[str, None]] = {label: {} for label in LABELS}
    for labels, id in table.rows:
        if len(labels) != 1 or not isinstance(id, str) or id in found.setdefault(labels[0], {}):
            raise SchemaInvalid(
                f"The graph in {store.place} has a node ({':'.join(labels)} id={id!r}) that cannot be copied: each "
                "needs exactly one label, and a text as id that no other node of this label has."
            )
        found[labels[0]][id] = None
    return {label: list(ids) for label, ids in found.items()}


def _pages(names: dict[str, list[str]]) -> Iterator[tuple[str, list[str]]]:
    for label, ids in names.items():
        for start in range(0, len(ids), BATCH):
            yield label, ids[start : start + BATCH]


def _properties(store: GraphStore, label: str, ids: list[str]) -> list[dict[str, Any]]:
    query = f"UNWIND $ids AS id MATCH (n:{quoted(label)} {{id: id}}) RETURN properties(n) AS properties"
    return store.read(query, {"ids": ids}, timeout=None).column("properties")


def _leaving(store: GraphStore, label: str, ids: list[str]) -> list[Rel]:
    """The relationships that start at these nodes."""
    table = store.read(
        f"UNWIND $ids AS id MATCH (a:{quoted(label)} {{id: id}})-[r]->(b) RETURN type(r) AS type, a.id AS start, "
        "labels(b) AS labels, b.id AS end, properties(r) AS properties",
        {"ids": ids},
        timeout=None,
    )
    return [(type, label, start, labels[0], end, p) for type, start, labels, end, p in table.rows if labels]


def copy(source: GraphStore, target: GraphStore, migrations: Path, *, replace: bool = False) -> Contents:
    """Make `target` hold exactly what `source` holds, and return it.

    Guarantees: all of it or, after an error, what was there before. Before it is kept, the copy is read back and its
    digest compared with the source's, which is read again where others can write to it. Dates and times that a user's
    own query has put into the graph arrive as ISO 8601 text.

    Args:
        source: with all migrations applied.
        target: gets the migrations it lacks.
        migrations: their folder.
        replace: remove also studies, and labels that AutoMC does not know, from the target.

    Raises:
        NotInGraph: the source is empty.
        MigrationInvalid: the source lacks a migration.
        SchemaInvalid: a node of the source cannot be named, or has a list that not every engine keeps; or the target
            holds what only `replace` may remove.
        GraphUnavailable: a store cannot be reached, or the copy came out different; nothing was changed.
    """
    if source.place == target.place:
        raise SchemaInvalid(f"Both sides are the graph in {source.place}.")
    if waiting := pending(source, migrations):
        if not source.read("MATCH (n) RETURN n.id AS id LIMIT 1").rows:
            raise NotInGraph(f"The graph in {source.place} is empty: there is nothing to copy.")
        raise MigrationInvalid(f"The graph in {source.place} lacks {waiting[0]}. Run `automc kg sync` on it first.")
    wanted = read_contents(source)
    _check_kept(wanted)
    migrate(target, migrations)
    if not replace:
        _check_nothing_is_lost(target)
    with target.transaction():
        target.write("MATCH (n) DETACH DELETE n")
        _write_nodes(target, wanted.nodes)
        _write_rels(target, wanted.rels)
        _check_equal(
            wanted, read_contents(target), f"The copy in {target.place} came out different from {source.place}"
        )
        if source.kind != "embedded":
            _check_equal(wanted, read_contents(source), f"{source.place} was written to while it was copied")
    return wanted


def _check_kept(wanted: Contents) -> None:
    """Refuse values that an engine would change or refuse, by the name of the first node or relationship with one."""
    nodes = ((f"({label} {p['id']})", f"MATCH (n:{label} {{id: {p['id']!r}}})", p) for label, p in wanted.nodes)
    rels = (
        (f"({a} {i})-[:{t}]->({b} {j})", f"MATCH (:{a} {{id: {i!r}}})-[n:{t}]->(:{b} {{id: {j!r}}})", p)
        for t, a, i, b, j, p in wanted.rels
    )
    for where, match, properties in chain(nodes, rels):
        for name, value in properties.items():
            if reason := unkept(value):
                one = "toFloat" if set(map(type, value)) == {int, float} else "toString"
                raise SchemaInvalid(
                    f"{where} cannot be copied: its {name} is {reason}, which not every engine keeps as it is. Make it "
                    f'a list of one kind: automc kg query --write "{match} SET n.{name} = [x IN n.{name} | {one}(x)]"'
                )


def _check_nothing_is_lost(target: GraphStore) -> None:
    counts = target.read(
        "MATCH (n) WHERE NOT labels(n)[0] IN $known RETURN labels(n)[0] AS label, count(n) AS n ORDER BY label",
        {"known": REBUILT},
    ).rows
    if counts:
        held = ", ".join(f"{n} {label}" for label, n in counts)
        raise SchemaInvalid(
            f"The graph in {target.place} has nodes of its own that the copy would remove: {held}. Copy them elsewhere "
            "first, or let them go with --replace."
        )


def _check_equal(wanted: Contents, found: Contents, what: str) -> None:
    if found.digest != wanted.digest:
        differ = sorted(k for k in {*wanted.counts, *found.counts} if wanted.counts.get(k) != found.counts.get(k))
        where = f"other counts of {', '.join(differ)}" if differ else "the same counts, but other values"
        raise GraphUnavailable(f"{what}: {where}. Nothing was changed. Run it again.")


def _write_nodes(target: GraphStore, nodes: Sequence[Node]) -> None:
    by_label: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for label, properties in nodes:
        by_label[label].append({"id": properties["id"], "properties": properties})
    for label, rows in by_label.items():
        for start in range(0, len(rows), BATCH):
            target.write(
                f"UNWIND $rows AS row CREATE (n:{quoted(label)} {{id: row.id}}) SET n += row.properties",
                {"rows": rows[start : start + BATCH]},
            )


def _write_rels(target: GraphStore, rels: Sequence[Rel]) -> None:
    by_kind: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for type, start_label, start_id, end_label, end_id, properties in rels:
        row = {"from": start_id, "to": end_id, "properties": properties}
        by_kind[type, start_label, end_label].append(row)
    for (type, start_label, end_label), rows in by_kind.items():
        query = (
            f"UNWIND $rows AS row MATCH (a:{quoted(start_label)} {{id: row.from}}) "
            f"MATCH (b:{quoted(end_label)} {{id: row.to}}) "
            f"CREATE (a)-[r:{quoted(type)}]->(b) SET r += row.properties"
        )
        for start in range(0, len(rows), BATCH):
            target.write(query, {"rows": rows[start : start + BATCH]})


def quoted(name: str) -> str:
    """Write a label or type so that any name is one, also of a user's own."""
    return f"`{name.replace('`', '``')}`"
