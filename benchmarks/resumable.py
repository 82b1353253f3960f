"""A table that is stopped and continued: one row a run in `runs.csv`, appended and flushed whole.

Several processes may share the work: each claims the row that it is at.
"""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from automc.study.study import versions


def made_with() -> str:
    """What a page says its rows were made with."""
    return f"{', '.join(f'{k} {v}' for k, v in versions().items())}, one thread, {platform.machine()}."


def revision(place: Path) -> str:
    """The commit of a checkout, as rows name it."""
    return subprocess.check_output(("git", "-C", place, "rev-parse", "--short=7", "HEAD"), text=True).strip()


def rows(out: Path) -> list[dict[str, str]]:
    """Rows so far."""
    file = out / "runs.csv"
    return list(csv.DictReader(file.open())) if file.is_file() else []


def grouped(found: Sequence[dict[str, str]], column: str) -> dict[str, list[dict[str, str]]]:
    """Rows by their value of a column, in the order in which the values first come."""
    return {
        value: [row for row in found if row[column] == value] for value in dict.fromkeys(row[column] for row in found)
    }


@contextmanager
def claim(out: Path, key: Mapping[str, str]) -> Iterator[bool]:
    """Say whether a row is for this process to run: there is none with the values of `key`, and nobody else is at it."""
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / f".{'-'.join(key.values())}.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield not any(all(row[name] == value for name, value in key.items()) for row in rows(out))
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def append(out: Path, columns: Sequence[str], row: Mapping[str, Any]) -> None:
    """Add a row, whole."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "runs.csv").open("a", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        if stream.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
        stream.flush()
        os.fsync(stream.fileno())
