"""The methods that can be executed: `register`, `get`, `registered`.

A method is one file with one class; other packages add theirs through the entry point group `automc.methods`,
whose entries name a module that registers a class when it is imported.
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeVar

from automc import lazily
from automc.errors import MethodError

if TYPE_CHECKING:
    from automc.methods.base import Method, StepContext, StepReport

__all__ = ["Method", "StepContext", "StepReport", "executable", "get", "register", "registered"]
__getattr__ = lazily.names(__name__, dict.fromkeys(("Method", "StepContext", "StepReport"), "base"))

BUILT_IN = ("LMA", "LeGR", "NS", "SFP", "HOS", "LFB", "UQ", "SLQ", "MLQ", "DNQ", "TRP", "PCO", "AMC", "MDP")
"""Methods of this package, each in a module of its name."""
ENTRY_POINTS = "automc.methods"
_registry: dict[str, type[Method]] = {}

M = TypeVar("M", bound="type[Method]")


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
        import_module(f"{__name__}.{name.lower()}")
    for entry in entry_points(group=ENTRY_POINTS):
        entry.load()


def registered() -> dict[str, Method]:
    """Every executable method by name, in the order of registration; built-in ones first."""
    _load()
    return {name: method() for name, method in _registry.items()}


def executable(name: str) -> bool:
    """Tell whether there is code for a method; only what other packages add is loaded for that."""
    return name in BUILT_IN or (bool(entry_points(group=ENTRY_POINTS)) and name in registered())


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
