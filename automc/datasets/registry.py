"""The registry of named data sets; other packages add theirs by the entry point group `automc.datasets`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from automc.datasets.base import Progress, Raw
from automc.datasets.ref import DataRef
from automc.errors import DataError

Reader = Callable[[DataRef, Path | None, Progress | None], Raw]
"""(reference, cache folder or None, progress or None) → the data, or DataError."""

BUILT_IN = ("digits", "torchvision_sets")
"""Modules of this package whose readers register themselves."""
_readers: dict[str, Reader] = {}


def register(name: str) -> Callable[[Reader], Reader]:
    """Register the decorated reader as data set `name`.

    Raises:
        DataError: another reader has that name.
    """

    def add(reader: Reader) -> Reader:
        if _readers.get(name, reader) is not reader:
            raise DataError(f"Two readers are registered as data set {name!r}.")
        _readers[name] = reader
        return reader

    return add


def registered() -> dict[str, Reader]:
    """All named data sets, those of entry points included, by name."""
    for module in BUILT_IN:
        import_module(f"automc.datasets.{module}")
    for point in entry_points(group="automc.datasets"):
        if point.name not in _readers:
            _readers[point.name] = point.load()
    return dict(sorted(_readers.items()))
