"""Small plots: as SVG for a page, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Any

import numpy as np
import numpy.typing as npt

from automc.search.base import FloatArray

Line = tuple[str, Sequence[tuple[float, float]]]
"""CSS class and points."""
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 360, 58, 46, 14, 14


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of a plot; `kind` is its CSS class, `label` what is shown when it is pointed at."""

    x: float
    y: float
    kind: str = "dot"
    label: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from [low, high] to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: Any) -> Any:
        """Return the pixel of a value, or of each of an array."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values, about five, within the range."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** floor(log10(rough))
        step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - rough))
        return [i * step for i in range(ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9) + 1)]


def span(values: Sequence[float]) -> tuple[float, float]:
    """Return a range that holds all values with a little room."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def apart(x: FloatArray, y: FloatArray, width: int, height: int) -> npt.NDArray[np.intp]:
    """Return rows of points, ascending, that show where all are: one of each cell of a grid, and the outermost.

    Args:
        x: (n,), n > 0; `y` likewise.
        width: columns of the grid, which spans the points as `text` does; `height` rows.
    """
    across, up = Scale(*span((x.min(), x.max())), 0, width - 1), Scale(*span((y.min(), y.max())), height - 1, 0)
    cells = np.rint(up(y)) * width + np.rint(across(x))
    outermost = x.argmin(), x.argmax(), y.argmin(), y.argmax()
    return np.unique([*np.unique(cells, return_index=True)[1], *outermost])


def svg(marks: Sequence[Mark], *, x: str, y: str, title: str, lines: Sequence[Line] = ()) -> str:
    """Draw marks and lines with axes as one `<svg>`; every mark carries its label as a tooltip.

    Args:
        x: name of the horizontal axis; `y` of the vertical one.
        title: what is read aloud in place of the picture.
    """
    points = [(m.x, m.y) for m in marks] + [p for _, line in lines for p in line]
    across = Scale(*span([p[0] for p in points]), LEFT, WIDTH - RIGHT)
    up = Scale(*span([p[1] for p in points]), HEIGHT - BOTTOM, TOP)
    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in across.ticks():
        at = across(tick)
        out.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        out.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in up.ticks():
        at = up(tick)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')
    out.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x)}</text>')
    out.append(
        f'<text transform="translate(13 {(HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{escape(y)}</text>'
    )
    for kind, line in lines:
        path = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in line)
        out.append(f'<polyline class="{escape(kind)}" points="{path}"/>')
    for mark in marks:
        at_x, at_y = across(mark.x), up(mark.y)
        tip = f"<title>{escape(mark.label)}</title>" if mark.label else ""
        out.append(f'<circle class="{escape(mark.kind)}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="4.5">{tip}</circle>')
    return "".join([*out, "</svg>"])


TEXT_WIDTH, TEXT_HEIGHT = 64, 14
"""Characters of a plot of text."""


def text(marks: Sequence[Mark], symbols: dict[str, str], width: int = TEXT_WIDTH, height: int = TEXT_HEIGHT) -> str:
    """Draw marks as lines of text with the ends of both axes; later marks cover earlier ones.

    Args:
        symbols: one character per kind of mark.
    """
    if not marks:
        return ""
    across, up = Scale(*span([m.x for m in marks]), 0, width - 1), Scale(*span([m.y for m in marks]), height - 1, 0)
    rows = [[" "] * width for _ in range(height)]
    for mark in marks:
        rows[round(up(mark.y))][round(across(mark.x))] = symbols[mark.kind]
    top, bottom = f"{up.high:.1%}", f"{up.low:.1%}"
    margin = max(len(top), len(bottom))
    sides = [top.rjust(margin)] + [" " * margin] * (height - 2) + [bottom.rjust(margin)]
    body = [f"{side} │{''.join(row).rstrip()}" for side, row in zip(sides, rows, strict=True)]
    left, right = f"{across.low:.1%}", f"{across.high:.1%}"
    foot = " " * (margin + 2) + left + right.rjust(width - len(left))
    return "\n".join([*body, " " * margin + " └" + "─" * width, foot])
