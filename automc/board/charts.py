"""The rows of a query as a simple chart: points where both columns are numbers, else bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from automc.report.plot import Mark, svg
from kg.store.base import Table

BARS = 60
"""Rows that are drawn as bars."""


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn of which columns: an `svg`, or `bars` with text, value and share of the longest."""

    x: str
    y: str
    svg: str = ""
    bars: tuple[tuple[str, float, float], ...] = ()
    left_out: int = 0


def chart(table: Table, x: str | None = None, y: str | None = None) -> Chart | None:
    """Return a chart; None where no column holds numbers.

    Args:
        table: of a query.
        x: a column; None takes the first other than `y`.
        y: a column of numbers; None takes the last one.
    """
    numeric = [name for name in table.columns if any(_number(v) for v in table.column(name))]
    if y not in numeric:
        y = next((name for name in reversed(numeric) if name != x), None)
    if y is None:
        return None
    others = [name for name in table.columns if name != y] or [y]
    x = x if x in table.columns else others[0]
    pairs = list(zip(table.column(x), table.column(y), strict=True))
    if x in numeric and all(a is None or _number(a) for a, _ in pairs):
        marks = [Mark(float(a), float(b), "front", f"{a}, {b}") for a, b in pairs if _number(a) and _number(b)]
        return Chart(x, y, svg=svg(marks, x=x, y=y, title=f"{y} against {x}")) if marks else None
    known = [(str(a), float(b)) for a, b in pairs if _number(b)]
    longest = max((abs(b) for _, b in known), default=0.0) or 1.0
    bars = tuple((a, b, abs(b) / longest) for a, b in known[:BARS])
    return Chart(x, y, bars=bars, left_out=len(known) - len(bars))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
