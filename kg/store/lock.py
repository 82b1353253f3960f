"""One process at a time, in the order in which they came: the lock beside the embedded store, with its holder."""

from __future__ import annotations

import errno
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from kg.errors import GraphLocked, GraphUnavailable
from kg.store import queue

if sys.platform != "win32":
    import fcntl

WAIT_SECONDS = 2.0
"""How long one holder is waited for; after so long it is named in any case."""
_CROWDED = 5.0
"""So much longer on a crowded machine, where what takes a holder a second takes it many."""
_LEAST_SECONDS = 0.5
_POLL_SECONDS = 0.05
_log = logging.getLogger(__name__)
_patience: ContextVar[float | None] = ContextVar("patience", default=None)


@contextmanager
def patient(seconds: float = math.inf) -> Iterator[None]:
    """Inside the block, wait so long for one holder: for ever, for work of hours that must not end on a busy graph."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


def patience() -> float:
    """Return how long one holder is waited for, in seconds: longer where more processes run than there are cores."""
    chosen = _patience.get()
    if chosen is not None:
        return chosen
    try:
        crowded = os.getloadavg()[0] > (os.cpu_count() or 1)
    except (AttributeError, OSError):
        crowded = False
    return WAIT_SECONDS * (_CROWDED if crowded else 1.0)


def acquire(path: Path, began: float | None = None) -> IO[str]:
    """Take the lock when it is our turn, and note our pid and command in it.

    Who came first has the first turn (`kg.store.queue`). The wait ends when one holder has kept the lock for as long as
    `patience` says; where that is longer than `WAIT_SECONDS`, a warning names the holder after so long.

    Args:
        path: the lock's file.
        began: by the monotonic clock, when the waiting counts from; at least half a second is tried in any case.

    Guarantees: the operating system frees it when the process ends, however it ends.

    Raises:
        GraphLocked: another process holds it; the message has its pid and command.
        GraphUnavailable: the file cannot be written.
    """
    try:
        file = path.open("a+", encoding="utf-8")
        ticket = queue.join(path.with_suffix(".queue"))
    except OSError as error:
        raise GraphUnavailable(f"The graph in {path.parent} cannot be opened: {error.strerror}: {path}.") from None
    try:
        _wait(path, file, ticket, began)
    except BaseException:
        file.close()
        raise
    finally:
        if ticket is not None:
            ticket.leave()
    file.seek(0)
    file.truncate()
    # The moment tells two turns of one process apart.
    file.write(f"{os.getpid()}\n{' '.join(sys.argv)}\n{time.time_ns()}\n")
    file.flush()
    return file


def _wait(path: Path, file: IO[str], ticket: queue.Ticket | None, began: float | None) -> None:
    """Wait for our turn, each holder for as long as `patience` says."""
    now, seconds = time.monotonic(), patience()
    began = began or now
    deadline = max(now + min(_LEAST_SECONDS, seconds), began + seconds)
    tell_at = began + WAIT_SECONDS if seconds > WAIT_SECONDS else math.inf
    seen: str | None = None
    while (ticket is not None and ticket.ahead()) or not _try(file):
        now, holder = time.monotonic(), _holder(file)
        if seen is not None and holder != seen:
            deadline = now + seconds
        seen = holder
        if now > deadline:
            raise locked(path, holder)
        if now > tell_at:
            tell_at = math.inf
            limit = "until it is free" if seconds == math.inf else f"for {seconds:.0f} s"
            _log.warning("%s It is waited for, %s.", locked(path, holder), limit)
        time.sleep(_POLL_SECONDS)


def release(file: IO[str]) -> None:
    """Give the lock back."""
    if not file.closed:
        file.truncate(0)
        file.close()


def locked(path: Path, holder: str | None = None) -> GraphLocked:
    """The error that names the holder of the lock at `path`."""
    if holder is None:
        holder = path.read_text(encoding="utf-8") if path.exists() else ""
    pid, command = [*holder.splitlines(), "", ""][:2]
    who = f"another process (pid {pid}: {command_line(pid) or command.strip()})" if pid.strip() else "another process"
    return GraphLocked(
        f"The graph in {path.parent} is open in {who}. Wait until it has finished, or stop it; for several "
        "processes at once use a Neo4j server (AUTOMC_GRAPH=bolt://…)."
    )


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _try(file: IO[str]) -> bool:
    if sys.platform == "win32":
        return True  # the engine's own lock still holds there
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # A file system without locks: the engine's own lock still holds.
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise GraphUnavailable(f"The graph's lock {file.name} cannot be taken: {error.strerror}.") from None
    return True


def command_line(pid: str) -> str:
    """Return the command line of a running process; empty where there is none, or the system does not tell."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        pass
    try:
        found = subprocess.run(["ps", "-o", "command=", "-p", pid], capture_output=True, text=True, timeout=2)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
