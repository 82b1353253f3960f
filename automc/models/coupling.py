"""Which layers must shrink together: torch-pruning's dependency graph, read once into plain index arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import lcm
from typing import Any, Literal, cast

import numpy as np
import torch
import torch_pruning
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch_pruning import ops
from torch_pruning.dependency import index_mapping

from automc.errors import Infeasible
from automc.models.lma import LMA
from automc.models.modes import flags_kept, observe, unheard
from automc.models.shortcuts import GatherShortcut

Side = Literal["in", "out", "both"]

MOST_INDICES = 2**20
"""Of channels behind reshapes, in a whole model; where torch-pruning makes more of them it never ends."""


class GatherPruner(torch_pruning.BasePruningFunc):  # type: ignore[misc]
    """How a GatherShortcut loses channels.

    A lost source becomes −1 (that output is zero from now on) and leaves the outputs alone; a lost output
    drops its entry of `src` and leaves the inputs alone. The two functions differ, so torch-pruning keeps
    the channels before and after the shortcut in groups of their own.
    """

    def prune_in_channels(self, layer: GatherShortcut, idxs: Sequence[int]) -> nn.Module:
        """Remap the sources after the input channels `idxs` are gone."""
        layer.drop_inputs(idxs)
        return layer

    def prune_out_channels(self, layer: GatherShortcut, idxs: Sequence[int]) -> nn.Module:
        """Drop the output channels `idxs`."""
        layer.drop_outputs(idxs)
        return layer

    def get_out_channels(self, layer: GatherShortcut) -> int:
        """Width of the output."""
        return layer.out_channels

    def get_in_channels(self, layer: GatherShortcut) -> int:
        """Width of the input."""
        return layer.in_channels


class ElementwisePruner(torch_pruning.BasePruningFunc):  # type: ignore[misc]
    """For an activation whose parameters are shared by all channels: nothing of it goes with a channel."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Leave the layer as it is."""
        return layer

    prune_in_channels = prune_out_channels  # what goes in comes out: one group

    def get_out_channels(self, layer: nn.Module) -> None:
        """Unknown: whatever comes in."""

    get_in_channels = get_out_channels


PRUNERS: dict[type[nn.Module], type[torch_pruning.BasePruningFunc]] = {
    GatherShortcut: GatherPruner,
    LMA: ElementwisePruner,
}
"""Layers of our own that torch-pruning does not know, each with its pruner."""


@dataclass(frozen=True, slots=True)
class Member:
    """One layer dimension that shrinks with a group; `rows[u]` are the layer's channels that go with unit u."""

    name: str
    module: nn.Module
    side: Side
    rows: np.ndarray

    @property
    def weight(self) -> nn.Parameter:
        """The layer's weight (γ of a norm)."""
        return cast(nn.Parameter, self.module.weight)

    @property
    def per_unit(self) -> int:
        """Channels of this layer that one unit takes away."""
        return int(self.rows.shape[1])


@dataclass(frozen=True, slots=True)
class Group:
    """Layer dimensions that only shrink together.

    A unit is what can be removed at once: one channel of `root`, or `copies` of them where a grouped
    convolution forces equal counts. `stream`: the channels are summed over a residual connection.
    `rank`: the inner width of a factored layer, with nothing between its two convolutions.
    """

    root: str
    units: int
    copies: int
    stream: bool
    rank: bool
    members: tuple[Member, ...]

    @property
    def min_units(self) -> int:
        """Units that must stay: 2, or 1 for the inner rank of a factored layer."""
        return 1 if self.rank else 2

    def channels(self, units: Iterable[int]) -> list[int]:
        """Output channels of the root that `units` stand for, sorted."""
        return sorted(unit + copy * self.units for unit in units for copy in range(self.copies))

    def of_kind(self, *kinds: type[nn.Module], side: Side | None = None) -> tuple[Member, ...]:
        """Members whose module is of one of `kinds`, on one side where given."""
        return tuple(m for m in self.members if isinstance(m.module, kinds) and side in (None, m.side))


def kept(name: str, patterns: Sequence[str]) -> bool:
    """Whether a module name, or one of its parents' names, matches a keep pattern (fnmatch)."""
    parts = name.split(".")
    prefixes = [".".join(parts[: n + 1]) for n in range(len(parts))]
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes for pattern in patterns)


@contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
    """Turn gradients on and training off while a graph is built, then restore both for every module."""
    gradients = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for parameter, _ in gradients:
            parameter.requires_grad_(True)
        with flags_kept(model), torch.enable_grad():
            yield
    finally:
        for parameter, flag in gradients:
            parameter.requires_grad_(flag)


