"""YAML as plain data: fields, lists, text, numbers, true, false and null, and nothing that YAML hides behind them.

Refused with their line, because they turn into something else than what is read: tags (dates, sets, bytes, objects),
keys given twice, aliases of what holds them and those that stand for millions of values, numbers that are infinite or
beyond 64 bits, control characters, a second document, and nesting that no file of ours needs. A date is text. Plain
words and numbers are those of YAML 1.2's core schema: `no` is the word no, and 1:30 is no number.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import yaml

MAX_DEPTH = 50
MAX_VALUES = 2_000_000
"""Of a document, each alias counted as what it stands for."""
MAX_BYTES = 64 * 2**20
"""Of a document's text."""

Place = tuple[str | int, ...]
"""Where a value is: field names and positions in lists, from the top."""

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {
    word: value for value, words in ((True, "true True TRUE"), (False, "false False FALSE")) for word in words.split()
}
_INT = re.compile(r"[-+]?[0-9]+", re.ASCII)
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII
)
# What no printed page holds: control characters but tab and line feed, halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
# The C parser reads all packaged files in a fraction of the time; not every installation has it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
if TYPE_CHECKING:
    from yaml import SafeDumper as _Dumper
else:
    _Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def read_yaml(text: str) -> tuple[Any, dict[Place, int]]:
    """Return what a YAML text says, and the line of every value, counted from 1; None for an empty text.

    Raises:
        yaml.YAMLError: it is no YAML, or holds what is refused; with a mark where the place is known.
    """
    return _Reader(text).document()


class _Reader:
    """Builds plain data from the parser's events; recursion goes no deeper than MAX_DEPTH."""

    def __init__(self, text: str) -> None:
        self.events = yaml.parse(text, Loader=_LOADER)
        self.lines: dict[Place, int] = {}
        self.values = 0
        self.anchors: dict[str, tuple[Any, int] | None] = {}
        """Value and number of values that it holds, by anchor; None while it is being read."""

    def document(self) -> tuple[Any, dict[Place, int]]:
        content: Any = None
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _refused("a second document begins here; write one in a file", event)
                content = self._value(next(self.events), ())
        return content, self.lines

    def _value(self, event: Any, place: Place) -> Any:
        self.lines[place] = event.start_mark.line + 1
        before, self.values = self.values, self.values + 1
        if isinstance(event, yaml.AliasEvent):
            value = self._again(event)
        elif event.tag is not None:
            raise _refused(f"the tag {event.tag} is not read; write text, numbers, lists and fields", event)
        else:
            if event.anchor is not None:
                self.anchors[event.anchor] = None
            value = _scalar(event) if isinstance(event, yaml.ScalarEvent) else self._collection(event, place)
            if event.anchor is not None:
                self.anchors[event.anchor] = value, self.values - before
        if self.values > MAX_VALUES:
            raise _refused(f"up to here there are more than {MAX_VALUES:,} values, those of aliases counted", event)
        return value

    def _again(self, event: yaml.AliasEvent) -> Any:
        known = self.anchors.get(str(event.anchor))
        if known is None:
            what = "holds itself" if event.anchor in self.anchors else "is not known yet"
            raise _refused(f"the alias *{str(event.anchor)[:40]} {what}", event)
        self.values += known[1]
        return known[0]

    def _collection(self, event: Any, place: Place) -> list[Any] | dict[Any, Any]:
        if len(place) >= MAX_DEPTH:
            raise _refused(f"this is nested deeper than {MAX_DEPTH} levels", event)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(inner := next(self.events), yaml.SequenceEndEvent):
                items.append(self._value(inner, (*place, len(items))))
            return items
        fields: dict[Any, Any] = {}
        while not isinstance(inner := next(self.events), yaml.MappingEndEvent):
            if not isinstance(inner, yaml.ScalarEvent):
                raise _refused("a field's name is a word, not a list or fields", inner)
            name = self._value(inner, place)
            if name in fields:
                raise _refused(f"'{name}' is given twice", inner)
            fields[name] = self._value(next(self.events), (*place, name))
        return fields


def _scalar(event: yaml.ScalarEvent) -> Any:
    text: str = event.value
    if _UNPRINTABLE.search(text):
        raise _refused("a control character is not read", event)
    if not event.implicit[0]:  # quoted
        return text
    try:
        return plain_value(text)
    except ValueError:
        raise _refused(f"{text[:40]} is no finite number of at most 64 bits", event) from None


def plain_value(text: str) -> Any:
    """Return what an unquoted word stands for: null, true, a number, else the text itself.

    Raises:
        ValueError: a number that is infinite, NaN, or beyond 64 bits.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        whole = int(text) if len(text) <= 20 else 2**63
        if not -(2**63) <= whole < 2**63:
            raise ValueError(text)
        return whole
    if _FLOAT.fullmatch(text):
        number = float(text) if text[-1] in "0123456789." else math.inf
        if not math.isfinite(number):
            raise ValueError(text)
        return number
    return text


def write_yaml(content: Any) -> str:
    """Return plain data as YAML that `read_yaml` reads as the same, and any reader of YAML 1.1 as well."""
    return yaml.dump(content, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=110)


class _Writer(_Dumper):
    """Quotes also what is text to YAML 1.1 and a number to us, such as 1e-5; writes what occurs twice twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(writer: _Writer, text: str) -> yaml.ScalarNode:
    try:
        bare = plain_value(text) is text
    except ValueError:
        bare = False
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=None if bare else "'")


_Writer.add_representer(str, _text)


def _refused(problem: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
