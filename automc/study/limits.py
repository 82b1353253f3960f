"""What a user asks of the smaller model, read from text: limits on what it costs, and on the accuracy it may lose."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from automc.bounds import RANGES, check
from automc.errors import StudyError

DEFAULT_GAMMA = 0.3
"""Share of the parameters to remove where nothing else is asked for."""
MAX_GAMMA = RANGES["--gamma"].most
"""The largest reduction that can be asked for: a scheme removes at most 0.85."""
BYTES: Mapping[str, int] = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
"""Units of a size, in lower case."""
_NUMBER = r"(-?(?:\d+(?:\.\d*)?|\.\d+))"


@dataclass(frozen=True, slots=True)
class Kind:
    """A figure that can be limited: how it is asked for, read and printed."""

    option: str
    noun: str
    units: Mapping[str, float]
    """By name in lower case: how many of the figure's own unit they are."""
    unit: str
    """Which of them is typed and printed."""
    digits: int
    """Printed decimals."""
    example: str

    def text(self, value: float) -> str:
        """Print a value for a person."""
        unit = "MFLOPs" if self.option == "--max-flops" else self.unit
        return f"{value / self.units[self.unit.lower()]:,.{self.digits}f} {unit}"


KINDS: Mapping[str, Kind] = {
    "flops": Kind("--max-flops", "FLOPs", {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}, "M", 3, "20M"),
    "file_bytes": Kind(
        "--max-size", "file size", {name: float(n) for name, n in BYTES.items() if name}, "KB", 1, "500KB"
    ),
    "latency_ms": Kind("--max-latency", "latency", {"us": 1e-3, "ms": 1.0, "s": 1e3}, "ms", 3, "3ms"),
}
"""By the name of the figure, as a trial has it: FLOPs of one image (2 × MACs), bytes of the saved .am file,
milliseconds of one forward pass of one image on the study's device."""


@dataclass(frozen=True, slots=True)
class Limit:
    """An upper limit on a figure of KINDS: an amount in the figure's unit, or a share of the base model's."""

    figure: str
    amount: float
    of_base: bool = False

    def __post_init__(self) -> None:
        if self.figure not in KINDS:
            raise StudyError(f"{self.figure!r} cannot be limited. These can: {', '.join(KINDS)}.")
        if not (self.amount > 0 and math.isfinite(self.amount)):
            raise StudyError(f"{self.kind.option} must be above 0 and finite, it is {self}.")

    @classmethod
    def parse(cls, figure: str, text: str) -> Limit:
        """Read "40%", a share of the base model's, or an amount with its unit: "20M", "500KB", "3ms".

        Raises:
            StudyError: the text is neither, or asks for nothing that a model could be.
        """
        kind = KINDS[figure]
        text = str(text)  # from Python anything comes
        compact = re.sub(r"[\s_]", "", text).lower()
        match = re.fullmatch(_NUMBER + r"(%|[a-z]*)", compact.removesuffix("flops") if figure == "flops" else compact)
        unit = match.group(2) if match else ""
        if match is None or (unit != "%" and unit not in kind.units):
            raise StudyError(
                f"{kind.option} {text[:40]!r} is not understood. Write a share of the model's {kind.noun}, such as "
                f"40%, or an amount with its unit, such as {kind.example} (units: {', '.join(kind.units)})."
            )
        if unit == "%":
            return cls(figure, float(match.group(1)) / 100, of_base=True)
        return cls(figure, float(match.group(1)) * kind.units[unit])

    @property
    def kind(self) -> Kind:
        """How the figure is called and printed."""
        return KINDS[self.figure]

    def most(self, base: float) -> float:
        """Return the limit in the figure's unit, for a base model that has `base` of it."""
        return self.amount * base if self.of_base else self.amount

    def __str__(self) -> str:
        """Print it as `parse` reads it."""
        if self.of_base:
            return f"{_plain(100 * self.amount)}%"
        return _plain(self.amount / self.kind.units[self.kind.unit.lower()]) + self.kind.unit


def parse_drop(text: str) -> float:
    """Read "0.5pp", percentage points of accuracy that may be lost, as 0.005.

    Raises:
        StudyError: it is something else.
    """
    match = re.fullmatch(_NUMBER + "pp", re.sub(r"\s", "", str(text)).lower())
    if match is None:
        raise StudyError(
            f"--max-drop {str(text)[:40]!r} is not understood. Write percentage points of validation accuracy with pp: "
            "0.5pp lets 93.0% become 92.5%."
        )
    return float(match.group(1)) / 100


def parse_bytes(text: str, option: str = "--cache-size") -> int:
    """Read a size such as 20GiB, 500MB or 0.

    Raises:
        StudyError: it is none, or outside of the option's range.
    """
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([kmgt]?i?b?)", str(text).strip().lower())
    if match is None or match.group(2) not in BYTES:
        raise StudyError(f"{option} {str(text)[:40]!r} is not a size. Write it like 20GiB or 500MB.")
    size = int(float(match.group(1)) * BYTES[match.group(2)])
    check(option, size, StudyError)
    return size


def drop_text(drop: float) -> str:
    """Print a drop as `parse_drop` reads it."""
    return f"{_plain(100 * drop)}pp"


def _plain(value: float) -> str:
    """Print a number to twelve digits without an exponent."""
    return format(Decimal(f"{value:.12g}"), "f")


def asked(
    gamma: float | None = None, max_flops: str | None = None, max_size: str | None = None,
    max_latency: str | None = None, max_drop: str | None = None, gamma_of: str = "params",
) -> dict[str, Any]:  # fmt: skip
    """Read what is asked of the smaller model into the fields of a StudySpec; where nothing is, γ = DEFAULT_GAMMA.

    Args:
        gamma: share of the parameters to remove, in (0, 0.84], or of their bits, in (0, 0.99].
        max_flops, max_size, max_latency: see `Limit.parse`.
        max_drop: see `parse_drop`.
        gamma_of: "params" or "size", what gamma is a share of.

    Raises:
        StudyError: one of them cannot be read.
    """
    texts = {"flops": max_flops, "file_bytes": max_size, "latency_ms": max_latency}
    limits = tuple(Limit.parse(figure, text) for figure, text in texts.items() if text is not None)
    drop = None if max_drop is None else parse_drop(max_drop)
    if gamma is None and not limits and drop is None:
        gamma = DEFAULT_GAMMA
    if gamma is None and gamma_of != "params":
        raise StudyError(f"--gamma-of {gamma_of} says what --gamma is a share of. Give --gamma too.")
    return {"gamma": gamma, "gamma_of": gamma_of, "limits": limits, "max_drop": drop}
