"""Worker processes: what one job does to itself never reaches the study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_jobs import open_state, run_job

from automc.errors import DataError, EnvironmentFault
from automc.execution.outcome import StepOutcome
from automc.execution.worker import Order
from automc.execution.workers import LocalWorkers


@pytest.fixture
def workers() -> Iterator[LocalWorkers]:
    with LocalWorkers(Order("state", open_state, run_job), count=2) as started:
        yield started


def drain(workers: LocalWorkers, within: float = 600.0) -> dict[int, StepOutcome]:
    until, found = time.monotonic() + within, {}
    while time.monotonic() < until:
        finished = workers.collect(timeout=1.0)
        found.update(finished)
        if not finished and not workers.running():
            break
    return found


def gone(pid: int, within: float) -> bool:
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_runs_every_job_once_on_both_workers(workers: LocalWorkers) -> None:
    tickets = [workers.submit(("echo", number)) for number in range(12)]
    found = drain(workers)
    assert sorted(found) == tickets
    assert [found[ticket].details["value"] for ticket in tickets] == list(range(12))
    assert {outcome.details["state"] for outcome in found.values()} == {"state"}
    assert workers.collect(timeout=5.0) == []


@pytest.mark.parametrize(
    ("job", "word"),
    [
        (("kill", signal.SIGSEGV), "SIGSEGV"),
        (("kill", signal.SIGKILL), "SIGKILL"),
        (("exit", 7), "exit code 7"),
        (("raise", "no such layer"), "ValueError: no such layer"),
    ],
)
def test_a_crash_is_a_status_and_others_go_on(workers: LocalWorkers, job: tuple[str, Any], word: str) -> None:
    bad = workers.submit(job)
    good = [workers.submit(("echo", number)) for number in range(4)]
    found = drain(workers)
    assert found[bad].status == "crashed"
    assert word in found[bad].reason
    assert [found[ticket].status for ticket in good] == ["ok"] * 4
    if job[0] == "raise":
        assert "Traceback" in found[bad].traceback


def test_lack_of_memory_is_a_status_and_the_worker_lives(workers: LocalWorkers) -> None:
    ticket = workers.submit(("memory", None))
    assert drain(workers)[ticket].status == "out_of_memory"
    after = workers.submit(("echo", 1))
    assert drain(workers)[after].status == "ok"


def test_a_hang_is_killed_at_its_limit_and_replaced(workers: LocalWorkers) -> None:
    drain_start = workers.submit(("echo", 0))
    drain(workers)
    hang = workers.submit(("hang", None), timeout=0.5)
    patient = workers.submit(("hang", None), timeout=3600.0)
    [(ticket, outcome)] = workers.collect(timeout=600.0)
    assert ticket == hang != drain_start
    assert outcome.status == "timeout"
    assert outcome.seconds >= 0.5
    assert [job.ticket for job in workers.running()] == [patient]
    after = workers.submit(("echo", 5))
    [(ticket, outcome)] = workers.collect(timeout=600.0)
    assert (ticket, outcome.status) == (after, "ok")


def test_the_limit_is_one_for_a_step_and_stands_still_while_waiting(workers: LocalWorkers) -> None:
    several = workers.submit(("steps", 8), timeout=3.0)
    waiting = workers.submit(("wait", 3.5), timeout=3.0)
    found = drain(workers)
    assert found[several].status == "ok"
    assert found[waiting].status == "ok"


def test_progress_can_be_read(workers: LocalWorkers) -> None:
    ticket = workers.submit(("steps", 4))
    until = time.monotonic() + 600
    seen = []
    while time.monotonic() < until and not seen:
        workers.collect(timeout=0.1)
        seen = [job for job in workers.running() if job.of]
    assert (seen[0].ticket, seen[0].done, seen[0].of) == (ticket, 3, 10)


def test_stop_ends_even_stubborn_jobs() -> None:
    workers = LocalWorkers(Order("state", open_state, run_job), count=2)
    workers.start()
    workers.submit(("echo", 0))
    pid = workers.collect(timeout=600.0)[0][1].details["pid"]
    workers.submit(("stubborn", 3600))
    workers.submit(("stubborn", 3600))
    workers.collect(timeout=0.5)
    workers.stop()
    workers.stop()
    assert gone(pid, 600.0)


def test_a_state_that_cannot_be_opened_raises_its_own_error() -> None:
    with LocalWorkers(Order("unreadable", open_state, run_job), count=1) as workers:
        workers.submit(("echo", 0))
        with pytest.raises(DataError, match="gone"):
            workers.collect(timeout=600.0)


def test_workers_that_die_while_loading_are_not_started_for_ever() -> None:
    with LocalWorkers(Order("deadly", open_state, run_job), count=1) as workers:
        workers.submit(("echo", 0))
        with pytest.raises(EnvironmentFault, match="SIGKILL"):
            workers.collect(timeout=600.0)


PARENT = """
    import sys
    sys.path[:0] = {paths!r}
    from automc.execution.worker import Order
    from automc.execution.workers import LocalWorkers
    from worker_jobs import open_state, run_job
    workers = LocalWorkers(Order("state", open_state, run_job), count=2)
    workers.start()
    workers.submit(("echo", 0)); workers.submit(("echo", 1))
    pids = set()
    while len(pids) < 2:
        pids |= {{outcome.details["pid"] for _, outcome in workers.collect(20.0)}}
        if len(pids) < 2:
            workers.submit(("echo", 0)); workers.submit(("echo", 1))
    print(*pids, flush=True)
    workers.submit(("hang", None))
    try:
        while workers.collect(60.0) or workers.running():
            pass
    except KeyboardInterrupt:
        workers.stop()
        print("stopped", flush=True)
"""


def start_parent() -> subprocess.Popen[str]:
    here = Path(__file__).parent
    code = textwrap.dedent(PARENT).format(paths=[str(here), str(here.parents[1])])
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_no_worker_outlives_a_killed_parent() -> None:
    parent = start_parent()
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    # One of them is idle, the other inside a job that never ends.
    assert all(gone(pid, 5.0) for pid in pids)


def test_ctrl_c_of_the_terminal_ends_everything_within_five_seconds() -> None:
    parent = start_parent()
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    time.sleep(0.3)
    started = time.monotonic()
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.stdout.readline().strip() == "stopped"
    parent.wait(5)
    assert time.monotonic() - started < 5.0
    assert all(gone(pid, 0.5) for pid in pids)
