"""Read one YAML document into a pydantic model, say in one line what is wrong with it, and write it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from kg.errors import KGError
from kg.plain import MAX_BYTES, Place, read_yaml, write_yaml


class Document(BaseModel):
    """Base of everything read from YAML: unknown fields are refused, and no type is converted into another."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Source:
    """A document that is no file of its own, such as one that the graph keeps: its name in messages, and its text."""

    name: str
    text: str

    def __str__(self) -> str:
        return self.name


Readable = Path | Source
"""Where a document is."""
SAID_AT_ONCE = 30
"""Problems of one document that are told together."""

D = TypeVar("D", bound=Document)


def read_text(path: Path, error: type[KGError]) -> str:
    """Read a text file.

    Raises:
        error: it is missing, cannot be read, is no UTF-8 text, or is larger than MAX_BYTES.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror}.") from None
    if len(content) > MAX_BYTES:
        raise error(f"{path} is larger than {MAX_BYTES // 2**20} MiB, so it is no document of this kind.")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise error(f"{path} is not UTF-8 text. Save it as UTF-8.") from None


def as_source(place: Readable, error: type[KGError]) -> Source:
    """Return a document with its text; see `read_text`."""
    return place if isinstance(place, Source) else Source(str(place), read_text(place, error))


def read_document(path: Readable, shape: type[D], error: type[KGError]) -> D:
    """Read and validate a YAML document.

    Raises:
        error: the file is missing, is no YAML, or breaks a rule of `shape`; names file, field, line and reason.
    """
    text = path.text if isinstance(path, Source) else read_text(path, error)
    found = _document(text, str(path), shape, error)  # type: ignore[arg-type]
    assert isinstance(found, shape)
    return found


@lru_cache(maxsize=512)
def _document(text: str, path: str, shape: type[Document], error: type[KGError]) -> Document:
    """Documents are read again and again, seldom changed, and frozen."""
    try:
        content, lines = read_yaml(text)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise error(f"{where}: {fault.problem or 'this is not YAML'}.") from None
    except yaml.reader.ReaderError as fault:
        line = text.encode()[: fault.position].count(b"\n") + 1
        raise error(f"{path}:{line}: a control character is not read.") from None
    except yaml.YAMLError as fault:
        raise error(f"{path} is not YAML: {fault}.") from None
    if not isinstance(content, dict):
        what = "is empty" if content is None else "does not begin with a field"
        raise error(f"{path} {what}. Write fields such as `format: 1`, one a line.")
    try:
        return shape.model_validate(content)
    except ValidationError as fault:
        raise error(f"{path}: {problems(fault, content, lines)}") from None


def write_document(document: Document) -> str:
    """Write a document as YAML that reads back as the same; comments of the text it once had are lost."""
    return write_yaml(document.model_dump(mode="json", exclude_defaults=True))


def problems(fault: ValidationError, content: Any, lines: Mapping[Place, int] | None = None) -> str:
    """Every problem of a document: its field, by the id of the entry where it has one, the reason, and the line."""
    said = []
    for problem in fault.errors():
        field: list[str] = []
        entry = content
        place: Place = ()
        for part in problem["loc"]:
            try:
                entry = entry[part]
                place = (*place, part)
            except (KeyError, IndexError, TypeError):
                entry = None
            name = entry.get("id") if isinstance(entry, dict) and isinstance(part, int) else None
            field.append(str(name or part)[:80])
        reason = problem["msg"].removeprefix("Value error, ")
        line = f" (line {lines[place]})" if lines and place in lines else ""
        said.append(f"{'.'.join(field) or 'document'}: {reason}{line}")
    return "; ".join(said[:SAID_AT_ONCE]) + (
        f"; and {len(said) - SAID_AT_ONCE} more" if len(said) > SAID_AT_ONCE else ""
    )
