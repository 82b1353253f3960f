"""Which groups can shrink, tried on a copy of the model.

Code may count on a layer's full width, as `x.view(-1, 320)` does, and no label shows that. So units are removed from
all groups of the copy, which must run and couple its channels as the model does.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from torch import Tensor, nn

from automc.surgery.channels import Channels
from automc.surgery.coupling import Group, Lost, delete, partition, removed_rows, trace

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
) -> None:
    """Compare the channels of a model that lost these units of each group with those `found` in the whole one.

    Raises:
        Lost: it does not run, gives other shapes, or couples its channels otherwise.
    """
    after = trace(model, example, {}, deadline, training=found.differs)
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
    them, unless the operation that failed names the layer. A layer's groups are refused together, as all of them
    change the same number.
    """
    fine: tuple[Group, ...] = ()
    rest, size, bad = groups, len(groups), 0  # one of the first `bad` of the rest cannot
    while rest and time.thread_time() < until:
        more = rest[: bad // 2 or size]
        lost = _without(model, example, found, (*fine, *more), draw, until)
        if lost is None:
            fine, rest = (*fine, *more), rest[len(more) :]
            size, bad = 2 * len(more), max(0, bad - len(more))
        else:
            size = bad = len(more)
        if bad and (culprit := _culprit(rest[:bad], lost)):
            rest, bad = tuple(group for group in rest if group.root != culprit), 0
            size = size if lost and lost.layers else 1
    return fine


def _culprit(suspects: Sequence[Group], lost: Lost | None) -> str | None:
    """Return the layer whose groups cannot shrink: the only suspect, or the one that the failure names."""
    roots = {group.root for group in suspects}
    if len(suspects) > 1:
        named = lost.layers if lost else frozenset()
        roots = {g.root for g in suspects if any(m.name in named for m in g.members if m.side != "in")}
    return roots.pop() if len(roots) == 1 else None


def _without(
    model: nn.Module, example: Tensor, found: Channels, groups: Sequence[Group], draw: int, until: float
) -> Lost | None:
    """Return why this model without some units of these groups does not run, or couples its channels otherwise."""
    units = _some(groups, draw)
    with _cut(model, groups, units):
        try:
            compare(found, model, example, groups, units, until)
        except Lost as lost:
            return lost
    return None


@contextmanager
def _cut(model: nn.Module, groups: Sequence[Group], units: Sequence[Sequence[int]]) -> Iterator[None]:
    """Remove units for a while: layers get other tensors and widths, and then their own back."""
    modules = dict(model.named_modules())
    layers = {modules[member.name] for group in groups for member in (*group.members, *group.bare)}
    before = [(m, dict(m.__dict__), dict(m._parameters), dict(m._buffers)) for m in layers]
    try:
        delete(groups, units, modules)
        yield
    finally:
        for layer, state, parameters, buffers in before:
            layer.__dict__.clear()
            layer.__dict__.update(state)
            layer._parameters.clear()
            layer._parameters.update(parameters)
            layer._buffers.clear()
            layer._buffers.update(buffers)


def _some(groups: Sequence[Group], draw: int) -> list[list[int]]:
    """Random units of each group: one at first, then any number that may go."""
    rng = np.random.default_rng(draw)
    most = [max(1, group.units - group.min_units) for group in groups]
    return [
        rng.permutation(group.units)[: rng.integers(1, cap + 1) if draw else 1].tolist()
        for group, cap in zip(groups, most, strict=True)
    ]
