"""What a study came to in one figure that nothing was chosen by: the saved model's accuracy on the test images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from automc.models.pace import Comparison
from automc.study.trial import Trial

_Z = 1.959963984540054
"""Quantile of the normal distribution for an interval of 95%."""


@dataclass(frozen=True, slots=True)
class Share:
    """An accuracy in [0, 1] on `images` images with its interval; those are None where the number is not known."""

    value: float
    images: int | None
    low: float | None
    """Ends of the 95% interval after Wilson: what other images of this kind might have said of the same model."""
    high: float | None

    @classmethod
    def of(cls, value: float, images: int | None) -> Share:
        """Return an accuracy with its interval."""
        return cls(value, images, *(wilson(value, images) if images else (None, None)))

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2%}"
        return f"{self.value:.2%} (95% interval {self.low:.1%} to {self.high:.1%}, n = {self.images:,})"


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95% interval of a share that was counted on n > 0 images (Wilson, 1927)."""
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, slots=True)
class Headline:
    """What is said first of a study's result. Accuracies lie in [0, 1].

    `test` is None where there is no saved model yet, or where there are no test images: then only `validation` is
    known, which chose the scheme.
    """

    test: Share | None
    validation: Share
    """Of the trial whose scheme was chosen by it; of the saved model where that has trained on."""
    base_test: float | None
    base_validation: float
    measure: str = "accuracy"
    """What is counted: accuracy, or the name of the user's metric, whose interval nobody knows."""

    @property
    def too_kind(self) -> float | None:
        """By how much validation said more than the test does."""
        return None if self.test is None else self.validation.value - self.test.value

    def lines(self) -> list[str]:
        """Say it to a person: the test first, then how far validation was off."""
        if self.test is None or self.too_kind is None:
            found = f"Validation {self.measure} {self.validation}, {self.base_validation:.2%} before."
            return [f"{found} It chose the scheme, so it is too kind; no saved model was tested on other images."]
        before = "" if self.base_test is None else f"; {self.base_test:.2%} before"
        said = f"Validation said {self.validation.value:.2%}, the test says {self.test.value:.2%}: "
        original = ""
        if self.base_test is not None:
            off = 100 * (self.base_validation - self.base_test)
            original = f" Of the original model it said {abs(off):.1f} points {'more' if off >= 0 else 'less'}."
        kind = f"{100 * self.too_kind:.1f} points too kind, for it chose the scheme."
        if self.too_kind <= 0:
            kind = "here it was not too kind, though it chose the scheme."
        return [f"Test {self.measure} {self.test}{before}.", said + kind + original]

    def fields(self) -> dict[str, Any]:
        """Return it as plain values for JSON and CSV."""
        test = self.test
        return {
            "test_accuracy": test and test.value, "test_low": test and test.low, "test_high": test and test.high,
            "test_images": test and test.images, "validation_accuracy": self.validation.value,
            "validation_low": self.validation.low, "validation_high": self.validation.high,
            "validation_images": self.validation.images, "validation_too_kind": self.too_kind,
        }  # fmt: skip


def headline(
    trials: Sequence[Trial], chosen: Trial | None, final: Mapping[str, Any] | None, base_validation: float,
    images: int, measure: str = "accuracy",
) -> Headline | None:  # fmt: skip
    """Return what is said first of a study; None where it recommends and saved nothing.

    Args:
        chosen: the recommended trial.
        final: the figures of the saved model, as `finish` returns them.
        base_validation: of the model before.
        images: that validate.
        measure: accuracy, or the user's metric, which is told without an interval.
    """
    counted = measure == "accuracy"
    # What was saved before a study went on may be of another scheme than the one recommended now.
    of = chosen if final is None else next((t for t in trials if t.scheme.id == final["scheme"]), chosen)
    if of is None or of.accuracy is None:
        return None
    tested = None if final is None else final["test_accuracy"]
    # A model that trained on is no longer that of the trial: validation chose among its own states.
    said = final["accuracy"] if final is not None and final.get("recovery") else of.accuracy
    return Headline(
        None if final is None or tested is None else Share.of(tested, final.get("test_images") if counted else None),
        Share.of(said, images if counted else None),
        None if final is None else final["base_test_accuracy"],
        base_validation,
        measure,
    )


def slower(final: Mapping[str, Any] | None) -> str:
    """Say of a saved model's figures that it is slower than the model before, though smaller; empty where it is not."""
    pace = (final or {}).get("pace")
    return Comparison(**pace).warning if pace else ""
