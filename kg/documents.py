"""Read one YAML document into a pydantic model, and say in one line what is wrong with it."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from kg.errors import KGError


class Document(BaseModel):
    """Base of everything read from YAML: unknown fields are refused, and no type is converted into another."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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


def read_document(path: Path, shape: type[D], error: type[KGError]) -> D:
    """Read and validate a YAML file.

    Raises:
        error: the file is missing, is no YAML, or breaks a rule of `shape`; names file, field and reason.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror}.") from None
    except UnicodeDecodeError:
        raise error(f"{path} is not UTF-8 text. Write it as a YAML file.") from None
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise error(f"{where}: {fault.problem or 'this is not YAML'}.") from None
    except yaml.YAMLError as fault:
        raise error(f"{path} is not YAML: {fault}.") from None
    try:
        return shape.model_validate(content)
    except ValidationError as fault:
        raise error(_explain(path, fault, content)) from None


def _explain(path: Path, fault: ValidationError, content: Any) -> str:
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
            field.append(str(name if name is not None else part))
        reason = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{'.'.join(field) or 'document'}: {reason}")
    return f"{path}: " + "; ".join(lines)
