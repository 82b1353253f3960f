"""Packages whose names are imported when they are first used: torch takes seconds, and much needs none of it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def names(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`.

    Args:
        package: the package's name.
        places: the name of each thing that it gives → the module of the package that has it.
    """

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return load


@contextmanager
def without(package: str) -> Iterator[None]:
    """Let what is imported inside do without a package, and not warn of that; one that was loaded before stays."""
    hidden = package not in sys.modules
    before = logging.root.manager.disable
    try:
        if hidden:
            sys.modules[package] = None  # type: ignore[assignment]  # which makes an import of it fail
            logging.disable(logging.WARNING)
        yield
    finally:
        if hidden:
            del sys.modules[package]
            logging.disable(before)
