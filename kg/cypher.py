"""Help for people who write Cypher: saved queries, and names that occur nowhere in the graph.

Both engines answer a misspelt label with no rows and a misspelt property with nulls, so a query's names are read from
its text and looked for. Only what is surely a name of the graph is: labels, relationship types, and properties of
variables that a pattern binds.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kg.curation.documents import read_text
from kg.errors import QueryInvalid, QueryTimeout
from kg.store.base import GraphStore
from kg.store.text import mask, statements

_TOKEN = re.compile(r"\$\w+|[A-Za-z_]\w*|\d+(?:\.\d+)?|\.\.|->|<-|\S")
_NAME = re.compile(r"[A-Za-z_]\w*")
_BEFORE_NODE = {"MATCH", "CREATE", "MERGE", "WHERE", "AND", "OR", "XOR", "NOT", "(", ",", "-", "->", "=", "{", "|", "["}
_CLAUSES = {"MATCH", "OPTIONAL", "WITH", "RETURN", "UNWIND", "CALL", "CREATE", "MERGE", "("}
_SECONDS = 5.0
"""Time limit of each look into the graph for a name."""


@dataclass
class Names:
    """Names that a query uses, each once, in order."""

    labels: dict[str, None] = field(default_factory=dict)
    types: dict[str, None] = field(default_factory=dict)
    properties: dict[str, None] = field(default_factory=dict)


class _Reader:
    """Reads a query token by token, keeping track of what encloses each."""

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(mask(text))
        self.names = Names()
        self.bound: set[str] = set()
        self.open: list[str] = []

    def at(self, i: int) -> str:
        return self.tokens[i] if 0 <= i < len(self.tokens) else ""

    def read(self) -> Names:
        for i, token in enumerate(self.tokens):
            if token in "([{":
                self.open.append(self._kind(i))
                if self.open[-1] in ("node", "rel") and _NAME.fullmatch(self.at(i + 1)):
                    self.bound.add(self.at(i + 1))
            elif token in ")]}" and self.open:
                self.open.pop()
            elif token == ":":
                self._colon(i)
            elif token == "." and self._owner(i) in self.bound and self.at(i + 2) not in ("(", "."):
                self._add(self.names.properties, self.at(i + 1))
        return self.names

    def _kind(self, i: int) -> str:
        """What an opening bracket opens: a node, a relationship, their properties, a projection, or anything else."""
        token, before, after = self.tokens[i], self.at(i - 1), self.at(i + 1)
        if token == "(":
            follows = self.at(i + 2) if _NAME.fullmatch(after) else after
            node = follows in (")", ":", "{") or (follows.upper() == "WHERE" and follows != after)
            return "node" if node and (before.upper() in _BEFORE_NODE or not before) else "group"
        if token == "[":
            return "rel" if before in ("-", "<-") else "list"
        if self.open and self.open[-1] in ("node", "rel"):
            return "properties"
        if after.upper() in _CLAUSES and self.at(i + 2) != ":":
            return "block"
        return f"of {before}" if before in self.bound else "map"

    def _owner(self, i: int) -> str:
        """The variable whose property a dot asks for."""
        before = self.at(i - 1)
        if before in ("{", ",") and self.open:
            return self.open[-1].removeprefix("of ")
        return before if self.at(i - 2) != "." else ""

    def _colon(self, i: int) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "properties":
            self._add(self.names.properties, self.at(i - 1))
        elif inside == "rel":
            self._all(self.names.types, i)
        elif inside in ("node", "group", "block", ""):
            self._all(self.names.labels, i)

    def _all(self, names: dict[str, None], i: int) -> None:
        """The names of an expression such as `:A|B` or `:A&!B`."""
        while self.at(i) in (":", "|", "&", "!"):
            i += 1
            if _NAME.fullmatch(self.at(i)):
                self._add(names, self.at(i))
                i += 1

    @staticmethod
    def _add(names: dict[str, None], name: str) -> None:
        if _NAME.fullmatch(name):
            names.setdefault(name)


def names(query: str) -> Names:
    """Return the labels, relationship types and properties that a query names."""
    return _Reader(query).read()


_EXISTS = {
    "labels": ("MATCH (n:{0}) RETURN 1 AS one LIMIT 1",),
    "types": ("MATCH ()-[r:{0}]->() RETURN 1 AS one LIMIT 1",),
    "properties": (
        "MATCH (n) WHERE n.{0} IS NOT NULL RETURN 1 AS one LIMIT 1",
        "MATCH ()-[r]->() WHERE r.{0} IS NOT NULL RETURN 1 AS one LIMIT 1",
    ),
}
_ALL = {
    "labels": ("MATCH (n) UNWIND labels(n) AS name RETURN DISTINCT name",),
    "types": ("MATCH ()-[r]->() RETURN DISTINCT type(r) AS name",),
    "properties": (
        "MATCH (n) UNWIND keys(n) AS name RETURN DISTINCT name",
        "MATCH ()-[r]->() UNWIND keys(r) AS name RETURN DISTINCT name",
    ),
}
_SAID = {"labels": "node has the label", "types": "relationship has the type", "properties": "node or relationship has"}


def used_params(query: str) -> set[str]:
    """Return the names of the parameters that a query uses, without their dollar."""
    return {*re.findall(r"\$(\w+)", mask(query)), *re.findall(r"\$`([^`]+)`", query)}


def hints(store: GraphStore, query: str) -> list[str]:
    """Say which names of a query occur nowhere in the graph, with the nearest that does.

    Where looking takes long, or the engine refuses, the hint is left out: a query is as good without.
    """
    used = names(query)
    said = []
    for kind, exists in _EXISTS.items():
        for name in getattr(used, kind):
            try:
                if any(store.read(text.format(f"`{name}`"), timeout=_SECONDS).rows for text in exists):
                    continue
                known = {row[0] for text in _ALL[kind] for row in store.read(text, timeout=_SECONDS).rows}
            except (QueryInvalid, QueryTimeout):
                continue
            near = nearest(name, known)
            said.append(f"No {_SAID[kind]} {name}." + (f" Did you mean {near}?" if near else ""))
    return said


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like one, whatever its case; None where none is near."""
    spelt = {one.lower(): one for one in sorted(known)}
    found = difflib.get_close_matches(name.lower(), spelt, n=1, cutoff=0.6)
    return spelt[found[0]] if found else None


