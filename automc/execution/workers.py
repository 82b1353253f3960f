"""Executing jobs in processes of their own, behind a contract of four calls: start, submit, collect, stop.

A job is anything that pickles; what it does is the `run` of the workers' Order. A crash, a hang past its
limit or a lack of memory ends one job with a status, never the study.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from automc.errors import AutoMCError, EnvironmentFault
from automc.execution.monitor import Monitor
from automc.execution.outcome import StepOutcome
from automc.execution.worker import BOOT, Order, Packed
from automc.temporary import prefix

Result = tuple[int, StepOutcome]

_SLICE_SECONDS = 0.2
_STOP_SECONDS = 2.0
MAX_FAILED_STARTS = 3
_LOG_TAIL = 4000

# Without these, glibc returns memory to the system between batches and fetches it again (about a tenth of a step).
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


@dataclass(frozen=True, slots=True)
class Running:
    """A job under way: iterations done and in all (0 while unknown) of its current step, seconds since that began."""

    ticket: int
    done: int
    of: int
    seconds: float


class Workers(ABC):
    """Runs jobs somewhere else. A context manager: starts on entering, stops on leaving."""

    @abstractmethod
    def start(self) -> None:
        """Bring the workers up; returns without waiting for them to be ready."""

    @abstractmethod
    def submit(self, job: Any, timeout: float | None = None) -> int:
        """Queue a job and return its ticket. `timeout`: seconds that one step of it may take; None: no limit."""

    @abstractmethod
    def collect(self, timeout: float | None = None) -> list[Result]:
        """Return what finished since the last call, as (ticket, outcome).

        Waits up to `timeout` seconds (None: without limit) until there is something; returns an empty list
        when the time is up or no job is left. Jobs are handed out and time limits kept inside this call.

        Raises:
            AutoMCError: the workers cannot open what they were set up with; the error they met.
            EnvironmentFault: they cannot be kept alive while they load.
        """

    @abstractmethod
    def stop(self) -> None:
        """End all workers within 5 seconds; unfinished jobs are lost. May be called twice, or before `start`."""

    @abstractmethod
    def running(self) -> list[Running]:
        """Jobs under way, for a progress bar."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Jobs that run at once."""

    def __enter__(self) -> Workers:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(slots=True)
class _Job:
    ticket: int
    payload: bytes
    timeout: float | None


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    monitor: Monitor
    log: Path
    ready: bool = False
    job: _Job | None = None
    oom_kills: int = 0


