"""Keys in the text of a write, to be looked at before it runs, because engines differ in what they do with bad ones.

A MERGE on a null property is refused by one engine, and makes a node without that property at every run on another. An
id that is a number equals the text of that number in one engine's index, and differs in another's. Both are asked of
the store itself: the clauses before are run as a read that looks for a row with such a key. Where the text is beyond
this reader there is no question, and the engine decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kg.schema import LABELS
from kg.store.text import mask

_CLAUSE = re.compile(
    r"(?<![\w.:$])(?:(?P<part>(?:STARTS|ENDS)\s+WITH)|(?P<name>ON\s+(?:CREATE|MATCH)\s+SET|OPTIONAL\s+MATCH|MATCH|WITH"
    r"|UNWIND|MERGE|CREATE|SET|REMOVE|(?:DETACH\s+|NODETACH\s+)?DELETE|RETURN|CALL|FOREACH|UNION|LOAD|USE|FINISH))\b",
    re.IGNORECASE,
)
_SCHEMA = re.compile(r"\s*(?:CREATE|DROP)\s+(?:\w+\s+){0,2}?(?:CONSTRAINT|INDEX)\b", re.IGNORECASE)
_READING = ("MATCH", "OPTIONAL MATCH", "WITH", "UNWIND")
_CHANGING = ("SET", "REMOVE", "ON CREATE SET", "ON MATCH SET")
_ROWS = re.compile(r"UNWIND\s+\$\w+\s+AS\s+(\w+)\s*$", re.IGNORECASE)
_PLACE = re.compile(r"\$?(\w+)(?:\.\w+)*")
_LITERAL = re.compile(r"\0*|[-\d.]+")


@dataclass(frozen=True, slots=True)
class Key:
    """A property of a pattern that is created or merged, as written."""

    text: str
    merged: bool
    """Whether a null is looked for, else an id that is no text."""
    condition: str
    """True where the key is bad."""


def questions(query: str) -> Iterator[tuple[str, list[Key]]]:
    """Yield reads that find a bad key of the next write, each with the keys that the number in its answer counts."""
    masked = mask(query)
    if _SCHEMA.match(masked):
        return
    before: list[str] = []
    rows: set[str] = set()
    written = changed = False
    for name, start, end in _clauses(masked):
        if name in _READING and not (written and name.endswith("MATCH")):
            text = query[start:end]
            before.append(text)
            rows |= {match[1] for match in [_ROWS.match(text.strip())] if match}
        elif name in ("MERGE", "CREATE"):
            keys = [
                key
                for key in _keys(query[start:end], masked[start:end], name == "MERGE")
                if not changed or _only_given(key.text.partition(":")[2].strip(), rows)
            ]
            if keys:
                yield _question(before, keys), keys
            written = True
        elif name in _CHANGING:
            written = changed = True
        else:
            return


def complaint(key: Key) -> str:
    """Say what is wrong with a key."""
    if key.merged:
        return (
            f"MERGE on {{{key.text}}}, which is null: that would make a node or relationship without it at every run. "
            "Give each row this key, or leave out the rows without; nothing was written."
        )
    return (
        f"{{{key.text}}} is no text, and the id of a node must be one: the keys 5 and '5' are one on one engine, two "
        "on another. Write it with toString(); nothing was written."
    )


def _question(before: list[str], keys: list[Key]) -> str:
    cases = " ".join(f"WHEN {key.condition} THEN {i}" for i, key in enumerate(keys))
    condition = " OR ".join(key.condition for key in keys)
    head = "\n".join([*before, "WITH *"]) if before else "WITH 1 AS one"
    return f"{head}\nWHERE {condition}\nRETURN CASE {cases} END AS bad LIMIT 1"


def _clauses(masked: str) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of each clause outside of brackets."""
    depths = _depths(masked)
    found = [m for m in _CLAUSE.finditer(masked) if depths[m.start()] == 0 and m["name"]]
    ends = [*(m.start() for m in found[1:]), len(masked.rstrip("; \n\t"))]
    for match, end in zip(found, ends, strict=False):
        yield " ".join(match["name"].upper().split()), match.start(), end


def _depths(masked: str) -> list[int]:
    depth, depths = 0, []
    for char in masked:
        depth -= char in ")]}"
        depths.append(depth)
        depth += char in "([{"
    return depths


def _keys(text: str, masked: str, merged: bool) -> Iterator[Key]:
    """The keys in the property maps of a pattern."""
    depths = _depths(masked)
    for start in (i for i, char in enumerate(masked) if char == "{" and depths[i] == 1):
        end = next((i for i in range(start + 1, len(masked)) if masked[i] == "}" and depths[i] == 1), len(masked))
        element = masked[max(masked.rfind("(", 0, start), masked.rfind("[", 0, start)) : start]
        known = element.startswith("(") and bool(set(re.findall(r":\s*(\w+)", element)) & set(LABELS))
        cuts = [i for i in range(start + 1, end) if masked[i] == "," and depths[i] == 2]
        for left, right in zip([start, *cuts], [*cuts, end], strict=True):
            name, _, value = text[left + 1 : right].partition(":")
            value = value.strip()
            key = f"{name.strip()}: {value}"
            literal = _LITERAL.fullmatch(masked[left + 1 : right].partition(":")[2].strip())
            if merged and value and not literal:
                yield Key(key, True, f"({value}) IS NULL")
            if known and value and name.strip() == "id":
                yield Key(key, False, f"toString({value}) <> {value}")


def _only_given(value: str, rows: set[str]) -> bool:
    """Whether a value comes from the parameters alone, so that nothing written before can have changed it."""
    match = _PLACE.fullmatch(value)
    return match is not None and (value.startswith("$") or match[1] in rows)
