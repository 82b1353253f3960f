"""What can go wrong between here and a Neo4j server."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from kg.errors import GraphUnavailable
from kg.store import connect


@pytest.mark.parametrize("scheme", ["bolt", "neo4j"])
def test_nobody_answers(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("AUTOMC_GRAPH", url)
        start = time.monotonic()
        with pytest.raises(GraphUnavailable) as caught:
            connect(tmp_path)
    assert time.monotonic() - start < 10
    assert url in str(caught.value)
    assert "unset AUTOMC_GRAPH" in str(caught.value)
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_somebody_listens_but_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kg.store.neo4j._CONNECT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"bolt://127.0.0.1:{mute.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(GraphUnavailable, match=r"No Neo4j answers|connection"):
            connect(tmp_path, url)
        assert time.monotonic() - start < 30


def test_an_unknown_host(tmp_path: Path) -> None:
    with pytest.raises(GraphUnavailable, match=r"no-such-host\.invalid"):
        connect(tmp_path, "bolt://no-such-host.invalid:7687")


@pytest.mark.parametrize("url", ["http://localhost:7687", "localhost:7687", "bolt:/x"])
def test_an_address_that_is_none(url: str, tmp_path: Path) -> None:
    with pytest.raises(GraphUnavailable, match="is not the address of a Neo4j server"):
        connect(tmp_path, url)


def test_a_wrong_password(bolt_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOMC_GRAPH_USER", "root")
    monkeypatch.setenv("AUTOMC_GRAPH_PASSWORD", "something-else")
    with pytest.raises(GraphUnavailable, match=r"refused user 'root'.*AUTOMC_GRAPH_PASSWORD"):
        connect(tmp_path, bolt_server)


@pytest.mark.neo4j
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AUTOMC_GRAPH_PASSWORD", "wrong-password", "refused user"),
        ("AUTOMC_GRAPH_PASSWORD", "", "refused user"),
        ("AUTOMC_GRAPH_DATABASE", "nowhere", "no database 'nowhere'"),
    ],
)
def test_a_real_server_refuses(
    name: str, value: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = os.environ.get("AUTOMC_TEST_NEO4J")
    if not url:
        pytest.skip("AUTOMC_TEST_NEO4J names no Neo4j server (tests/neo4j.sh starts one)")
    if name == "AUTOMC_GRAPH_PASSWORD" and not os.environ.get(name):
        pytest.skip("the named server asks for no password")
    monkeypatch.setenv(name, value)
    with pytest.raises(GraphUnavailable, match=said):
        connect(tmp_path, url)
