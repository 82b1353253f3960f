"""A whole graph as a script of Cypher statements, and scripts run: constraints first, then nodes, then relationships.

Every statement is whole in itself, values included, so that any Cypher client can run the file statement by statement.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kg.store.base import GraphStore, Table
from kg.store.copy import Contents, Node, Rel, quoted
from kg.store.migrate import is_schema, read_migrations

ROWS = 250
"""Nodes or relationships of one statement."""

_VECTOR = 8
"""Numbers from which on a list is written as one text: engines read it a hundred times as fast."""
_ESCAPES = str.maketrans({"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def script(pages: Iterable[Contents], migrations: Path) -> Iterator[str]:
    """Yield the statements that make an empty store hold what pages do, each on lines of its own with its semicolon.

    Run twice they change nothing: nodes are merged by label and id, relationships by ends, type and properties.

    Args:
        pages: of a graph with all migrations applied, nodes before relationships; each is forgotten once it is written.
        migrations: their folder; its constraints and indexes come first.
    """
    for migration in read_migrations(migrations):
        if migration.is_schema:
            yield from (f"{statement};\n" for statement in migration.statements)
    waiting: dict[str, list[str]] = defaultdict(list)
    nodes = True
    for page in pages:
        yield from _full(waiting, map(_node, page.nodes))
        if page.rels and nodes:
            yield from _rest(waiting)
            nodes = False
        yield from _full(waiting, map(_rel, page.rels))
    yield from _rest(waiting)


def _full(waiting: dict[str, list[str]], rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Add rows to what waits, and write each kind of which there are enough."""
    for work, row in rows:
        waiting[work].append(row)
        if len(waiting[work]) == ROWS:
            yield _statement(waiting.pop(work), work)


def _node(node: Node) -> tuple[str, str]:
    """What is done with a node, and its row."""
    label, properties = node
    return f"MERGE (n:{quoted(label)} {{id: row.id}}) SET n += row", literal(properties)


def _rel(rel: Rel) -> tuple[str, str]:
    """What is done with a relationship, and its row."""
    type, start_label, start_id, end_label, end_id, properties = rel
    names = sorted(properties)
    key = ", ".join(f"{quoted(name)}: row[{i}]" for i, name in enumerate(names, 2))
    link = f"{quoted(type)} {{{key}}}" if names else quoted(type)
    work = (
        f"MATCH (a:{quoted(start_label)} {{id: row[0]}}) MATCH (b:{quoted(end_label)} {{id: row[1]}}) "
        f"MERGE (a)-[:{link}]->(b)"
    )
    return work, literal([start_id, end_id, *(properties[name] for name in names)])


def run_script(store: GraphStore, statements: Sequence[str], timeout: float | None) -> Table:
    """Run statements in order; return a table without rows, whose counters are those of all.

    Constraints and indexes, which a server keeps out of transactions, are made first, one by one; all other statements
    are one transaction: all of them or none.

    Raises:
        QueryInvalid: a statement does not parse or breaks a constraint.
        QueryTimeout: it ran longer than `timeout` seconds.
        GraphUnavailable: the store cannot be reached.
    """
    schema = [is_schema(statement) for statement in statements]
    for statement, first in zip(statements, schema, strict=True):
        if first:
            store.schema(statement)
    changed: Counter[str] = Counter()
    with store.transaction():
        for statement, first in zip(statements, schema, strict=True):
            if not first:
                changed.update(store.write(statement, timeout=timeout).counters)
    return Table((), [], counters=dict(changed))


def literal(value: Any) -> str:
    """Write a value in Cypher, exactly: text, number, truth value, nothing, or a list or map of them."""
    if isinstance(value, str):
        return f"'{value.translate(_ESCAPES)}'"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        # Not every engine has names for these.
        return "0.0 / 0.0" if math.isnan(value) else f"{math.copysign(1.0, value)} / 0.0"
    if isinstance(value, list):
        if len(value) >= _VECTOR and all(isinstance(item, float) and math.isfinite(item) for item in value):
            return f"[x IN split('{' '.join(map(repr, value))}', ' ') | toFloat(x)]"
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(name)}: {literal(item)}" for name, item in value.items()) + "}"
    return repr(value)


def _rest(waiting: dict[str, list[str]]) -> Iterator[str]:
    """Write what waits for more of its kind."""
    for work, rows in waiting.items():
        yield _statement(rows, work)
    waiting.clear()


def _statement(rows: Sequence[str], work: str) -> str:
    return "UNWIND [\n" + ",\n".join(rows) + f"\n] AS row\n{work};\n"
