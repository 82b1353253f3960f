"""Workers on the nodes of a Ray cluster, behind the same contract of four calls.

On a node, each of Ray's processes hosts one worker process, kept as on a single machine: a crash, a hang or a lack of
memory is found out there, and is the job's status. Where the host itself or its whole node is lost, the job never
ended: it is given to another host. Nodes see the study's folder through a shared file system, or have folders of their
own, to and from which models travel through Ray's object store. The parent alone talks to the graph.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from automc.errors import EnvironmentFault, StudyError
from automc.execution.carrying import Carrier, Parcel, StudyFolder
from automc.execution.host import Host
from automc.execution.outcome import StepOutcome
from automc.execution.worker import Order
from automc.execution.workers import MAX_FAILED_STARTS, Pool, Running

LOCAL, AUTO = "local", "auto"
RETRIES = 3
"""Hosts that a job may lose before it counts as crashed."""
_LOOK_SECONDS = 1.0
"""Between two looks at the progress of a job."""
_HEAD_SECONDS, _HEAD_LOOKS = 5.0, 3
"""Between two looks whether the cluster's head answers; so many in a row that it does not, and it is lost."""
_ANSWER_SECONDS = 5.0
_LEAVE_SECONDS = 5.0
"""That leaving a cluster without a head may take."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


_PATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"}
"""Of this process alone: without it Ray ends it a minute after the head is lost, be it busy or not."""


def address(text: str) -> str:
    """Check what `--cluster` is given: "local", "auto" or "ray://HOST:PORT".

    Raises:
        StudyError: it is something else.
    """
    found = text.strip()
    host, _, port = found.removeprefix("ray://").rpartition(":")
    if found in (LOCAL, AUTO) or (found.startswith("ray://") and host and port.isdecimal()):
        return found
    raise StudyError(f"--cluster {text[:60]!r} is not understood. Write local, auto or ray://HOST:PORT.")


@dataclass(slots=True)
class _Task:
    ticket: int
    job: Any
    timeout: float | None
    lost: int = 0
    files: dict[str, Any] = field(default_factory=dict)
    """References to what was sent with it, by the cache's keys."""


@dataclass(slots=True)
class _Slot:
    """A host, what was asked of it, and what it last said."""

    host: Any
    opening: Any
    """Reference to its first answer; None once that was there."""
    task: _Task | None = None
    answer: Any = None
    look: Any = None
    looked: float = 0.0
    seen: tuple[int, int, float] = (0, 0, 0.0)
    apart: bool = False
    """Whether its node has a folder of its own."""

    @property
    def awaited(self) -> Any:
        return self.answer if self.opening is None else self.opening


class Head:
    """Whether a cluster's head still answers, found out by plain connections.

    Ray's own calls wait for a lost head for ever, or end the process after a minute without a word.
    """

    def __init__(self, place: str) -> None:
        """Watch HOST:PORT."""
        self.place = place
        self.lost = False
        self._looked, self._failed = time.monotonic(), 0

    def insist(self, now: bool = False) -> None:
        """Look, if it is time to; with `now` at once, and again until it answers.

        Raises:
            EnvironmentFault: it has not answered several times in a row.
        """
        while now or time.monotonic() - self._looked >= _HEAD_SECONDS:
            self._looked = time.monotonic()
            try:
                _reach(self.place)
                self._failed = 0
                return
            except OSError as error:
                self._failed += 1
                self.lost = self._failed >= _HEAD_LOOKS
                if self.lost:
                    raise EnvironmentFault(
                        f"The head of the Ray cluster, {self.place}, is lost: {error.strerror or error}. What is "
                        "finished is in the graph. Go on with automc resume and --cluster: another one, or local."
                    ) from None
            if not now:
                return
            time.sleep(_HEAD_SECONDS)


def _reach(place: str) -> None:
    """Connect to [ray://]HOST:PORT and hang up.

    Raises:
        OSError: nobody answers there.
    """
    host, _, port = place.removeprefix("ray://").rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()


