"""Who came first has the first turn, and nobody waits for the dead."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kg.store import lock, queue

Start = Callable[..., "subprocess.Popen[str]"]

STAND = """
import pathlib, sys
from kg.store import queue
ticket = queue.join(pathlib.Path(sys.argv[1]))
print("here", flush=True)
sys.stdin.readline()
"""
TURN = """
import pathlib, sys
from kg.store import lock
with lock.patient():
    held = lock.acquire(pathlib.Path(sys.argv[1]))
with open(sys.argv[3], "a") as order:
    order.write(sys.argv[2] + "\\n")
lock.release(held)
"""


def join(folder: Path) -> queue.Ticket:
    ticket = queue.join(folder)
    assert ticket is not None
    return ticket


def test_the_first_to_come_is_the_first(tmp_path: Path) -> None:
    first, second, third = (join(tmp_path / "queue") for _ in range(3))
    assert [first.ahead(), second.ahead(), third.ahead()] == [0, 1, 2]
    first.leave()
    first.leave()
    assert [second.ahead(), third.ahead()] == [0, 1]
    # One who gives up from the middle, and one who comes again, at the end.
    second.leave()
    again = join(tmp_path / "queue")
    assert [third.ahead(), again.ahead()] == [0, 1]
    third.leave()
    again.leave()
    assert list((tmp_path / "queue").iterdir()) == []


def test_the_dead_are_swept(tmp_path: Path, run_python: Start) -> None:
    process = run_python(STAND, str(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    ticket = join(tmp_path)
    assert ticket.ahead() == 1
    process.kill()
    process.communicate()
    assert ticket.ahead() == 0
    assert list(tmp_path.iterdir()) == [ticket.path]


def test_a_suspended_process_keeps_its_place_but_nobody_waiting(
    tmp_path: Path, run_python: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = run_python(STAND, str(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    os.kill(process.pid, signal.SIGSTOP)
    ticket = join(tmp_path)
    assert ticket.ahead() == 1
    monkeypatch.setattr(queue, "ABSENT_SECONDS", 0.0)
    assert ticket.ahead() == 0
    assert len(list(tmp_path.iterdir())) == 2
    process.kill()
    process.communicate()


def test_a_folder_that_was_emptied_keeps_nobody_waiting(tmp_path: Path) -> None:
    first, second = join(tmp_path), join(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    assert [first.ahead(), second.ahead()] == [0, 0]
    second.leave()


def test_processes_get_the_lock_in_the_order_in_which_they_came(tmp_path: Path, run_python: Start) -> None:
    path, order = tmp_path / "graph.lock", tmp_path / "order"
    held = lock.acquire(path)
    waiting = []
    for number in range(4):
        waiting.append(run_python(TURN, str(path), str(number), str(order)))
        while len(list((tmp_path / "graph.queue").iterdir())) <= number:
            assert waiting[-1].poll() is None
    # One of them dies while it waits.
    waiting[1].kill()
    waiting[1].communicate()
    lock.release(held)
    for process in waiting:
        assert process.communicate()[1] == ""
    assert order.read_text().split() == ["0", "2", "3"]
    assert list((tmp_path / "graph.queue").iterdir()) == []
