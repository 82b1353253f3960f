"""Proof by numbers that the layers of a group belong together, before anything is cut.

The units of a group change places in every layer of the group at once: a network whose channels are coupled as the
group says does not notice. This holds with every kind of layer, also where a channel's removal changes the others by
nature (group norms, means over channels). It is computed in double precision, on a copy without neutral or idle
parts, and only counts where the same exchange in the producers alone is noticed.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from automc.models.modes import buffers_kept, set_mode, tensors_in, unheard
from automc.models.shortcuts import GatherShortcut
from automc.surgery.coupling import Group, Member
from automc.surgery.layers import channel_axis, parts, passes, width

RATIO = {torch.float64: 1e-5, torch.float32: 1e-2}
"""Largest change of the outputs by an exchange in all layers, of the change by the same in the producers alone."""
SEEN = {torch.float64: 1e-7, torch.float32: 1e-3}
"""Least change by the producers alone, of the largest output, that is told from rounding; by the precision inside."""

_BLOCK = 2**17
"""Elements that are moved at once: fresh memory costs more than what is done with it."""

_ROWS = ("weight", "bias", "running_mean", "running_var", "scale")
"""What a layer has of each of its output channels."""

NOT_COUPLED = "exchanging its channels changes the outputs: they are coupled in a way that could not be followed"
NOT_SEEN = "its channels hardly reach the outputs, so that their coupling cannot be proved"
NOT_FINITE = "the outputs are not finite numbers, so that the coupling cannot be proved"
NO_TIME = "there was no time to prove its coupling"


def unproved(
    model: nn.Module, example: Tensor, groups: Sequence[Group], deadline: float, *, training: bool
) -> dict[int, str]:
    """Return the positions of the groups whose coupling is not proved, and why.

    Args:
        model: stays as it is.
        example: a batch of inputs; only its shape and device count.
        deadline: of `time.thread_time()`; what is not proved by then is refused.
        training: whether a training pass has outputs of its own, which count as well.
    """
    tried = list(range(len(groups)))
    if not tried:
        return {}
    with _double_precision(), unheard():
        producers = {m.name for group in groups for m in group.members if m.side == "out"}
        twin = _twin(model, example, training, producers)
        if not all(bool(torch.isfinite(output).all()) for output in twin.base):
            return dict.fromkeys(tried, NOT_FINITE)
        effects = [twin.effect(group, deadline) for group in groups]
        bad = {g: NOT_SEEN for g in tried if effects[g] < SEEN[twin.precision]}
        return bad | _wrong(twin, groups, effects, [g for g in tried if g not in bad], deadline)


def _twin(model: nn.Module, example: Tensor, training: bool, producers: Set[str]) -> _Twin:
    try:
        return _Twin(model, example, training, producers, torch.float64)
    except (RuntimeError, TypeError, ValueError):  # code that insists on single precision
        return _Twin(model, example, training, producers, torch.float32)


def _wrong(
    twin: _Twin, groups: Sequence[Group], effects: Sequence[float], tried: Sequence[int], deadline: float
) -> dict[int, str]:
    """Find the groups whose exchange changes the outputs: all in one pass, then halves of what fails."""
    if not tried:
        return {}
    if time.thread_time() > deadline:
        return dict.fromkeys(tried, NO_TIME)
    least = min(effects[g] for g in tried)
    if twin.change([m for g in tried for m in _exchanges(groups[g])]) <= RATIO[twin.precision] * least:
        return {}
    if len(tried) == 1:
        return {tried[0]: NOT_COUPLED}
    half = len(tried) // 2
    first, second = tried[:half], tried[half:]
    return _wrong(twin, groups, effects, first, deadline) | _wrong(twin, groups, effects, second, deadline)


class _Still(TorchFunctionMode):
    """Leaves out what is random in every pass, and notes whether anything double became less precise."""

    def __init__(self) -> None:
        super().__init__()
        self.double = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "dropout" in getattr(func, "__name__", "") and args:
            return args[0]
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.is_floating_point() and made.dtype != torch.float64:
            self.double &= not any(  # what the code makes of nothing is the same each time
                isinstance(given, Tensor) and given.dtype == torch.float64
                for given in pytree.tree_leaves((args, kwargs))
            )
        return made


class _Twin:
    """A lively copy of a model, in double precision where it can be, its inputs and its outputs."""

    def __init__(
        self, model: nn.Module, example: Tensor, training: bool, producers: Set[str], dtype: torch.dtype
    ) -> None:
        draw = torch.Generator().manual_seed(0)
        self.model = copy.deepcopy(model, _converted(model, dtype)).to(dtype).requires_grad_(False)
        self.precision = dtype
        self.modes = (False, True) if training else (False,)
        _enliven(self.model, draw)
        self.x = torch.randn(example.shape, generator=draw).to(example.device, dtype)
        self.slopes: dict[str, list[tuple[Tensor, Tensor]]] = {}  # of each producer's outputs, beside these
        self.base = self._start(draw, producers)
        self.tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        self.scales = [float(output.abs().max()) or 1.0 for output in self.base]
        self._back: list[Callable[[], object]] = []  # what undoes the exchange that the model stands in

    def _outputs(self) -> list[Tensor]:
        """Return what comes out in each mode."""
        found: list[Tensor] = []
        for mode in self.modes:
            set_mode(self.model, mode)
            with _Still() as still, torch.random.fork_rng(devices=[]), buffers_kept(self.model):
                torch.manual_seed(0)
                output = self.model(self.x.clone())
            if not still.double:
                self.precision = torch.float32
            leaves = [t for t in tensors_in(output) if t.is_floating_point()]
            found += leaves
        return found

    def _start(self, draw: torch.Generator, producers: Set[str]) -> list[Tensor]:
        """Fit batch norms that never saw data; return the outputs, and keep the slopes of a random mix of them."""
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and _neutral(m)]
        hooks: dict[_BatchNorm, RemovableHandle] = {}
        hooks |= {m: m.register_forward_pre_hook(lambda norm, args: _fit(norm, args[0], draw, hooks)) for m in norms}
        seen = _Seen(self.model, producers)
        with torch.enable_grad():
            outputs = self._outputs()
            for hook in (*hooks.values(), *seen.hooks):
                hook.remove()
            mixes = [torch.randn(t.shape, generator=draw, dtype=t.dtype).to(t.device) for t in outputs]
            total = sum(
                (t / (t.detach().abs().max() + 1e-300) * mix).sum() for t, mix in zip(outputs, mixes, strict=True)
            )
            if isinstance(total, Tensor) and total.requires_grad:
                with suppress(RuntimeError):  # code that writes over what its gradient needs
                    found = torch.autograd.grad(total, seen.edges, allow_unused=True)
                    for name, output, slopes in zip(seen.names, seen.outputs, found, strict=True):
                        if slopes is not None:
                            self.slopes.setdefault(name, []).append((output, slopes))
        return [t.detach() for t in outputs]

    def change(self, members: Iterable[tuple[Member, np.ndarray]]) -> float:
        """Largest change of an output, relative to its tensor's largest, when these members' rows are exchanged."""
        with torch.no_grad():
            while self._back:
                self._back.pop()()
            for member, places in _places(members):
                self._exchange(member, torch.from_numpy(places).to(self.x.device))
            outputs = self._outputs()
        pairs = zip(outputs, self.base, self.scales, strict=True)
        return max((float((new - old).abs().max()) / scale for new, old, scale in pairs), default=0.0)

    def effect(self, group: Group, deadline: float) -> float:
        """How much the outputs change, about, when the group's producers alone exchange their channels.

        The slopes tell this of all groups at once; where they see little, the exchange itself is tried.
        """
        producers = [(m, p) for m, p in _exchanges(group) if m.side == "out"]
        with torch.no_grad():
            effect = sum(self._slope(member, places) for member, places in _places(producers))
        if abs(effect) > 100 * SEEN[self.precision] or time.thread_time() > deadline:
            return abs(effect)
        return self.change(producers)

    def _slope(self, layer: Member, places: np.ndarray) -> float:
        """Change of the mixed outputs, by their slopes, when a layer's output channels are exchanged."""
        change, source = 0.0, torch.from_numpy(places).to(self.x.device)
        for output, slopes in self.slopes.get(layer.name, ()):
            moved = output.index_select(channel_axis(layer.module, output.ndim), source)
            change += float(((moved - output) * slopes).sum())
        return change

    def _exchange(self, member: Member, places: Tensor) -> None:
        """Exchange rows of the model's own tensors, and note how to undo it."""
        module, back = member.module, torch.argsort(places)
        tensors = {n: t for n in _ROWS if (t := self.tensors.get(f"{member.name}.{n}")) is not None}
        if isinstance(module, GatherShortcut):
            index, mask = (self.tensors[f"{member.name}.{name}"] for name in ("index", "mask"))
            if member.side == "in":
                self._write(index, back[index])
            else:
                self._write(index, index[places])
                self._write(mask, mask[:, places])
        elif member.side == "in" and (number := parts(module, "in")) > 1:
            weight = tensors["weight"]
            size = weight.shape[1]
            blocks = weight.view(number, -1, *weight.shape[1:])
            local = places.view(number, size) % size
            moved = torch.stack([block[:, at] for block, at in zip(blocks, local, strict=True)])
            self._write(weight, moved.view(weight.shape))
        else:
            axis = 1 if member.side == "in" else 0
            for tensor in [tensors["weight"]] if axis else tensors.values():
                _permute(tensor, axis, places)
                self._back.append(partial(_permute, tensor, axis, back))

    def _write(self, tensor: Tensor, values: Tensor) -> None:
        self._back.append(partial(tensor.copy_, tensor.clone()))
        tensor.copy_(values)


