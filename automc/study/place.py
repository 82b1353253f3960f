"""Where a study keeps its files, and who may work on it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from automc.errors import StudyError
from automc.home import home

T = TypeVar("T")


def folder(study: str) -> Path:
    """Return where a study keeps its files."""
    return home() / "studies" / study


def claimed(model: str, dataset: str, taken: Sequence[str], make: Callable[[str], T | None]) -> T:
    """Make a study of the free name `<model>-<dataset>-<n>`; return what `make` returns.

    Two searches of this home that start at once cannot share the name's folder, in which `make` works; it returns None
    where another machine was first to give the name to a study of the same graph, and is called with the next one. The
    folder is removed where it fails.
    """
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", f"{model}-{dataset}").strip("-").lower()
    numbers = [int(m.group(1)) for m in (re.fullmatch(rf"{re.escape(stem)}-(\d+)", t) for t in taken) if m]
    for number in count(max(numbers, default=0) + 1):
        own = folder(f"{stem}-{number}")
        try:
            own.mkdir(parents=True)
        except FileExistsError:
            continue
        made = None
        try:
            made = make(own.name)
        finally:
            if made is None:
                shutil.rmtree(own, ignore_errors=True)
        if made is not None:
            return made
    raise AssertionError("there is always another number")


@contextmanager
def held(study: str) -> Iterator[None]:
    """Work on a study alone; the hold of a killed process is free at once.

    Raises:
        StudyError: another process of this home works on it.
    """
    folder(study).mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder(study) / "running.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StudyError(f"The study {study} is running in another process. Wait for it, or stop that one.") from None
    try:
        yield
    finally:
        lock.release()
