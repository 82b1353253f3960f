"""Figures for people: percentages, thousands, kB and MB, seconds; what a figure is follows from its name."""

from __future__ import annotations

import re
from typing import Any

_SHARE = re.compile(
    r"(^|_)(accuracy|removed|validation|test)(_(before|after|low|high|float|study|experience))*$|^(ar|pr|fr|sr)$"
)
_PLAIN = re.compile(r"(^|_)(seed|opset|year|ordinal|trial|port|pid)$")


def shown(name: str, value: Any) -> Any:
    """Return a figure as it is printed in a table; what is no number, or has no unit in its name, as it is.

    Plain values that are several stand in one cell, with commas; fields with their names.

    Args:
        name: of the field: `file_bytes`, `latency_median_ms`, `test_accuracy_low`, `params`.
        value: in that unit; accuracies and shares in [0, 1].
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict) and not any(isinstance(one, dict | list) for one in value.values()):
        return ", ".join(f"{key} {_word(str(key), one)}" for key, one in value.items()) or "none"
    if isinstance(value, list | tuple) and not any(isinstance(one, dict | list) for one in value):
        return ", ".join(_word(name, one) for one in value) or "none"
    if not isinstance(value, int | float) or _PLAIN.search(name):
        return value
    if name.endswith("bytes"):
        return _bytes(value)
    if name.endswith("_ms"):
        return f"{value:.3g} ms"
    if name.endswith("seconds"):
        return duration(value)
    if _SHARE.search(name):
        return percent(float(value))
    return f"{value:,}" if isinstance(value, int) else value


def _word(name: str, value: Any) -> str:
    """One of several values in a cell; what has no unit is rounded, as in a cell of its own."""
    said = shown(name, value)
    return f"{said:.4g}" if isinstance(said, float) else str(said)


def duration(seconds: float) -> str:
    """Print seconds for a person: 0.4 s, 40 s, 12 min, 3.2 h."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def percent(value: float | None) -> str:
    """Print a ratio as a percentage, empty for None."""
    return "" if value is None else f"{value:.2%}"


def _bytes(count: float) -> str:
    """Decimal units, as file managers and `--max-size` have them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 100 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} bytes"
