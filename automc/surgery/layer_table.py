"""Fills the layer table: the tracer of channels, which also notes whose output reaches whom."""

from __future__ import annotations

import time
from collections import defaultdict
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from automc.models.bits import bits_of
from automc.models.layers import Kind, Layer, LayerTable
from automc.models.measure import one_image
from automc.models.stored import FLOAT
from automc.surgery import channel_rules as rules
from automc.surgery.channels import Channels, OutOfTime
from automc.surgery.coupling import Group, pins, read_groups
from automc.surgery.layers import depthwise, passes, shrinkable

SECONDS = 20.0
"""Of this thread's processor time, for one model."""
_MAKERS = "_automc_makers"


def layer_table(model: nn.Module, example: Tensor, seconds: float = SECONDS) -> LayerTable:
    """Describe the layers of a model by one forward pass in evaluation; costs about as much as counting FLOPs.

    A model that cannot be followed has an empty table, which says why. Groups are as they were traced: `Groups` proves
    them by numbers before it cuts, and leaves some alone.

    Args:
        model: of floats or quantised, factored or not; it stays as it is.
        example: images (n, c, h, w) on the model's device; one is used, or two where it does not run on one.
    """
    batch = one_image(model, example)
    flow = _Flow(model, time.thread_time() + seconds)
    try:
        flow.run(model, batch)
        groups = read_groups(flow)[0]
    except OutOfTime:
        return LayerTable(missing=f"following its channels took longer than {seconds:g} s")
    except Exception as error:  # a forward pass can raise anything, and a table is worth no step
        return LayerTable(missing=f"its channels cannot be followed: {type(error).__name__}: {error}")
    finally:
        flow.end()
    place = {name: i for i, name in enumerate(flow.outputs)}
    at = _groups_at(groups)
    layers = tuple(_layer(name, flow, groups, at, len(batch)) for name in place)
    return LayerTable(layers, tuple(sorted({(place[a], place[b]) for a, b in flow.edges if a in place})))


class _Flow(Channels):  # type: ignore[no-untyped-call]
    """Follows channels, and the layers whose output each tensor comes of through operations without weights."""

    def __init__(self, model: nn.Module, deadline: float) -> None:
        super().__init__(model, pins(model, ()), deadline)
        self.outputs: dict[str, list[torch.Size]] = {}
        """Shapes of what each layer gave, by call."""
        self.inputs: dict[str, torch.Size] = {}
        self.edges: set[tuple[str, str]] = set()
        self.modules = {n: m for n, m in model.named_modules() if isinstance(m, _ConvNd | nn.Linear)}
        self._own = {id(t) for t in (*model.parameters(), *model.buffers())}
        self._ends = [
            handle
            for name, module in self.modules.items()
            for handle in (module.register_forward_hook(self._noting(name), with_kwargs=True),)
        ]
        others = (m for m in model.modules() if not isinstance(m, _ConvNd | nn.Linear))
        quiet = [m for m in others if shrinkable(m) or passes(m)]  # operations inside of these are not seen
        self._ends += [m.register_forward_hook(self._hand_on, with_kwargs=True) for m in quiet]

    def end(self) -> None:
        """Take the hooks off the model again."""
        for handle in self._ends:
            handle.remove()

    def _noting(self, name: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = list(rules.tensors_of((args, kwargs)))
            if not given or not isinstance(output, Tensor):
                return
            self.edges |= {(maker, name) for tensor in given for maker in self._makers_of(tensor)}
            self.outputs.setdefault(name, []).append(output.shape)
            self.inputs[name] = given[0].shape
            setattr(output, _MAKERS, (self._mark, frozenset({name})))

        return hook

    def _makers_of(self, tensor: Tensor) -> frozenset[str]:
        owner, makers = getattr(tensor, _MAKERS, (None, frozenset()))
        return makers if owner is self._mark else frozenset()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = super().__torch_dispatch__(func, types, args, kwargs)
        self._hand_on(None, args, kwargs, output)
        return output

    def _hand_on(self, _: nn.Module | None, args: Any, kwargs: Any, output: Any) -> None:
        makers = frozenset[str]().union(*(self._makers_of(t) for t in rules.tensors_of((args, kwargs or {}))))
        for tensor in rules.tensors_of(output) if makers else ():
            if id(tensor) not in self._own:
                setattr(tensor, _MAKERS, (self._mark, makers))


def _groups_at(groups: tuple[Group, ...]) -> dict[tuple[str, str], list[int]]:
    """Numbers of the groups by layer and side."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for g, group in enumerate(groups):
        for member in group.members:
            for side in ("in", "out") if member.side == "both" else (member.side,):
                found[member.name, side].append(g)
    return found


def _layer(
    name: str, flow: _Flow, groups: tuple[Group, ...], at: dict[tuple[str, str], list[int]], images: int
) -> Layer:
    module, shapes = flow.modules[name], flow.outputs[name]
    reads, writes = tuple(at.get((name, "in"), ())), tuple(at.get((name, "out"), ()))
    factors = [groups[g].units * groups[g].copies for g in (*reads, *writes) if groups[g].rank]
    kernel: tuple[int, ...] = (1, 1)
    stride, parts, axis = 1, 1, len(shapes[-1]) - 1
    if isinstance(module, _ConvNd):
        kernel, stride, parts = module.kernel_size, max(module.stride), module.groups
        inputs, outputs, axis = module.in_channels, module.out_channels, len(shapes[-1]) - 1 - len(kernel)
    else:
        inputs, outputs = int(module.in_features), int(module.out_features)
    positions = [*shapes[-1][:axis], *shapes[-1][axis + 1 :]] if axis else list(shapes[-1][1:])
    if axis:
        positions[0] //= images
    height, width = _folded(positions)
    kernel_h, kernel_w = _folded(kernel)
    weights = prod(kernel) * inputs * outputs // parts
    per_image = [shape.numel() // images // outputs for shape in shapes]
    if isinstance(module, _ConvTransposeNd):
        per_image = [flow.inputs[name].numel() // images // inputs] * len(shapes)
    return Layer(
        name, _kind(module), int(inputs), int(outputs), kernel_h, kernel_w, int(stride), height, width, int(parts),
        params=sum(p.numel() for p in module.parameters(recurse=False)),
        macs=weights * sum(per_image), bits=bits_of(module) or FLOAT, rank=min(factors, default=0),
        reads=reads, writes=writes,
    )  # fmt: skip


def _folded(sizes: list[int] | tuple[int, ...]) -> tuple[int, int]:
    """The product of all but the last, and the last; 1 for what is not there."""
    return prod(sizes[:-1]), int(sizes[-1]) if sizes else 1


def _kind(module: nn.Module) -> Kind:
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, _ConvTransposeNd):
        return "transposed"
    if depthwise(module):
        return "depthwise"
    return "grouped" if getattr(module, "groups", 1) > 1 else "conv"
