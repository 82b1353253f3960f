"""Who came first: the processes that wait for a lock stand in a queue, one small file for each in a folder.

A ticket is named by its number and locked by its process. The operating system frees that lock when the process ends,
however it ends, and whoever looks next sweeps the file: a dead process keeps nobody waiting. Where a file system or an
operating system has no such locks there is no queue, and luck decides.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

ABSENT_SECONDS = 10.0
"""A process that has not looked for its turn for so long, because it is suspended, is passed by."""


class Ticket:
    """A place in the queue; `leave` gives it up, and so does the end of the process."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path = path
        self._file = file

    def ahead(self) -> int:
        """Count the processes whose turn comes before ours, and show that we are still here."""
        try:
            os.utime(self.path)
            names = _names(self.path.parent)
        except OSError:
            return 0  # somebody has emptied the folder: nobody can be told from anybody
        return sum(name < self.path.name and _waits(self.path.parent / name) for name in names)

    def leave(self) -> None:
        """Give the place up; twice is fine."""
        if not self._file.closed:
            self.path.unlink(missing_ok=True)
            self._file.close()


def join(folder: Path) -> Ticket | None:
    """Go to the end of the queue in `folder`; None where there can be none.

    Raises:
        OSError: the folder cannot be written.
    """
    if sys.platform == "win32":
        return None
    folder.mkdir(exist_ok=True)
    while True:
        last = max((int(name.partition("-")[0]) for name in _names(folder)), default=0)
        # Two that come within the same instant may draw one number: what follows it decides.
        path = folder / f"{last + 1:09d}-{secrets.token_hex(4)}"
        file = path.open("x", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            path.unlink(missing_ok=True)
            file.close()
            return None
        if path.exists():
            return Ticket(path, file)
        file.close()  # swept between its making and its locking: once more


def _names(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.partition("-")[0].isdecimal())


def _waits(path: Path) -> bool:
    """Tell whether the process of a ticket is alive and looks for its turn; sweep a dead one's."""
    try:
        with path.open("r+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return time.time() - path.stat().st_mtime < ABSENT_SECONDS
            path.unlink(missing_ok=True)
            return False
    except FileNotFoundError:
        return False
