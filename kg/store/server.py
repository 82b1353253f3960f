"""A Neo4j server of this machine, for one AutoMC home: started, found again, looked at, stopped.

Everything is in the folder `neo4j` of the home: `data`, `logs`, `conf/neo4j.conf`, `password` (mode 600) and
`server.json`, which says how and where the server runs. Docker runs it where an engine answers, else Java does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from filelock import FileLock

from kg.errors import GraphUnavailable
from kg.resources import compose_file
from kg.store import java
from kg.store.lock import command_line

DEFAULT_PORT = 7687
_START_SECONDS = 300.0
"""A server answers after 10 s on an idle core, which a machine with many others at work stretches thirtyfold; one that
cannot start ends by itself, and is seen to."""
_STOP_SECONDS = 60.0
_LOOK_SECONDS = 0.3
_RELEASE_SECONDS = 5.0
_LOCAL = ("127.0.0.1", "localhost", "::1")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Server:
    """How a home's server was started last; `running` tells whether it still runs."""

    folder: Path
    by: Literal["docker", "java"]
    port: int
    version: str
    pid: int = 0
    """Of the Java process; 0 under Docker."""

    @property
    def url(self) -> str:
        """Its address."""
        return f"bolt://127.0.0.1:{self.port}"

    @property
    def password(self) -> str:
        """The password of user neo4j."""
        return (self.folder / "password").read_text(encoding="utf-8").strip()

    @property
    def running(self) -> bool:
        """Whether its process or container is there; it may still be starting."""
        if self.by == "docker":
            return bool(_compose(self, "ps", "--quiet", "--status", "running").stdout.strip())
        # Its number alone does not tell: another process may have it by now.
        return f"--home-dir={self.folder} " in command_line(str(self.pid))

    def answers(self) -> bool:
        """Whether it takes queries.

        Raises:
            GraphUnavailable: it refuses the password that this home has for it.
        """
        import neo4j
        from neo4j.exceptions import AuthError, DriverError, Neo4jError

        logging.getLogger("neo4j").addHandler(logging.NullHandler())
        try:
            with (
                neo4j.GraphDatabase.driver(self.url, auth=("neo4j", self.password), connection_timeout=5.0) as driver,
                driver.session(database="neo4j") as session,
            ):
                session.run("RETURN 1").consume()
        except AuthError:
            raise GraphUnavailable(
                f"The Neo4j at {self.url} refuses the password in {self.folder / 'password'}. Write the right one "
                "there, or move the folder away to start with an empty graph."
            ) from None
        except (DriverError, Neo4jError, OSError):
            return False
        return True

    def describe(self) -> str:
        """Say in one line what it is and whether it runs."""
        how = "Docker" if self.by == "docker" else f"pid {self.pid}"
        if not self.running:
            return f"not running (Neo4j {self.version}, {self.url}); `automc kg up` starts it"
        return f"{'running' if self.answers() else 'starting'}, Neo4j {self.version}, {self.url}, {how}"