def trace(model: nn.Module, example: torch.Tensor) -> torch_pruning.DependencyGraph:
    """Build the dependency graph of a model on one example batch.

    Frozen parameters would silently hide groups and torch-pruning leaves the model in eval mode: both
    flags are set for the tracing and restored.

    Raises:
        Infeasible: the model cannot be traced, e.g. it shuffles channels by reshaping.
    """
    with _traceable(model), unheard():
        try:
            return torch_pruning.DependencyGraph().build_dependency(
                model,
                example,
                customized_pruners={kind: pruner() for kind, pruner in PRUNERS.items()},
                verbose=False,
            )
        except Exception as error:
            raise _lost(model, f"{type(error).__name__}: {error}") from error


def _lost(model: nn.Module, why: str) -> Infeasible:
    return Infeasible(
        f"torch-pruning cannot follow the channels of this {type(model).__name__}: {why}. Channel pruning needs a "
        "network of convolutions, batch norms, sums and concatenations; use a method that factors layers instead."
    )


class _Endless(Exception):
    """Channels multiply in a cycle of reshapes, as in the shifted windows of a Swin transformer."""


@contextmanager
def _ending() -> Iterator[None]:
    """Stop torch-pruning where it would follow channels through reshapes for ever, until the memory is full."""
    original = index_mapping._FlattenIndexMapping
    made = 0

    class Counting(original):  # type: ignore[misc, valid-type]
        def __call__(self, idxs: Sequence[Any]) -> Any:
            nonlocal made
            made += len(idxs) if self.reverse else len(idxs) * self._stride
            if made > MOST_INDICES:
                raise _Endless
            return super().__call__(idxs)

    index_mapping._FlattenIndexMapping = Counting
    try:
        yield
    finally:
        index_mapping._FlattenIndexMapping = original


class _MustStay(Exception):
    """Why a group keeps all its channels."""


def _reused(model: nn.Module, example: torch.Tensor) -> set[nn.Module]:
    """Layers with parameters that run more than once in a forward pass, or sit in the tree twice."""
    calls: Counter[nn.Module] = Counter()
    layers = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
    observe(model, example, [m.register_forward_pre_hook(lambda module, _: calls.update([module])) for m in layers])
    names = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    return {module for module in layers if calls[module] > 1 or names[module] > 1}


def _is_sum(node: Any) -> bool:
    """Whether a graph node adds two traced tensors."""
    name = getattr(node.module, "_grad_fn", "")
    return str(name).startswith(("AddBackward", "SubBackward")) and len({id(n) for n in node.inputs}) > 1


def _channel_groups(module: nn.Module, side: Side) -> int:
    """Equal parts in which this layer's channels must shrink."""
    if isinstance(module, _ConvNd) and side != "both":
        return int(module.groups)
    return int(module.num_groups) if isinstance(module, nn.GroupNorm) else 1


def _prunable(module: nn.Module) -> bool:
    """Whether the surgery and the parameter count of this kind of layer are known exactly."""
    if isinstance(module, _ConvTransposeNd):
        return False
    if isinstance(module, _ConvNd):
        # torch-pruning takes any convolution with one output per group for a depthwise one
        return not (module.groups > 1 and module.groups == module.out_channels != module.in_channels)
    return isinstance(module, (nn.Linear, _BatchNorm, nn.PReLU, nn.GroupNorm, _InstanceNorm, *PRUNERS))


def _aligned(index: np.ndarray, unit: np.ndarray, channels: int, parts: int) -> bool:
    """Whether every unit takes the same positions from each of `parts` equal parts of the channels."""
    if parts == 1:
        return True
    size = channels // parts
    _, counts = np.unique(unit * size + index % size, return_counts=True)
    return bool((counts == parts).all())


def _side(graph: torch_pruning.DependencyGraph, handler: Any) -> Side:
    shrinks_out, shrinks_in = graph.is_out_channel_pruning_fn(handler), graph.is_in_channel_pruning_fn(handler)
    return "both" if shrinks_out and shrinks_in else "out" if shrinks_out else "in"


def _channels_of(graph: torch_pruning.DependencyGraph, module: nn.Module, side: Side) -> int:
    pruner = graph.get_pruner_of_module(module)
    channels: int = pruner.get_in_channels(module) if side == "in" else pruner.get_out_channels(module)
    return channels


def _rows(member: tuple[nn.Module, Side, np.ndarray, np.ndarray], units: int, channels: int, name: str) -> np.ndarray:
    """Channels of a layer by unit, (units, per unit).

    Raises:
        _MustStay: units are not alike.
    """
    module, side, index, root_index = member
    unit = root_index % units
    counts = np.bincount(unit, minlength=units)
    if counts.min() != counts.max() or not _aligned(index, unit, channels, _channel_groups(module, side)):
        raise _MustStay(f"its channels are spread unevenly over {name}")
    return index[np.lexsort((index, unit))].reshape(units, -1)


