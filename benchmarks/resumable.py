"""A table that is stopped and continued: one row a run in `runs.csv`, appended and flushed whole."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def rows(out: Path) -> list[dict[str, str]]:
    """Rows so far."""
    file = out / "runs.csv"
    return list(csv.DictReader(file.open())) if file.is_file() else []


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
