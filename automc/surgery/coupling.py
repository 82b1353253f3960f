"""Which layers must shrink together: the classes of `channels`, read into plain index arrays."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from automc.models.keeping import kept
from automc.surgery.channels import Channels, Instead, OutOfTime, Ports
from automc.surgery.layers import Side, cut, parts


class Lost(Exception):
    """Why the channels of a model cannot be followed."""


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

    A unit is what can be removed at once: one channel of `root`, the first layer that produces them, or `copies` of
    them where a grouped convolution forces equal counts or code folds channels over each other. `stream`: the
    channels are summed over a residual connection. `rank`: the inner width of a factored layer, with nothing between
    its two convolutions. `bare`: what shrinks along and has no parameters.
    """

    root: str
    units: int
    copies: int
    stream: bool
    rank: bool
    members: tuple[Member, ...]
    bare: tuple[Member, ...] = ()

    @property
    def min_units(self) -> int:
        """Units that must stay: 2, or 1 for the inner rank of a factored layer."""
        return 1 if self.rank else 2

    def channels(self, units: Iterable[int]) -> list[int]:
        """Output channels of the root that `units` stand for, sorted."""
        (root,) = (m for m in self.members if m.name == self.root and m.side == "out")
        return sorted(root.rows[list(units)].flatten().tolist())

    def of_kind(self, *kinds: type[nn.Module], side: Side | None = None) -> tuple[Member, ...]:
        """Members whose module is of one of `kinds`, on one side where given."""
        return tuple(m for m in self.members if isinstance(m.module, kinds) and side in (None, m.side))


def trace(
    model: nn.Module,
    example: Tensor,
    pinned: Mapping[nn.Module, str],
    deadline: float,
    training: bool | None = None,
    instead: Instead | None = None,
) -> Channels:
    """Follow the channels of a model through an evaluation pass and a training pass.

    Args:
        training: whether a training pass must run too; None where it may fail, as one that asks for targets does.
        instead: asked where an operation raises.

    Raises:
        Lost: the model does not run, or not in time, or takes one of several ways by what it sees.
    """
    found = Channels(model, pinned, deadline, instead)
    try:
        found.run(model, example)
        if training is None:
            _try_training(found, model, example)
        elif training:
            found.run(model, example, training=True)
    except OutOfTime:
        raise Lost("looking for them took longer than it may") from None
    except Exception as error:  # a forward pass can raise anything
        raise Lost(f"the forward pass raises {type(error).__name__}: {error}") from error
    idle = next((port.name for port in found.ports if port.name not in found.used), None)
    if found.reads and idle:
        raise Lost(f"its code chooses by the values of images which layers run, and {idle} did not")
    return found


def _try_training(found: Channels, model: nn.Module, example: Tensor) -> None:
    try:
        found.run(model, example, training=True)
    except OutOfTime:
        raise
    except Exception:  # the user's own, and then nobody trains it that way
        found.differs = False


def pins(model: nn.Module, keep: Sequence[str]) -> dict[nn.Module, str]:
    """Layers that must stay as they are, and why: matched by `keep`, in the model twice, or sharing a tensor."""
    names = list(model.named_modules(remove_duplicate=False))
    often = Counter(module for _, module in names)
    owners: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            owners[id(tensor)].append(name)
    why: dict[nn.Module, str] = {}
    for name, module in names:
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        others = sorted({owner for t in tensors for owner in owners[id(t)]} - {name})
        if name and kept(name, keep):
            why[module] = f"{name} is kept by a pattern or its factory"
        elif often[module] > 1 and tensors:
            why.setdefault(module, f"{name} is in the model more than once")
        elif others:
            why.setdefault(module, f"{name} shares its weight with {', '.join(others)}")
    return why


@dataclass(frozen=True, slots=True)
class _Block:
    """Classes that are alike: `rows[p]`, (classes, per class), are their channels of port p."""

    classes: np.ndarray
    rows: dict[int, np.ndarray]


def read_groups(found: Channels) -> tuple[tuple[Group, ...], dict[str, str]]:
    """List the groups that may shrink, in the order of their roots in the model, and why other producers may not."""
    classes, pinned = found.classes()
    streams = set(classes[found.sums()].tolist())
    ports = found.ports
    port = np.concatenate([np.full(p.width, i) for i, p in enumerate(ports)] or [np.zeros(0, int)])
    row = np.concatenate([np.arange(p.width) for p in ports] or [np.zeros(0, int)])
    own = classes[1 : len(port) + 1]
    groups: list[Group] = []
    refused = dict(found.whole)
    for alike in _alike(own, port, pinned):
        block = _block(own, port, row, alike)
        producers = [ports[p] for p in block.rows if _produces(ports[p])]
        reasons = [pinned[c] for c in block.classes.tolist() if c in pinned]
        if not producers:
            continue
        group = _group(found, block, bool(set(block.classes.tolist()) & streams)) if not reasons else reasons[0]
        if isinstance(group, Group):
            groups.append(group)
        else:
            refused |= {p.name: group for p in producers}
    order = {p.name: i for i, p in enumerate(ports)}
    groups.sort(key=lambda g: (order[g.root], int(g.members[0].rows[0, 0])))
    free = {m.name for g in groups for m in g.members if m.side == "out"}
    return tuple(groups), {name: why for name, why in refused.items() if name not in free}


