"""The graph, node by node: by label, by name, and from each node to its neighbours."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from automc import knowledge
from automc.board import pages
from automc.board.reading import read
from automc.knowledge import explain
from kg.errors import NotInGraph
from kg.schema import LABELS
from kg.store import GraphStore

PAGE = 50
"""Nodes of one page, of a label or of the neighbours by one type."""
FIRST = 12
"""Neighbours by each type that are shown before one asks for more."""
HIDDEN = ("id", "document", "embedding", "rivals", "spec", "probe")
"""Properties that are for the program."""
NAMED = ("Method", "Technique", "Hyperparameter", "Paper", "Task", "Study", "Scheme", "Strategy", "Experience")
"""Labels among which a name is looked for."""
_SAID = "coalesce(n.title, n.meaning, n.status, n.dataset, '') AS said"


async def graph(request: Request) -> Response:
    """The labels with their counts, and what a name finds."""
    wanted = request.query_params.get("q", "").strip()
    counts, found = await read(partial(_graph, wanted))
    return pages.page("graph.html.j2", counts=counts, wanted=wanted, found=found)


def _graph(wanted: str) -> tuple[dict[str, int], dict[str, list[dict[str, Any]]]]:
    with knowledge.graph(create=False) as store:
        counts = {label: store.read(f"MATCH (n:{label}) RETURN count(n) AS n").rows[0][0] for label in LABELS}
        looked = NAMED if wanted else ()
        found = {label: _named(store, label, wanted, 0, FIRST) for label in looked}
    return {label: n for label, n in counts.items() if n}, {label: rows for label, rows in found.items() if rows}


def _named(store: GraphStore, label: str, wanted: str, skip: int, most: int) -> list[dict[str, Any]]:
    return store.read(
        f"MATCH (n:{label}) WHERE toLower(n.id) CONTAINS $q OR toLower(coalesce(n.title, n.meaning, '')) CONTAINS $q "
        f"RETURN n.id AS id, {_SAID} ORDER BY n.id SKIP {skip} LIMIT {most}",
        {"q": wanted.lower()},
    ).dicts()


async def label(request: Request) -> Response:
    """All nodes of a label, or one of them with its neighbours."""
    name, asked = request.path_params["label"], request.query_params
    if name not in LABELS:
        raise HTTPException(404, f"'{name}' is not a label of the graph. Known: {', '.join(LABELS)}.")
    start = _whole(asked.get("from", "0"))
    if "id" in asked:
        node = await read(partial(_node, name, asked["id"], asked.get("all", ""), start, known="known" in asked))
        return pages.page("node.html.j2", label=name, start=start, page=PAGE, all=asked.get("all", ""), **node)
    wanted = asked.get("q", "").strip()
    rows = await read(partial(_of_label, name, wanted, start))
    more = len(rows) > PAGE
    return pages.page(
        "label.html.j2", label=name, wanted=wanted, rows=rows[:PAGE], start=start, page=PAGE, more=more
    )  # fmt: skip


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 9 else 0


def _of_label(name: str, wanted: str, start: int) -> list[dict[str, Any]]:
    with knowledge.graph(create=False) as store:
        return _named(store, name, wanted, start, PAGE + 1)


def _node(name: str, id: str, all: str, start: int, *, known: bool) -> dict[str, Any]:
    """Return a node's properties and neighbours; of a strategy those that are like it, too.

    Args:
        name: its label.
        id: its id.
        all: "out:TYPE" or "in:TYPE", whose neighbours are listed from `start` on; "" for some of each.
        start: see `all`.
        known: say in words what is known of a method or strategy.
    """
    with knowledge.graph(create=False) as store:
        rows = store.read(f"MATCH (n:{name} {{id: $id}}) RETURN properties(n) AS p", {"id": id}).rows
        if not rows:
            raise NotInGraph(f"There is no {name} '{id[:200]}' in the graph.")
        properties = rows[0][0]
        linked = _neighbours(store, name, id, all, start)
    similar = knowledge.similar(id, 8) if name == "Strategy" and properties.get("searchable") else []
    said = explain.text(explain.explain(id)) if known and name in ("Method", "Strategy") else ""
    facts = {k: v for k, v in sorted(properties.items()) if k not in HIDDEN and v not in (None, "")}
    added = bool(properties.get("document")) and name in ("Method", "Paper")
    return {"id": id, "facts": facts, "linked": linked, "similar": similar, "said": said, "added": added}


def _neighbours(store: GraphStore, name: str, id: str, all: str, start: int) -> list[dict[str, Any]]:
    found = []
    for way, arrow in (("out", "-[r]->"), ("in", "<-[r]-")):
        counts = store.read(
            f"MATCH (:{name} {{id: $id}}){arrow}() RETURN type(r) AS type, count(r) AS n ORDER BY type", {"id": id}
        ).rows
        for type, count in counts:
            if all and all != f"{way}:{type}":
                continue
            skip, most = (start, PAGE) if all else (0, FIRST)
            nodes = store.read(
                f"MATCH (:{name} {{id: $id}}){arrow.replace('[r]', f'[:{type}]')}(n) "
                f"RETURN labels(n)[0] AS label, n.id AS id, {_SAID} ORDER BY n.id SKIP {skip} LIMIT {most}",
                {"id": id},
            ).dicts()
            found.append({"way": way, "type": type, "count": count, "nodes": nodes})
    return found
