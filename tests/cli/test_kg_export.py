"""`automc kg export --format cypher` makes the graph anew elsewhere; on the small cards, for the sake of time."""

from __future__ import annotations

import csv
import json
from io import BytesIO, StringIO

import networkx
import pytest
from typer.testing import CliRunner, Result

from automc import knowledge
from automc.cli.kg import app
from kg.cards import read_cards
from kg.experience import read_experience
from kg.store.copy import read_contents

pytestmark = pytest.mark.usefixtures("small_cards")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_a_cypher_file_rebuilds_the_graph_elsewhere(filled, tmp_path, monkeypatch):
    file = tmp_path / "graph.cypher"
    assert run("export", "--format", "cypher", "--out", str(file)).exit_code == 0
    with knowledge.graph() as store:
        wanted = read_contents(store)
    assert run("query", "--file", str(file)).exit_code == 2, "writing is asked for"
    refused = run("query", "--write", "--file", str(file), "--param", "m=NS")
    assert (refused.exit_code, "--param" in refused.stderr) == (2, True)

    monkeypatch.setenv("AUTOMC_HOME", str(tmp_path / "elsewhere"))
    done = run("query", "--write", "--file", str(file))
    assert done.exit_code == 0, done.output
    assert f"nodes created {len(wanted.nodes):,}, " in done.stderr
    with knowledge.graph() as store:
        found = read_contents(store)
    assert (found.counts, found.digest) == (wanted.counts, wanted.digest)
    status = json.loads(run("status", "--format", "json").stdout)
    assert (status["embedding"], status["pending_migrations"]) == ("fresh", [])


def test_graphml_and_csv_hold_what_json_does(filled, tmp_path):
    graph = json.loads(run("export").stdout)
    cards = read_cards()
    knobs = {knob.id: knob for card in cards for knob in card.hyperparameters}
    for label, n in {"Method": len(cards), "Hyperparameter": len(knobs), "Paper": len(read_experience()[1])}.items():
        assert sum(node["_label"] == label for node in graph["nodes"]) == n
    ends = {rel["to_id"] for rel in graph["relationships"] if rel["type"] == "HAS_VALUE"}
    assert {"HP6=0.7", "HP6=0.9"} <= ends
    assert run("export", "--format", "graphml", "--out", str(tmp_path / "g.graphml")).exit_code == 0
    read = networkx.read_graphml(BytesIO((tmp_path / "g.graphml").read_bytes()))
    assert read.number_of_nodes() == len(graph["nodes"])
    assert read.number_of_edges() == len(graph["relationships"])
    assert read.nodes["Method:NS"]["title"] == "Network Slimming"

    assert run("export", "--format", "csv", "--out", str(tmp_path / "g")).exit_code == 0
    rows = list(csv.DictReader(StringIO((tmp_path / "g" / "relationships.csv").read_text())))
    assert len(rows) == len(graph["relationships"])
    assert {"type": "HAS_VALUE", "from_id": "HP6", "to_id": "HP6=0.7"}.items() <= next(
        row for row in rows if row["to_id"] == "HP6=0.7" and row["type"] == "HAS_VALUE"
    ).items()


def test_export_csv_needs_a_folder(filled):
    result = run("export", "--format", "csv")
    assert (result.exit_code, "--out FOLDER" in result.stderr) == (2, True)
