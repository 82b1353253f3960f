"""Versions of the packages that results rest on."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

RESTS_ON = ("torch", "torchvision", "torch-pruning")
"""Packages whose versions decide results."""


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages here; "" for one that is not installed."""

    def version(package: str) -> str:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return ""

    return {package: version(package) for package in packages}
