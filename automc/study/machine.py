"""Where a study runs: its workers, on this machine or a cluster, and what results there rest on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable

from automc.execution.cluster import room
from automc.execution.jobs import cluster_workers, local_workers
from automc.execution.setup import Setup
from automc.execution.workers import Workers
from automc.study.spec import StudySpec
from automc.training.seeds import before_cuda

VERSIONED = ("automc", "torch", "torch-pruning", "pykeen", "numpy")


def default_workers(device: str, asked: StudySpec) -> int:
    """Return one worker per core this process may use on a CPU, one on a GPU; on a cluster what it has room for.

    Raises:
        EnvironmentFault: there is no such cluster, or it has room for none.
    """
    if asked.cluster:
        return room(asked.cluster, gpus=asked.gpus_per_worker)
    return len(os.sched_getaffinity(0)) if device == "cpu" and hasattr(os, "sched_getaffinity") else 1


def get_ready(spec: StudySpec) -> None:
    """Set what must be set before the first use of a device, here and in the workers, which inherit it."""
    if spec.deterministic:
        before_cuda()


def say_order(spec: StudySpec, device: str, say: Callable[[str], None]) -> None:
    """Say what running a step again gives on an accelerator: sums have no fixed order there unless it is asked for."""
    if device == "cpu":
        return
    if spec.deterministic:
        say("Deterministic: steps give the same bits each time on this card, and take longer for it.")
    else:
        say(
            "On this device a step that is run again, because its model was evicted, gives the same result but for "
            "rounding, which training enlarges; the first record stays. --deterministic: the same bits."
        )


def workers_of(spec: StudySpec, setup: Setup) -> Workers:
    """Return a study's workers, not yet started."""
    if spec.cluster:
        return cluster_workers(setup, spec.workers, spec.cluster, spec.gpus_per_worker)
    return local_workers(setup, spec.workers)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {name: importlib.metadata.version(name) for name in VERSIONED}
    return {**found, "python": platform.python_version()}
