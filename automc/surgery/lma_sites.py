"""Where a model has light multi-segment activations, where it can get them, and how they start."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from automc.errors import Infeasible
from automc.models.keeping import kept
from automc.models.modes import evaluating, observe, unheard
from automc.models.outputs import logits
from automc.surgery.lma import LMA, fit, statistics
from automc.surgery.sites import activation_sites, split_activations
from automc.surgery.whole import unproved


@dataclass(frozen=True, slots=True)
class Site:
    """An activation module that an LMA can stand in for."""

    layers: tuple[str, ...]
    """Its names; the first is its own."""


@dataclass(frozen=True)
class Apart:
    """A copy of a model in which the activations that can be replaced are modules that run once."""

    model: nn.Module
    names: tuple[str, ...]
    """Of the activations that an LMA can stand in for, in module order."""
    note: str
    """Why calls of functions, and modules that run more than once, stay as they are; empty where none has to."""


def told_apart(model: nn.Module, example: Tensor, keep: Sequence[str] = ()) -> Apart:
    """Return a copy of a model with its activations told apart.

    Where torch.fx can follow the forward pass every call becomes a module, see `split_activations`. Where it cannot,
    the modules that run exactly once need no graph: they are told by hooks, and everything else stays.

    Raises:
        Infeasible: the forward pass cannot be followed and no activation is a module that runs once.
    """
    note = ""
    try:
        split = split_activations(model)
        if not _equal(split, model, example):
            note = "its graph, as torch.fx follows it, gives other outputs"
    except Infeasible as error:
        note = str(error)
    if note:
        split = copy.deepcopy(model)
    names = replaceable(split, example, keep)
    if note and not names and not multi_segment(split):
        raise Infeasible(f"No activation is a module that runs once, so each had to be found in the code: {note}")
    return Apart(split, names, note)


def replaceable(model: nn.Module, example: Tensor, keep: Sequence[str] = ()) -> tuple[str, ...]:
    """Name the activations that an LMA can stand in for, in module order.

    That is every activation module that runs exactly once on `example` and has no parameters of its own (a PReLU learns
    its slopes already), outside of modules matched by a `keep` pattern, and whose replacement by an equal module of
    another class changes no output: code may ask for its type, or count on its working in place. A module with
    several names is named once.
    """
    runs = _runs(model, example)
    names: dict[nn.Module, list[str]] = {}
    for name in activation_sites(model):
        names.setdefault(model.get_submodule(name), []).append(name)
    found = [
        Site(tuple(called))
        for module, called in names.items()
        if runs[module] == 1
        and next(module.parameters(), None) is None
        and not any(kept(name, keep) for name in called)
    ]
    refused = unproved(model, example, found, _stand_in)
    return tuple(site.layers[0] for site in found if site.layers[0] not in refused)


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
    replace(model, new)
    observe(model, batch, hooks)


def _calibrate(old: nn.Module, lma: LMA, inputs: tuple[Any, ...]) -> None:
    mean, std = statistics(inputs[0])
    lma.mean.copy_(mean)
    lma.std.copy_(std)
    lma.batches.fill_(1)
    slope, offset = fit(old, lma.mean, lma.std, lma.segments)
    lma.slope.data.copy_(slope)
    lma.offset.data.copy_(offset)


class _Equal(nn.Module):
    """What an activation does, by another class and never in place."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = copy.deepcopy(activation)
        if getattr(activation, "inplace", False):
            self.activation.inplace = False  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Any:
        return self.activation(x)


def _stand_in(model: nn.Module, site: Site) -> None:
    replace(model, {model.get_submodule(site.layers[0]): _Equal(model.get_submodule(site.layers[0]))})


def replace(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Put modules in the places of others, wherever these are."""
    for parent in list(model.modules()):
        if parent in new.values():
            continue
        for name, child in list(parent._modules.items()):
            if child is not None and child in new:
                setattr(parent, name, new[child])


def _equal(split: nn.Module, model: nn.Module, example: Tensor) -> bool:
    """Whether a split model gives a model's outputs on random images, up to rounding."""
    images = torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).to(example.device)
    outputs = []
    for one in (split, model):
        with evaluating(one), torch.no_grad(), unheard(), torch.random.fork_rng([]):
            torch.manual_seed(0)
            try:
                outputs.append(logits(one, images))
            except Exception:  # any user code runs here
                return False
    return torch.allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-5, equal_nan=True)


def _runs(model: nn.Module, example: Tensor) -> Counter[nn.Module]:
    """How often each module runs in a forward pass."""
    runs: Counter[nn.Module] = Counter()
    observe(
        model, example, [m.register_forward_pre_hook(lambda module, _: runs.update([module])) for m in model.modules()]
    )
    return runs
