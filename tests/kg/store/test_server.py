"""A Neo4j of one's own: what is missing is said, and the real thing is started, killed, found again, stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from kg.errors import GraphUnavailable
from kg.resources import compose_file
from kg.store import connect, java, server
from kg.store.copy import read_contents


def nothing_said(text: str) -> None:
    """Take no notice."""


def put(folder: Path, name: str, script: str) -> None:
    """A program of that name on the path."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing on its path but what a test puts into this folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


def refused(home: Path, port: int = 0) -> str:
    with pytest.raises(GraphUnavailable) as caught:
        server.up(home, nothing_said, port=port)
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_what_is_missing_is_said_with_the_command_that_installs_it(bare: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert "needs Java 17 or newer" in refused(home)
    put(bare, "apt-get", "exit 1")
    said = refused(home)
    assert "apt-get install -y --no-install-recommends openjdk-17-jre-headless maven" in said
    put(bare, "java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
    said = refused(home)
    assert f"{bare / 'java'} is Java 11" in said
    assert "apt-get install" in said
    put(bare, "java", "echo 'openjdk version \"17.0.1\" 2021-10-19' >&2")
    said = refused(home)
    assert "Maven (mvn) is needed to fetch Neo4j 5.26.31" in said
    assert "apt-get install" in said
    put(bare, "mvn", "echo '[INFO] so far'; echo '[ERROR] Could not resolve org.neo4j:neo4j'; exit 1")
    said = refused(home)
    assert "[ERROR] Could not resolve org.neo4j:neo4j" in said
    assert str(home / "neo4j" / "lib-5.26.31") in said
    # A later Java gets a later Neo4j.
    put(bare, "java", "echo 'openjdk version \"25\" 2025-09-16' >&2")
    assert "Neo4j 2026.07.1" in refused(home)
    # An engine that does not answer is no engine.
    put(bare, "docker", "exit 1")
    assert "Neo4j 2026.07.1" in refused(home)
    assert not list((home / "neo4j").glob("lib-*"))
    assert not list((home / "neo4j").glob("fetching-*"))
    assert server.find(home) is None


def test_data_of_a_newer_server_are_not_touched_by_an_older_one(bare: Path, tmp_path: Path) -> None:
    folder = tmp_path / "neo4j"
    folder.mkdir()
    known = {"by": "java", "port": 7687, "version": "2026.07.1", "pid": 0}
    (folder / "server.json").write_text(json.dumps(known))
    put(bare, "java", "echo 'openjdk version \"17.0.1\" 2021-10-19' >&2")
    assert "Neo4j 2026.07.1, which needs Java 25" in refused(tmp_path)


def test_docker_is_taken_where_it_answers(bare: Path, tmp_path: Path) -> None:
    put(
        bare,
        "docker",
        'case "$*" in *" up "*) echo "$@" > "$0.called"; echo "$AUTOMC_NEO4J_DATA" >> "$0.called"; '
        'echo no such image >&2; exit 1;; esac',
    )  # fmt: skip
    said = refused(tmp_path / "home")
    assert "The container could not be started: no such image" in said
    assert "automc kg up --no-docker" in said
    words, data = (bare / "docker.called").read_text().splitlines()
    assert f"--file {compose_file()} up --detach" in words
    assert data == str(tmp_path / "home" / "neo4j" / "data")
    assert compose_file().is_file()


def test_the_password_is_made_once_and_for_this_user_alone(bare: Path, tmp_path: Path) -> None:
    refused(tmp_path)
    path = tmp_path / "neo4j" / "password"
    assert path.stat().st_mode & 0o777 == 0o600
    first = path.read_text()
    assert len(first.strip()) >= 20
    refused(tmp_path)
    assert path.read_text() == first
    refused(tmp_path / "another")
    assert (tmp_path / "another" / "neo4j" / "password").read_text() != first


def test_a_port_that_is_taken(bare: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(tmp_path, port)
    assert f"Port {port} cannot be used: Address already in use" in said
    assert f"automc kg up --port {port + 1}" in said


@pytest.mark.parametrize(
    ("url", "known"),
    [
        ("bolt://127.0.0.1:7690", True),
        ("neo4j://localhost:7690", True),
        ("bolt://[::1]:7690", True),
        ("bolt://localhost", False),
        ("bolt://localhost:7687", False),
        ("bolt://elsewhere:7690", False),
        ("bolt://localhost:seven", False),
        ("nonsense", False),
    ],
)
def test_the_password_is_found_for_the_homes_own_server_alone(tmp_path: Path, url: str, known: bool) -> None:
    assert server.password_for(tmp_path, url) is None
    (tmp_path / "neo4j").mkdir()
    (tmp_path / "neo4j" / "server.json").write_text('{"by": "java", "port": 7690, "version": "5.26.31", "pid": 1}')
    assert server.password_for(tmp_path, url) is None
    (tmp_path / "neo4j" / "password").write_text("secret-enough\n")
    assert server.password_for(tmp_path, url) == ("secret-enough" if known else None)


def test_a_number_that_another_process_has_by_now_is_not_the_server(tmp_path: Path) -> None:
    known = server.Server(tmp_path / "neo4j", "java", 7687, "5.26.31", os.getpid())
    known.folder.mkdir()
    server._note(known)
    assert server.find(tmp_path) == known
    assert not known.running
    assert "not running" in known.describe()
    assert server.down(tmp_path) is False
    (known.folder / "server.json").write_text("{ torn")
    assert server.find(tmp_path) is None


def test_nothing_to_stop_and_nothing_to_show(tmp_path: Path) -> None:
    assert server.down(tmp_path) is False
    assert server.logs(tmp_path, 10) == ""


@pytest.mark.neo4j
@pytest.mark.slow
def test_a_server_from_its_first_start_to_its_end(own_neo4j: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, said = own_neo4j, []
    first = server.up(home, said.append, port=0, docker=False)
    assert any("Starting Neo4j" in text for text in said)
    assert not any("Fetching" in text for text in said)
    assert first.running
    assert f"running, Neo4j {first.version}, {first.url}, pid {first.pid}" == first.describe()
    assert server.find(home) == first
    # Another `up` finds it; a store finds the password in the home; nobody else gets in.
    assert server.up(home, said.append, port=1) == first
    with connect(home, first.url) as store:
        store.upsert_nodes("Method", [{"id": "kept"}])
        kept = read_contents(store).digest
        assert first.version in store.version()
    with pytest.raises(GraphUnavailable, match="refused user"):
        connect(home / "elsewhere", first.url)
    assert "Started" in server.logs(home, 50)
    command = Path(f"/proc/{first.pid}/cmdline").read_text()
    assert first.password not in command

    # Killed, it is gone; the next start has the port and everything that was committed.
    os.kill(first.pid, signal.SIGKILL)
    while first.running:
        time.sleep(0.05)
    with pytest.raises(GraphUnavailable, match=r"No Neo4j answers.*automc kg up"):
        connect(home, first.url)

    # Its configuration is the user's: here nobody may write.
    with (home / "neo4j" / "conf" / "neo4j.conf").open("a") as conf:
        conf.write("server.databases.default_to_read_only=true\n")
    second = server.up(home, said.append, docker=False)
    assert (second.port, second.version) == (first.port, first.version)
    assert second.pid != first.pid
    with connect(home, second.url) as store:
        assert read_contents(store).digest == kept
        for write in (
            lambda: store.upsert_nodes("Method", [{"id": "more"}]),
            lambda: store.atomically(lambda: store.upsert_nodes("Method", [{"id": "more"}])),
            lambda: store.schema("CREATE CONSTRAINT m_id IF NOT EXISTS FOR (n:Method) REQUIRE n.id IS UNIQUE"),
        ):
            with pytest.raises(GraphUnavailable, match=r"database 'neo4j' .* is read-only"):
                write()
    assert server.down(home) is True
    assert not second.running
    assert server.down(home) is False


def test_java_is_asked_for_its_version(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bare, "java", "echo 'java version \"1.8.0_202\"' >&2")
    with pytest.raises(GraphUnavailable, match="is Java 8"):
        java.find_java()
    named = tmp_path / "jdk" / "bin"
    named.mkdir(parents=True)
    put(named, "java", "echo 'openjdk version \"21.0.4\" 2024-07-16 LTS' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert java.find_java() == (named / "java", 21)
    assert java.version_for(21) == "5.26.31"
    assert java.version_for(25) == "2026.07.1"
