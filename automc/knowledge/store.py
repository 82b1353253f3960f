"""The graph of this home: opened, asked, described, copied."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from automc.bounds import check
from automc.errors import AutoMCError
from automc.home import home
from kg.errors import NotInGraph
from kg.schema import Strategy

if TYPE_CHECKING:
    from kg.store import GraphStore
    from kg.store.base import Table
    from kg.store.copy import Contents


@contextmanager
def graph(create: bool = True) -> Iterator[GraphStore]:
    """Open the graph of this home, or the server that AUTOMC_GRAPH names, and close it at the end.

    Args:
        create: make an embedded graph where there is none.

    Raises:
        NotInGraph: there is no graph, and `create` is off.
        GraphUnavailable: it cannot be reached or opened; GraphLocked where another process holds it.
    """
    from kg.store import connect

    with connect(home(), create=create) as store:
        yield store


def graph_exists() -> bool:
    """Tell whether this home has a graph; a server that AUTOMC_GRAPH names counts as one."""
    from kg.store.arcade import exists

    return bool(os.environ.get("AUTOMC_GRAPH")) or exists(home(create=False) / "graph")


def study_names() -> list[str]:
    """Return the names of all studies, oldest first."""
    from kg.studies import list_studies

    with graph() as store:
        return [str(row["id"]) for row in list_studies(store)]


def query(
    text: str,
    params: Mapping[str, Any] | None = None,
    *,
    timeout: float | None = 30.0,
    limit: int | None = None,
    write: bool = False,
) -> Table:
    """Run one Cypher statement on the graph.

    Args:
        text: the statement.
        params: values of its `$names`.
        timeout: seconds, None for no limit.
        limit: greatest number of rows, of a read.
        write: allow it to write; without, the store refuses.

    Raises:
        QueryInvalid: it does not parse, lacks a parameter, or writes without `write`.
        QueryTimeout: it ran longer than `timeout`.
    """
    check_query(timeout, limit)
    from kg import fresh

    with graph(create=False) as store:
        if write:
            fresh.forget(store)
            return store.write(text, params, timeout=timeout)
        return store.read(text, params, timeout=timeout, limit=limit)


def check_query(timeout: float | None, limit: int | None) -> None:
    """Refuse a time or a number of rows that no query may have; None is no limit."""
    for option, value in (("--timeout", timeout), ("--limit", limit)):
        if value is not None:
            check(option, value)


def query_params(items: Sequence[str]) -> dict[str, Any]:
    """Read the values of a query's parameters, each written name=value: the value as JSON, else as text.

    Raises:
        AutoMCError: one is not written so.
    """
    params: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name.strip().isidentifier():
            raise AutoMCError(f"--param {item} is not name=value. Write it like --param m=NS.")
        try:
            params[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            params[name.strip()] = value
    return params


def similar(strategy: str, k: int = 10, method: str | None = None) -> list[tuple[str, float]]:
    """Return the `k` searchable strategies nearest to one, by the cosine of their embeddings, nearest first.

    Args:
        strategy: a strategy's id.
        k: how many.
        method: only strategies of this method.

    Raises:
        SchemaInvalid: `strategy` cannot be read.
        NotInGraph: it is not on a card's grid, or no embeddings have been learned.
    """
    import numpy as np

    from kg.sync import latest_run, read_embeddings

    check("-k", k)
    wanted = Strategy.parse(strategy).id
    with graph(create=False) as store:
        if latest_run(store) is None:
            raise NotInGraph("The graph holds no embeddings yet. Run `automc kg embed`.")
        ids, found = read_embeddings(store)
    if wanted not in ids:
        raise NotInGraph(f"{wanted} is not on the grid of a method card. `automc method show` prints the grids.")
    vectors = found.astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    place = ids.index(wanted)
    cosine = vectors @ vectors[place]
    nearest = [i for i in np.lexsort((np.arange(len(ids)), -cosine)) if i != place]
    if method is not None:
        nearest = [i for i in nearest if ids[i].startswith(f"{method}[")]
    return [(ids[i], float(cosine[i])) for i in nearest[:k]]


def contents() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return all nodes, each with its properties and "_label", and all relationships of the graph.

    Raises:
        NotInGraph: there is no graph.
        SchemaInvalid: a node has not exactly one label and an id of its own.
    """
    from kg.store.copy import read_contents

    with graph(create=False) as store:
        found = read_contents(store)
    names = ("type", "from_label", "from_id", "to_label", "to_id", "properties")
    nodes = [{"_label": label, **properties} for label, properties in found.nodes]
    return nodes, [dict(zip(names, rel, strict=True)) for rel in found.rels]


def as_script() -> tuple[str, tuple[int, int]]:
    """Return Cypher statements that rebuild the graph in an empty store, and its numbers of nodes and relationships.

    Raises:
        NotInGraph: there is no graph.
        SchemaInvalid: a node has not exactly one label and an id of its own.
    """
    from kg.resources import migrations_dir
    from kg.store.copy import read_pages
    from kg.store.script import script

    counts = [0, 0]

    def counted(pages: Iterator[Contents]) -> Iterator[Contents]:
        for page in pages:
            counts[0] += len(page.nodes)
            counts[1] += len(page.rels)
            yield page

    with graph(create=False) as store:
        text = "\n".join(script(counted(read_pages(store)), migrations_dir()))
    return text, (counts[0], counts[1])


def run_script(statements: Sequence[str], *, timeout: float | None = 300.0) -> Table:
    """Run Cypher statements on the graph, all of them or none, in a graph that is made where there is none.

    Args:
        statements: in order; constraints and indexes come first, wherever they stand.
        timeout: seconds for each, None for no limit.

    Raises:
        QueryInvalid: one does not parse, or breaks a constraint.
        QueryTimeout: one ran longer than `timeout`.
    """
    from kg import fresh
    from kg.store.script import run_script

    with graph() as store:
        fresh.forget(store)
        return run_script(store, statements, timeout)


def copy(source: str | None = None, target: str | None = None, *, replace: bool = False) -> Contents:
    """Copy a whole graph between the embedded store of this home and a Neo4j server, or between two servers.

    Args:
        source: address of a server; None: the embedded graph of this home, whatever AUTOMC_GRAPH says.
        target: likewise, where to.
        replace: remove also studies and nodes of other origin from the target.

    Raises:
        AutoMCError: neither side is a server.
        NotInGraph: there is nothing to copy.
        MigrationInvalid, SchemaInvalid: see `kg.store.copy.copy`; the target is as it was.
        GraphUnavailable: one of them cannot be reached, or the copy came out different; the target is as it was.
    """
    from kg.resources import migrations_dir
    from kg.store import connect, embedded
    from kg.store.copy import copy as copy_graph

    if not source and not target:
        raise AutoMCError("Name a server to copy to or from: --to bolt://127.0.0.1:7687, or --from.")
    here = home()
    with (
        connect(here, source) if source else embedded(here, create=False) as first,
        connect(here, target) if target else embedded(here) as second,
    ):
        return copy_graph(first, second, migrations_dir(), replace=replace)
