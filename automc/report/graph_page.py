"""The knowledge graph's upper layer as one HTML page: techniques, methods, hyperparameters, schemes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

import jinja2
import networkx

COLUMNS = {"Technique": 270, "Method": 120, "Hyperparameter": 270, "Scheme": 300}
"""The columns from left to right, each with its width in pixels."""
ROW, MARGIN = 26, 20
"""Pixels between neighbours in a column, and around."""
LETTERS = 32
"""Of a node's text, which then fits into its column."""
HIDDEN = ("document",)
"""Properties that are for the program: the text of a card or file that was added."""
SCHEMES = 40
"""Schemes that are drawn: the ones that most trials used, then the shortest."""

Row = dict[str, Any]


def page(nodes: Iterable[Row], rels: Iterable[Row]) -> str:
    """Return the page: a picture that can be searched and clicked, with strategies and results on demand.

    Args:
        nodes: all nodes with properties and `_label`, as `knowledge.contents` gives them.
        rels: all relationships with type, from_label, from_id, to_label, to_id and properties.
    """
    nodes, rels = list(nodes), list(rels)
    graph = upper_layer(nodes, rels)
    places = layout(graph)
    strategies, results = _strategies(nodes, rels), _results(nodes, rels)
    details = {
        name: {
            "label": data["label"], "id": data["id"], "facts": data["facts"],
            "near": sorted(set(graph.to_undirected(as_view=True)[name])),
            "strategies": strategies.get(data["id"], []) if data["label"] == "Method" else [],
            "results": results.get(data["id"], []) if data["label"] in ("Method", "Scheme") else [],
        }
        for name, data in graph.nodes(data=True)
    }  # fmt: skip
    texts = {name: text(data) for name, data in graph.nodes(data=True)}
    height = max((y for _, y in places.values()), default=0) + 2 * MARGIN
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node["_label"]] = counts.get(node["_label"], 0) + 1
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("automc.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("graph_page.html.j2").render(
        graph=graph, places=places, texts=texts, width=sum(COLUMNS.values()) + MARGIN, height=height, counts=counts,
        # "<" could end the script element, or begin another
        details=json.dumps(details, ensure_ascii=False).replace("<", "\\u003c"),
        columns=_starts(),
    )  # fmt: skip


def upper_layer(nodes: Iterable[Row], rels: Iterable[Row]) -> networkx.Graph:
    """Return techniques, methods, hyperparameters and the most used schemes, named Label:id, with what links them.

    A scheme is linked to the methods of its steps; START is left out.
    """
    rels = list(rels)
    uses: dict[str, int] = {}
    for rel in rels:
        if rel["type"] == "OF_SCHEME":
            uses[rel["to_id"]] = uses.get(rel["to_id"], 0) + 1
    schemes = [n for n in nodes if n["_label"] == "Scheme" and n.get("length", 0) > 0]
    schemes.sort(key=lambda n: (-uses.get(n["id"], 0), n.get("length", 0), n["id"]))
    graph = networkx.Graph()
    upper = [n for n in nodes if n["_label"] in COLUMNS and n["_label"] != "Scheme"] + schemes[:SCHEMES]
    for node in upper:
        hidden = ("id", "_label", *HIDDEN)
        facts = {k: v for k, v in node.items() if k not in hidden and v not in (None, "")}
        graph.add_node(_name(node["_label"], node["id"]), label=node["_label"], id=node["id"], facts=facts)
    for rel in rels:
        start, end = _name(rel["from_label"], rel["from_id"]), _name(rel["to_label"], rel["to_id"])
        if rel["type"] == "STEP":
            end = _name("Method", str(rel["to_id"]).partition("[")[0])
        if start in graph and end in graph and rel["type"] in ("USES_TECHNIQUE", "HAS_HYPERPARAMETER", "STEP"):
            graph.add_edge(start, end)
    return graph


def layout(graph: networkx.Graph) -> dict[str, tuple[int, int]]:
    """Return (x, y) pixels of every node: a column for each label, rows ordered so that few links cross.

    Methods are sorted by name; in the other columns each node lies near the mean of its neighbours.
    """
    columns = {label: [n for n, d in graph.nodes(data=True) if d["label"] == label] for label in COLUMNS}
    columns["Method"].sort(key=lambda name: (graph.degree(name) <= 1, name.lower()))
    row = {name: i for i, name in enumerate(columns["Method"])}
    for label, names in columns.items():
        if label != "Method":
            names.sort(key=lambda name: (_mean([row[n] for n in graph[name] if n in row]), name))
    tallest = max((len(names) for names in columns.values()), default=0)
    places = {}
    starts = _starts()
    for label, names in columns.items():
        gap = min(3 * ROW, ROW * tallest / max(1, len(names)))
        for j, name in enumerate(names):
            places[name] = (starts[label], round(3 * MARGIN + gap * j))
    return places


def text(data: Row) -> str:
    """Return what is written beside a node: what an id such as TE3 or HP6 stands for, too."""
    facts = data["facts"]
    told = str(facts.get("meaning") or facts.get("title") or "") if data["label"] != "Method" else ""
    whole = f"{data['id']}: {told}" if told and len(data["id"]) <= 4 else data["id"]
    return whole if len(whole) <= LETTERS else whole[: LETTERS - 1] + "…"


def _starts() -> dict[str, int]:
    """The left edge of each column in pixels."""
    return dict(zip(COLUMNS, accumulate(COLUMNS.values(), initial=MARGIN), strict=False))


def _name(label: str, id: str) -> str:
    return f"{label}:{id}"


def _mean(values: list[int]) -> float:
    return sum(values) / len(values) if values else 1e9


def _strategies(nodes: list[Row], rels: list[Row]) -> dict[str, list[str]]:
    """Searchable strategies by method."""
    searchable = {n["id"] for n in nodes if n["_label"] == "Strategy" and n.get("searchable")}
    found: dict[str, list[str]] = {}
    for rel in rels:
        if rel["type"] == "OF_METHOD" and rel["from_id"] in searchable:
            found.setdefault(rel["to_id"], []).append(rel["from_id"])
    return found


def _results(nodes: list[Row], rels: list[Row]) -> dict[str, list[str]]:
    """What was measured, in words: published experience by method, trials and replays by scheme."""
    by_name: Mapping[tuple[str, str], Row] = {(n["_label"], n["id"]): n for n in nodes}
    found: dict[str, list[str]] = {}
    for rel in rels:
        if rel["type"] == "OF_STRATEGY":
            record = by_name[("Experience", rel["from_id"])]
            method = str(rel["to_id"]).partition("[")[0]
            found.setdefault(method, []).append(f"{rel['to_id']}: {_rates(record)} ({record.get('source')})")
        elif rel["type"] == "OF_SCHEME":
            # Of a trial, or of a replay outside of any study.
            run = by_name[(rel["from_label"], rel["from_id"])]
            found.setdefault(rel["to_id"], []).append(f"{rel['from_id']}: {run.get('status', 'ok')}, {_rates(run)}")
    return found


def _rates(row: Row) -> str:
    """Say AR and PR where they are known."""
    known = [f"{name.upper()} {row[name]:+.1%}" for name in ("ar", "pr") if isinstance(row.get(name), int | float)]
    return ", ".join(known) or "no ratios"
