"""Read one YAML document into a pydantic model, say in one line what is wrong with it, and write it again."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from kg.errors import KGError


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

D = TypeVar("D", bound=Document)


# The C parser reads all packaged files in a fraction of the time; not every installation has it.
class _UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML lets a later key silently replace an earlier one; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key}' is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def read_text(path: Path, error: type[KGError]) -> str:
    """Read a text file.

    Raises:
        error: it is missing, cannot be read, or is no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror}.") from None
    except UnicodeDecodeError:
        raise error(f"{path} is not UTF-8 text. Save it as UTF-8.") from None


def read_document(path: Readable, shape: type[D], error: type[KGError]) -> D:
    """Read and validate a YAML document.

    Raises:
        error: the file is missing, is no YAML, or breaks a rule of `shape`; names file, field and reason.
    """
    text = path.text if isinstance(path, Source) else read_text(path, error)
    try:
        content = yaml.load(text, Loader=_UniqueKeys)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise error(f"{where}: {fault.problem or 'this is not YAML'}.") from None
    except yaml.YAMLError as fault:
        raise error(f"{path} is not YAML: {fault}.") from None
    if not isinstance(content, dict):
        what = "is empty" if content is None else "does not begin with a field"
        raise error(f"{path} {what}. Write fields such as `format: 1`, one a line.")
    try:
        return shape.model_validate(content)
    except ValidationError as fault:
        raise error(f"{path}: {problems(fault, content)}") from None


def write_document(document: Document) -> str:
    """Write a document as YAML that reads back as the same; comments of the text it once had are lost."""
    content = document.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def problems(fault: ValidationError, content: Any) -> str:
    """Every problem of a document: its field, by the id of the entry where it has one, and the reason."""
    lines = []
    for problem in fault.errors():
        field: list[str] = []
        entry = content
        for part in problem["loc"]:
            try:
                entry = entry[part]
            except (KeyError, IndexError, TypeError):
                entry = None
            name = entry.get("id") if isinstance(entry, dict) and isinstance(part, int) else None
            field.append(str(name or part))
        reason = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{'.'.join(field) or 'document'}: {reason}")
    return "; ".join(lines)
