"""What a running job tells about itself, without a message being sent: a few numbers that another process can read."""

from __future__ import annotations

import math
import mmap
import time
from pathlib import Path

_DONE, _OF, _STARTED = range(3)
_BYTES = 3 * 8


class Monitor:
    """The clock and the progress of one worker's job.

    The clock counts one step: it starts anew with each step of a job and stands still while the job waits
    for another process that executes the same step, so that a time limit is one for a step.
    Backed by a file when given one; both sides map it. Seconds are those of the monotonic clock, which
    processes of one machine share.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._map: mmap.mmap | None = None
            self._cells = memoryview(bytearray(_BYTES)).cast("d")
        else:
            if not path.exists() or path.stat().st_size < _BYTES:
                path.write_bytes(bytes(_BYTES))
            with path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), _BYTES)
            self._cells = memoryview(self._map).cast("d")
        self.begin()

    def begin(self) -> None:
        """A step begins: nothing done, the clock at 0."""
        self._cells[_DONE] = self._cells[_OF] = 0.0
        self._cells[_STARTED] = time.monotonic()

    def wait(self) -> None:
        """The job waits for another process: the clock stands still until `begin`."""
        self._cells[_STARTED] = math.inf

    def progress(self, done: int, of: int) -> None:
        """Note that `done` of `of` iterations of the step are done."""
        self._cells[_DONE], self._cells[_OF] = done, of

    @property
    def done(self) -> int:
        """Iterations done in the current step."""
        return int(self._cells[_DONE])

    @property
    def of(self) -> int:
        """Iterations in all of the current step; 0 while unknown."""
        return int(self._cells[_OF])

    @property
    def seconds(self) -> float:
        """Seconds since the step began; 0 while waiting."""
        return max(0.0, time.monotonic() - self._cells[_STARTED])

    def close(self) -> None:
        """Let go of the file."""
        self._cells.release()
        if self._map is not None:
            self._map.close()
