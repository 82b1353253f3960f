"""Where every channel goes: labels that travel through one forward pass together with the tensors.

Each input and output channel of a layer gets a number, its label. A tensor carries labels of its own shape, which say
whose channel each element belongs to; 0 is nobody's. Whatever moves elements moves their labels by the same
operation, so a permutation, padding, flip or shuffle is followed as it is; whatever combines elements couples their
labels. What an operation does to labels is `channel_rules`' business.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode

from automc.models.modes import Watching, buffers_kept, flags_kept, set_mode, tensors_in, unheard
from automc.surgery import channel_rules as rules
from automc.surgery.labels import anyone, compact, rides
from automc.surgery.layers import Side, channel_axis, computed, extended, passes, shrinkable, sides, width

_TRAIL = "_automc_trail"
_IMAGE = "the image's own channels"
_FEW = 1024
"""Elements that are kept as they meet, and looked at together at the end."""


class OutOfTime(Exception):
    """The time for looking at a model's channels is over."""


@dataclass(frozen=True, slots=True)
class Trail:
    """What one record knows of a tensor: its labels; the layer that made it, if one alone; whether it is untouched."""

    record: object
    labels: Tensor
    maker: str | None = None
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Ports:
    """A layer's channels on one side are the labels `start` to `start + width` − 1."""

    name: str
    module: nn.Module
    side: Side
    start: int
    width: int


Instead = Callable[[int, int, Any, Set[str]], Tensor | None]
"""What an operation gives that raised, so that the pass goes on; None where it ends there.

It is asked with the number of the pass, the place in its log, the operation, and the layers whose channels entered.
"""


