"""What can be done to each layer of a model, and why not more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from automc.errors import Infeasible
from automc.models.keeping import kept
from automc.surgery.groups import Group, Groups
from automc.surgery.lma_sites import told_apart
from automc.surgery.lowrank import MIN_INPUTS, Site, exact, sites
from automc.surgery.whole import stays, unproved

_SHOWN = 3
"""Names of coupled layers that are listed before the rest is only counted."""


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer with parameters. `channels` and `factors` say what may happen to it, in words."""

    name: str
    kind: str
    shape: str
    """Of the weight."""
    params: int
    prunable: bool
    channels: str
    factorable: bool
    factors: str


@dataclass(frozen=True, slots=True)
class ModelReport:
    """All layers; `pruning` and `activations` say why these are impossible altogether, None where they are not."""

    layers: tuple[LayerReport, ...]
    pruning: str | None
    activations: str | None
    activation_sites: int


def diagnose(model: nn.Module, example: torch.Tensor, keep: Sequence[str] = ()) -> ModelReport:
    """Look at every layer of a model; `example` is one batch of inputs. The model stays as it is."""
    try:
        groups, pruning = Groups(model, example, keep), None
    except Infeasible as error:
        groups, pruning = None, str(error)
    try:
        count, activations = len(told_apart(model, example, keep).names), None
    except Infeasible as error:
        count, activations = 0, str(error)
    producers = {m.name: group for group in (groups.groups if groups else ()) for m in group.members if m.side != "in"}
    refused = groups.refused if groups else {}
    found = sites(model, keep)
    whole = stays(model) | _unproved(model, example, found)
    factors = {name: site for site in found for name in site.layers if name not in whole}
    rows = []
    for name, module in model.named_modules():
        params = sum(p.numel() for p in module.parameters(recurse=False))
        if not params:
            continue
        weight = getattr(module, "weight", None)
        shape = "×".join(map(str, weight.shape)) if isinstance(weight, torch.Tensor) else ""
        group, site = producers.get(name), factors.get(name)
        channels = _channels(name, group) if group else _stays(name, module, refused, keep, pruning is not None)
        ranks = f"rank ≤ {site.levels} of {site.full}" if site else _whole(name, module, keep, whole)
        kind = type(module).__name__
        rows.append(LayerReport(name or "(model)", kind, shape, params, bool(group), channels, bool(site), ranks))
    return ModelReport(tuple(rows), pruning, activations, count)


def _channels(name: str, group: Group) -> str:
    """Say what shrinks with a layer, e.g. "64 channels, with bn1"."""
    others = [m.name for m in group.members if m.side != "in" and m.name != name]
    text = f"{group.units} channels" if group.copies == 1 else f"{group.units} × {group.copies} channels"
    if group.stream:
        text += ", residual stream"
    if group.rank:
        text += ", inner rank"
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        text += f", with {', '.join(others[:_SHOWN])}{more}"
    return text


def _stays(name: str, module: nn.Module, refused: dict[str, str], keep: Sequence[str], untraceable: bool) -> str:
    if name in refused:
        return refused[name]
    if kept(name, keep):
        return "kept by a pattern or its factory"
    if untraceable:
        return "the model cannot be traced"
    if isinstance(module, _ConvNd | nn.Linear | _BatchNorm):
        return "coupled to a layer whose channels must stay"
    return f"{type(module).__name__} is not pruned by itself"


def _unproved(model: nn.Module, example: torch.Tensor, found: Sequence[Site]) -> dict[str, str]:
    try:
        return unproved(model, example, found, exact)
    except Infeasible as error:
        return {name: str(error) for site in found for name in site.layers}


def _whole(name: str, module: nn.Module, keep: Sequence[str], whole: Mapping[str, str]) -> str:
    """Why a layer is not written as two factors; nothing for layers where nobody expects it."""
    if not isinstance(module, _ConvNd | nn.Linear):
        return ""
    if kept(name, keep):
        return "kept by a pattern or its factory"
    if name in whole:
        return whole[name]
    if type(module) not in (nn.Conv2d, nn.Linear):
        return f"{type(module).__name__} is not factored"
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return f"grouped in {module.groups}"
    inputs = module.in_features if isinstance(module, nn.Linear) else int(module.in_channels)
    if inputs < MIN_INPUTS:
        return f"only {inputs} {'input' if inputs == 1 else 'inputs'}"
    return "rank 1 saves nothing"
