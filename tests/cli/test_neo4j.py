"""The command line on a real Neo4j, from an empty server to a search, and everything home again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from study_tools import in_process

pytestmark = pytest.mark.neo4j

QUICK = ("--unit-epochs", "0.05", "--fraction", "0.2", "--precision", "float32", "--device", "cpu", "--workers", "1")


def test_the_graph_on_a_server(automc, full_home: Path, real_neo4j: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ok(*words: Any) -> Any:
        done = automc(*words)
        assert done.exit_code == 0, done.output
        return done

    def status() -> dict[str, Any]:
        return json.loads(ok("kg", "status", "--format", "json").stdout)

    here = status()
    monkeypatch.setenv("AUTOMC_GRAPH", real_neo4j)
    # Nothing is there yet; then what `kg init` makes; then all that the embedded graph had.
    assert status()["pending_migrations"]
    created = {row["kind"]: row["created"] for row in json.loads(ok("kg", "init", "--format", "json").stdout)}
    assert created["Strategy"] == here["nodes"]["Strategy"]
    assert "Nothing changed." in ok("kg", "sync").stderr
    assert status()["embedding"] == "none"
    copied = ok("kg", "copy", "--to", real_neo4j)
    assert "both sides have the content hash" in copied.stderr
    there = status()
    assert (there["store"], there["place"], there["embedding"]) == ("neo4j", real_neo4j, "fresh")
    assert there["nodes"] == here["nodes"]

    asked = ok("kg", "query", "MATCH (s:Strategy)-[:OF_METHOD]->(m:Method {id: $m}) WHERE s.searchable "
               "RETURN count(s) AS n", "--param", "m=NS", "--format", "csv")  # fmt: skip
    assert asked.stdout == "n\n50\n"
    refused = automc("kg", "query", "MATCH (m:Method) DETACH DELETE m")
    assert (refused.exit_code, "read-only" in refused.stderr) == (2, True)
    late = automc("kg", "query", "UNWIND range(1, 100000) AS i UNWIND range(1, 100000) AS j WITH i, j "
                  "WHERE i * j % 7 = 9 RETURN i", "--timeout", "0.3")  # fmt: skip
    assert (late.exit_code, "time limit of 0.3 s" in late.stderr) == (2, True)
    assert len(json.loads(ok("kg", "similar", "NS[HP1=0.2,HP2=0.12,HP6=0.9]", "--format", "json").stdout)) == 10
    assert sum(there["nodes"].values()) == len(json.loads(ok("kg", "export").stdout)["nodes"])

    with in_process():
        search = automc("search", full_home / "digits.am", "--data", "digits", "--gamma", "0.04", "--budget", "3steps",
                        "--final", "none", "--no-own-experience", *QUICK)  # fmt: skip
    assert search.exit_code == 0, search.output
    shown = json.loads(ok("show", "digits-digits-1", "--format", "json").stdout)
    assert shown["status"] == "done"
    assert status()["nodes"]["Trial"] == 3

    # The embedded graph knows nothing of it, until it is brought home.
    assert "1 Study" in automc("kg", "copy", "--to", real_neo4j).stderr
    ok("kg", "copy", "--from", real_neo4j)
    trials = ok("show", "digits-digits-1", "--trials", "--format", "csv").stdout
    monkeypatch.setenv("AUTOMC_GRAPH", "")
    assert ok("show", "digits-digits-1", "--trials", "--format", "csv").stdout == trials
    ok("study", "delete", "digits-digits-1", "--yes")
    assert status()["nodes"] == here["nodes"]
    ok("kg", "copy", "--to", real_neo4j, "--replace")


def test_a_wrong_password_is_one_message(automc, automc_home: Path, real_neo4j: str, monkeypatch) -> None:
    monkeypatch.setenv("AUTOMC_GRAPH", real_neo4j)
    with monkeypatch.context() as patch:
        patch.setenv("AUTOMC_GRAPH_PASSWORD", "wrong-password")
        # Once only: after three the server refuses the right one, too, for some seconds.
        done = automc("kg", "init")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: The Neo4j at ")
    assert "refused user 'neo4j'" in done.stderr
