"""The methods that can be executed: `register`, `get`, `registered`.

A method is one file with one class; other packages add theirs through the entry point group `automc.methods`,
whose entries name a module that registers a class when it is imported.
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TypeVar

from automc.errors import MethodError
from automc.methods.base import Method, StepContext, StepReport

__all__ = ["Method", "StepContext", "StepReport", "get", "register", "registered"]

BUILT_IN = ("lma", "legr", "ns", "sfp", "hos", "lfb", "uq", "slq", "mlq", "dnq", "trp")
_registry: dict[str, type[Method]] = {}

M = TypeVar("M", bound=type[Method])


def register(method: M) -> M:
    """Class decorator: make a method executable under its `name`.

    Raises:
        MethodError: another class has the name.
    """
    known = _registry.setdefault(method.name, method)
    if (known.__module__, known.__qualname__) != (method.__module__, method.__qualname__):
        raise MethodError(
            f"Two classes are called {method.name}: {known.__module__}.{known.__qualname__} and "
            f"{method.__module__}.{method.__qualname__}. Rename one."
        )
    _registry[method.name] = method
    return method


@cache
def _load() -> None:
    for name in BUILT_IN:
        import_module(f"{__name__}.{name}")
    for entry in entry_points(group="automc.methods"):
        entry.load()


def registered() -> dict[str, Method]:
    """Every executable method by name, in the order of registration; built-in ones first."""
    _load()
    return {name: method() for name, method in _registry.items()}


def get(name: str) -> Method:
    """The method of that name.

    Raises:
        MethodError: none is registered.
    """
    methods = registered()
    if name not in methods:
        near = difflib.get_close_matches(name.lower(), [known.lower() for known in methods], n=1)
        hint = next((f" Did you mean {known}?" for known in methods if near and known.lower() == near[0]), "")
        raise MethodError(
            f"There is no code for a method {name[:80]!r}: it is knowledge only, or unknown. Executable are "
            f"{', '.join(methods)}.{hint}"
        )
    return methods[name]
