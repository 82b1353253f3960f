"""Forms of fields: what was filled in becomes a document, a document fills fields in, each error finds its field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from automc.board.fields import Field, Part
from automc.errors import AutoMCError
from kg.curation.documents import Document
from kg.errors import KGError

MAX_ROWS = 300
"""Of one table of a form; longer ones are edited as text."""

Inputs = Mapping[str, str]
"""Texts by the names of inputs: "paper.id", "records.0.table"."""
Parts = Sequence[Part]


def names(part: Part, row: int | None = None) -> list[tuple[str, Field]]:
    """Return the inputs of a part, of a row of it, with their fields."""
    before = "" if row is None else f"{part.name}.{row}."
    return [(f"{before}{field.path}", field) for field in part.fields]


def rows(part: Part, inputs: Inputs) -> list[int]:
    """Return the rows of a part that some input is of, empty ones too."""
    found = {int(match[1]) for name in inputs if (match := re.fullmatch(rf"{part.name}\.(\d{{1,4}})\..+", name))}
    return sorted(found)[:MAX_ROWS]


def tidy(parts: Parts, inputs: Inputs, more: str = "") -> dict[str, str]:
    """Return the inputs of all fields, without the rows that are empty but for one to go on with at the end.

    Args:
        parts: of the form.
        inputs: as sent; what the form does not have is left out.
        more: a part that gets one empty row more than it had.
    """
    found: dict[str, str] = {}
    for part in parts:
        if not part.name:
            found |= {name: inputs.get(name, "").strip() for name, _ in names(part)}
            continue
        texts = [[inputs.get(name, "").strip() for name, _ in names(part, row)] for row in rows(part, inputs)]
        full = [row for row in texts if any(row)]
        empty = 1 + (len(texts) - len(full) if part.name == more else 0)
        for place, row in enumerate([*full, *[[""] * len(part.fields)] * empty]):
            found |= {name: text for (name, _), text in zip(names(part, place), row, strict=True)}
    return found


def content(parts: Parts, inputs: Inputs) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the document that tidy inputs say, and by input what cannot be read."""
    found: dict[str, Any] = {"format": 1}
    errors: dict[str, str] = {}
    for part in parts:
        if not part.name:
            _read(found, names(part), inputs, errors)
            continue
        entries: list[dict[str, Any]] = []
        for row in rows(part, inputs):
            if any(inputs[name] for name, _ in names(part, row)):
                entry: dict[str, Any] = {}
                entries.append(entry)
                _read(entry, names(part, row), inputs, errors)
        if entries:
            found[part.name] = entries
    return found, errors


def _read(entry: dict[str, Any], fields: list[tuple[str, Field]], inputs: Inputs, errors: dict[str, str]) -> None:
    for name, field in fields:
        if not (text := inputs[name]):
            continue
        try:
            value = field.read(text)
        except (ValueError, KGError) as error:
            errors[name] = str(error)
            continue
        *levels, last = field.path.split(".")
        place = entry
        for level in levels:
            place = place.setdefault(level, {})
        place[last] = value


def inputs_of(parts: Parts, document: Mapping[str, Any]) -> dict[str, str]:
    """Return tidy inputs that say what a document says.

    Raises:
        AutoMCError: it says something that the form has no field for.
    """
    said = _said(document)
    inputs: dict[str, str] = {}
    for part in parts:
        entries = said.get(part.name, []) if part.name else [said]
        if isinstance(entries, list) and len(entries) <= MAX_ROWS:
            for row, entry in enumerate(entries):
                _write(inputs, names(part, row if part.name else None), entry)
    inputs = tidy(parts, inputs)
    again, wrong = content(parts, inputs)
    lost = [*wrong, *sorted(_leaves({"format": 1, **said}) ^ _leaves(_said(again)))]
    if lost:
        raise AutoMCError(
            f"The text says what the fields do not have, first at {lost[0].partition(' ')[0]}. Edit it as text."
        )
    return inputs


def _write(inputs: dict[str, str], fields: list[tuple[str, Field]], entry: Any) -> None:
    for name, field in fields:
        value = entry
        for level in field.path.split("."):
            value = value.get(level) if isinstance(value, dict) else None
        if value is not None:
            try:
                inputs[name] = " ".join(field.write(value).split())
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # it is no such value, and is missed when the inputs are compared with the document


def _said(value: Any) -> Any:
    """A document without what is empty in it."""
    if isinstance(value, dict):
        return {name: said for name, one in value.items() if (said := _said(one)) not in (None, "", {}, [])}
    return [_said(one) for one in value] if isinstance(value, list) else value


def _leaves(value: Any, place: str = "") -> set[str]:
    """The values of a document, each as text behind its place."""
    if isinstance(value, dict | list) and value:
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {leaf for name, one in parts for leaf in _leaves(one, f"{place}.{name}".strip("."))}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {f"{place} {float(value)!r}" if number else f"{place} {value!r}"}


def misfits(shape: type[Document], document: Mapping[str, Any], inputs: Inputs) -> dict[str, str]:
    """Return by input which rules of its kind a document breaks; what belongs to no input is under ""."""
    try:
        shape.model_validate(document)
    except ValidationError as fault:
        found: dict[str, str] = {}
        for problem in fault.errors():
            name = _nearest(".".join(map(str, problem["loc"])), inputs)
            reason = problem["msg"].removeprefix("Value error, ")
            found[name] = f"{found[name]}; {reason}" if name in found and reason not in found[name] else reason
        return found
    return {}


def _nearest(place: str, inputs: Inputs) -> str:
    """Return the input at a place of the document, else the first one within it, else that of what it is within."""
    while place and place not in inputs:
        if within := next((name for name in inputs if name.startswith(f"{place}.")), ""):
            return within
        place = place.rpartition(".")[0]
    return place


def placed(message: str, source: str, parts: Parts, inputs: Inputs) -> str:
    """Return the input that a refusal speaks of, "" where it speaks of the whole.

    Messages begin with the document, then the entry by its id, then the field.
    """
    said = message.removeprefix(f"{source}: ")
    if said == message or "\n" in said:
        return ""
    ids = {
        inputs[f"{part.name}.{row}.id"]: f"{part.name}.{row}"
        for part in parts if part.name
        for row in rows(part, inputs) if inputs[f"{part.name}.{row}.id"]
    }  # fmt: skip
    first, _, rest = said.partition(": ")
    entry, _, field = first.rpartition(".")
    if first in ids:
        second = rest.partition(": ")[0]
        return _nearest(f"{ids[first]}.{second}", inputs)
    if entry in ids:
        return _nearest(f"{ids[entry]}.{field}", inputs)
    return _nearest(first, inputs) if " " not in first else ""
