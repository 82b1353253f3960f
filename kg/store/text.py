"""Reading Cypher text: where strings and comments are, where statements end, what a query returns."""

from __future__ import annotations

import re

_OPAQUE = re.compile(
    r"""//[^\n]*|/\*.*?(?:\*/|\Z)|'(?:\\.|[^'\\])*(?:'|\Z)|"(?:\\.|[^"\\])*(?:"|\Z)|`[^`]*(?:`|\Z)""", re.DOTALL
)
_RETURN = re.compile(r"\bRETURN\b(?:\s+DISTINCT\b)?", re.IGNORECASE)
_TAIL = re.compile(r"\b(?:ORDER\s+BY|SKIP|OFFSET|LIMIT|UNION)\b|;", re.IGNORECASE)
_AS = re.compile(r".*\sAS\s+(\S.*)$", re.IGNORECASE | re.DOTALL)


def mask(text: str) -> str:
    """Blank out strings, comments and back-quoted names, keeping every other character where it is."""
    return _OPAQUE.sub(lambda match: re.sub(r"[^\n]", "\0" if match[0][0] != "/" else " ", match[0]), text)


def statements(text: str) -> list[str]:
    """Split a script at the semicolons that end statements.

    Semicolons in strings and comments do not count; the last statement needs none; empty ones are dropped.
    """
    masked = mask(text)
    ends = [i for i, char in enumerate(masked) if char == ";"] + [len(text)]
    starts = [0, *(end + 1 for end in ends)]
    return [text[start:end].strip() for start, end in zip(starts, ends, strict=False) if masked[start:end].strip()]


def returned(query: str) -> tuple[str, ...]:
    """Names of the columns that a query returns, as far as its text tells; empty when it returns none or `*`."""
    masked = mask(query)
    found = list(_RETURN.finditer(masked))
    if not found:
        return ()
    start = found[-1].end()
    tail = _TAIL.search(masked, start)
    end = tail.start() if tail else len(masked)
    names, depth, item = [], 0, start
    for i in range(start, end + 1):
        char = masked[i] if i < end else ","
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth <= 0:
            alias = _AS.match(masked[item:i])
            name = query[item + alias.start(1) : i] if alias else query[item:i]
            names.append(name.strip().strip("`"))
            item = i + 1
    return () if names in ([""], ["*"]) else tuple(names)
