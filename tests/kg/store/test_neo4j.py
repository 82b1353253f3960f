"""What can go wrong between here and a Neo4j server."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kg.errors import AddressInvalid, GraphUnavailable
from kg.store import connect


@pytest.mark.parametrize("scheme", ["bolt", "neo4j"])
def test_nobody_answers(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("AUTOMC_GRAPH", url)
        with pytest.raises(GraphUnavailable) as caught:
            connect(tmp_path)
    assert url in str(caught.value)
    assert "unset AUTOMC_GRAPH" in str(caught.value)
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_somebody_listens_but_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kg.store.neo4j._CONNECT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"bolt://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(GraphUnavailable, match=r"No Neo4j answers|connection"):
            connect(tmp_path, url)


def test_an_unknown_host(tmp_path: Path) -> None:
    with pytest.raises(GraphUnavailable, match=r"no-such-host\.invalid"):
        connect(tmp_path, "bolt://no-such-host.invalid:7687")


@pytest.mark.parametrize("url", ["http://localhost:7687", "localhost:7687", "bolt:/x"])
def test_an_address_that_is_none(url: str, tmp_path: Path) -> None:
    with pytest.raises(AddressInvalid, match="is not the address of a Neo4j server") as told:
        connect(tmp_path, url)
    assert told.value.exit_code == 2


def test_a_wrong_password(bolt_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOMC_GRAPH_USER", "root")
    monkeypatch.setenv("AUTOMC_GRAPH_PASSWORD", "something-else")
    with pytest.raises(GraphUnavailable, match=r"refused user 'root'.*AUTOMC_GRAPH_PASSWORD"):
        connect(tmp_path, bolt_server)


def _text(value: str) -> bytes:
    return bytes((0xD0, len(value))) + value.encode()


@contextmanager
def server_of_old(agent: str, protocol: tuple[int, int]) -> Iterator[str]:
    """A server that agrees to one version of the Bolt protocol, says what it is, and has no rows for any query."""
    greeting = b"\xb1\x70\xa2" + _text("server") + _text(agent) + _text("connection_id") + _text("bolt-1")
    success = b"\xb1\x70\xa1" + _text("fields") + b"\x90"

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with suppress(OSError), connection, connection.makefile("rb") as stream:
                    stream.read(20)
                    connection.sendall(bytes((0, 0, protocol[1], protocol[0])))
                    answer = greeting
                    while size := stream.read(2):
                        # An empty chunk ends a message.
                        stream.read(struct.unpack(">H", size)[0])
                        if size == b"\0\0":
                            connection.sendall(struct.pack(">H", len(answer)) + answer + b"\0\0")
                            answer = success

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"bolt://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("agent", "protocol", "said"),
    [
        ("Neo4j/3.5.35", (0, 0), "does not speak the protocol"),
        ("Neo4j/4.4.44", (4, 4), "does not speak the protocol"),
        ("Neo4j/5.20.0", (5, 4), r"Neo4j/5\.20\.0"),
    ],
)
def test_an_old_server(agent: str, protocol: tuple[int, int], said: str, tmp_path: Path) -> None:
    with (
        server_of_old(agent, protocol) as url,
        pytest.raises(GraphUnavailable, match=rf"too old: .*{said}.*AutoMC needs Neo4j 5\.26 or newer"),
    ):
        connect(tmp_path, url)


def test_a_server_that_is_new_enough(tmp_path: Path) -> None:
    with server_of_old("Neo4j/2026.07.1", (5, 4)) as url, connect(tmp_path, url) as store:
        assert "Neo4j/2026.07.1" in store.version()


@pytest.mark.neo4j
def test_a_deadlock_is_run_again(real_neo4j: str, tmp_path: Path) -> None:
    """Two transactions that lock the same two nodes in opposite order: the server ends one, and it runs again."""
    with connect(tmp_path, real_neo4j) as store:
        store.write("CREATE (:Method {id: 'a', n: 0}), (:Method {id: 'b', n: 0})")
    meet, attempts = threading.Barrier(2), []

    def work(first: str, second: str) -> None:
        def both() -> None:
            attempts.append(first)
            for id in (first, second):
                store.write("MATCH (m:Method {id: $id}) SET m.n = m.n + 1", {"id": id})
                if len(attempts) <= 2 and id == first:
                    meet.wait(600)

        with connect(tmp_path, real_neo4j) as store:
            store.atomically(both)

    threads = [threading.Thread(target=work, args=order) for order in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert len(attempts) == 3
    with connect(tmp_path, real_neo4j) as store:
        assert store.read("MATCH (m:Method) RETURN m.n AS n").column("n") == [2, 2]


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
    name: str, value: str, said: str, real_neo4j: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "AUTOMC_GRAPH_PASSWORD" and not os.environ.get(name):
        pytest.skip("the named server asks for no password")
    with monkeypatch.context() as patch:
        patch.setenv(name, value)
        with pytest.raises(GraphUnavailable, match=said):
            connect(tmp_path, real_neo4j)
