"""Where a study runs: its workers, on this machine or a cluster, and the versions of packages that results rest on."""

from __future__ import annotations

import importlib.metadata
import os
import platform

from automc.execution.cluster import room
from automc.execution.jobs import cluster_workers, local_workers
from automc.execution.setup import Setup
from automc.execution.workers import Workers
from automc.study.spec import StudySpec

VERSIONED = ("automc", "torch", "torch-pruning", "pykeen", "numpy")


def default_workers(device: str, asked: StudySpec) -> int:
    """Return one worker per core this process may use on a CPU, one on a GPU; on a cluster what it has room for.

    Raises:
        EnvironmentFault: there is no such cluster, or it has room for none.
    """
    if asked.cluster:
        return room(asked.cluster, gpus=asked.gpus_per_worker)
    return len(os.sched_getaffinity(0)) if device == "cpu" and hasattr(os, "sched_getaffinity") else 1


def workers_of(spec: StudySpec, setup: Setup) -> Workers:
    """Return a study's workers, not yet started."""
    if spec.cluster:
        return cluster_workers(setup, spec.workers, spec.cluster, spec.gpus_per_worker)
    return local_workers(setup, spec.workers)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {name: importlib.metadata.version(name) for name in VERSIONED}
    return {**found, "python": platform.python_version()}
