"""Results as small HTML tables, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], said: Iterable[str] = ()) -> str:
    """Return sentences and a table under them; everything is escaped, and nothing is loaded from anywhere.

    Args:
        columns: headings; none where all are empty.
        rows: cells; None is an empty one.
        said: what stands above it.
    """
    head = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in columns)}</tr>" if any(columns) else ""
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in rows)
    return "".join(f"<p>{escape(line)}</p>" for line in said) + f"<table>{head}{body}</table>"


def share(value: float | None) -> str:
    """Print a share as a percentage, empty for None."""
    return "" if value is None else f"{value:.2%}"


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    return escape(text).replace("\n", "<br>")
