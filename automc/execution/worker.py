"""The far side of `workers`: one process that opens its state once and then runs one job after another.

Imports nothing heavy at the top: watching the parent must begin before torch is loaded.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from automc.errors import AutoMCError, Note
from automc.execution.monitor import Monitor
from automc.execution.outcome import StepOutcome

BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from automc.execution.worker import main; main(sys.argv[2:])"
)
"""What the interpreter of a worker is started with; arguments: sys.path as JSON, then those of `main`."""

Run = Callable[[Any, Any, Monitor], StepOutcome]
"""(opened state, job, monitor) → outcome."""

_WATCH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is: how to open its state, how to run a job on it, and with how many threads."""

    setup: Any
    open: Callable[[Any], Any]
    run: Run
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Packed:
    """An order or a job, pickled, that the worker process alone unpacks: who passes it on need not load torch."""

    content: bytes
    threads: int = 1
    """Those of the order."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Other values for the order's setup."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Become what was packed."""
        return _unpacked, (self.content, self.changes)


def _unpacked(content: bytes, changes: Mapping[str, Any]) -> Any:
    found = pickle.loads(content)
    return replace(found, setup=replace(found.setup, **changes)) if changes else found


def main(arguments: list[str]) -> None:
    """Serve jobs over a connection until it closes: (connection's descriptor, parent's pid, monitor's file)."""
    descriptor, parent, monitor_file = arguments
    # A worker is ended by its parent: the Ctrl-C that the terminal sends to everybody is not for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore", Note)  # its parent has said them
    faulthandler.enable()
    threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()
    connection = Connection(int(descriptor))
    monitor = Monitor(Path(monitor_file))
    try:
        state, run = _open(connection)
        while True:
            connection.send(("done", _answer(state, run, connection.recv_bytes(), monitor)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads of libraries have nothing to save, and joining them takes time.
        os._exit(0)


def _open(connection: Connection) -> tuple[Any, Run]:
    """Open the state and say so; a failure is sent as an exception for the parent to raise."""
    payload = connection.recv_bytes()
    try:
        order: Order = pickle.loads(payload)
        _limit_threads(order.threads)
        state = order.open(order.setup)
    except AutoMCError as error:
        connection.send(("failed", error))
        raise EOFError from None
    except Exception:
        connection.send(("failed", traceback.format_exc()))
        raise EOFError from None
    connection.send(("ready", None))
    return state, order.run


def _answer(state: Any, run: Run, payload: bytes, monitor: Monitor) -> StepOutcome:
    """Run one job; whatever it raises becomes an outcome."""
    monitor.begin()
    started = time.monotonic()
    try:
        return run(state, pickle.loads(payload), monitor)
    except Exception as error:
        return failure(error, time.monotonic() - started)


def failure(error: Exception, seconds: float) -> StepOutcome:
    """Turn what a job raised into an outcome with a traceback: out_of_memory where memory was lacking, else crashed."""
    text = "".join(traceback.format_exception(error))
    if is_out_of_memory(error):
        reason = f"not enough memory: {error}" if str(error) else "not enough memory"
        return StepOutcome("out_of_memory", reason, seconds=seconds, traceback=text)
    return StepOutcome("crashed", f"{type(error).__name__}: {error}", seconds=seconds, traceback=text)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a lack of memory, of the machine or of the accelerator, from other errors.

    torch raises a class of its own on accelerators only; on a CPU it is a RuntimeError of its allocator.
    """
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _limit_threads(threads: int) -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _watch(parent: int) -> None:
    """End this process when its parent is gone, whatever it is doing."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)
