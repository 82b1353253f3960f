"""The bits in which a model's parameters are stored, counted."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from automc.models.edits import inserted_types
from automc.models.stored import FLOAT, Stored


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
