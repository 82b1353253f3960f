"""The contract of a graph store, and what both stores share.

A store speaks portable Cypher: every label has a unique string `id`, upserts are `MERGE` on it, so any write may
be run twice. A store belongs to one thread; `with` closes it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Literal, Self, TypeVar

from kg.errors import NotInGraph, QueryInvalid, QueryTimeout, WriteRefused
from kg.schema import LABELS, RELATIONSHIPS
from kg.store import keys
from kg.store.text import mask, returned
from kg.store.values import checked_row, plain

T = TypeVar("T")

READ_SECONDS = 30.0
"""Time limit of a read that names none."""
WRITE_SECONDS = 300.0
"""Time limit of a write that names none, and of a whole transaction."""
BATCH = 1000
"""Rows per `UNWIND`."""

COUNTERS = ("nodes_created", "nodes_deleted", "relationships_created", "relationships_deleted", "properties_set")

_EXPLAIN = re.compile(r"\s*EXPLAIN\b", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a query as plain Python values.

    Nodes are dicts of their properties with "_label", relationships with "_type"; a path is the list of both in
    order; dates and times are ISO 8601 text. `truncated`: the row limit cut the answer. `counters`: what a write
    changed, such as {"nodes_created": 1}, as the engine counts it.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    truncated: bool = False
    counters: Mapping[str, int] = field(default_factory=dict)

    def dicts(self) -> list[dict[str, Any]]:
        """Each row as a dict from column to value."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def column(self, name: str) -> list[Any]:
        """All values of one column."""
        if not self.rows:
            return []
        index = self.columns.index(name)
        return [row[index] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Changes:
    """What an upsert or a sync did to one label or relationship type."""

    created: int = 0
    updated: int = 0
    removed: int = 0
    unchanged: int = 0

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return bool(self.created or self.updated or self.removed)

    def __add__(self, other: Changes) -> Changes:
        return Changes(
            self.created + other.created,
            self.updated + other.updated,
            self.removed + other.removed,
            self.unchanged + other.unchanged,
        )


@dataclass(slots=True)
class TransactionState:
    """How deep `transaction()` is nested, and whether a statement in it has failed."""

    depth: int = 0
    failed: bool = False


def write_refused() -> WriteRefused:
    """The error of a write in a read-only query."""
    return WriteRefused(
        "This query writes, but was run as read-only: nothing was changed. Allow it with --write "
        "(in Python: store.write)."
    )


def timed_out(seconds: float | None) -> QueryTimeout:
    """The error of a query that ran too long."""
    limit = f" of {seconds:g} s" if seconds else ""
    return QueryTimeout(
        f"The query ran past its time limit{limit} and was stopped; nothing was changed. Narrow it, or give more time."
    )


def missing_parameters(names: str) -> QueryInvalid:
    """The error of a query that names parameters it was not given."""
    return QueryInvalid(f"Expected parameter(s): {names}. Give each a value (--param name=value).")


def _checked(name: str, known: Sequence[str], kind: str) -> str:
    if name not in known:
        raise QueryInvalid(f"'{name}' is not a {kind} of the graph. Known: {', '.join(known)}.")
    return name


def _keys(rows: Sequence[Mapping[str, Any]]) -> str:
    """The `{position: row.key.position}` of a relationship's own key; empty where rows carry none."""
    names = list(rows[0].get("key") or ())
    for name in names:
        if not _NAME.fullmatch(name):
            raise QueryInvalid(f"'{name}' is not a property name.")
    return "{" + ", ".join(f"{name}: row.key.{name}" for name in names) + "}" if names else ""


def _differs(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return any(known.get(name) != value for name, value in wanted.items())


class GraphStore(ABC):
    """Reads and writes of the knowledge graph.

    Outside a transaction every call is atomic by itself. Inside `transaction()` all of them are committed together
    or not at all; nested transactions join the outer one.
    """

    kind: ClassVar[Literal["embedded", "neo4j"]]
    place: str
    """Where the graph is: a folder or an address."""

    def __init__(self) -> None:
        self._state = TransactionState()

    def read(
        self, query: str, params: Mapping[str, Any] | None = None, *, timeout: float | None = READ_SECONDS,
        limit: int | None = None,
    ) -> Table:  # fmt: skip
        """Run a read-only query.

        Guarantees: the store itself refuses writes, whatever the text looks like (on Neo4j not inside a
        transaction, which has one access mode for all its queries, and one time limit).

        Args:
            query: one Cypher statement.
            params: values of its `$names`.
            timeout: seconds, None for no limit.
            limit: greatest number of rows; `Table.truncated` says whether there were more.

        Raises:
            WriteRefused: the query writes.
            QueryInvalid: it does not parse or lacks a parameter; the message has the engine's reason and position.
            QueryTimeout: it ran longer than `timeout`.
            GraphUnavailable: the store cannot be reached.
        """
        return self._guarded(query, params, timeout, limit, write=False)

    def gather(self, query: str, params: Mapping[str, Any]) -> Any:
        """Run a read of ours that returns one value, long and of plain values: a list of lists or maps of those."""
        return self.read(query, params, timeout=WRITE_SECONDS).rows[0][0]

    def write(
        self, query: str, params: Mapping[str, Any] | None = None, *, timeout: float | None = WRITE_SECONDS
    ) -> Table:
        """Run a statement that writes; make it idempotent (`MERGE`), since a retry may run it twice.

        A parameter's list of integers and floats is kept as floats.

        Raises:
            QueryInvalid: it does not parse, lacks a parameter, breaks a constraint, merges on a null, or gives a node
                an id that is no text (`kg.store.keys`); nothing was written.
            QueryTimeout: it ran longer than `timeout`; nothing was written.
            GraphUnavailable: the store cannot be reached.
        """
        self._check_keys(query, params, timeout)
        return self._guarded(query, params, timeout, None, write=True)

    def _check_keys(self, query: str, params: Mapping[str, Any] | None, timeout: float | None) -> None:
        """Refuse keys that one engine takes and another does not; see `kg.store.keys`."""
        # A question that cannot be read would end a server's transaction, and a server refuses nulls by itself.
        if self._state.depth and self.kind != "embedded":
            return
        for question, found in keys.questions(query):
            try:
                table = self._run(question, plain(params or {}), timeout, 1, write=False)
            except QueryInvalid:
                return  # beyond what can be asked: the engine says what it thinks of the statement itself
            if table.rows:
                key = found[table.rows[0][0]]
                raise QueryInvalid(keys.complaint(key))

    def _guarded(
        self, query: str, params: Mapping[str, Any] | None, timeout: float | None, limit: int | None, *, write: bool
    ) -> Table:
        if self._state.failed:
            raise QueryInvalid("An earlier statement of this transaction failed, so nothing more can run in it.")
        try:
            table = self._run(query, plain(params or {}, kept=write), timeout, limit, write=write)
            # Columns and no rows, as a server answers: an engine's plan is no answer to the question.
            return Table(returned(query), []) if _EXPLAIN.match(mask(query)) else table
        except BaseException:
            self._state.failed = self._state.depth > 0
            raise

    def _written(self, query: str, params: Mapping[str, Any]) -> Table:
        """Run a write of ours, whose rows were looked at one by one."""
        return self._guarded(query, params, WRITE_SECONDS, None, write=True)

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        """Make all reads and writes inside one unit; an error inside, even a caught one, undoes all of them."""
        state = self._state
        if state.depth:
            state.depth += 1
            try:
                yield self
            except BaseException:
                state.failed = True
                raise
            finally:
                state.depth -= 1
            return
        self._begin()
        state.depth = 1
        try:
            yield self
            if state.failed:
                raise QueryInvalid("A statement of this transaction failed, so none of it was kept.")
        except BaseException:
            self._rollback()
            raise
        else:
            self._commit()
        finally:
            state.depth, state.failed = 0, False

    def atomically(self, work: Callable[[], T]) -> T:
        """Run `work`, all reads and writes in it one transaction; it may be run again, so it must be idempotent.

        A server's passing troubles (a deadlock with another writer, a connection lost before the commit) run it
        again for up to two seconds.

        Raises:
            GraphUnavailable: the store cannot be reached. Where the connection was lost during the commit, the
                transaction may have been kept.
        """
        with self.transaction():
            return work()

    def upsert_nodes(self, label: str, rows: Sequence[Mapping[str, Any]]) -> Changes:
        """Create or update nodes from rows of `{"id": …, property: value}`; None removes a property.

        Properties that a row does not name are kept. What is already there is not written again.
        """
        _checked(label, LABELS, "label")
        total = Changes()
        for batch in _batches([checked_row(label, plain(row, kept=True)) for row in rows]):
            known = {
                row["id"]: row["p"]
                for row in self.read(
                    f"UNWIND $ids AS id MATCH (n:{label} {{id: id}}) RETURN n.id AS id, properties(n) AS p",
                    {"ids": [row["id"] for row in batch]},
                    timeout=WRITE_SECONDS,
                ).dicts()
            }
            total += self.write_nodes(label, batch, known)
        return total

    def write_nodes(
        self, label: str, rows: Sequence[Mapping[str, Any]], known: Mapping[str, Mapping[str, Any]]
    ) -> Changes:
        """Write the rows that differ from `known`, the properties by id that the graph holds."""
        new = [row for row in rows if row["id"] not in known]
        stale = [row for row in rows if row["id"] in known and _differs(known[row["id"]], row)]
        for batch in _batches(new + stale):
            self._written(
                f"UNWIND $rows AS row MERGE (n:{label} {{id: row.id}}) SET n += row.props",
                {"rows": [{"id": row["id"], "props": {k: v for k, v in row.items() if k != "id"}} for row in batch]},
            )
        return Changes(created=len(new), updated=len(stale), unchanged=len(rows) - len(new) - len(stale))

    def upsert_rels(self, type: str, from_label: str, to_label: str, rows: Sequence[Mapping[str, Any]]) -> Changes:
        """Create or update relationships from rows of `{"from": id, "to": id, "key": {…}, property: value}`.

        `key` is for types of which two nodes may have several, such as STEP with its position; all rows of one call
        have the same key names.

        Raises:
            NotInGraph: a row's node does not exist.
        """
        _checked(type, RELATIONSHIPS, "relationship type")
        for label in (from_label, to_label):
            _checked(label, LABELS, "label")
        total = Changes()
        for batch in _batches([checked_row(type, plain(row, kept=True)) for row in rows]):
            found = self.read(
                f"UNWIND $rows AS row MATCH (a:{from_label} {{id: row.from}})-[r:{type} {_keys(batch)}]->"
                f"(b:{to_label} {{id: row.to}}) RETURN row.i AS i, properties(r) AS p",
                {"rows": [{**_ends(row), "i": i} for i, row in enumerate(batch)]},
                timeout=WRITE_SECONDS,
            )
            total += self.write_rels(type, from_label, to_label, batch, dict(found.rows))
        return total

    def write_rels(
        self,
        type: str,
        from_label: str,
        to_label: str,
        rows: Sequence[Mapping[str, Any]],
        known: Mapping[int, Mapping[str, Any]],
    ) -> Changes:
        """Write the rows that differ from `known`, the properties by row number that the graph holds."""
        new = [row for i, row in enumerate(rows) if i not in known]
        stale = [row for i, row in enumerate(rows) if i in known and _differs(known[i], _props(row))]
        for batch in _batches(new + stale):
            written = self._written(
                f"UNWIND $rows AS row MATCH (a:{from_label} {{id: row.from}}) MATCH (b:{to_label} {{id: row.to}}) "
                f"MERGE (a)-[r:{type} {_keys(batch)}]->(b) SET r += row.props RETURN row.i AS i",
                {"rows": [{**_ends(row), "i": i, "props": _props(row)} for i, row in enumerate(batch)]},
            )
            missing = set(range(len(batch))) - set(written.column("i"))
            if missing:
                row = batch[min(missing)]
                raise NotInGraph(
                    f"({from_label} {row['from']})-[:{type}]->({to_label} {row['to']}) cannot be written: one of "
                    "the two is not in the graph. Run `automc kg sync`."
                )
        return Changes(created=len(new), updated=len(stale), unchanged=len(rows) - len(new) - len(stale))

    @abstractmethod
    def schema(self, statement: str) -> None:
        """Run one schema statement, such as `CREATE CONSTRAINT`, outside any transaction.

        Raises:
            QueryInvalid: it does not parse.
        """

    @abstractmethod
    def version(self) -> str:
        """Name and version of the engine."""

    @abstractmethod
    def close(self) -> None:
        """Give the store back; closing twice is fine."""

    @abstractmethod
    def _run(
        self, query: str, params: dict[str, Any], timeout: float | None, limit: int | None, *, write: bool
    ) -> Table: ...

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _commit(self) -> None: ...

    @abstractmethod
    def _rollback(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ends(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"from": row["from"], "to": row["to"], "key": row.get("key") or {}}


def _props(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("from", "to", "key")}


def _batches(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    for start in range(0, len(rows), BATCH):
        yield list(rows[start : start + BATCH])
