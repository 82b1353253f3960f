"""The knowledge graph on the command line, against a real embedded graph."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from automc import knowledge
from automc.cli.kg import app
from kg.embedding.vectors import Vectors


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(scope="module")
def learned(home: Path) -> Vectors:
    """The vectors of that home."""
    return knowledge.vectors()


@pytest.mark.slow
def test_second_sync_changes_nothing_and_says_so(home):
    result = run("sync", "--format", "json")
    assert result.exit_code == 0
    assert all(not row["created"] + row["updated"] + row["removed"] for row in json.loads(result.stdout))
    assert "Nothing changed." in result.stderr


def test_query_formats_and_params(home):
    text = (
        "MATCH (s:Strategy {searchable: true})-[:OF_METHOD]->(m:Method {id: $m}) RETURN m.id AS method, count(s) AS n"
    )
    result = run("query", text, "--param", "m=NS", "--format", "json")
    assert json.loads(result.stdout) == [{"method": "NS", "n": 50}]
    result = run("query", text, "--param", 'm="SFP"', "--format", "csv")
    assert result.stdout == "method,n\nSFP,75\n"
    result = run("query", text, "--param", "m=LFB")
    assert "LFB" in result.stdout
    assert "375" in result.stdout


def test_query_limit_says_that_it_cut(home):
    result = run("query", "MATCH (s:Strategy) RETURN s.id AS id", "--limit", "3", "--format", "csv")
    assert len(result.stdout.splitlines()) == 4
    assert "Cut after 3 rows" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("MATHC (n) RETURN n",), ""),
        (("CREATE (n:Paper {id: 'sneaked'}) RETURN n",), "read-only"),
        (("MATCH (m:Method {id: $m}) RETURN m",), "m"),
        (("RETURN 1", "--param", "novalue"), "--param novalue is not name=value"),
    ],
)
def test_query_errors_are_one_message_and_exit_2(home, words, said):
    result = run("query", *words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert said.lower() in result.stderr.lower()
    assert "Traceback" not in result.stderr
    left = run("query", "MATCH (p:Paper {id: 'sneaked'}) RETURN p.id AS id", "--format", "json")
    assert json.loads(left.stdout) == []


def test_write_needs_its_flag(home):
    assert run("query", "CREATE (:Paper {id: 'written'})", "--write").exit_code == 0
    found = run("query", "MATCH (p:Paper {id: 'written'}) RETURN p.id AS id", "--format", "json")
    assert json.loads(found.stdout) == [{"id": "written"}]
    assert run("query", "MATCH (p:Paper {id: 'written'}) DELETE p", "--write").exit_code == 0


def test_embedding_status_and_similar(home, learned):
    assert run("similar", "NS[HP1=0.2]").exit_code == 2

    status = json.loads(run("status", "--format", "json").stdout)
    assert (status["store"], status["embedding"], status["pending_migrations"]) == ("embedded", "fresh", [])
    assert status["nodes"]["Experience"] > 292

    nearest = json.loads(run("similar", "NS[HP1=0.2,HP2=0.12,HP6=0.9]", "-k", "5", "--format", "json").stdout)
    assert [row["strategy"] for row in nearest] == brute_force_nearest(learned, "NS[HP1=0.2,HP2=0.12,HP6=0.9]", 5)
    only = json.loads(
        run("similar", "NS[HP1=0.2,HP2=0.12,HP6=0.9]", "--method", "sfp", "-k", "200", "--format", "json").stdout
    )
    assert len(only) == 75
    assert all(row["strategy"].startswith("SFP[") for row in only)


def brute_force_nearest(vectors: Vectors, strategy: str, k: int) -> list[str]:
    by_id = dict(zip(vectors.strategies, np.asarray(vectors.vectors, dtype=np.float64), strict=True))
    one = by_id.pop(strategy)

    def cosine(other: np.ndarray) -> float:
        return float(one @ other / np.sqrt((one @ one) * (other @ other)))

    return sorted(by_id, key=lambda id: -cosine(by_id[id]))[:k]


@pytest.mark.parametrize(("strategy", "said"), [("NS[HP1=0.2]", "not on the grid"), ("NS(0.2)", "is not a strategy")])
def test_similar_to_what_is_not_there(learned, strategy, said):
    result = run("similar", strategy)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    "words", [("status",), ("query", "RETURN 1"), ("similar", "NS[HP1=0.2]"), ("embed",), ("export",)]
)
def test_missing_graph_is_said(automc_home, words):
    result = run(*words)
    assert result.exit_code == 2
    assert "`automc kg init`" in result.stderr
    assert not (automc_home / "graph").exists()


def test_unreachable_server_is_exit_1(automc_home, monkeypatch):
    monkeypatch.setenv("AUTOMC_GRAPH", "bolt://127.0.0.1:1")
    for words in (("status",), ("query", "RETURN 1"), ("init",)):
        result = run(*words)
        assert result.exit_code == 1
        assert "127.0.0.1:1" in result.stderr
        assert "Traceback" not in result.stderr


def test_home_below_a_file_is_exit_1(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOMC_HOME", str(tmp_path / "file" / "home"))
    result = run("status")
    assert result.exit_code == 1
    assert "AUTOMC_HOME" in result.stderr


def test_help_needs_no_torch_and_no_store():
    modules = "automc.cli.kg, automc.cli.methods, automc.cli.experience, automc.knowledge"
    code = f"import sys, {modules}; print(*(m for m in ('torch', 'scipy', 'pykeen', 'jpype') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
