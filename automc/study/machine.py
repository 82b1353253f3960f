"""What a study's results depend on besides its spec: this machine's cores and the versions of packages."""

from __future__ import annotations

import importlib.metadata
import os
import platform

VERSIONED = ("automc", "torch", "torch-pruning", "pykeen", "numpy")


def default_workers(device: str) -> int:
    """Return one worker per core this process may use on a CPU, one on a GPU."""
    return len(os.sched_getaffinity(0)) if device == "cpu" and hasattr(os, "sched_getaffinity") else 1


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {name: importlib.metadata.version(name) for name in VERSIONED}
    return {**found, "python": platform.python_version()}