def find(home: Path) -> Server | None:
    """Return the server that was started for this home, running or not; None before the first `up`."""
    folder = (home / "neo4j").resolve()
    try:
        return Server(folder=folder, **json.loads((folder / "server.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def password_for(home: Path, url: str) -> str | None:
    """Return the stored password where `url` is the address of this home's server."""
    server = find(home)
    try:
        address = urlparse(url)
        port = address.port or DEFAULT_PORT
    except ValueError:
        return None
    if server is None or address.hostname not in _LOCAL or port != server.port:
        return None
    with suppress(OSError):
        return server.password
    return None


def up(home: Path, say: Say, *, port: int | None = None, docker: bool | None = None) -> Server:
    """Start this home's server and wait until it answers; one that runs already is left as it is.

    Args:
        home: the AutoMC home.
        say: told what takes long.
        port: to listen on, on this machine only; 0 takes a free one. Default: the last one, else 7687.
        docker: run it in a container, or not; None does so where an engine answers.

    Raises:
        GraphUnavailable: what it needs is not here, the port is taken, or it does not come up; the message says
            what to do.
    """
    folder = (home / "neo4j").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "up.lock"):
        known = find(home)
        if known is not None and known.running:
            _await(known)
            return known
        wanted = port if port is not None else known.port if known else DEFAULT_PORT
        by: Literal["docker", "java"] = "docker" if (_engine_answers() if docker is None else docker) else "java"
        # A server that was killed lets go of its port, and with it of its data, a moment after it is gone.
        patience = _RELEASE_SECONDS if known is not None and wanted == known.port else 0.0
        server = Server(folder, by, _free(wanted, patience), known.version if known else "")
        _make_password(folder / "password")
        server = _start_container(server, say) if by == "docker" else _start_java(server, say)
        _note(server)
        say("Waiting until it answers.")
        _await(server)
        return server


def down(home: Path) -> bool:
    """Stop this home's server; its data stay. Return whether it was running.

    Raises:
        GraphUnavailable: it does not stop.
    """
    server = find(home)
    if server is None or not server.running:
        return False
    if server.by == "docker":
        _checked(_compose(server, "down"), "stopped")
        return True
    with suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while server.running:
        if time.monotonic() > deadline:
            raise GraphUnavailable(
                f"The Neo4j of pid {server.pid} has not stopped within {_STOP_SECONDS:.0f} s. Look at "
                f"{java.console(server.folder)}; `kill -9 {server.pid}` ends it, and loses nothing that was committed."
            )
        time.sleep(_LOOK_SECONDS)
    return True


def logs(home: Path, lines: int) -> str:
    """Return the last lines that this home's server has printed; empty where it never ran."""
    server = find(home)
    if server is None:
        return ""
    if server.by == "docker":
        return _compose(server, "logs", "--no-color", "--tail", str(lines)).stdout
    return _tail(java.console(server.folder), lines)


def _start_java(server: Server, say: Say) -> Server:
    found = java.find_java()
    version = java.version_for(found[1])
    if _numbers(server.version) > _numbers(version):
        raise GraphUnavailable(
            f"The data in {server.folder} are those of Neo4j {server.version}, which needs Java 25; {found[0]} is "
            f"Java {found[1]}. Set JAVA_HOME to the newer one."
        )
    lib = java.fetch(server.folder, version, say)
    java.prepare(server.folder, found[0], lib, server.folder / "password")
    say(f"Starting Neo4j {version} on port {server.port}.")
    return replace(server, version=version, pid=java.launch(server.folder, found, lib, version, server.port))


def _start_container(server: Server, say: Say) -> Server:
    (server.folder / "data").mkdir(exist_ok=True)
    server = replace(server, version="5.26", pid=0)
    say(f"Starting Neo4j {server.version} with Docker on port {server.port}.")
    _checked(_compose(server, "up", "--detach"), "started")
    return server


def _await(server: Server) -> None:
    """Wait until a server answers; one that does not is stopped again."""
    deadline = time.monotonic() + _START_SECONDS
    while not server.answers():
        ended = not server.running
        if ended or time.monotonic() > deadline:
            said = logs(server.folder.parent, 8).strip()
            with suppress(GraphUnavailable):
                down(server.folder.parent)
            what = "ended while it started" if ended else f"has not answered within {_START_SECONDS:.0f} s"
            raise GraphUnavailable(f"Neo4j {what}. It said:\n{said or 'nothing'}")
        time.sleep(_LOOK_SECONDS)


def _engine_answers() -> bool:
    """Whether Docker and its compose command are here, and an engine behind them."""
    if shutil.which("docker") is None:
        return False
    for words in (("version", "--format", "{{.Server.Version}}"), ("compose", "version")):
        try:
            done = subprocess.run(["docker", *words], capture_output=True, timeout=10, check=False)
        except (OSError, subprocess.SubprocessError):
            return False
        if done.returncode:
            return False
    return True


def _compose(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a compose command on this home's container; it runs as this user, so that its data are this user's."""
    project = f"automc-{hashlib.sha256(str(server.folder).encode()).hexdigest()[:8]}"
    environment = {
        **os.environ,
        "AUTOMC_GRAPH_PASSWORD": server.password,
        "AUTOMC_NEO4J_PORT": str(server.port),
        "AUTOMC_NEO4J_DATA": str(server.folder / "data"),
        "AUTOMC_NEO4J_USER": f"{os.getuid()}:{os.getgid()}" if hasattr(os, "getuid") else "",
    }
    command = ["docker", "compose", "--project-name", project, "--file", str(compose_file()), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _checked(done: subprocess.CompletedProcess[str], what: str) -> None:
    if done.returncode:
        said = " ".join(done.stderr.split()[-60:])
        raise GraphUnavailable(f"The container could not be {what}: {said} Without Docker: automc kg up --no-docker")


def _make_password(path: Path) -> None:
    """Write a new password that only this user can read, unless there is one."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(16) + "\n")


def _note(server: Server) -> None:
    kept = {name: value for name, value in asdict(server).items() if name != "folder"}
    (server.folder / "server.json").write_text(json.dumps(kept) + "\n", encoding="utf-8")


def _free(port: int, patience: float) -> int:
    """Return the port once it is free, waiting `patience` seconds at most; for 0 any free one."""
    deadline = time.monotonic() + patience
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
            except OSError as error:
                if time.monotonic() > deadline:
                    raise GraphUnavailable(
                        f"Port {port} cannot be used: {error.strerror}. Another program may have it; choose one: "
                        f"automc kg up --port {port + 1}"
                    ) from None
        time.sleep(_LOOK_SECONDS)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _tail(path: Path, lines: int) -> str:
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