@dataclass(frozen=True, slots=True)
class SavedQuery:
    """A query in a file: its first comment says what it answers, `// param NAME = JSON` gives defaults."""

    name: str
    title: str
    text: str
    params: Mapping[str, Any]


_PARAM = re.compile(r"^// *param +(\w+) *= *(.+)$", re.MULTILINE)


def packaged_queries() -> Path:
    """Return the folder of the saved queries that come with this package."""
    return Path(__file__).with_name("queries")


def saved_queries(folders: Sequence[Path]) -> dict[str, SavedQuery]:
    """Return the queries of `NAME.cypher` files by name; a later folder's replaces an earlier one's.

    Raises:
        QueryInvalid: a file cannot be read, or a parameter's default is not JSON.
    """
    files = {path.stem: path for folder in folders for path in sorted(folder.glob("*.cypher"))}
    return {name: read_query(files[name]) for name in sorted(files)}


def saved_query(name: str, folders: Sequence[Path]) -> SavedQuery:
    """Return one saved query.

    Raises:
        QueryInvalid: there is none of that name, or it cannot be read.
    """
    for folder in reversed(folders):
        if _NAME.fullmatch(name.replace("-", "_")) and (path := folder / f"{name}.cypher").is_file():
            return read_query(path)
    near = nearest(name, (path.stem for folder in folders for path in folder.glob("*.cypher")))
    hint = f" Did you mean {near}?" if near else ""
    raise QueryInvalid(f"There is no saved query '{name}'.{hint} `automc kg query --list` names them all.")


def read_query(path: Path) -> SavedQuery:
    """Read a file with one statement.

    Raises:
        QueryInvalid: it cannot be read, holds no or several statements, or a parameter's default is not JSON.
    """
    text = read_text(path, QueryInvalid)
    params = {}
    for name, value in _PARAM.findall(text):
        try:
            params[name] = json.loads(value)
        except json.JSONDecodeError:
            raise QueryInvalid(f"{path}: the default of {name} is not JSON: {value}. Quote texts.") from None
    first = text.lstrip().splitlines()[0] if text.strip() else ""
    title = first.removeprefix("//").strip() if first.startswith("//") and not _PARAM.match(first) else ""
    return SavedQuery(path.stem, title, one_statement(text, str(path)), params)


def one_statement(text: str, where: str) -> str:
    """Return the one statement of a text, without the semicolon at its end.

    Raises:
        QueryInvalid: there is none, or there are several.
    """
    found = statements(text)
    if len(found) != 1:
        what = f"{len(found)} statements" if found else "no statement"
        raise QueryInvalid(f"{where} holds {what}. Give one: each is its own query.")
    return found[0]
