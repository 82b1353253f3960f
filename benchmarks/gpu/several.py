"""Several workers on one device: all train at once, and their images count together."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.speed import Size, Timed, Variant, automc

PATIENCE = 240.0
"""Seconds that processes wait for each other."""


def together(network: str, variant: Variant, size: Size, workers: int) -> Timed:
    """Train in so many processes, which begin to be timed together; images per second are all of theirs.

    From the common start to the end of the last: who ends early no longer counts. `peak_bytes` is the largest process's.

    Raises:
        RuntimeError: a process ended without a result, for instance for lack of memory.
    """
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(workers), context.Queue()
    processes = [context.Process(target=_one, args=(network, variant, size, barrier, queue)) for _ in range(workers)]
    for process in processes:
        process.start()
    try:
        found = [queue.get(timeout=PATIENCE) for _ in processes]
    except Exception:
        raise RuntimeError("a worker ended without a result") from None
    finally:
        for process in processes:
            process.join(10.0)
            process.kill()
    if failed := [one for one in found if isinstance(one, str)]:
        raise RuntimeError(failed[0])
    seconds = max(end for _, (_, end) in found) - min(begin for _, (begin, _) in found)
    images = sum(timed.images_per_second * timed.seconds for timed, _ in found)
    note = "; ".join(filter(None, ["MPS" if shared() else "", found[0][0].note]))
    return Timed(images / seconds, seconds, max(timed.peak_bytes for timed, _ in found), note=note)


def shared() -> bool:
    """Whether NVIDIA's service (MPS) runs that lets kernels of several processes work at the same time."""
    return (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control").exists()


def _one(network: str, variant: Variant, size: Size, barrier: Barrier, queue: Any) -> None:
    if size.device.type == "cpu":
        torch.set_num_threads(1)
    try:
        queue.put(automc(network, variant, size, started=lambda: barrier.wait(PATIENCE)))
    except Exception as error:  # the parent must hear of whatever it is
        barrier.abort()
        queue.put(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
