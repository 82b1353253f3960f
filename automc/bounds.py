"""The range of every number that a user gives, by the option it has on the command line.

Checked once, where a value enters (Recipe, StudySpec, DataRef, a function's argument), so that the command line, Python
and a study read back from the graph refuse the same. Upper ends are far beyond anything sensible: they keep a typing
error from filling the memory, or from running for years.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from automc.errors import AutoMCError, DataError

YEAR_SECONDS = 366 * 86_400
MAX_SIDE = 4096
"""Largest side of an image, in pixels."""


@dataclass(frozen=True, slots=True)
class Range:
    """An interval of numbers; `open_least` and `open_most` leave out its ends."""

    least: float
    most: float
    whole: bool = False
    open_least: bool = False
    open_most: bool = False
    unit: str = ""

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        try:
            number = float(value)
        except OverflowError:
            return False
        above = self.least < number if self.open_least else self.least <= number
        return above and (number < self.most if self.open_most else number <= self.most)

    def __str__(self) -> str:
        """Print it as in "a whole number in [1, 256]"."""
        ends = f"{_plain(self.least)}, {_plain(self.most)}"
        interval = f"{'(' if self.open_least else '['}{ends}{')' if self.open_most else ']'}"
        return f"{'be a whole number' if self.whole else 'lie'} in {interval}{self.unit and f' {self.unit}'}"


_SEED = Range(0, 2**32 - 1, whole=True)
_SECONDS = Range(0, YEAR_SECONDS, open_least=True, unit="seconds")

RANGES: Mapping[str, Range] = {
    "--gamma": Range(0, 0.84, open_least=True, unit="(the share of the parameters to remove)"),
    "--gamma of the size": Range(0, 0.99, open_least=True, unit="(the share of the bits to remove)"),
    "--max-drop": Range(0, 100, open_most=True, unit="points"),
    "--budget": _SECONDS,
    "--budget in steps": Range(1, 10**9, whole=True),
    "--front": Range(0, 1, unit="(what the rest of the front is worth)"),
    "--recover": _SECONDS,
    "--recover in epochs": Range(0, 100_000, open_least=True),
    "--max-length": Range(1, 100, whole=True),
    "--workers": Range(1, 4096, whole=True),
    "--gpus-per-worker": Range(0, 64),
    "--step-timeout": _SECONDS,
    "--cache-size": Range(0, 2**60, whole=True, unit="bytes"),
    "--to": Range(0, 2**60, whole=True, unit="bytes"),
    "--seed": _SEED,
    "--run-seed": _SEED,
    "--unit-epochs": Range(0, 10_000, open_least=True),
    "--epochs": Range(0, 100_000, open_least=True),
    "--batch": Range(1, 1_000_000, whole=True),
    "--lr": Range(0, 100, open_least=True),
    "--momentum": Range(0, 1, open_most=True),
    "--weight-decay": Range(0, 100),
    "--fraction": Range(0, 1, open_least=True),
    "--round-to": Range(1, 4096, whole=True),
    "--recalibrate": Range(1, 10**9, whole=True),
    "--teacher": Range(0, 1, open_most=True),
    "--sparsity": Range(0, 1, open_most=True),
    "--size": Range(1, MAX_SIDE, whole=True, unit="pixels"),
    "--mean": Range(-10, 10, unit="for pixels in [0, 1]"),
    "--std": Range(1e-6, 10, unit="for pixels in [0, 1]"),
    "--opset": Range(7, 100, whole=True),
    "--tolerance": Range(0, 1),
    "--timeout": _SECONDS,
    "--limit": Range(1, 10**9, whole=True),
    "-k": Range(1, 10**6, whole=True),
    "--networks": Range(1, 10_000, whole=True),
    "--lines": Range(1, 10**6, whole=True),
    "--port": Range(0, 65_535, whole=True),
}
"""By option."""


def check(option: str, value: Any, error: type[AutoMCError] = AutoMCError, *, shown: str | None = None) -> None:
    """Refuse a number outside of its option's range; infinite ones and NaN are outside of every range.

    Args:
        shown: how the user wrote it.

    Raises:
        error: names the option, the range and the value.
    """
    if value not in RANGES[option]:
        given = shown or (_plain(value) if isinstance(value, Real) and not isinstance(value, bool) else repr(value))
        raise error(f"{option} must {RANGES[option]}, it is {given}.")


Size = int | tuple[int, int]
"""Of images in pixels: the side of a square, or (height, width)."""


def sides(size: Size, error: type[AutoMCError] = AutoMCError) -> tuple[int, int]:
    """Return (height, width) of a size.

    Raises:
        error: a side lies outside of the range of `--size`, or there are not two.
    """
    both = size if isinstance(size, tuple) else (size, size)
    if len(both) != 2:
        raise error(f"--size is the side of a square, or height and width; it is {size!r}.")
    for side in both:
        check("--size", side, error)
    return both


def size_text(size: Size | None) -> str | None:
    """Return a size as `--size` takes it: "224" or "64x320"."""
    return "x".join(map(str, size)) if isinstance(size, tuple) else None if size is None else str(size)


def _plain(value: Any) -> str:
    """Print a number in at most some dozen characters."""
    if isinstance(value, Integral) and abs(int(value)) < 10**15:
        return str(int(value))
    try:
        return f"{float(value):.10g}"
    except OverflowError:
        return "a number of hundreds of digits"


def check_precision(text: str) -> str:
    """Return the precision asked for: "float32", "bfloat16" or, for what is faster, "auto".

    Raises:
        DataError: it is none.
    """
    if text not in ("auto", "float32", "bfloat16"):
        raise DataError(f"--precision must be auto, float32 or bfloat16, it is {text!r}.")
    return text
