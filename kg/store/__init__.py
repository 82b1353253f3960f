"""Where the graph is kept: embedded in a folder, or on a Neo4j server."""

from __future__ import annotations

import os
from pathlib import Path

from kg.errors import NotInGraph
from kg.store.base import Changes, GraphStore, Table

__all__ = ["Changes", "GraphStore", "Table", "connect", "embedded"]


def connect(folder: Path, url: str | None = None, *, create: bool = True) -> GraphStore:
    """Open the graph; use it with `with`, and close it early: the embedded one serves one process at a time.

    Args:
        folder: the AutoMC home; the embedded graph is its folder `graph`.
        url: a Neo4j server such as "bolt://localhost:7687"; None takes AUTOMC_GRAPH, and the embedded graph
            where that is not set either. The password of the server that `kg.store.server` started for this home
            is found there unless AUTOMC_GRAPH_PASSWORD is set.
        create: make an embedded graph where there is none.

    Raises:
        AddressInvalid: the url cannot be a server's.
        GraphLocked: another process holds the embedded graph.
        GraphUnavailable: the folder or the server cannot be reached.
        NotInGraph: there is no embedded graph, and `create` is off.
    """
    url = url or os.environ.get("AUTOMC_GRAPH")
    if not url:
        return embedded(folder, create=create)
    from kg.store.neo4j import Neo4jStore
    from kg.store.server import password_for

    return Neo4jStore(url, os.environ.get("AUTOMC_GRAPH_PASSWORD") or password_for(folder, url))


def embedded(folder: Path, *, create: bool = True) -> GraphStore:
    """Open the embedded graph of a home, whatever AUTOMC_GRAPH says; arguments and errors as for `connect`."""
    from kg.store.arcade import ArcadeStore, exists

    graph = folder / "graph"
    if not create and not exists(graph):
        raise NotInGraph(f"There is no graph in {graph} yet. Make it with `automc kg init`.")
    return ArcadeStore(graph)