class RayWorkers(Pool):
    """Hosts on a Ray cluster; see `Workers`."""

    def __init__(self, order: Order, count: int, where: str, gpus: float = 0.0, carrier: Carrier | None = None) -> None:
        """Prepare.

        Args:
            order: what a worker is.
            count: hosts.
            where: see `address`.
            gpus: cards for each host, a share from 0 to 1 or several.
            carrier: what brings models to nodes with a folder of their own; None where jobs need no files.
        """
        super().__init__()
        self._where, self._count, self._gpus = address(where), count, gpus
        self._order, self._threads = pickle.dumps(order), order.threads
        self._carrier = carrier
        self._study: StudyFolder | None = None
        self._slots: list[_Slot] = []
        self._ray: Any = None
        self._head: Head | None = None

    @property
    def count(self) -> int:
        """Jobs that run at once, where the cluster has room for all hosts."""
        return self._count

    def start(self) -> None:
        """Reach the cluster, or start one on this machine, and ask it for hosts.

        Raises:
            EnvironmentFault: Ray is not installed, there is no cluster, or it has not enough cores or cards.
        """
        if self._slots:
            return
        fit = room(self._where, self._threads, self._gpus)
        if fit < self._count:
            disconnect()
            raise EnvironmentFault(
                f"The Ray cluster has room for {fit} workers, {self._count} are asked for. Use --workers {fit}."
            )
        self._ray = connect(self._where)
        there = self._where.startswith("ray://")
        self._head = Head(self._where if there else self._ray.get_runtime_context().gcs_address)
        self._study = self._carrier.open(self._ray.put) if self._carrier else None
        self._slots = [self._spawn() for _ in range(self._count)]

    def submit(self, job: Any, timeout: float | None = None) -> int:
        """Queue a job."""
        self._tickets += 1
        self._queue.append(_Task(self._tickets, job, timeout))
        self._assign()
        return self._tickets

    @property
    def _busy(self) -> bool:
        return any(slot.task is not None for slot in self._slots)

    def _attend(self) -> None:
        assert self._head is not None
        self._head.insist()
        self._assign()
        self._receive()

    def _wait(self, seconds: float) -> None:
        if awaited := [slot.awaited for slot in self._slots if slot.awaited is not None]:
            self._ray.wait(awaited, timeout=seconds)

    def stop(self) -> None:
        """End all hosts, whose worker processes end with them; and the cluster, if it was started here."""
        for slot in self._slots:
            slot.host.end.remote()
            if self._head and not self._head.lost:
                self._ray.kill(slot.host)
        self._slots = []
        self._queue.clear()
        self._study = None
        if self._carrier:
            self._carrier.close()
        if self._head and self._head.lost:
            leaving = threading.Thread(target=disconnect, daemon=True)
            leaving.start()
            leaving.join(_LEAVE_SECONDS)
        else:
            disconnect()

    def running(self) -> list[Running]:
        """Jobs under way, as their hosts told a moment ago."""
        now, found = time.monotonic(), []
        for slot in self._slots:
            if slot.task is None:
                continue
            if slot.look is not None and self._ray.wait([slot.look], timeout=0)[0]:
                with suppress(self._ray.exceptions.RayError):  # lost: `collect` will see it
                    slot.seen = self._ray.get(slot.look)
                slot.look = None
            if slot.look is None and now - slot.looked > _LOOK_SECONDS:
                slot.look, slot.looked = slot.host.progress.remote(), now
            found.append(Running(slot.task.ticket, *slot.seen))
        return found

    def _spawn(self) -> _Slot:
        kind = self._ray.remote(Host).options(
            num_cpus=0 if self._gpus else self._threads, num_gpus=self._gpus, max_restarts=0, max_task_retries=0,
            max_concurrency=2, runtime_env={"env_vars": _QUIET},
        )  # fmt: skip
        paths = [path or os.getcwd() for path in sys.path]
        host = kind.remote(self._order, self._threads, paths, self._study)
        return _Slot(host, host.ready.remote())

    def _assign(self) -> None:
        """Give queued jobs to idle hosts."""
        for slot in self._slots:
            if not self._queue:
                return
            if slot.opening is None and slot.task is None:
                slot.task = self._queue.popleft()
                slot.seen, slot.look = (0, 0, 0.0), None
                parcel = self._parcel(slot.task) if slot.apart else Parcel()
                slot.answer = slot.host.run.remote(pickle.dumps(slot.task.job), slot.task.timeout, parcel)

    def _parcel(self, task: _Task) -> Parcel:
        """Put what a job needs into the object store, where it is not there for another job that is under way."""
        assert self._carrier is not None
        errand = self._carrier.errand(task.job)
        there = {key: one for slot in self._slots if slot.task is not None for key, one in slot.task.files.items()}
        with suppress(OSError):  # evicted just now: the node runs that step again
            task.files = {key: there.get(key) or self._ray.put(file.read_bytes()) for key, file in errand.files.items()}
        return replace(errand, files=task.files)

    def _receive(self) -> None:
        """Take what hosts have answered, and notice those that are lost."""
        for index, slot in enumerate(self._slots):
            if slot.awaited is None or not self._ray.wait([slot.awaited], timeout=0)[0]:
                continue
            try:
                answer = self._ray.get(slot.awaited)
            except self._ray.exceptions.RayError as error:
                self._lost(index, slot, error)
                continue
            if slot.opening is not None:
                slot.opening, self._failed_starts = None, 0
                fault, slot.apart = answer
                if fault:
                    self.stop()
                    raise EnvironmentFault(fault)
                continue
            kind, content, parcel = answer
            if kind == "failed":
                self.stop()
                raise content
            assert slot.task is not None
            if self._carrier is not None:
                try:
                    self._carrier.keep(parcel)
                except OSError as error:
                    content.details["not_cached"] = str(error)
            self._finished.append((slot.task.ticket, content))
            slot.task = slot.answer = None

    def _lost(self, index: int, slot: _Slot, error: Exception) -> None:
        """A host or its node is gone: its job goes to another one, and Ray looks for room for a new host."""
        why = str(error).splitlines()[0]
        if slot.opening is not None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                self.stop()
                raise EnvironmentFault(f"Workers end while they load the model and the data: {why}")
        if (task := slot.task) is not None:
            task.lost += 1
            if task.lost > RETRIES:
                reason = f"{task.lost} hosts were lost while they ran it: {why}"
                self._finished.append((task.ticket, StepOutcome("crashed", reason, seconds=slot.seen[2])))
            else:
                self._queue.appendleft(task)
        assert self._head is not None
        self._head.insist(now=True)  # to ask a lost head for a host would take for ever
        self._slots[index] = self._spawn()


