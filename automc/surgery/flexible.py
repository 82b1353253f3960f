"""Which groups can shrink, tried on a copy of the model.

Code may count on a layer's full width, as `x.view(-1, 320)` does, and no label shows that. So units are removed from
all groups of the copy, which must run and couple its channels as the model does.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from automc.surgery.channels import Channels, Instead
from automc.surgery.coupling import Group, Lost, delete, partition, removed_rows, trace
from automc.surgery.layers import cut

DRAWS = 3
"""Cuts that are tried on a copy before a group counts as one that can shrink."""


def flexible(
    model: nn.Module, example: Tensor, found: Channels, groups: tuple[Group, ...], until: float
) -> tuple[Group, ...]:
    """Return the groups that can shrink together.

    Args:
        model: stays as it is.
        example: a batch of inputs.
        found: the channels of the model.
        groups: all of them.
        until: of `time.thread_time()`; what was not tried by then is left out.
    """
    own = (*model.parameters(), *model.buffers())  # cuts and passes do not write to them
    model = copy.deepcopy(model, {id(tensor): tensor for tensor in own})
    fine, draw, held = groups, 0, 0
    while held < DRAWS:  # what is left must bear every draw
        left = _accepted(model, example, found, fine, draw, until)
        held = held + 1 if len(left) == len(fine) else 1
        fine, draw = left, (draw + 1) % DRAWS
    return fine


def compare(
    found: Channels,
    model: nn.Module,
    example: Tensor,
    groups: Sequence[Group],
    units: Sequence[Sequence[int]],
    deadline: float,
    instead: Instead | None = None,
) -> None:
    """Compare the channels of a model that lost these units of each group with those `found` in the whole one.

    Raises:
        Lost: it does not run, gives other shapes, or couples its channels otherwise.
    """
    after = trace(model, example, {}, deadline, found.differs, instead)
    wanted = found.shapes[: len(after.shapes)]
    if after.shapes != wanted:
        raise Lost(f"it gives outputs of shape {after.shapes} instead of {wanted}")
    if not np.array_equal(partition(after), partition(found, removed_rows(groups, units))):
        raise Lost("its layers are coupled otherwise than before")


def _accepted(
    model: nn.Module, example: Tensor, found: Channels, groups: tuple[Group, ...], draw: int, until: float
) -> tuple[Group, ...]:
    """Return those that can shrink together by the units of one draw.

    As many as `size` join those that are fine, twice as many after each success. After a failure it is halves of
    them, unless the operations that failed name layers. A layer's groups are refused together, as all of them
    change the same number.
    """
    fine: tuple[Group, ...] = ()
    rest, size, bad = groups, len(groups), 0  # one of the first `bad` of the rest cannot
    while rest and time.thread_time() < until:
        more = rest[: bad // 2 or size]
        trial = _Trial(model, example, found, (*fine, *more), draw, more)
        if trial.passed(until):
            fine, rest = (*fine, *more), rest[len(more) :]
            size, bad = 2 * len(more), max(0, bad - len(more))
        else:
            size = bad = len(more)
        if culprits := trial.culprits or ({rest[0].root} if bad == 1 else set()):
            rest, bad = tuple(group for group in rest if group.root not in culprits), 0
            size = size if trial.culprits else 1
    return fine


class _Trial:
    """A copy of the model that loses some units of each group for one look.

    Where an operation cannot take what is left of a layer, the groups of that layer cannot shrink. They get their
    units back at once, the operation gives what it gave in the whole model, and the pass goes on to find others.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        found: Channels,
        groups: Sequence[Group],
        draw: int,
        suspects: Sequence[Group],
    ) -> None:
        self.culprits: set[str] = set()  # roots of such groups
        self._model, self._example, self._found, self._groups = model, example, found, groups
        self._units = _some(groups, draw)
        self._suspects = suspects
        self._modules = dict(model.named_modules())

    def passed(self, until: float) -> bool:
        """Whether the model without these units runs, and couples its channels as before."""
        layers = {member.name for group in self._groups for member in (*group.members, *group.bare)}
        self._whole = {
            m: (dict(m.__dict__), dict(m._parameters), dict(m._buffers)) for m in (self._modules[n] for n in layers)
        }
        try:
            delete(self._groups, self._units, self._modules)
            compare(self._found, self._model, self._example, self._groups, self._units, until, self._instead)
        except Lost:
            return False
        finally:
            self._restore(layers)
        return not self.culprits

    def _restore(self, layers: Iterable[str]) -> None:
        """Give layers, which had other tensors and widths for a while, their own back."""
        for layer in (self._modules[name] for name in layers):
            state, parameters, buffers = self._whole[layer]
            layer.__dict__.clear()
            layer.__dict__.update(state)
            layer._parameters.clear()
            layer._parameters.update(parameters)
            layer._buffers.clear()
            layer._buffers.update(buffers)

    def _instead(self, number: int, place: int, func: Any, layers: Set[str]) -> Tensor | None:
        """Note whose channels an operation could not take, and return what it gave in the whole model."""
        named = {g.root for g in self._suspects if any(m.name in layers for m in g.members if m.side != "in")}
        if not named or len(named - self.culprits) > 1:
            return None
        self.culprits |= named
        self._give_back(named)
        whole = self._found.logs[number][place : place + 1]
        if func._schema.is_mutable or not whole or whole[0][0] is not func or len(whole[0][1]) != 1:
            return None
        shape, dtype = whole[0][1][0]
        return torch.zeros(shape, dtype=dtype, device=self._example.device)

    def _give_back(self, roots: Set[str]) -> None:
        mine = [group for group in self._groups if group.root in roots]
        names = {member.name for group in mine for member in (*group.members, *group.bare)}
        modes = {name: self._modules[name].training for name in names}
        self._restore(names)
        for name, mode in modes.items():  # the pass goes on in its own
            self._modules[name].training = mode
        gone = [() if g.root in self.culprits else units for g, units in zip(self._groups, self._units, strict=True)]
        for (name, side), rows in removed_rows(self._groups, gone).items():
            if name in names:
                cut(self._modules[name], side, rows)


def _some(groups: Sequence[Group], draw: int) -> list[list[int]]:
    """Random units of each group: one at first, then any number that may go."""
    rng = np.random.default_rng(draw)
    most = [max(1, group.units - group.min_units) for group in groups]
    return [
        rng.permutation(group.units)[: rng.integers(1, cap + 1) if draw else 1].tolist()
        for group, cap in zip(groups, most, strict=True)
    ]