def _produces(port: Ports) -> bool:
    return port.side == "out" and isinstance(port.module, _ConvNd | nn.Linear)


def _alike(own: np.ndarray, port: np.ndarray, pinned: Mapping[int, str]) -> list[np.ndarray]:
    """Classes that take as many channels from the same ports, together; pinned ones apart."""
    ports: dict[int, list[int]] = defaultdict(list)
    for c, p in zip(own.tolist(), port.tolist(), strict=True):
        ports[c].append(p)
    found: dict[tuple[str | None, tuple[int, ...]], list[int]] = defaultdict(list)
    for c, its in ports.items():
        found[pinned.get(c), tuple(its)].append(c)
    return [np.array(these) for these in found.values()]


def _block(own: np.ndarray, port: np.ndarray, row: np.ndarray, alike: np.ndarray) -> _Block:
    mine = np.flatnonzero(np.isin(own, alike))
    rows: dict[int, np.ndarray] = {}
    position = {c: i for i, c in enumerate(alike.tolist())}
    for p in np.unique(port[mine]).tolist():
        here = mine[port[mine] == p]
        place = np.array([position[c] for c in own[here].tolist()])
        rows[p] = row[here][np.lexsort((row[here], place))].reshape(len(alike), -1)
    return _Block(alike, rows)


def _group(found: Channels, block: _Block, stream: bool) -> Group | str:
    """Form the units of a group: one class each, or as many as grouped layers force. Else why that cannot be."""
    ports = found.ports
    root = next(p for p in block.rows if _produces(ports[p]))
    count = len(block.classes)
    key = np.zeros((count, 0), np.int64)
    for p, rows in block.rows.items():
        number = parts(ports[p].module, ports[p].side)
        if number > 1:
            part = rows // (ports[p].width // number)
            if len({tuple(np.bincount(r, minlength=number)) for r in part}) > 1 or part.shape[1] % number:
                key = np.hstack([key, part])
    _, cell = np.unique(key, axis=0, return_inverse=True) if key.shape[1] else (None, np.zeros(count, np.int64))
    sizes = np.bincount(cell.reshape(-1))
    if len(set(sizes.tolist())) > 1:
        return "its channels do not divide into the parts of a grouped layer"
    # unit u takes the u-th class of every cell
    units = np.argsort(cell.reshape(-1), kind="stable").reshape(len(sizes), -1).T
    if len(units) == 1:
        single = ports[root].width == 1
        return "it has a single channel" if single else "its channels depend on each other: none goes alone"
    members: list[Member] = []
    bare: list[Member] = []
    for p, rows in block.rows.items():
        name, module, side = ports[p].name, ports[p].module, ports[p].side
        taken = rows[units].reshape(len(units), -1)
        number = parts(module, side)
        if number > 1 and not _even(taken // (ports[p].width // number), number):
            return f"its channels are spread unevenly over {name}"
        has = next(module.parameters(recurse=False), None) is not None
        (members if has else bare).append(Member(name, module, side, taken))
    copies = len(units[0]) * block.rows[root].shape[1]
    rank = not bare and _factors(found, members)
    return Group(ports[root].name, len(units), copies, stream, rank, tuple(members), tuple(bare))


def _even(parts_of: np.ndarray, number: int) -> bool:
    """Whether each row of part numbers has every part equally often."""
    spread = np.stack([np.bincount(row, minlength=number) for row in parts_of])
    return bool((spread == spread[0, 0]).all())


def _factors(found: Channels, members: Sequence[Member]) -> bool:
    """Whether these are the two sides of the inner width of a factored layer."""
    names = {m.side: m.name for m in members if isinstance(m.module, nn.Linear) or getattr(m.module, "groups", 0) == 1}
    return len(members) == 2 and (names.get("out"), names.get("in")) in found.direct


def removed_rows(groups: Sequence[Group], removed: Sequence[Sequence[int]]) -> dict[tuple[str, Side], np.ndarray]:
    """Return the channels that go with units of each group, by layer and side."""
    rows: dict[tuple[str, Side], list[np.ndarray]] = defaultdict(list)
    for group, units in zip(groups, removed, strict=True):
        for member in (*group.members, *group.bare) if len(units) else ():
            rows[member.name, member.side].append(member.rows[list(units)].flatten())
    return {key: np.concatenate(gone) for key, gone in rows.items()}


def delete(groups: Sequence[Group], removed: Sequence[Sequence[int]], modules: Mapping[str, nn.Module]) -> None:
    """Remove units of each group from the layers of these names, in place."""
    for (name, side), rows in removed_rows(groups, removed).items():
        cut(modules[name], side, rows)


def partition(found: Channels, gone: Mapping[tuple[str, Side], np.ndarray] | None = None) -> np.ndarray:
    """Return the classes of all channels, numbered in the order in which they first occur; without those `gone`.

    Two models whose partitions are equal couple their channels alike.
    """
    classes, _ = found.classes()
    left = []
    for p in found.ports:
        these = classes[p.start : p.start + p.width]
        lost = (gone or {}).get((p.name, p.side))
        left.append(these if lost is None else np.delete(these, lost))
    _, first, inverse = np.unique(np.concatenate(left or [np.zeros(0, int)]), return_index=True, return_inverse=True)
    order = np.empty_like(first)
    order[np.argsort(first)] = np.arange(len(first))
    numbers: np.ndarray = order[inverse]
    return numbers