class _Seen:
    """The outputs of some layers in passes that gradients are taken of, and where those come by."""

    def __init__(self, model: nn.Module, layers: Set[str]) -> None:
        self.names: list[str] = []
        self.outputs: list[Tensor] = []
        self.edges: list[Any] = []
        self._anchor = torch.zeros((), requires_grad=True)  # no parameter asks for a gradient, which would cost more
        self.hooks = [model.get_submodule(n).register_forward_hook(partial(self._see, n)) for n in layers]

    def _see(self, name: str, _: nn.Module, __: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        made = output if output.requires_grad else output + self._anchor
        if made.requires_grad:
            self.names.append(name)
            self.outputs.append(made.detach().clone())  # what comes after may write to it
            self.edges.append(get_gradient_edge(made))
        return made


def _permute(tensor: Tensor, axis: int, places: Tensor) -> None:
    """Bring the rows of an axis into this order, in place and by blocks."""
    if tensor.ndim == 1:
        tensor.copy_(tensor[places])
        return
    across = tensor.shape[1 - axis]
    for block in tensor.split(max(1, _BLOCK * across // max(1, tensor.numel())), 1 - axis):  # type: ignore[no-untyped-call]
        block.copy_(block.index_select(axis, places))


def _converted(model: nn.Module, dtype: torch.dtype) -> dict[int, Tensor]:
    """What `deepcopy` may take for a copy of each parameter: the same in another precision, at once."""
    return {
        id(p): nn.Parameter(p.detach().to(dtype, copy=True), requires_grad=p.requires_grad)
        for p in model.parameters()
        if type(p) is nn.Parameter and p.is_floating_point()
    }


def _places(members: Iterable[tuple[Member, np.ndarray]]) -> Iterator[tuple[Member, np.ndarray]]:
    """Bring together, for each side of a layer, which of its rows comes where."""
    index: dict[tuple[str, str], tuple[Member, np.ndarray]] = {}
    for member, order in members:
        wide = np.arange(width(member.module, member.side))
        _, places = index.setdefault((member.name, member.side), (member, wide))
        places[member.rows.flatten()] = member.rows[order].flatten()
    yield from index.values()


def _exchanges(group: Group) -> Iterator[tuple[Member, np.ndarray]]:
    order = np.random.default_rng(group.units).permutation(group.units)
    if (order == np.arange(group.units)).all():
        order = np.roll(order, 1)
    return ((member, order) for member in (*group.members, *group.bare))


def _enliven(model: nn.Module, draw: torch.Generator) -> None:
    """Draw parameters at random that are zero, or small and alike."""

    def noise(tensor: Tensor) -> Tensor:
        return torch.rand(tensor.shape, generator=draw, dtype=tensor.dtype).to(tensor.device)

    with torch.no_grad():
        for parameter in (p for m in model.modules() if not passes(m) for p in m.parameters(recurse=False)):
            if not parameter.is_floating_point() or not parameter.numel():
                continue
            first, last = parameter.flatten()[[0, -1]]
            if parameter.numel() > 1 and first == last and bool((parameter == first).all()):
                spread = 1.0 if abs(float(first)) < 0.1 else float(first)
                parameter.copy_(noise(parameter) - 0.5 if first == 0 else spread * (noise(parameter) + 0.5))
            elif not bool(parameter.all()):
                zeros = parameter == 0
                parameter[zeros] = 0.1 * (noise(parameter[zeros]) - 0.5)


def _neutral(norm: _BatchNorm) -> bool:
    return norm.running_mean is not None and not bool(norm.running_mean.any())


def _fit(norm: _BatchNorm, given: Tensor, draw: torch.Generator, hooks: dict[_BatchNorm, RemovableHandle]) -> None:
    """Give a batch norm, once, statistics near those of its input."""
    hooks[norm].remove()
    x = given.detach()
    axes = [d for d in range(x.ndim) if d != 1]
    noise = torch.rand((2, x.shape[1]), generator=draw, dtype=x.dtype).to(x.device)
    spread = x.var(axes, correction=0) + 1e-6 * x.pow(2).mean() + 1e-30
    norm.running_mean = x.mean(axes) + (noise[0] - 0.5) * spread.sqrt()
    norm.running_var = spread * (0.5 + noise[1])


@contextmanager
def _double_precision() -> Iterator[None]:
    """Let constants that a forward pass makes be double as well."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
