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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from automc.models.modes import Watching, flags_kept, unheard
from automc.surgery import channel_rules as rules
from automc.surgery.layers import Side, channel_axis, computed, extended, passes, shrinkable, sides, width

_TRAIL = "_automc_trail"
_IMAGE = "the image's own channels"
_FEW = 1024
"""Pairs that are not worth sorting before the end."""


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


class Channels(Watching):
    """The record of forward passes of one model; `coupled` reads it.

    Args:
        model: its layers are labelled.
        pinned: by module, why its channels must stay.
        deadline: of `time.thread_time()`.
    """

    def __init__(self, model: nn.Module, pinned: Mapping[nn.Module, str], deadline: float = float("inf")) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ports: list[Ports] = []
        self.reasons: dict[int, str] = {}
        self.whole: dict[str, str] = {}  # convolutions and linear layers that are not labelled, and why
        self.feeds: dict[str, str] = {}  # the layer whose output a norm reads
        self.direct: set[tuple[str, str]] = set()  # layers with nothing between them
        self.log: list[str] = []  # of the last pass: layers and operations
        self.shapes: list[tuple[tuple[int, ...], ...]] = []  # of the outputs, by pass
        self.stuck: set[str] = set()  # layers whose channels entered the operation that raised, in no layer
        self.differs = False  # whether the training pass computes otherwise
        self._pairs: list[Tensor] = []  # coupled labels, as a · 2³² + b
        self._sums: list[Tensor] = []
        self._mark = object()
        self._next, self._paused, self._deadline = 1, 0, deadline
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
        a, b = rules.compact(first, second)
        both = (a != 0) & (b != 0) & (a != b)
        pairs = (torch.minimum(a, b)[both] << 32) + torch.maximum(a, b)[both]
        if len(pairs):
            self._pairs.append(torch.unique(pairs) if len(pairs) > _FEW else pairs)

    def pin(self, labels: Tensor, reason: str) -> None:
        """Say that these channels must stay, and why."""
        (labels,) = rules.compact(labels)
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
        self._sums.append(torch.unique(labels))

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
        log, self.log = self.log, []
        hooks = [h for m in self._layers for h in self._hooks(m, self._layer)]
        hooks += [h for m in model.modules() if passes(m) for h in self._hooks(m, self._pass)]
        example = example.detach().clone()
        image = torch.tensor(self.reason(_IMAGE)).expand(example.shape)
        self._leave(example, image)
        try:
            with flags_kept(model), buffers_kept(model), torch.no_grad(), unheard():
                set_mode(model, training)
                with self:
                    output = model(example)
        finally:
            for hook in hooks:
                hook.remove()
        leaves = tensors_in(output)
        self.shapes.append(tuple(tuple(tensor.shape) for tensor in leaves))
        self.differs = self.differs or (training and log != self.log)
        for tensor in leaves:
            if (labels := self.labels(tensor)) is not None:
                self.pin(labels, "its outputs are the model's outputs")

    def _hooks(self, module: nn.Module, then: Callable[[nn.Module, Any, Any, Any], None]) -> list[Any]:
        def before(_: nn.Module, __: Any) -> None:
            self._paused += 1

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            with _disable_current_modes():
                then(module, args, kwargs, output)
            self._paused -= 1

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after, with_kwargs=True)]

    def _pass(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._paused == 1 and args and (trail := self._trail(args[0])) is not None:
            self._leave(output, trail.labels, trail.maker)

    def _layer(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Couple a layer's ports with what came in, and label what comes out."""
        name = self._layers[module]
        at = self._at[name]
        self._calls[name] += 1
        self.log.append(name)
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
        rides = isinstance(module, nn.Linear) and rules.rides(trail.labels)
        if not fits or rides:
            why = f"{name} mixes positions, not channels" if rides else f"{name} computes more than its kind does"
            self.pin(self._atoms(first), why)
            self.pin(self._atoms(last), why)
            labels = trail.labels[..., :1] if rides else torch.tensor(self.reason(why))
            self.pin(trail.labels, why) if not rides else None
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
            self.stuck = set() if self._paused else self._makers(args, kwargs or {})
            raise
        if self._paused:
            return output
        self._paused += 1
        try:
            self._follow(func, args, kwargs or {}, output)
        finally:
            self._paused -= 1
        return output

    def _makers(self, args: Any, kwargs: Any) -> set[str]:
        """Layers whose channels these tensors hold."""
        starts = [port.start for port in self.ports]
        found: set[str] = set()
        for tensor in rules.tensors_of((args, kwargs)):
            trail = self._trail(tensor)
            atoms = torch.unique(rules.compact(trail.labels)[0]).tolist() if trail is not None else []
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
            return
        self.log.append(str(func))
        known = [labels for t in inputs if (labels := self.labels(t)) is not None]
        if not known and not rules.creates(func):
            return
        made = rules.follow(self, func, args, kwargs, outputs, known)
        sources = {t.maker for t in (self._trail(t) for t in inputs) if t is not None and rules.anyone(t.labels)}
        maker = sources.pop() if len(sources) == 1 else None
        for tensor, labels in zip(outputs, made, strict=True):
            self._leave(tensor, labels, maker)

    def _read_elsewhere(self, name: str) -> None:
        for port in self._at[name].values():
            self.pin(self._atoms(port), f"other code reads the weights of {name}")

    # what came out

    def classes(self) -> tuple[np.ndarray, dict[int, str]]:
        """Return the class of every label, (labels,), one for all that are coupled, and why pinned classes are so."""
        pairs = torch.unique(torch.cat(self._pairs)).numpy() if self._pairs else np.zeros(0, np.int64)
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


def set_mode(model: nn.Module, training: bool) -> None:
    """Switch the code of a model to training or evaluation, its normalising and dropping layers to evaluation."""
    model.train(training)
    for module in model.modules():
        if isinstance(module, _NormBase | _DropoutNd):
            module.training = False


def tensors_in(output: Any) -> list[Tensor]:
    """The tensors in whatever a model returned."""
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif isinstance(leaf, Mapping):  # before the next: a class of dicts has a __dict__ as well
            found += tensors_in(dict(leaf))
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, type):
            found += [t for t in vars(leaf).values() if isinstance(t, Tensor)]
    return found


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Bring buffers back to what they were, as a pass in training mode moves statistics."""
    before = [(buffer, buffer.clone(), buffer._version) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, old, version in before:
                if buffer._version != version:
                    buffer.copy_(old)


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
