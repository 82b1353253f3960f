"""The page of the graph: everything of the upper layer is on it, and nothing comes from elsewhere."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest

from automc import knowledge
from automc.report.graph_page import SCHEMES, layout, page, upper_layer
from kg.cards import read_cards
from kg.schema import Scheme, Strategy


@pytest.fixture(scope="module")
def contents(home):
    return knowledge.contents()


def scheme_rows(*texts: str):
    """Nodes and relationships of schemes of one trial each, as the graph holds them."""
    nodes, rels = [], []
    for text in texts:
        scheme = Scheme(tuple(Strategy.parse(part) for part in text.split(" -> ")))
        nodes.append({"_label": "Scheme", "id": scheme.id, "length": len(scheme)})
        nodes.append({"_label": "Trial", "id": f"study/{len(nodes)}", "status": "ok", "ar": -0.01, "pr": 0.3})
        rels.append(rel("OF_SCHEME", "Trial", nodes[-1]["id"], "Scheme", scheme.id))
        rels += [rel("STEP", "Scheme", scheme.id, "Strategy", step.id) for step in scheme.steps]
    return nodes, rels


def rel(type, from_label, from_id, to_label, to_id):
    return {"type": type, "from_label": from_label, "from_id": from_id, "to_label": to_label, "to_id": to_id,
            "properties": {}}  # fmt: skip


def test_every_method_technique_and_hyperparameter_is_drawn_apart(contents):
    nodes, rels = contents
    graph = upper_layer(nodes, rels)
    cards = read_cards()
    assert {f"Method:{card.id}" for card in cards} <= set(graph)
    for card in cards:
        near = set(graph[f"Method:{card.id}"])
        assert {f"Technique:{t.id}" for t in card.techniques} <= near
        assert {f"Hyperparameter:{h.id}" for h in card.hyperparameters} <= near
    places = layout(graph)
    assert set(places) == set(graph)
    assert len(set(places.values())) == len(places), "no two nodes in one place"
    columns: dict[int, list[int]] = {}
    for x, y in places.values():
        columns.setdefault(x, []).append(y)
    for ys in columns.values():
        ys.sort()
        assert all(b - a >= 16 for a, b in pairwise(ys)), "texts do not overlap"


def test_schemes_hang_on_the_methods_of_their_steps(contents):
    nodes, rels = contents
    more = scheme_rows(
        "NS[HP1=0.1,HP2=0.12,HP6=0.9] -> SFP[HP2=0.2,HP9=0.1,HP10=1]",
        *(f"NS[HP1=0.1,HP2={i / 1000},HP6=0.9]" for i in range(1, 60)),
    )
    graph = upper_layer(nodes + more[0], rels + more[1])
    drawn = [n for n in graph if n.startswith("Scheme:")]
    assert len(drawn) == SCHEMES
    pair = "Scheme:" + more[0][0]["id"]
    if pair in graph:
        assert set(graph[pair]) == {"Method:NS", "Method:SFP"}
    assert all("Method:NS" in graph[name] for name in drawn)


def test_the_page_is_whole_and_holds_what_is_asked_for(contents):
    nodes, rels = contents
    more = scheme_rows("NS[HP1=0.1,HP2=0.12,HP6=0.9]")
    evil = {"_label": "Technique", "id": "</script><script>alert(1)</script>", "title": "</script>"}
    scheme = more[0][0]["id"]
    replay = {"_label": "Replay", "id": "replay:1", "ar": -0.02, "pr": 0.4}
    replayed = rel("OF_SCHEME", "Replay", "replay:1", "Scheme", scheme)
    html = page([*nodes, *more[0], evil, replay], [*rels, *more[1], replayed])
    assert not re.search(r'(src|href)="', html), "nothing is loaded"
    assert html.count("<script") == 2, "no text became a script"
    assert html.count("</script>") == 2
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.S).group(1))
    assert len(data["Method:NS"]["strategies"]) == 50
    assert sum(len(d["strategies"]) for d in data.values()) == 4750
    assert any("AR" in text for text in data["Method:SFP"]["results"])
    tried, again = data[f"Scheme:{scheme}"]["results"]
    assert "+30.0%" in tried
    assert "+40.0%" in again
    for name in data:
        assert name == f"{data[name]['label']}:{data[name]['id']}"
