"""How the board reads: in a thread, one at a time, and never for long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from kg.errors import GraphLocked

T = TypeVar("T")

WAIT_SECONDS = 10.0
"""How long a page waits for another page's reading; a query may take longer than that."""
_turn = threading.RLock()


async def read(work: Callable[[], T]) -> T:
    """Run `work`, which opens the graph and closes it again, in a thread; see `alone`."""
    return await run_in_threadpool(alone, work)


def alone(work: Callable[[], T]) -> T:
    """Run `work` while no other thread of this process reads: it has the embedded graph open once.

    Raises:
        GraphLocked: another page of this board reads for long.
    """
    if not _turn.acquire(timeout=WAIT_SECONDS):
        raise GraphLocked("Another page of this board is reading the graph. Try again when its query has ended.")
    try:
        return work()
    finally:
        _turn.release()
