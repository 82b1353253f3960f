"""Where a study keeps its files, and who may work on it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from automc.errors import StudyError
from automc.home import home


def folder(study: str) -> Path:
    """Return where a study keeps its files."""
    return home() / "studies" / study


@contextmanager
def claimed(model: str, dataset: str, taken: Sequence[str]) -> Iterator[str]:
    """Give the free name `<model>-<dataset>-<n>` with its folder, which two searches that start at once cannot share.

    The folder is removed again where the block fails.
    """
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", f"{model}-{dataset}").strip("-").lower()
    numbers = [int(m.group(1)) for m in (re.fullmatch(rf"{re.escape(stem)}-(\d+)", t) for t in taken) if m]
    number = max(numbers, default=0) + 1
    while True:
        name = f"{stem}-{number}"
        try:
            folder(name).mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
    try:
        yield name
    except BaseException:
        shutil.rmtree(folder(name), ignore_errors=True)
        raise


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
