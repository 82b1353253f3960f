"""What a model takes in bits: 32 for each parameter, but where a layer keeps its weight on a few levels."""

from __future__ import annotations

from dataclasses import dataclass

FLOAT = 32
"""Bits of a parameter, of a scale and of a level of a codebook."""
ENDS = 8
"""Bits of the first and the last layer where the others have fewer: they are small, and accuracy hangs on them."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the arithmetic of a bit width needs of a model. Layers are those that may be quantised."""

    params: int
    bits: int
    """Of all parameters, as they are stored."""
    layers: int
    weights: int
    """Elements of the layers' weights."""
    ends: int
    """Of these, those of the first and the last layer."""
    outputs: int
    """Channels that the layers write: each has a scale of its own."""
    end_outputs: int
    """Of these, those of the first and the last layer."""

    def quantised(self, bits: float, *, ends: int | None = ENDS, codebook: int | None = None) -> int:
        """Return the bits of the model once the layers' weights have `bits` on average.

        Args:
            ends: bits of the first and the last layer, with a scale for each channel; None: they are as the others.
            codebook: levels of a codebook for each layer; None: a scale for each channel that a layer writes.
        """
        weights = self.weights * bits if ends is None else (self.weights - self.ends) * bits + self.ends * ends
        levels = self.outputs
        if codebook is not None:
            apart, scales = (0, 0) if ends is None else (min(2, self.layers), self.end_outputs)
            levels = codebook * (self.layers - apart) + scales
        return round(weights) + FLOAT * (levels - self.weights) + self.bits
