"""One process at a time: the lock beside the embedded store, which also names its holder."""

from __future__ import annotations

import errno
import logging
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from kg.errors import GraphLocked, GraphUnavailable

if sys.platform != "win32":
    import fcntl

WAIT_SECONDS = 2.0
"""How long a locked store is retried; after so long its holder is named in any case."""
_CROWDED = 5.0
"""So much longer on a crowded machine, where what takes a holder a second takes it many."""
_LEAST_SECONDS = 0.5
_log = logging.getLogger(__name__)


def acquire(path: Path, began: float | None = None) -> IO[str]:
    """Take the lock, waiting up to `patience` for it, and note our pid and command in it.

    A wait that goes on after `WAIT_SECONDS` is logged as a warning, with the holder's pid and command.

    Args:
        path: the lock's file.
        began: by the monotonic clock, when the waiting counts from; at least half a second is tried in any case.

    Guarantees: the operating system frees it when the process ends, however it ends.

    Raises:
        GraphLocked: another process holds it; the message has its pid and command.
        GraphUnavailable: the file cannot be written.
    """
    now, seconds = time.monotonic(), patience()
    began = began or now
    deadline = max(now + min(_LEAST_SECONDS, seconds), began + seconds)
    tell_at = began + WAIT_SECONDS if seconds > WAIT_SECONDS else math.inf
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise GraphUnavailable(f"The graph in {path.parent} cannot be opened: {error.strerror}: {path}.") from None
    while not _try(file):
        now = time.monotonic()
        if now > deadline:
            with file:
                raise locked(path, _holder(file))
        if now > tell_at:
            tell_at = math.inf
            _log.warning("%s The machine is busy, so it is tried for %.0f s.", locked(path, _holder(file)), seconds)
        time.sleep(0.05)
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n{' '.join(sys.argv)}\n")
    file.flush()
    return file


def patience() -> float:
    """Return how long a locked store is retried, in seconds: longer where more processes run than there are cores."""
    try:
        crowded = os.getloadavg()[0] > (os.cpu_count() or 1)
    except (AttributeError, OSError):
        crowded = False
    return WAIT_SECONDS * (_CROWDED if crowded else 1.0)


def release(file: IO[str]) -> None:
    """Give the lock back."""
    if not file.closed:
        file.truncate(0)
        file.close()


def locked(path: Path, holder: str | None = None) -> GraphLocked:
    """The error that names the holder of the lock at `path`."""
    if holder is None:
        holder = path.read_text(encoding="utf-8") if path.exists() else ""
    pid, _, command = holder.partition("\n")
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
