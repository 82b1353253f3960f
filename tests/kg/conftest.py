"""Graph stores for tests: embedded, the Neo4j driver on ArcadeDB's Bolt listener, a real Neo4j where one is named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kg.resources import migrations_dir
from kg.store import GraphStore, connect
from kg.store.migrate import migrate

ROOT = Path(__file__).parents[2]
ALL = ("embedded", "bolt", pytest.param("neo4j", marks=pytest.mark.neo4j))


@pytest.fixture(scope="session")
def bolt_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an ArcadeDB server in a process of its own."""
    folder = tmp_path_factory.mktemp("bolt")
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "store" / "bolt_server.py"), str(folder)],
        cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        for line in process.stdout:
            if line.startswith("port "):
                yield f"bolt://127.0.0.1:{line.split()[1]}"
                break
        else:
            pytest.fail("ArcadeDB's Bolt listener did not start")
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _bolt(url: str, monkeypatch: pytest.MonkeyPatch) -> GraphStore:
    monkeypatch.setenv("AUTOMC_GRAPH_USER", "root")
    monkeypatch.setenv("AUTOMC_GRAPH_PASSWORD", "only-for-tests")
    monkeypatch.setenv("AUTOMC_GRAPH_DATABASE", "tests")
    return connect(Path("unused"), url)


@pytest.fixture(params=ALL)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GraphStore]:
    """An empty store of each kind in turn; `store_kind` says which."""
    monkeypatch.delenv("AUTOMC_GRAPH", raising=False)
    if request.param == "embedded":
        with connect(tmp_path) as graph:
            yield graph
        return
    if request.param == "bolt":
        with _bolt(request.getfixturevalue("bolt_server"), monkeypatch) as graph:
            yield graph
            graph.write("MATCH (n) DETACH DELETE n")
        return
    with connect(tmp_path, request.getfixturevalue("real_neo4j")) as graph:
        yield graph


@pytest.fixture
def store_kind(request: pytest.FixtureRequest) -> str:
    """Which of the stores this test runs on: embedded, bolt or neo4j."""
    return str(request.node.callspec.params["store"])


@pytest.fixture
def graph(store: GraphStore) -> GraphStore:
    """A store with all migrations applied."""
    migrate(store, migrations_dir())
    return store


@pytest.fixture
def run_python() -> Callable[..., subprocess.Popen[str]]:
    """Start Python code in a process of its own that can import the project."""

    def start(code: str, *args: str, cwd: Path = ROOT) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if k != "AUTOMC_GRAPH"} | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, "-c", code, *args], cwd=cwd, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start