class Pool(Workers):
    """Workers that have a queue, and are attended to inside `collect`."""

    def __init__(self) -> None:
        self._queue: deque[Any] = deque()
        self._finished: list[Result] = []
        self._tickets = 0
        self._failed_starts = 0

    def collect(self, timeout: float | None = None) -> list[Result]:
        """Wait for outcomes; see `Workers.collect`."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            self._attend()
            if self._finished:
                finished, self._finished = self._finished, []
                self._assign()
                return finished
            if not self._queue and not self._busy:
                return []
            rest = _SLICE_SECONDS if until is None else min(_SLICE_SECONDS, until - time.monotonic())
            if rest <= 0:
                return []
            self._wait(rest)

    @property
    @abstractmethod
    def _busy(self) -> bool:
        """Whether a job is under way."""

    @abstractmethod
    def _assign(self) -> None:
        """Give queued jobs to idle workers."""

    @abstractmethod
    def _attend(self) -> None:
        """Hand out jobs, take what is finished, and see to workers that are lost or past a limit."""

    @abstractmethod
    def _wait(self, seconds: float) -> None:
        """Wait until a worker has something to say, or the time is up."""


class LocalWorkers(Pool):
    """Processes of this machine, in a session of their own so that a terminal's Ctrl-C reaches the parent only.

    Each opens its state once, watches its parent and exits by itself when that is gone. On a CPU each works
    with one thread: `count` = cores is then fastest.
    """

    def __init__(self, order: Order | Packed, count: int | None = None) -> None:
        """Prepare `count` workers (default: the cores this process may use)."""
        super().__init__()
        self._count = count or cores()
        self._order = pickle.dumps(order)
        self._threads = order.threads
        self._slots: list[_Worker | None] = []
        self._folder: Path | None = None

    @property
    def count(self) -> int:
        """Jobs that run at once."""
        return self._count

    def start(self) -> None:
        """Spawn the processes; they load in parallel while the caller goes on."""
        if self._slots:
            return
        self._folder = Path(tempfile.mkdtemp(prefix=prefix()))
        self._slots = [self._spawn(index) for index in range(self._count)]

    def submit(self, job: Any, timeout: float | None = None) -> int:
        """Queue a job; it is handed to a worker inside `collect`, or now if one is idle."""
        self._tickets += 1
        self._queue.append(_Job(self._tickets, pickle.dumps(job), timeout))
        self._assign()
        return self._tickets

    @property
    def _busy(self) -> bool:
        return any(worker.job is not None for worker in self._alive())

    def _attend(self) -> None:
        self._assign()
        self._receive()
        self._enforce_limits()

    def _wait(self, seconds: float) -> None:
        wait([worker.connection for worker in self._alive()], seconds)

    def stop(self) -> None:
        """End all processes: asked first, killed after two seconds."""
        workers = self._alive()
        for worker in workers:
            worker.process.terminate()
        until = time.monotonic() + _STOP_SECONDS
        for worker in workers:
            try:
                worker.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.connection.close()
            worker.monitor.close()
        self._slots = []
        self._queue.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def running(self) -> list[Running]:
        """Jobs under way, read from shared memory."""
        return [
            Running(worker.job.ticket, worker.monitor.done, worker.monitor.of, worker.monitor.seconds)
            for worker in self._alive()
            if worker.job is not None
        ]

    def _alive(self) -> list[_Worker]:
        return [worker for worker in self._slots if worker is not None]

    def _spawn(self, index: int) -> _Worker:
        assert self._folder is not None
        here, there = Pipe()
        name = f"{index}-{time.monotonic_ns()}"
        log = self._folder / f"{name}.log"
        monitor_file = self._folder / f"{name}.monitor"
        monitor = Monitor(monitor_file)
        environment = {**_ALLOCATOR, **os.environ, "OMP_NUM_THREADS": str(self._threads)}
        arguments = [json.dumps(sys.path), str(there.fileno()), str(os.getpid()), str(monitor_file)]
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-c", BOOT, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    pass_fds=(there.fileno(),),
                    start_new_session=True,
                )
            here.send_bytes(self._order)
        except (OSError, ValueError) as error:
            raise EnvironmentFault(f"A worker process cannot be started: {error}.") from None
        finally:
            there.close()
        return _Worker(process, here, monitor, log)

    def _assign(self) -> None:
        """Give queued jobs to idle workers."""
        for index, worker in enumerate(self._slots):
            if not self._queue:
                return
            if worker is None or not worker.ready or worker.job is not None:
                continue
            job = self._queue.popleft()
            worker.job, worker.oom_kills = job, _oom_kills()
            worker.monitor.begin()
            try:
                worker.connection.send_bytes(job.payload)
            except OSError:
                # It died while idle: the job never began.
                self._queue.appendleft(job)
                worker.job = None
                self._replace(index)

    def _receive(self) -> None:
        """Take what workers have sent, and notice those that died."""
        for index, worker in enumerate(self._slots):
            if worker is None or not worker.connection.poll():
                continue
            try:
                kind, content = worker.connection.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                self._bury(index, worker)
                continue
            if kind == "failed":
                self.stop()
                if isinstance(content, AutoMCError):
                    raise content
                raise EnvironmentFault(f"A worker could not open the study:\n{content}")
            self._failed_starts = 0
            if kind == "ready":
                worker.ready = True
            elif worker.job is not None:
                self._finished.append((worker.job.ticket, content))
                worker.job = None
        self._assign()

    def _bury(self, index: int, worker: _Worker) -> None:
        """A worker died: its job gets a status, its slot a new worker."""
        code = worker.process.wait()
        tail = _tail(worker.log)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                self.stop()
                raise EnvironmentFault(
                    f"Workers end while they load the model and the data ({_fate(code)}). If memory is short, "
                    f"use fewer with --workers.\n{tail}".rstrip()
                )
        if worker.job is not None:
            killed = code == -signal.SIGKILL and _oom_kills() > worker.oom_kills
            outcome = StepOutcome(
                "out_of_memory" if killed else "crashed",
                "the system ran out of memory and killed the worker" if killed else f"the worker {_fate(code)}",
                seconds=worker.monitor.seconds,
                traceback=tail,
            )
            self._finished.append((worker.job.ticket, outcome))
        self._replace(index)

    def _enforce_limits(self) -> None:
        """Kill workers whose step runs past its limit."""
        for index, worker in enumerate(self._slots):
            if worker is None or worker.job is None or worker.job.timeout is None:
                continue
            seconds = worker.monitor.seconds
            if seconds <= worker.job.timeout or worker.connection.poll():
                continue
            worker.process.kill()
            reason = f"stopped after {seconds:.1f} s: the limit for a step was {worker.job.timeout:.1f} s"
            self._finished.append((worker.job.ticket, StepOutcome("timeout", reason, seconds=seconds)))
            self._replace(index)

    def _replace(self, index: int) -> None:
        worker = self._slots[index]
        if worker is not None:
            worker.process.kill()
            worker.process.wait()
            worker.connection.close()
            worker.monitor.close()
            self._slots[index] = None
        self._slots[index] = self._spawn(index)


def cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fate(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def _oom_kills() -> int:
    """Processes that the kernel killed for lack of memory since it started; 0 where it does not say."""
    try:
        text = Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


def _tail(log: Path) -> str:
    try:
        return log.read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace")
    except OSError:
        return ""
