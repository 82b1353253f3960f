"""Worker processes: what one job does to itself never reaches the study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_jobs import open_state, run_job

from automc.errors import DataError, EnvironmentFault
from automc.execution.cluster import RayWorkers
from automc.execution.outcome import StepOutcome
from automc.execution.worker import Order
from automc.execution.workers import _STOP_SECONDS, LocalWorkers, Running, Workers

Maker = Callable[[Any, int], Workers]


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def make(request: pytest.FixtureRequest) -> Maker:
    """What makes workers of either kind; those on a cluster of Ray's use one for all tests."""
    if request.param == "local":
        return lambda setup, count: LocalWorkers(Order(setup, open_state, run_job), count)
    request.getfixturevalue("ray_cluster")
    return lambda setup, count: RayWorkers(Order(setup, open_state, run_job), count, "local")


@pytest.fixture
def workers(make: Maker) -> Iterator[Workers]:
    with make("state", 2) as started:
        yield started


GUARD = 600.0
"""Seconds after which something hangs, however busy the machine is."""


def drain(workers: Workers) -> dict[int, StepOutcome]:
    """The outcomes of all jobs."""
    found: dict[int, StepOutcome] = {}
    while finished := workers.collect(GUARD):
        found.update(finished)
    return found


def under_way(workers: Workers, ticket: int, done: int) -> Running:
    """A job as it is once it has told that `done` iterations are done; its limit has been looked at since."""
    until = time.monotonic() + GUARD
    while time.monotonic() < until:
        for job in workers.running():
            if (job.ticket, job.done) == (ticket, done):
                assert workers.collect(timeout=0.05) == []
                return job
        workers.collect(timeout=0.01)
    raise AssertionError(f"job {ticket} has not come to {done} iterations")


def gone(pid: int) -> bool:
    until = time.monotonic() + GUARD
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


def test_runs_every_job_once_on_both_workers(workers: Workers) -> None:
    tickets = [workers.submit(("echo", number)) for number in range(12)]
    found = drain(workers)
    assert sorted(found) == tickets
    assert [found[ticket].details["value"] for ticket in tickets] == list(range(12))
    assert {outcome.details["state"] for outcome in found.values()} == {"state"}
    assert workers.collect() == []


@pytest.mark.parametrize(
    ("job", "word"),
    [
        (("kill", signal.SIGSEGV), "SIGSEGV"),
        (("kill", signal.SIGKILL), "SIGKILL"),
        (("exit", 7), "exit code 7"),
        (("raise", "no such layer"), "ValueError: no such layer"),
    ],
)
def test_a_crash_is_a_status_and_others_go_on(workers: Workers, job: tuple[str, Any], word: str) -> None:
    bad = workers.submit(job)
    good = [workers.submit(("echo", number)) for number in range(4)]
    found = drain(workers)
    assert found[bad].status == "crashed"
    assert word in found[bad].reason
    assert [found[ticket].status for ticket in good] == ["ok"] * 4
    if job[0] == "raise":
        assert "Traceback" in found[bad].traceback


def test_lack_of_memory_is_a_status_and_the_worker_lives(workers: Workers) -> None:
    ticket = workers.submit(("memory", None))
    assert drain(workers)[ticket].status == "out_of_memory"
    after = workers.submit(("echo", 1))
    assert drain(workers)[after].status == "ok"


def test_a_hang_is_killed_at_its_limit_and_replaced(workers: Workers) -> None:
    drain_start = workers.submit(("echo", 0))
    drain(workers)
    hang = workers.submit(("hang", None), timeout=0.5)
    patient = workers.submit(("hang", None), timeout=3600.0)
    [(ticket, outcome)] = workers.collect(GUARD)
    assert ticket == hang != drain_start
    assert outcome.status == "timeout"
    assert outcome.seconds >= 0.5
    assert under_way(workers, patient, 0).ticket == patient
    after = workers.submit(("echo", 5))
    [(ticket, outcome)] = workers.collect(GUARD)
    assert (ticket, outcome.status) == (after, "ok")


def test_the_limit_is_one_for_a_step_and_stands_still_while_waiting(workers: Workers, tmp_path: Path) -> None:
    """Steps of 3000 s by the job's own account, of which two would be too long for one."""
    several = workers.submit(("steps", tmp_path), timeout=4000.0)
    for done in (1, 2):
        job = under_way(workers, several, done)
        assert (job.of, job.seconds // 1000) == (10, 3)
        (tmp_path / str(done)).touch()
    assert drain(workers)[several].status == "ok"
    (tmp_path / "1").unlink()
    waiting = workers.submit(("wait", tmp_path), timeout=4000.0)
    assert under_way(workers, waiting, 1).seconds == 0.0
    (tmp_path / "1").touch()
    assert drain(workers)[waiting].status == "ok"
    short = workers.submit(("steps", tmp_path / "nowhere"), timeout=2000.0)
    assert drain(workers)[short].status == "timeout"


def test_stop_ends_even_stubborn_jobs(make: Maker) -> None:
    workers = make("state", 2)
    workers.start()
    workers.submit(("echo", 0))
    pid = workers.collect(GUARD)[0][1].details["pid"]
    for ticket in [workers.submit(("stubborn", 3600)) for _ in range(2)]:
        under_way(workers, ticket, 1)
    assert _STOP_SECONDS < 5.0, "what a Ctrl-C may take"
    workers.stop()
    workers.stop()
    assert gone(pid)


def test_a_state_that_cannot_be_opened_raises_its_own_error(make: Maker) -> None:
    with make("unreadable", 1) as workers:
        workers.submit(("echo", 0))
        with pytest.raises(DataError, match="gone"):
            workers.collect(GUARD)


def test_workers_that_die_while_loading_are_not_started_for_ever(make: Maker) -> None:
    with make("deadly", 1) as workers:
        workers.submit(("echo", 0))
        with pytest.raises(EnvironmentFault, match="SIGKILL"):
            workers.collect(GUARD)


PARENT = """
    import sys
    sys.path[:0] = {paths!r}
    from automc.execution.worker import Order
    from automc.execution.workers import LocalWorkers
    from worker_jobs import open_state, run_job, serve_until_interrupted
    serve_until_interrupted(LocalWorkers(Order("state", open_state, run_job), count=2))
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
    assert all(gone(pid) for pid in pids)


def test_ctrl_c_of_the_terminal_ends_everything() -> None:
    parent = start_parent()
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.stdout.readline().strip() == "stopped"
    parent.wait(GUARD)
    assert all(gone(pid) for pid in pids)
