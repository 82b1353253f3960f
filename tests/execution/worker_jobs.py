"""What the workers of the tests do: a module of its own, so that their processes can import it."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

from automc.errors import DataError
from automc.execution.monitor import Monitor
from automc.execution.outcome import StepOutcome
from automc.execution.workers import Workers


def open_state(setup: Any) -> Any:
    if setup == "unreadable":
        raise DataError("the data is gone")
    if setup == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return setup


def elapse(monitor: Monitor, seconds: float) -> None:
    """Make a step look as if it had begun that much earlier; a clock that stands still goes on standing."""
    monitor._cells[2] -= seconds


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def run_job(state: Any, job: tuple[str, Any], monitor: Monitor) -> StepOutcome:
    kind, value = job
    if kind == "kill":
        os.kill(os.getpid(), value)
    elif kind == "exit":
        os._exit(value)
    elif kind == "raise":
        raise ValueError(value)
    elif kind == "hang":
        while True:
            time.sleep(0.05)
    elif kind == "nap":
        time.sleep(value)
    elif kind == "pid":
        (value / str(os.getpid())).touch()
        time.sleep(0.1)
    elif kind == "parent":
        os.kill(os.getppid(), value)
        time.sleep(3600)
    elif kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        monitor.progress(1, 2)
        time.sleep(value)
    elif kind == "memory":
        limit = 400 << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        try:
            bytearray(limit)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    elif kind == "steps":
        for done in (1, 2):
            monitor.begin()
            elapse(monitor, 3000.0)
            monitor.progress(done, 10)
            wait_for(value / str(done))
    elif kind == "wait":
        elapse(monitor, 3000.0)
        monitor.wait()
        elapse(monitor, 3000.0)
        monitor.progress(1, 10)
        wait_for(value / "1")
        monitor.begin()
    return StepOutcome("ok", details={"value": value, "pid": os.getpid(), "state": state})


def serve_until_interrupted(workers: Workers) -> None:
    """What a parent process of the tests does: print its two workers' pids, hang in a job, stop at a Ctrl-C."""
    workers.start()
    pids: set[int] = set()
    while len(pids) < 2:
        workers.submit(("echo", 0))
        workers.submit(("echo", 1))
        while len(pids) < 2 and (finished := workers.collect(600.0)):
            pids |= {outcome.details["pid"] for _, outcome in finished}
    workers.submit(("hang", None))
    try:
        print(*pids, flush=True)
        while workers.collect(600.0) or workers.running():
            pass
    except KeyboardInterrupt:
        workers.stop()
        print("stopped", flush=True)
