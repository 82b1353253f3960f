"""Where a model has light multi-segment activations, where it can get them, and how they start."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from automc.models.coupling import kept
from automc.models.lma import LMA, fit, statistics
from automc.models.modes import observe
from automc.models.sites import activation_sites


def replaceable(model: nn.Module, example: Tensor, keep: Sequence[str] = ()) -> tuple[str, ...]:
    """Name the activations that an LMA can stand in for, in module order.

    That is every activation module that runs on `example` and has no parameters of its own (a PReLU learns its slopes
    already), outside of modules matched by a `keep` pattern. A module with several names is named once.
    """
    ran = _ran(model, example)
    names: dict[nn.Module, list[str]] = {}
    for name in activation_sites(model):
        names.setdefault(model.get_submodule(name), []).append(name)
    return tuple(
        called[0]
        for module, called in names.items()
        if module in ran and next(module.parameters(), None) is None and not any(kept(name, keep) for name in called)
    )


def multi_segment(model: nn.Module, keep: Sequence[str] = ()) -> dict[str, LMA]:
    """The LMA modules of `model` by name, without those matched by a `keep` pattern."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LMA) and not kept(n, keep)}


def insert(model: nn.Module, names: Sequence[str], segments: int, batch: Tensor) -> None:
    """Put an LMA of `segments` segments in the place of each named activation, in place.

    Each one starts with the statistics of its input and with the lines closest to what it replaces, see `lma.fit`:
    calibrated in the order in which they run, so each sees the approximations before it. An LMA with another number
    of segments can be replaced too.

    Args:
        names: as from `replaceable`; each must run on `batch`.
        batch: normalised images (n, c, h, w) from which the statistics are taken, in evaluation mode.
    """
    new: dict[nn.Module, LMA] = {}
    for name in names:
        old = model.get_submodule(name)
        new[old] = LMA(segments).to(batch.device).train(old.training)
    hooks = [lma.register_forward_pre_hook(partial(_calibrate, old.eval())) for old, lma in new.items()]
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in new:
                setattr(parent, name, new[child])
    observe(model, batch, hooks)


def _calibrate(old: nn.Module, lma: LMA, inputs: tuple[Any, ...]) -> None:
    mean, std = statistics(inputs[0])
    lma.mean.copy_(mean)
    lma.std.copy_(std)
    lma.batches.fill_(1)
    slope, offset = fit(old, lma.mean, lma.std, lma.segments)
    lma.slope.data.copy_(slope)
    lma.offset.data.copy_(offset)


def _ran(model: nn.Module, example: Tensor) -> set[nn.Module]:
    """Modules that run in a forward pass."""
    ran: set[nn.Module] = set()
    observe(model, example, [m.register_forward_pre_hook(lambda module, _: ran.add(module)) for m in model.modules()])
    return ran
