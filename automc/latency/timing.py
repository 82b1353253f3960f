"""Seconds of one kernel of PyTorch alone, on random numbers, and of two networks in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from automc.latency.kernels import Argument, Kernel

AGREEING, NEAR = 4, 0.02
"""A time is settled when so many measurements lie this near to the fastest."""
MOST_BLOCKS, MOST_TURNS = 40, 200
"""On a busy machine: what is fastest by then counts."""
_LEAST_TURNS = 5
_MOST_SECONDS = 8.0
_BLOCK_SECONDS = 0.001
_MOST_RUNS = 200


def seconds(kernel: Kernel) -> float | None:
    """Return the seconds of a kernel of PyTorch alone on this machine; None where it cannot be run alone.

    The operation is called again and again; see `fastest_mean`.
    """
    try:
        operation = getattr(torch.ops.aten, kernel.operation)
        arguments = [_made(a, kernel) for a in kernel.arguments]
        with torch.inference_mode():
            return fastest_mean(lambda: operation(*arguments))
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError):
        return None


def fastest_mean(run: Callable[[], object]) -> float:
    """Return the mean seconds of a call in the fastest block of about a millisecond.

    Blocks go on until AGREEING of them are within NEAR of the fastest: other work on the machine, which comes and goes,
    only ever makes one slower.
    """
    for _ in range(3):
        run()
    number = int(min(_MOST_RUNS, max(2, _BLOCK_SECONDS / max(timeit(run), 1e-7))))

    def block() -> None:
        for _ in range(number):
            run()

    means: list[float] = []
    while len(means) < MOST_BLOCKS and sum(m <= (1 + NEAR) * min(means) for m in means) < AGREEING:
        means.append(timeit(block) / number)
    return min(means)


def in_turns(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float, bool]:
    """Return the seconds of two networks, timed in turns, and whether they settled: see `fastest_mean`."""
    for run in (first, second):
        for _ in range(5):
            run()
    times: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    while len(times[0]) < MOST_TURNS and time.perf_counter() - began < _MOST_SECONDS:
        for run, own in zip((first, second), times, strict=True):
            own.append(min(timeit(run) for _ in range(3)))
        if len(times[0]) >= _LEAST_TURNS and all(_agree(own) for own in times):
            break
    return min(times[0]), min(times[1]), all(_agree(own) for own in times)


def _agree(times: Sequence[float]) -> bool:
    return sum(t <= (1 + NEAR) * min(times) for t in times) >= _LEAST_TURNS


def timeit(run: Callable[[], object]) -> float:
    """Return the seconds of one call; where one thread computes, those that it had the processor."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    run()
    return clock() - started


def _made(argument: Argument, kernel: Kernel) -> Any:
    """Return what stands for an argument: random numbers in the place of a tensor."""
    if isinstance(argument, list | tuple):
        return [_made(a, kernel) for a in argument]
    if not isinstance(argument, dict):
        return argument
    shape = argument["shape"]
    if argument["whole"]:
        return torch.arange(int(np.prod(shape))).reshape(shape) % max(1, kernel.inputs)
    if argument.get("turned"):
        return torch.rand(*reversed(shape)).t()
    made = torch.rand(*shape)
    return made.to(memory_format=torch.channels_last) if argument["last"] else made
