"""Several processes on one embedded graph: they take turns, and who cannot wait is told why."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import pytest

from kg.errors import GraphLocked
from kg.store import lock

HOLD = (
    "import pathlib, sys\nfrom kg.store import embedded\nwith embedded(pathlib.Path(sys.argv[1])):\n"
    "    print('open', flush=True)\n    sys.stdin.read()\n"
)


@pytest.fixture
def filled(automc_home: Path) -> Path:
    """A home with a small graph."""
    from kg.resources import migrations_dir
    from kg.store import embedded
    from kg.store.migrate import migrate

    with embedded(automc_home) as graph:
        migrate(graph, migrations_dir())
        graph.upsert_nodes("Method", [{"id": str(i)} for i in range(20)])
    return automc_home


def test_a_command_waits_for_its_turn(automc, filled: Path) -> None:
    held = lock.acquire(filled / "graph.lock")
    Timer(0.5, lock.release, [held]).start()
    began = time.monotonic()
    asked = automc("kg", "query", "MATCH (m:Method) RETURN count(m) AS n", "--format", "csv")
    assert time.monotonic() - began >= 0.5
    assert (asked.exit_code, asked.stdout) == (0, "n\n20\n")


def test_on_a_crowded_machine_it_waits_longer_and_says_for_whom(
    automc, filled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for load, cores, seconds in ((0.0, 2, 2.0), (2.0, 2, 2.0), (3.0, 2, 10.0)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert lock.patience() == seconds
    held = lock.acquire(filled / "graph.lock")
    Timer(2.5, lock.release, [held]).start()
    assert automc("kg", "query", "RETURN 1 AS one", "--format", "csv").stdout == "one\n1\n"
    (told,) = caplog.messages
    assert f"is open in another process (pid {os.getpid()}: " in told
    assert "tried for 10 s" in told


def test_on_an_idle_machine_nothing_is_said_before_the_error(
    filled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock, "patience", lambda: lock.WAIT_SECONDS)
    held = lock.acquire(filled / "graph.lock")
    with pytest.raises(GraphLocked):
        lock.acquire(filled / "graph.lock", began=time.monotonic() - 3)  # a command that was slow to start
    assert caplog.messages == []
    lock.release(held)


def test_a_graph_that_is_held_names_its_holder_within_seconds(
    automc, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "patience", lambda: lock.WAIT_SECONDS)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(filled), "a-long-search"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "open\n"
    began = time.monotonic()
    refused = automc("kg", "query", "RETURN 1 AS one")
    assert 1.9 < time.monotonic() - began < 10
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert f"is open in another process (pid {holder.pid}: " in refused.stderr
    assert "a-long-search" in refused.stderr
    assert "Wait until it has finished, or stop it" in refused.stderr
    holder.communicate("")
    assert automc("kg", "query", "RETURN 1 AS one", "--format", "csv").stdout == "one\n1\n"
