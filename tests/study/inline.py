"""Workers in this process: real execution without the seconds that a new process takes to load torch."""

from __future__ import annotations

from collections import deque
from typing import Any

from automc.execution.jobs import run_job
from automc.execution.monitor import Monitor
from automc.execution.setup import Setup
from automc.execution.workers import Result, Running, Workers
from kg.schema import Scheme


class Inline(Workers):
    """Runs one job in each `collect`, in the order of `submit`; `count` jobs count as under way at once."""

    executed: list[str]
    """Ids of the schemes that were handed in, in order."""

    def __init__(self, setup: Setup, count: int | None = None) -> None:
        self.setup = setup
        self._count = count or 1
        self._queue: deque[tuple[int, Any]] = deque()
        self._tickets = 0
        self.executed = []

    def start(self) -> None:
        self._bench = self.setup.open()

    def submit(self, job: Any, timeout: float | None = None) -> int:
        self._tickets += 1
        self._queue.append((self._tickets, job))
        if isinstance(job, Scheme):
            self.executed.append(job.id)
        return self._tickets

    def collect(self, timeout: float | None = None) -> list[Result]:
        if not self._queue:
            return []
        ticket, job = self._queue.popleft()
        return [(ticket, run_job(self._bench, job, Monitor()))]

    def stop(self) -> None:
        self._queue.clear()

    def running(self) -> list[Running]:
        return []

    @property
    def count(self) -> int:
        return self._count
