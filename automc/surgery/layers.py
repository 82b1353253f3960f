"""The layers whose channels can be removed: their sides, their widths, and how rows are cut out of them."""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils import parametrize

from automc.models.shortcuts import GatherShortcut
from automc.surgery.lma import LMA
from automc.surgery.quantised import QUANTISED

Side = Literal["in", "out", "both"]
L = TypeVar("L", bound=nn.Module)

_KINDS = (_ConvNd, nn.Linear, _BatchNorm, _InstanceNorm, nn.GroupNorm, nn.PReLU, GatherShortcut)
_OWN = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
_LEVELS = {"scale", "codebook"}
"""What a quantised layer has besides: the scale of each output channel, or a codebook for all of them."""


def passes(module: nn.Module) -> bool:
    """Whether a layer's parameters are shared by all channels, so that nothing of it goes with a channel."""
    return isinstance(module, LMA) or (isinstance(module, nn.PReLU) and module.num_parameters == 1)


def depthwise(module: nn.Module) -> bool:
    """Whether a convolution reads one channel for each that it writes."""
    return isinstance(module, _ConvNd) and module.groups == module.out_channels == module.in_channels > 1


def computed(module: nn.Module) -> bool:
    """Whether a layer's weight is made anew each time: parametrised, no parameter, or set by a hook before it."""
    if parametrize.is_parametrized(module) or module._forward_pre_hooks:
        return True
    return isinstance(getattr(module, "weight", None), Tensor) and "weight" not in module._parameters


def unfilled(layer: L, device: torch.device) -> L:
    """Give a layer on the meta device parameters whose values somebody else will write, and return it.

    As `to_empty`, which loads a library of symbols for what it makes of parameters without content: 40 MB.
    """
    for name, parameter in list(layer.named_parameters()):
        given = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        layer.register_parameter(name, nn.Parameter(given, requires_grad=parameter.requires_grad))
    return layer


def shrinkable(module: nn.Module) -> bool:
    """Whether the surgery and the parameter count of this layer are known exactly."""
    if isinstance(module, GatherShortcut):
        return True
    if not isinstance(module, _KINDS) or isinstance(module, _ConvTransposeNd) or passes(module):
        return False
    if isinstance(module, nn.GroupNorm) and module.weight is None:
        return False
    if isinstance(module, _ConvNd) and module.groups == module.out_channels > 1 and not depthwise(module):
        return False  # several inputs for each output
    return not computed(module) and not extended(module)


def extended(module: nn.Module) -> bool:
    """Whether a layer of a known kind has tensors beside its kind's, which nobody would cut."""
    if not isinstance(module, _KINDS):
        return False
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    inside = [p for child in module.children() if not passes(child) for p in (*child.parameters(), *child.buffers())]
    own = _OWN | _LEVELS if isinstance(module, QUANTISED) else _OWN
    return bool(inside) or not {name for name, _ in tensors} <= own


def sides(module: nn.Module) -> tuple[Side, ...]:
    """Return "in" and "out", or "both" where what comes in comes out."""
    if isinstance(module, nn.Linear | GatherShortcut) or (isinstance(module, _ConvNd) and not depthwise(module)):
        return ("in", "out")
    return ("both",)


def width(module: nn.Module, side: Side) -> int:
    """Channels on one side."""
    if isinstance(module, nn.Linear):
        return module.in_features if side == "in" else module.out_features
    if isinstance(module, _ConvNd | GatherShortcut):
        return int(module.in_channels if side == "in" else module.out_channels)
    names = {nn.GroupNorm: "num_channels", nn.PReLU: "num_parameters"}
    name = next((name for kind, name in names.items() if isinstance(module, kind)), "num_features")
    return int(getattr(module, name))


def parts(module: nn.Module, side: Side) -> int:
    """Equal parts in which the channels of one side must shrink alike."""
    if isinstance(module, _ConvNd) and side != "both":
        return int(module.groups)
    return int(module.num_groups) if isinstance(module, nn.GroupNorm) else 1


def channel_axis(module: nn.Module, dims: int) -> int:
    """The axis of the channels in a layer's input or output of `dims` dimensions."""
    if isinstance(module, nn.Linear):
        return dims - 1
    if isinstance(module, _ConvNd):
        return dims - 1 - len(module.kernel_size)
    if isinstance(module, _InstanceNorm):
        return dims - int(module._get_no_batch_dim())  # type: ignore[no-untyped-call]
    return min(1, dims - 1)


def cut(module: nn.Module, side: Side, rows: np.ndarray) -> None:
    """Remove these channels of one side from a layer, in place; parameters stay as trainable as they were."""
    if isinstance(module, GatherShortcut):
        gone = set(rows.tolist())
        module.drop_inputs(gone) if side == "in" else module.drop_outputs(gone)
        return
    kept = np.delete(np.arange(width(module, side)), rows)
    if side == "in":
        _take(module, "weight", _columns(module, kept), 1)
        setattr(module, "in_features" if isinstance(module, nn.Linear) else "in_channels", len(kept))
        return
    each = _OWN - {"num_batches_tracked"} | ({"scale"} if isinstance(module, QUANTISED) else set())
    for name in each:
        if getattr(module, name, None) is not None:
            _take(module, name, torch.from_numpy(kept), 0)
    if depthwise(module):
        module.in_channels = module.groups = len(kept)  # type: ignore[assignment]
    for name in ("out_features", "out_channels", "num_features", "num_channels", "num_parameters"):
        if hasattr(module, name):
            setattr(module, name, len(kept))


def _columns(module: nn.Module, kept: np.ndarray) -> Tensor:
    """Columns of the weight to keep: (inputs), or (outputs, inputs) where parts of a grouped convolution differ."""
    number = parts(module, "in")
    size = width(module, "in") // number
    by_part = torch.from_numpy(kept % size).view(number, -1)
    if (by_part == by_part[0]).all():
        return by_part[0]
    return by_part.repeat_interleave(width(module, "out") // number, 0)


def _take(module: nn.Module, name: str, index: Tensor, axis: int) -> None:
    old = getattr(module, name)
    index = index.to(old.device)
    if index.ndim == 1:
        new = old.detach().index_select(axis, index)
    else:
        wide = index.view(*index.shape, *[1] * (old.ndim - 2)).expand(*index.shape, *old.shape[2:])
        new = old.detach().gather(1, wide)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module, name, new)
