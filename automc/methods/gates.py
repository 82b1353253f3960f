"""Gates on the channels of a model: one for each unit of a channel group, after whatever scales it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from automc.models.keeping import kept
from automc.surgery.coupling import Member
from automc.surgery.groups import Group, Groups
from automc.surgery.layers import channel_axis, width


class Gates:
    """Scores in the place of the scales of a model's channels; all begin at 1, where the model is as it was.

    A group's gates multiply what its batch norms give, or where it has none what its first layers give.

    Args:
        groups: of the model.
        still: patterns of layers that are not trained: their groups have no gates.
    """

    def __init__(self, groups: Groups, still: Sequence[str] = ()) -> None:
        self._groups = groups
        self.of: list[tuple[Group, tuple[Member, ...], Tensor]] = []
        device = next(groups.model.parameters()).device
        for group in groups.groups:
            members = group.of_kind(_BatchNorm) or group.of_kind(_ConvNd, nn.Linear, side="out")
            if not any(kept(f"{m.name}.weight", still) for m in members):
                self.of.append((group, members, torch.ones(group.units, device=device, requires_grad=True)))
        none = [0] * len(groups.groups)
        self._params = groups.params(none)
        ones = [[int(own is group) for own in groups.groups] for group, _, _ in self.of]
        self._costs = [self._params - groups.params(one) for one in ones]

    @property
    def scores(self) -> list[Tensor]:
        """The gates of each group, (units,)."""
        return [gates for _, _, gates in self.of]

    @contextmanager
    def working(self) -> Iterator[None]:
        """Let the gates work inside the block."""
        hooks = [m.module.register_forward_hook(self._hook(m, gates)) for _, ms, gates in self.of for m in ms]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, member: Member, gates: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def gate(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            shape = [1] * output.ndim
            shape[channel_axis(module, output.ndim)] = -1
            return output * self._spread(member, gates).to(output.dtype).reshape(shape)

        return gate

    def _spread(self, member: Member, gates: Tensor) -> Tensor:
        """The gate of each channel of a layer; 1 for those of other groups."""
        rows = self._groups.rows(member)
        wide = torch.ones(width(member.module, member.side), device=gates.device)
        return wide.index_put((rows,), gates[:, None].expand(rows.shape))

    def open_params(self) -> Tensor:
        """Return the parameters of the model if a unit counts as its gate is open, from 0 to 1; differentiable."""
        pairs = zip(self._costs, self.scores, strict=True)
        closed = [cost * (1 - gates.abs().clamp_max(1)).sum() for cost, gates in pairs]
        return self._params - torch.stack(closed).sum()

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply the gates into the layers' own weights, and begin again at 1."""
        for _, members, gates in self.of:
            for member in members:
                each = self._spread(member, gates)
                module: Any = member.module
                if module.weight is None:
                    continue
                module.weight.mul_(each.reshape(-1, *[1] * (module.weight.ndim - 1)))
                if module.bias is not None:
                    module.bias.mul_(each)
            gates.fill_(1)
