"""How fast a model is beside another, as plain numbers, and the runtimes that it is timed in by name."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from automc.errors import StudyError

Runtime = Literal["torch", "onnx"]
"""What a model is made for: PyTorch as it is, or onnxruntime on the CPU."""
Place = Literal["torch", "onnx", "exported"]
"""What it is timed in; exported: the program of torch.export."""

NAMES: dict[Place, str] = {"torch": "PyTorch", "onnx": "onnxruntime", "exported": "the exported program"}
CLEAR = 0.03
"""By what share a time must be longer to be worth a word."""


def checked(runtime: str) -> Runtime:
    """Return a runtime by name.

    Raises:
        StudyError: it is none.
    """
    for known in get_args(Runtime):
        if runtime == known:
            return known  # type: ignore[no-any-return]
    raise StudyError(f"--runtime must be torch or onnx, it is {runtime!r}.")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Time of one model beside another's, taken in turns, so that what else the machine does disturbs both alike."""

    place: Place
    before_ms: float
    after_ms: float
    """Medians, of one forward pass."""
    ratio: float
    """Median of the turns' ratios, after over before."""
    low: float
    high: float
    """Quartiles of those ratios."""
    turns: int
    device: str

    @property
    def slower(self) -> bool:
        """Whether the second model is slower, clearly and beyond the spread: in three of four turns at least."""
        return self.ratio > 1 + CLEAR and self.low > 1

    @property
    def warning(self) -> str:
        """Say that the smaller model is slower; empty where it is not, or where it is not clear."""
        if not self.slower:
            return ""
        auto = f"--round-to auto{' --runtime onnx' if self.place == 'onnx' else ''}"
        spread = f"{self.low:.2f} to {self.high:.2f} in the middle half of {self.turns} turns"
        return (
            f"Smaller, but slower: in {NAMES[self.place]} on {self.device} one forward pass takes "
            f"{self.after_ms:.3g} ms instead of {self.before_ms:.3g}, {self.ratio:.2f} times as long ({spread}). Odd "
            f"or small widths are slow: {auto} keeps widths that pay here."
        )


def judged(pairs: Sequence[tuple[float, float]], place: Place, device: str) -> Comparison:
    """Return what turns say: seconds of (before, after) of each, at least two."""
    low, middle, high = statistics.quantiles([b / a for a, b in pairs], n=4, method="inclusive")
    first, second = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
    return Comparison(place, first, second, middle, low, high, len(pairs), device)
