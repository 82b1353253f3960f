"""What a model takes in bits: 32 for each parameter, but where a layer keeps its weight on a few levels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from automc.models.edits import inserted_types

FLOAT = 32
"""Bits of a parameter, of a scale and of a level of a codebook."""
ENDS = 8
"""Bits of the first and the last layer where the others have fewer: they are small, and accuracy hangs on them."""


def count_bits(model: nn.Module) -> int:
    """Count the bits of all parameters; a shared one counts once, and batch norm's statistics do not, as in `params`.

    An inserted layer with an integer attribute `bits` (see `models.edits.insertable`) stores each element of its
    `weight` in so many; its buffers are then the levels' scales or codebook, and count too.
    """
    told = [module for module in model.modules() if bits_of(module) is not None]
    of_weight = {id(module.weight): bits_of(module) or FLOAT for module in told}
    levels = sum(buffer.numel() for module in told for buffer in module.buffers(recurse=False))
    return FLOAT * levels + sum(p.numel() * of_weight.get(id(p), FLOAT) for p in model.parameters())


def bits_of(module: nn.Module) -> int | None:
    """Return the bits in which a layer stores each element of its weight; None for a float layer."""
    bits = getattr(module, "bits", None)
    return bits if isinstance(module, inserted_types()) and isinstance(bits, int) else None


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


def stored(model: nn.Module, layers: Iterable[nn.Conv2d | nn.Linear]) -> Stored:
    """Count what `Stored` holds of a model; `layers` are those that may be quantised, in its order."""
    found = list(layers)
    sizes, outputs = ([f(layer.weight) for layer in found] for f in (Tensor.numel, len))
    both = {0, len(found) - 1} if found else set()
    return Stored(
        params=sum(p.numel() for p in model.parameters()),
        bits=count_bits(model),
        layers=len(found),
        weights=sum(sizes),
        ends=sum(sizes[i] for i in both),
        outputs=sum(outputs),
        end_outputs=sum(outputs[i] for i in both),
    )
