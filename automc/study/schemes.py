"""Schemes as people give them: an object, a file, or text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from automc.errors import MethodError
from kg.errors import SchemaInvalid
from kg.schema import Scheme

MAX_SCHEME = 100_000
"""Characters of a scheme file."""


def read_scheme(scheme: str | Path | Scheme | Sequence[object]) -> Scheme:
    """Return a scheme from an object, a file, text or a list of strategies, at full length.

    Raises:
        MethodError: the file cannot be read, or holds no step.
        SchemaInvalid: a line is no strategy.
    """
    if isinstance(scheme, Scheme):
        return scheme.full
    if isinstance(scheme, list | tuple):
        scheme = "\n".join(map(str, scheme))
    if not isinstance(scheme, str | Path) or not str(scheme).strip():
        raise MethodError(
            f"A scheme is a file, or text with one strategy a line such as NS[HP1=0.2,HP2=0.12,HP6=0.9]; {scheme!r} is "
            "neither."
        )
    text = str(scheme)
    if "[" not in text or os.path.isfile(text):
        try:
            with Path(text).open(encoding="utf-8-sig") as file:
                text = file.read(MAX_SCHEME + 1)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text file"
            raise MethodError(f"The scheme file {scheme} cannot be read: {reason}.") from None
        if len(text) > MAX_SCHEME:
            raise MethodError(f"The scheme file {scheme} is larger than {MAX_SCHEME:,} characters. It is no scheme.")
        try:
            found = Scheme.parse(text)
        except SchemaInvalid as error:
            raise SchemaInvalid(f"{scheme}, {error}") from None
    else:
        found = Scheme.parse(text)
    if not found.steps:
        raise MethodError(
            f"The scheme {scheme} has no step. Write one strategy a line, like NS[HP1=0.2,HP2=0.12,HP6=0.9]."
        )
    return found.full