class Channels(Watching):
    """The record of forward passes of one model; `coupled` reads it.

    Args:
        model: its layers are labelled.
        pinned: by module, why its channels must stay.
        deadline: of `time.thread_time()`.
        instead: asked where an operation outside of layers raises.
    """

    def __init__(
        self,
        model: nn.Module,
        pinned: Mapping[nn.Module, str],
        deadline: float = float("inf"),
        instead: Instead | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ports: list[Ports] = []
        self.reasons: dict[int, str] = {}
        self.whole: dict[str, str] = {}  # convolutions and linear layers that are not labelled, and why
        self.feeds: dict[str, str] = {}  # the layer whose output a norm reads
        self.direct: set[tuple[str, str]] = set()  # layers with nothing between them
        self.logs: list[list[Any]] = []  # by pass: layers, and operations with what they gave
        self.shapes: list[tuple[tuple[int, ...], ...]] = []  # of the outputs, by pass
        self.differs = False  # whether the training pass computes otherwise
        self.reads = False  # whether code asks for values, as to choose by them what runs
        self.used: set[str] = set()  # labelled layers that ran, or whose weights other code read
        self._met: list[Tensor] = []  # labels that met, (2, few)
        self._pairs: list[Tensor] = []  # coupled labels, as a · 2³² + b
        self._sums: list[Tensor] = []
        self._mark = object()
        self._next, self._paused, self._deadline = 1, 0, deadline
        self._instead = instead
        self._resting = False  # whether a layer runs, which nobody follows inside
        self._reason_ids: dict[str, int] = {}
        self._calls: Counter[str] = Counter()
        self._layers: dict[nn.Module, str] = {}
        self._at: dict[str, dict[Side, Ports]] = {}
        self._weights: dict[int, tuple[Tensor, str]] = {}  # of labelled layers, by identity
        self._foreign: dict[int, tuple[Tensor, str]] = {}  # other tensors of the model, with why they bind channels
        self._label_layers(model, pinned)

    def _label_layers(self, model: nn.Module, pinned: Mapping[nn.Module, str]) -> None:
        for name, module in model.named_modules():
            if not shrinkable(module):
                continue
            self._layers[module], self._at[name] = name, {}
            for side in sides(module):
                port = Ports(name, module, side, self._next, width(module, side))
                self._next += port.width
                self.ports.append(port)
                self._at[name][side] = port
            self._weights |= {id(t): (t, name) for t in _tensors(module)}
        for port in self.ports:  # after all of them: reasons are numbered behind the channels
            if port.module in pinned:
                self.pin(self._atoms(port), pinned[port.module])
        for name, module in model.named_modules():
            if module not in self._layers and not passes(module):
                self._foreign |= {id(t): (t, _binding(name, module)) for t in _tensors(module)}
                if isinstance(module, _ConvNd | nn.Linear):
                    self.whole[name] = _binding(name, module)

    # what the rules call

    def couple(self, first: Tensor, second: Tensor) -> None:
        """Say that elements of two label tensors that broadcast against each other belong together."""
        a, b = compact(first, second)
        met = torch.stack((a, b)).view(2, -1)
        if met.shape[1] > _FEW:
            self._pairs.append(torch.unique(_paired(met)))
        else:
            self._met.append(met)

    def pin(self, labels: Tensor, reason: str) -> None:
        """Say that these channels must stay, and why."""
        (labels,) = compact(labels)
        self.couple(labels, torch.full_like(labels, self.reason(reason)))

    def reason(self, text: str) -> int:
        """Return the label that stands for a reason."""
        if text not in self._reason_ids:
            self._reason_ids[text] = self._next
            self.reasons[self._next] = text
            self._next += 1
        return self._reason_ids[text]

    def bound(self, known: Sequence[Tensor]) -> str | None:
        """Return the reason that a tensor of the model among these gives; None where there is no such tensor."""
        found = [self.reasons.get(int(labels.max())) for labels in known if labels.numel()]
        return next((reason for reason in found if reason not in (None, _IMAGE)), None)

    def summed(self, labels: Tensor) -> None:
        """Note channels that are summed over two branches."""
        (labels,) = compact(labels)
        self._sums.append(torch.unique(labels) if labels.numel() > _FEW else labels.flatten().clone())

    def labels(self, tensor: Tensor) -> Tensor | None:
        """Labels of a tensor; None where it is unknown, a constant say."""
        trail = self._trail(tensor)
        if trail is not None:
            return trail.labels if trail.labels.shape == tensor.shape else None
        if id(tensor) in self._foreign:
            return torch.tensor(self.reason(self._foreign[id(tensor)][1])).expand(tensor.shape)
        return None

    def _trail(self, tensor: Any) -> Trail | None:
        trail: Trail | None = getattr(tensor, _TRAIL, None)
        return trail if trail is not None and trail.record is self._mark else None

    def _leave(self, tensor: Any, labels: Tensor, maker: str | None = None, fresh: bool = False) -> None:
        """Attach labels to a tensor, unless it is the model's own, which outlives the pass."""
        if isinstance(tensor, Tensor) and id(tensor) not in self._foreign and id(tensor) not in self._weights:
            setattr(tensor, _TRAIL, Trail(self._mark, labels, maker, fresh))

    # the passes

    def run(self, model: nn.Module, example: Tensor, *, training: bool = False) -> None:
        """Follow one forward pass. In training mode the layers themselves stay in evaluation."""
        self._calls.clear()
        self.logs.append([])
        hooks = [h for m in self._layers for h in self._hooks(m, self._layer)]
        hooks += [h for m in model.modules() if passes(m) for h in self._hooks(m, self._pass)]
        example = example.detach().clone()
        image = torch.tensor(self.reason(_IMAGE)).expand(example.shape)
        self._leave(example, image)
        try:
            with flags_kept(model), buffers_kept(model), torch.no_grad(), unheard():
                set_mode(model, training)
                with self:
                    try:
                        output = model(example)
                    finally:
                        self._resume()  # where a layer raised
        finally:
            for hook in hooks:
                hook.remove()
        leaves = tensors_in(output)
        self.shapes.append(tuple(tuple(tensor.shape) for tensor in leaves))
        self.differs = self.differs or (training and self.logs[0] != self.logs[-1])
        for tensor in leaves:
            if (labels := self.labels(tensor)) is not None:
                self.pin(labels, "its outputs are the model's outputs")

    def _hooks(self, module: nn.Module, then: Callable[[nn.Module, Any, Any, Any], None]) -> list[Any]:
        def before(_: nn.Module, __: Any) -> None:
            self._paused += 1
            if _get_current_dispatch_mode() is self:
                self._resting = True
                self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            with nullcontext() if self._resting else _disable_current_modes():
                then(module, args, kwargs, output)
            self._paused -= 1
            if not self._paused:
                self._resume()

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after, with_kwargs=True)]

    def _resume(self) -> None:
        if self._resting:
            self._resting = False
            self.__enter__()  # type: ignore[no-untyped-call]

    def _pass(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._paused == 1 and args and (trail := self._trail(args[0])) is not None:
            self._leave(output, trail.labels, trail.maker)

    def _layer(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Couple a layer's ports with what came in, and label what comes out."""
        name = self._layers[module]
        at = self._at[name]
        self._calls[name] += 1
        self.used.add(name)
        self.logs[-1].append(name)
        first, last = at.get("in") or at["both"], at.get("out") or at["both"]
        if self._calls[name] > 1:
            self.pin(self._atoms(first), f"{name} runs more than once")
            self.pin(self._atoms(last), f"{name} runs more than once")
        given = next((a for a in pytree.tree_leaves((args, kwargs)) if isinstance(a, Tensor)), None)
        if given is None or not isinstance(output, Tensor):
            self.pin(self._atoms(first), f"{name} takes or gives more than a tensor")
            self.pin(self._atoms(last), f"{name} takes or gives more than a tensor")
            return
        trail = self._trail(given) or Trail(None, torch.zeros((), dtype=torch.int64).expand(given.shape))
        axis, axis_out = channel_axis(module, given.ndim), channel_axis(module, output.ndim)
        fits = given.shape[axis] == first.width and output.shape[axis_out] == last.width
        across = isinstance(module, nn.Linear) and rides(trail.labels)
        if not fits or across:
            why = f"{name} mixes positions, not channels" if across else f"{name} computes more than its kind does"
            self.pin(self._atoms(first), why)
            self.pin(self._atoms(last), why)
            labels = trail.labels[..., :1] if across else torch.tensor(self.reason(why))
            self.pin(trail.labels, why) if not across else None
            self._leave(output, labels.expand(output.shape))
            return
        self.couple(trail.labels, _along(self._atoms(first), axis, given.ndim))
        labels = _along(self._atoms(last), axis_out, output.ndim).expand(output.shape)
        makes = "out" in at and hasattr(module, "weight")
        if trail.maker and not makes:
            self.feeds[name] = trail.maker
        if trail.maker and trail.fresh and makes:
            self.direct.add((trail.maker, name))
        maker = name if makes else trail.maker
        self._leave(output, labels, maker, makes)

    def _atoms(self, port: Ports) -> Tensor:
        return torch.arange(port.start, port.start + port.width)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if time.thread_time() > self._deadline:
            raise OutOfTime
        try:
            output = func(*args, **(kwargs or {}))
        except Exception:
            output = self._stand_in(func, args, kwargs or {})
            if output is None:
                raise
            self._note(func, [output])
            return output
        if self._paused:
            return output
        self._paused += 1
        try:
            self._follow(func, args, kwargs or {}, output)
        finally:
            self._paused -= 1
        return output

    def _stand_in(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        if self._paused or self._instead is None:
            return None
        with _disable_current_modes():
            return self._instead(len(self.logs) - 1, len(self.logs[-1]), func, self._makers(args, kwargs))

    def _note(self, func: Any, outputs: Sequence[Tensor]) -> None:
        self.logs[-1].append((func, [(t.shape, t.dtype) for t in outputs]))

    def _makers(self, args: Any, kwargs: Any) -> set[str]:
        """Layers whose channels these tensors hold."""
        starts = [port.start for port in self.ports]
        found: set[str] = set()
        for tensor in rules.tensors_of((args, kwargs)):
            trail = self._trail(tensor)
            atoms = torch.unique(compact(trail.labels)[0]).tolist() if trail is not None else []
            ports = [self.ports[bisect_right(starts, atom) - 1] for atom in atoms if atom]
            found |= {p.name for p, atom in zip(ports, filter(None, atoms), strict=True) if atom < p.start + p.width}
        return found

    def _follow(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        inputs = rules.tensors_of((args, kwargs))
        for tensor in inputs:
            if id(tensor) in self._weights and self._weights[id(tensor)][0] is tensor:
                self._read_elsewhere(self._weights[id(tensor)][1])
        outputs = rules.tensors_of(output)
        if not outputs:
            self.reads |= isinstance(output, bool | int | float) and any(self.labels(t) is not None for t in inputs)
            return
        self._note(func, outputs)
        known = [labels for t in inputs if (labels := self.labels(t)) is not None]
        if not known and not rules.creates(func):
            return
        made = rules.follow(self, func, args, kwargs, outputs, known)
        sources = {t.maker for t in (self._trail(t) for t in inputs) if t is not None and anyone(t.labels)}
        maker = sources.pop() if len(sources) == 1 else None
        for tensor, labels in zip(outputs, made, strict=True):
            self._leave(tensor, labels, maker)

    def _read_elsewhere(self, name: str) -> None:
        self.used.add(name)
        for port in self._at[name].values():
            self.pin(self._atoms(port), f"other code reads the weights of {name}")

    # what came out

    def classes(self) -> tuple[np.ndarray, dict[int, str]]:
        """Return the class of every label, (labels,), one for all that are coupled, and why pinned classes are so."""
        met = [_paired(torch.cat(self._met, 1))] if self._met else []
        pairs = torch.unique(torch.cat([*self._pairs, *met, torch.zeros(0, dtype=torch.int64)])).numpy()
        a, b = pairs >> 32, pairs & (2**32 - 1)
        marks = np.zeros(self._next, bool)
        marks[list(self.reasons)] = True
        free = ~(marks[a] | marks[b])
        graph = coo_matrix((np.ones(free.sum(), np.int8), (a[free], b[free])), shape=(self._next, self._next))
        _, classes = connected_components(graph, directed=False)
        why: dict[int, str] = {}
        low, high = a[~free], b[~free]
        mark, label = np.where(marks[low], (low, high), (high, low))
        order = np.argsort(-high, kind="stable")  # of several reasons of a class the last one stays
        order = order[~marks[label[order]]]
        for c, reason in zip(classes[label[order]].tolist(), mark[order].tolist(), strict=True):
            why[c] = self.reasons[reason]
        return classes, why

    def sums(self) -> np.ndarray:
        """Labels that are summed over two branches."""
        found: np.ndarray = torch.unique(torch.cat(self._sums)).numpy() if self._sums else np.zeros(0, np.int64)
        return found


def _paired(met: Tensor) -> Tensor:
    """Different labels that met, (2, n), as numbers, one for each pair."""
    a, b = met
    both = (a != 0) & (b != 0) & (a != b)
    return (torch.minimum(a, b)[both] << 32) + torch.maximum(a, b)[both]


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _binding(name: str, module: nn.Module) -> str:
    """Why a module that is not labelled binds the channels that meet its tensors."""
    layer, marker, _ = name.partition(".parametrizations")
    if marker or computed(module):
        return f"the weight of {layer or 'the model'} is computed each time, or a hook runs before it"
    if extended(module):
        return f"{name} ({type(module).__name__}) has more tensors than its kind"
    if type(module).__module__.startswith("torch.nn"):
        return f"{name} is a {type(module).__name__}, which cannot be pruned"
    return f"a parameter outside of layers runs along its channels, in {name or type(module).__name__}"


def _along(labels: Tensor, axis: int, dims: int) -> Tensor:
    shape = [1] * dims
    shape[axis] = -1
    return labels.view(shape)
