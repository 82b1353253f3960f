"""Search strategies, found by name: one file in this package each, or another package's entry point.

A searcher registers itself by `@register`. Its file is imported when the registry is first asked, so
importing this package stays cheap.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from automc.errors import StudyError

if TYPE_CHECKING:
    from automc.search.base import Searcher

ENTRY_POINTS = "automc.search"
_REGISTRY: dict[str, type[Searcher]] = {}


def register(cls: type[Searcher]) -> type[Searcher]:
    """Make a searcher available under its `name`; a class decorator.

    Raises:
        StudyError: another class has that name.
    """
    known = _REGISTRY.setdefault(cls.name, cls)
    if known is not cls:
        raise StudyError(
            f"Two searchers are called '{cls.name}': {known.__module__}.{known.__qualname__} and "
            f"{cls.__module__}.{cls.__qualname__}. Rename one of them."
        )
    return cls


def _own() -> dict[str, type[Searcher]]:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return _REGISTRY


def _foreign() -> dict[str, type[Searcher]]:
    from automc.search.base import Searcher

    found: dict[str, type[Searcher]] = {}
    for point in entry_points(group=ENTRY_POINTS):
        try:
            cls = point.load()
        except (ImportError, AttributeError) as error:
            raise StudyError(f"The searcher '{point.name}' ({point.value}) cannot be loaded: {error}.") from error
        if not (isinstance(cls, type) and issubclass(cls, Searcher)):
            raise StudyError(f"The searcher '{point.name}' ({point.value}) is not a subclass of Searcher.")
        found[point.name] = cls
    return found


def registered() -> dict[str, type[Searcher]]:
    """Return all searchers by name, sorted: this package's and those of entry points, which never replace ours.

    Raises:
        StudyError: an entry point of `automc.search` cannot be loaded or is no Searcher.
    """
    return dict(sorted({**_foreign(), **_own()}.items()))


def get(name: str) -> type[Searcher]:
    """Return a searcher's class.

    Raises:
        StudyError: there is none of that name; the message lists those there are.
    """
    own = _own()
    if name in own:
        return own[name]
    known = registered()
    if name not in known:
        raise StudyError(f"There is no searcher '{name}'. Choose one of: {', '.join(known)}.")
    return known[name]