def _read(
    graph: torch_pruning.DependencyGraph, raw: Any, names: dict[nn.Module, str], banned: dict[nn.Module, str]
) -> Group:
    """Turn torch-pruning's group over all channels of its root into ours.

    Raises:
        _MustStay: it keeps all its channels.
    """
    layers: list[tuple[nn.Module, Side, np.ndarray, np.ndarray]] = []
    stream, between = False, -2  # operations besides a producer and a consumer
    for item in raw:
        node = item.dep.target
        module, side = node.module, _side(graph, item.dep.handler)
        if node.type == ops.OPTYPE.OUTPUT or (side != "in" and not node.outputs):
            raise _MustStay("its outputs are the model's outputs")
        stream |= _is_sum(node)
        # a linear layer's transposed weight shows up as an operation without inputs
        between += node.type != ops.OPTYPE.ELEMENTWISE or bool(node.inputs)
        if module in banned:
            raise _MustStay(banned[module])
        if node.type == ops.OPTYPE.PARAMETER:
            raise _MustStay("a parameter outside of layers runs along its channels")
        if node.type == ops.OPTYPE.CONCAT and module.offsets is None:
            # torch-pruning could not place its inputs, e.g. before a flatten of a map larger than 1×1
            raise _MustStay("a concatenation that it enters cannot be followed")
        if module not in names or isinstance(module, tuple(PRUNERS)):
            continue  # an operation, or a layer without parameters
        if not _prunable(module):
            raise _MustStay(f"{names[module]} ({type(module).__name__}), coupled to it, cannot be pruned")
        if not (isinstance(module, nn.PReLU) and module.num_parameters == 1):
            layers.append((module, side, np.asarray(item.idxs), np.asarray(item.root_idxs)))
    copies = lcm(*(_channel_groups(module, side) for module, side, _, _ in layers))
    units, rest = divmod(len(raw[0].idxs), copies)
    if rest:
        raise _MustStay(f"its channels do not divide into the {copies} parts of a grouped layer")
    members = []
    for layer in layers:
        name = names[layer[0]]
        rows = _rows(layer, units, _channels_of(graph, layer[0], layer[1]), name)
        members.append(Member(name, layer[0], layer[1], rows))
    rank = between == 0 and len(members) == 2 and all(_factor(member.module) for member in members)
    return Group(names[raw[0].dep.target.module], units, copies, stream, rank, tuple(members))


def _factor(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, _ConvNd) and module.groups == 1)


def _all_groups(graph: torch_pruning.DependencyGraph, model: nn.Module) -> list[torch_pruning.Group]:
    with _ending():
        try:
            return list(graph.get_all_groups(root_module_types=[_ConvNd, nn.Linear]))
        except _Endless:
            raise _lost(model, "their number grows without end on the way through its reshapes") from None


def read_groups(
    graph: torch_pruning.DependencyGraph, model: nn.Module, example: torch.Tensor, keep: Sequence[str]
) -> tuple[tuple[Group, ...], dict[str, str]]:
    """List the groups that may shrink, in the order of their roots in the model, and why the other roots may not.

    Left out: the classifier's outputs, everything that touches a layer matched by `keep`, layers that are
    used more than once, and groups whose parameter count would not be linear in the units removed.

    Raises:
        Infeasible: the channels multiply without end on their way through the model.
    """
    names = {module: name for name, module in model.named_modules()}
    banned = {module: f"{names[module]} runs more than once" for module in _reused(model, example)}
    banned |= {
        m: f"{name} is kept by a pattern or its factory" for m, name in names.items() if name and kept(name, keep)
    }
    found: list[Group] = []
    refused: dict[str, str] = {}
    for raw in _all_groups(graph, model):
        try:
            found.append(_read(graph, raw, names, banned))
        except _MustStay as reason:
            roots = (item.dep.target.module for item in raw if _side(graph, item.dep.handler) != "in")
            refused |= {names[module]: str(reason) for module in roots if module in names}
    order = {name: position for position, name in enumerate(names.values())}
    return tuple(sorted(found, key=lambda group: order[group.root])), refused


def shrink(graph: torch_pruning.DependencyGraph, module: nn.Module, channels: Sequence[int]) -> None:
    """Remove output channels of a root layer, and all that hangs on them, in place.

    The torch-pruning group is made anew: offsets inside an older one move when a neighbour is pruned.
    """
    pruner = graph.get_pruner_of_module(module)
    graph.get_pruning_group(module, pruner.prune_out_channels, list(channels)).prune(record_history=False)


def feeding(graph: torch_pruning.DependencyGraph, module: nn.Module) -> _ConvNd | nn.Linear | None:
    """Return the convolution or linear layer whose output a layer reads; None after a sum or a concatenation."""
    node = graph.module2node[module]
    while len(sources := set(node.inputs)) == 1:
        (node,) = sources
        if isinstance(node.module, (_ConvNd, nn.Linear)):
            return node.module
    return None


def discard(graph: torch_pruning.DependencyGraph) -> None:
    """Take a graph apart. Its nodes refer to each other, and would keep its model until a garbage collection."""
    for node in graph.module2node.values():
        node.__dict__.clear()
    graph.module2node.clear()
