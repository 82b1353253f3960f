"""Many records at once: a CSV file with a row per record, beside the experience file that has paper and tasks."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kg.curation.documents import problems, read_text
from kg.errors import ExperienceInvalid, SchemaInvalid
from kg.experience_file import RecordEntry
from kg.schema import parse_value

_TEXTS = (
    "id", "method", "task", "params.unit", "table", "source", "confidence", "assumptions", "note", "differs_because",
    "code", "not_taught", "family", "teacher",
)  # fmt: skip


def read_rows(path: Path) -> tuple[RecordEntry, ...]:
    """Read records from a CSV file.

    Its columns are the fields of a record as an experience file names them, a dot for each level: id, method, task,
    settings.HP1, top1_percent, params.value, params.unit, published_ratio.fr, table, source, confidence … An empty
    cell leaves a field out.

    Raises:
        ExperienceInvalid: names file, line, field and reason.
    """
    reader = csv.DictReader(StringIO(read_text(path, ExperienceInvalid), newline=""))
    found = []
    try:
        names = list(reader.fieldnames or ())
        if twice := [name for name in names if names.count(name) > 1]:
            raise ExperienceInvalid(f"the column '{twice[0][:80]}' is there twice.")
        for row in reader:
            found.append(_record(row))
    except (ExperienceInvalid, csv.Error) as error:
        raise ExperienceInvalid(f"{path}:{reader.line_num}: {error}") from None
    if not found:
        raise ExperienceInvalid(f"{path} has no rows. Its first line names the columns: id, method, task, …")
    return tuple(found)


def _record(row: dict[str | None, Any]) -> RecordEntry:
    content: dict[str, Any] = {}
    for name, cell in row.items():
        if name is None:
            raise ExperienceInvalid(f"more cells than columns: {', '.join(cell)[:80]}.")
        if cell is None or not cell.strip():
            continue
        place = content
        *levels, last = name.strip().split(".")
        for level in levels:
            place = place.setdefault(level, {})
            if not isinstance(place, dict):
                raise ExperienceInvalid(f"{name}: {level} has a value of its own in another column.")
        place[last] = _value(name.strip(), cell.strip())
    try:
        return RecordEntry.model_validate(content)
    except ValidationError as fault:
        raise ExperienceInvalid(problems(fault, content)) from None


def _value(column: str, cell: str) -> Any:
    """The text of a cell as what its column holds."""
    if column in _TEXTS or column.startswith("raw."):
        return cell
    if column == "quoted":
        return {"true": True, "false": False}.get(cell, cell)
    try:
        return parse_value(cell)
    except SchemaInvalid as error:
        raise ExperienceInvalid(f"{column[:80]}: {error}") from None
