"""Values on their way into a store and out of it: what every engine keeps alike, and how times are written."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

from kg.errors import QueryInvalid

_INT64 = range(-(2**63), 2**63)


def plain(value: Any, *, kept: bool = False) -> Any:
    """Make a query parameter plain: NumPy values become Python ones, tuples lists, dates ISO 8601 text.

    Args:
        kept: the value may become a property. Then a list of integers and floats becomes one of floats, because that
            is what one of the engines keeps of it.

    Raises:
        QueryInvalid: an integer beyond 64 bits, or a type that no store keeps.
    """
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        if value not in _INT64:
            raise QueryInvalid(f"{value} does not fit into 64 bits, so the graph cannot keep it.")
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item, kept=kept) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [plain(item, kept=kept) for item in value]
        return _floats(items) if kept and set(map(type, items)) == {int, float} else items
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return plain(value.tolist(), kept=kept)
    raise QueryInvalid(f"A query parameter of type {type(value).__name__} cannot be kept in the graph.")


def _floats(numbers: list[Any]) -> list[float]:
    for number in numbers:
        if int(number) != float(number) and isinstance(number, int):
            raise QueryInvalid(f"{number} stands in a list with floats, and no float is exactly this. Keep it apart.")
    return list(map(float, numbers))


def iso(text: str) -> str:
    """Write a time of either engine in one way: with seconds, without an empty fraction of them, UTC as Z."""
    text = re.sub(r"((?:T|^)\d\d:\d\d)(?![\d:])", r"\1:00", text)
    return re.sub(r"\.0+(?!\d)|(\.\d*?[1-9])0+(?!\d)", r"\1", text).replace("+00:00", "Z")


def checked_row(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose id, key and values every engine keeps alike."""
    where = f"{kind} {row.get('id', '')}".strip()
    if "from" not in row and not isinstance(row.get("id"), str):
        raise QueryInvalid(f"{where}: the id of a node must be text, it is {row.get('id')!r}. Nothing was written.")
    for name, value in (row.get("key") or {}).items():
        if value is None:
            raise QueryInvalid(f"{where}: {name} tells its relationships apart, so it cannot be null.")
    for name, value in row.items():
        if name != "key" and (reason := unkept(value)):
            raise QueryInvalid(f"{where}: {name} cannot be kept: {reason}. Nothing was written.")
    return row


def unkept(value: Any) -> str:
    """Say why a value cannot be a property on every engine; empty where it can."""
    if isinstance(value, dict):
        return "it is a map"
    if not isinstance(value, list):
        return ""
    kinds = set(map(type, value))
    if type(None) in kinds:
        return "a list with a null in it"
    if kinds & {list, dict}:
        return "a list of lists or maps"
    if len(kinds) > 1:
        return f"a list of several kinds ({', '.join(sorted(kind.__name__ for kind in kinds))})"
    return ""
