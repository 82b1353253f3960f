"""Several processes on one embedded graph: they take turns, and who cannot wait is told why."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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


@pytest.fixture
def held_until(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], bool]], None]:
    """Hold the graph until something is so, looking each time that somebody waits: no clock decides."""
    held = lock.acquire(filled / "graph.lock")
    wait = lock.time.sleep

    def until(done: Callable[[], bool]) -> None:
        def look(seconds: float) -> None:
            if done():
                lock.release(held)
            wait(seconds)

        monkeypatch.setattr(lock.time, "sleep", look)

    return until


def test_a_command_waits_for_its_turn(automc, filled: Path, held_until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "patience", lambda: 600.0)
    waited: list[int] = []

    def third_look() -> bool:
        waited.append(len(list((filled / "graph.queue").iterdir())))
        return len(waited) == 3

    held_until(third_look)
    asked = automc("kg", "query", "MATCH (m:Method) RETURN count(m) AS n", "--format", "csv")
    assert (asked.exit_code, asked.stdout) == (0, "n\n20\n")
    assert waited == [1, 1, 1]
    assert list((filled / "graph.queue").iterdir()) == []


def test_a_crowded_machine_has_more_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for load, cores, seconds in ((0.0, 2, 2.0), (2.0, 2, 2.0), (3.0, 2, 10.0)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert lock.patience() == seconds
        with lock.patient():
            assert lock.patience() == float("inf")
        assert lock.patience() == seconds


def test_a_long_wait_says_for_whom(
    automc, filled: Path, held_until, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(lock, "patience", lambda: 600.0)
    held_until(lambda: bool(caplog.messages))
    assert automc("kg", "query", "RETURN 1 AS one", "--format", "csv").stdout == "one\n1\n"
    (told,) = caplog.messages
    assert f"is open in another process (pid {os.getpid()}: " in told
    assert "It is waited for, for 600 s" in told


def test_each_new_holder_is_waited_for(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that moves is no reason to give up, however long it is."""
    clock = [0.0]
    monkeypatch.setattr(lock.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(lock, "patience", lambda: 2.0)
    path = filled / "graph.lock"
    holders = [lock.acquire(path)]
    looks: list[float] = []

    def another(seconds: float) -> None:
        looks.append(clock[0])
        clock[0] += 1.5
        if len(looks) < 6:
            # The holder of before has gone, and the next one in the queue had its turn.
            path.write_text(f"{len(looks)}\nsomebody\n")
        else:
            lock.release(holders.pop())

    monkeypatch.setattr(lock.time, "sleep", another)
    lock.release(lock.acquire(path))
    assert looks[-1] > 3 * 2.0

    holders.append(lock.acquire(path))
    looks.clear()
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + 1.5))
    with pytest.raises(GraphLocked, match=f"is open in another process .pid {os.getpid()}"):
        lock.acquire(path)
    lock.release(holders.pop())


def test_on_an_idle_machine_nothing_is_said_before_the_error(
    filled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock, "patience", lambda: lock.WAIT_SECONDS)
    monkeypatch.setattr(lock, "_LEAST_SECONDS", 0.0)
    held = lock.acquire(filled / "graph.lock")
    with pytest.raises(GraphLocked, match=f"is open in another process .pid {os.getpid()}"):
        lock.acquire(filled / "graph.lock", began=lock.time.monotonic() - 3)  # a command that was slow to start
    assert caplog.messages == []
    lock.release(held)


def test_a_graph_that_is_held_names_its_holder(automc, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "patience", lambda: 0.0)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(filled), "a-long-search"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    refused = automc("kg", "query", "RETURN 1 AS one")
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert f"is open in another process (pid {holder.pid}: " in refused.stderr
    assert "a-long-search" in refused.stderr
    assert "Wait until it has finished, or stop it" in refused.stderr
    holder.communicate("")
    assert automc("kg", "query", "RETURN 1 AS one", "--format", "csv").stdout == "one\n1\n"