_OURS: list[str] = []
"""Where this process has connected itself to."""


def connect(where: str) -> Any:
    """Return Ray, connected to a cluster or with one of its own; a process that is connected already stays so.

    Raises:
        EnvironmentFault: Ray is not installed, or there is no cluster.
    """
    for name, value in {**_QUIET, **_PATIENT}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise EnvironmentFault(
            "--cluster needs Ray, which is not installed. Install it with: pip install 'automc[cluster]'"
        ) from None
    if ray.is_initialized():
        return ray
    # Without an address Ray would join a cluster that was started here, or wait for one that is dead.
    given: dict[str, Any] = {"address": where, **({"include_dashboard": False} if where == LOCAL else {})}
    place = os.environ.get("RAY_ADDRESS") or ray._private.utils.read_ray_address() if where == AUTO else where
    try:
        if place and place.rpartition(":")[2].isdecimal():
            _reach(place)
        ray.init(log_to_driver=False, logging_level="ERROR", namespace="automc", **given)
    except Exception as error:  # a bare one where Ray's processes start too slowly for it
        if where == LOCAL:
            raise EnvironmentFault(f"No Ray cluster can be started on this machine: {error}") from None
        raise EnvironmentFault(
            f"There is no Ray cluster at --cluster {where}: {place or ''} {error}. Start one with: ray start --head"
        ) from None
    # What Ray reports of lost processes would go to standard output, which is the product's own; no option says so.
    ray._private.worker._worker_logs_enabled = False
    _OURS.append(where)
    return ray


def disconnect() -> None:
    """Leave the cluster that `connect` reached, and end it where `connect` has started it."""
    if _OURS:
        connect(_OURS.pop()).shutdown()


def room(where: str, threads: int = 1, gpus: float = 0.0) -> int:
    """Return how many hosts of so many cores, or cards, a cluster has room for: at least 1.

    Raises:
        EnvironmentFault: it has none; and see `connect`.
    """
    found = connect(address(where)).cluster_resources()
    fit = int(found.get("GPU", 0.0) / gpus + 1e-9) if gpus else int(found.get("CPU", 0.0) / threads)
    if fit < 1:
        disconnect()
        what = f"{gpus:g} cards" if gpus else f"{threads} cores"
        has = f"{found.get('CPU', 0):g} cores and {found.get('GPU', 0):g} cards"
        raise EnvironmentFault(f"The Ray cluster has no room for a worker of {what}: it has {has}.")
    return fit
