"""Channel groups of a model: what can be removed, what it costs, how to meet a parameter budget exactly."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from automc.errors import Infeasible
from automc.models.keeping import kept
from automc.surgery.coupling import Group, Lost, Member, delete, pins, read_groups, trace
from automc.surgery.flexible import compare, flexible
from automc.surgery.layers import depthwise, parts
from automc.surgery.proof import NO_TIME, unproved

__all__ = ["Group", "Groups", "Member", "Plan", "kept"]

SECONDS = 120.0
"""Of this thread's processor time, so that a busy machine refuses no more: to find and prove one model's groups."""

REASONS = 3
"""Reasons that `why_not` tells."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Units to remove from each group, and what is left.

    `removed[g]` are sorted unit indices of group g; `params` the parameters after the surgery, exact;
    `reached` is `params` ≤ the target that was planned for.
    """

    removed: tuple[tuple[int, ...], ...]
    params: int
    reached: bool

    @property
    def units(self) -> int:
        """Units removed in all."""
        return sum(len(units) for units in self.removed)


class Groups:
    """The channel groups of one model, with a parameter counter that needs no surgery.

    Removing units changes every layer's input and output width linearly, so the count after any removal
    follows from the layers' formulas: conv o·(i/groups)·k² + o, linear o·i + o, norms 2c. It is exact.

    Args:
        model: the network; only `apply` changes it.
        example: one batch of inputs of the right shape, on the model's device.
        keep: fnmatch patterns on module names; matched layers and their children are never touched.
        seconds: time to find and prove the groups; layers that are not proved by then are refused.

    Raises:
        Infeasible: the model's channels cannot be followed.
    """

    def __init__(self, model: nn.Module, example: Tensor, keep: Sequence[str] = (), seconds: float = SECONDS) -> None:
        self.model = model
        self._example = example
        self._deadline = time.thread_time() + seconds
        self._half = time.thread_time() + seconds / 2  # the other half is for the proof
        try:
            self._found = trace(model, example, pins(model, keep), self._deadline)
        except Lost as why:
            raise Infeasible(
                f"The channels of this {type(model).__name__} cannot be followed: {why}. Use a method that factors "
                "layers instead."
            ) from why
        # refused: by name of a layer, why its channels must stay
        self.groups, self.refused = read_groups(self._found)
        self._refuse_rigid()
        self._refuse_unproved()
        self._rows: dict[int, Tensor] = {}
        self._build_counter()

    def _refuse_rigid(self) -> None:
        fine = flexible(self.model, self._example, self._found, self.groups, self._half)
        for group in self.groups:
            if not any(group is one for one in fine):
                late = time.thread_time() > self._half
                self.refused[group.root] = NO_TIME if late else "the code after it counts on this number of channels"
        self.groups = fine

    def _refuse_unproved(self) -> None:
        bad = unproved(self.model, self._example, self.groups, self._deadline, training=self._found.differs)
        self.refused |= {self.groups[g].root: why for g, why in bad.items()}
        self.groups = tuple(group for g, group in enumerate(self.groups) if g not in bad)

    def why_not(self) -> str:
        """Name the commonest reasons of layers that must stay, each with how many: "conv1 and 2 more: why; …"."""
        names: dict[str, list[str]] = {}
        for name, why in self.refused.items():
            names.setdefault(why, []).append(name)
        common = sorted(names.items(), key=lambda item: -len(item[1]))
        told = [f"{first}{f' and {len(more)} more' if more else ''}: {why}" for why, (first, *more) in common[:REASONS]]
        return "; ".join(told + ([f"and {len(common) - REASONS} other reasons"] if len(common) > REASONS else []))

    def _build_counter(self) -> None:
        members = [(g, member) for g, group in enumerate(self.groups) for member in group.members]
        layers = list(
            {id(m.module): m.module for _, m in members if next(m.module.parameters(), None) is not None}.values()
        )
        row = {id(module): r for r, module in enumerate(layers)}
        shape = (len(layers), len(self.groups))
        self._minus_in, self._minus_out = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        # parameters of a layer = weight · in · out + each · out
        self._in, self._out, self._weight, self._each = (
            np.array([_formula(m) for m in layers], np.int64).reshape(-1, 4).T
        )
        for g, member in members:
            if id(member.module) not in row:
                continue
            r = row[id(member.module)]
            if member.side == "in":
                self._minus_in[r, g] += member.per_unit // parts(member.module, "in")
            else:
                self._minus_out[r, g] += member.per_unit
        total = sum(p.numel() for p in self.model.parameters())
        self._fixed = 0
        self._fixed = total - self.params(np.zeros(len(self.groups), np.int64))

    def params(self, removed: Sequence[int] | np.ndarray) -> int:
        """Parameters of the model after `removed[g]` units of each group g are gone."""
        counts = np.asarray(removed, np.int64)
        outs = self._out - self._minus_out @ counts
        ins = self._in - self._minus_in @ counts
        return int(self._fixed + (self._weight * ins * outs + self._each * outs).sum())

    def caps(self, share: float = 1.0, *, stream: bool = True) -> list[int]:
        """Most units each group may lose: min(units − min_units, ⌊share · units⌋), 0 outside the scope.

        `stream=False` leaves residual streams whole.
        """
        return [
            max(0, min(g.units - g.min_units, int(share * g.units + 1e-9))) if stream or not g.stream else 0
            for g in self.groups
        ]

    def allowed(self, caps: Sequence[int], round_to: int = 1) -> list[np.ndarray]:
        """Numbers of units that each group may lose, from 0 to its cap, so that multiples of `round_to` stay."""
        return [np.cumsum([0, *_chunk_sizes(group, caps[g], round_to)]) for g, group in enumerate(self.groups)]

    def weight_norms(self, group: Group) -> Tensor:
        """L2 norm of the weights that produce each unit, (units,) on the model's device.

        For the inner rank of a factored layer the consumer's norm is multiplied in: scaling one factor up
        and the other down leaves the layer unchanged, so the producer's norm alone says nothing.
        """
        squares = self._squares(group, "out")
        return (squares * self._squares(group, "in")).sqrt() if group.rank else squares.sqrt()

    def bn_scales(self, group: Group) -> Tensor | None:
        """Mean |γ| of each unit over the group's batch norms, (units,); None where it has none with a γ."""
        norms = [m for m in group.of_kind(_BatchNorm) if m.weight is not None]
        if not norms:
            return None
        scales = [m.weight.detach().abs()[self.rows(m)].mean(1) for m in norms]
        return torch.stack(scales).mean(0)

    def rows(self, member: Member) -> Tensor:
        """The member's channels by unit, (units, per unit) int64 on the model's device."""
        if id(member) not in self._rows:
            self._rows[id(member)] = torch.as_tensor(member.rows, device=self._example.device)
        return self._rows[id(member)]

    def weight_sums(self, member: Member, order: int) -> Tensor:
        """Σ|w|^order over the weights of a convolution or linear layer that each unit takes away, (units,)."""
        axis = 0 if member.side == "out" else 1
        powers = member.weight.detach().abs().pow(order)
        return powers.sum([d for d in range(powers.dim()) if d != axis])[self.rows(member)].sum(1)

    def fan_in(self, group: Group, norm: Member) -> float:
        """Weights of one filter of the layer that feeds a norm; the mean over the group's layers where several do."""
        layer = self._found.feeds.get(norm.name)
        producers = group.of_kind(_ConvNd, nn.Linear, side="out")
        weights = [m.weight for m in producers if layer in (m.name, None)] or [m.weight for m in producers]
        return float(np.mean([weight[0].numel() for weight in weights]))

    def _squares(self, group: Group, side: str) -> Tensor:
        """Sum of squared weights per unit, over the convolutions and linear layers on one side of the group."""
        members = [member for member in group.of_kind(_ConvNd, nn.Linear) if member.side == side]
        return torch.stack([self.weight_sums(member, 2) for member in members]).sum(0)

    def plan(self, scores: Sequence[np.ndarray | None], target: int, caps: Sequence[int], round_to: int = 1) -> Plan:
        """Choose the lowest-scored units so that at most `target` parameters are left, and no unit more.

        Units are walked from the lowest score up (ties: by group, then index), skipping groups at their
        cap; the shortest sufficient prefix is taken, then units are given back from its highest score
        down wherever the count stays within the target. So the slack is below the cost of the cheapest
        unit removed. Where even everything under the caps is too little, that is the plan, not `reached`.

        Args:
            scores: one value per unit for each group, None where a group is not to be ranked.
            target: parameters that may be left.
            caps: most units to remove from each group.
            round_to: kept channel counts are multiples of this (in every group that loses any).
        """
        chunks = [
            (score, g, c, units)
            for g, values in enumerate(scores)
            if values is not None
            for c, (score, units) in enumerate(_chunks(self.groups[g], values, caps[g], round_to))
        ]
        chunks.sort(key=lambda chunk: chunk[:3])
        counts = np.zeros((len(chunks) + 1, len(self.groups)), np.int64)
        for position, (_, g, _, units) in enumerate(chunks):
            counts[position + 1] = counts[position]
            counts[position + 1, g] += len(units)
        low, high = 0, len(chunks)
        while low < high:
            middle = (low + high) // 2
            if self.params(counts[middle]) <= target:
                high = middle
            else:
                low = middle + 1
        chosen, closed = counts[low].copy(), set[int]()
        taken = []
        for _, g, _, units in reversed(chunks[:low]):
            if g not in closed:
                chosen[g] -= len(units)
                if self.params(chosen) <= target:
                    continue
                chosen[g] += len(units)
                closed.add(g)
            taken.append((g, units))
        return self._plan(taken, target)

    def plan_uniform(self, target: int, caps: Sequence[int], round_to: int = 1) -> list[int]:
        """Units to remove from each group by one common ratio, so that at most `target` parameters are left.

        The smallest sufficient ratio is found by bisection; then single units (or multiples, for
        `round_to`) go back, largest group first, while the count stays within the target. The counts do
        not depend on weights. Where the target is out of reach the caps themselves come back.
        """
        steps = self.allowed(caps, round_to)
        ratios = sorted({s / group.units for group, allowed in zip(self.groups, steps, strict=True) for s in allowed})

        def at(ratio: float) -> np.ndarray:
            pairs = zip(self.groups, steps, strict=True)
            return np.array([s[np.searchsorted(s, ratio * g.units + 1e-9, "right") - 1] for g, s in pairs], np.int64)

        low, high = 0, max(0, len(ratios) - 1)
        while low < high:
            middle = (low + high) // 2
            if self.params(at(ratios[middle])) <= target:
                high = middle
            else:
                low = middle + 1
        counts = at(ratios[low]) if ratios else np.zeros(0, np.int64)
        order = sorted(range(len(self.groups)), key=lambda g: (-self.groups[g].units, g))
        changed = True
        while changed:
            changed = False
            for g in order:
                below = steps[g][np.searchsorted(steps[g], counts[g]) - 1] if counts[g] else counts[g]
                trial = counts.copy()
                trial[g] = below
                if below < counts[g] and self.params(trial) <= target:
                    counts, changed = trial, True
        return [int(count) for count in counts]

    def removal(self, units: Sequence[Sequence[int]], target: int) -> Plan:
        """Plan the removal of exactly these units of each group."""
        return self._plan([(g, list(chosen)) for g, chosen in enumerate(units)], target)

    def _plan(self, taken: list[tuple[int, list[int]]], target: int) -> Plan:
        removed: list[list[int]] = [[] for _ in self.groups]
        for g, units in taken:
            removed[g] += units
        params = self.params([len(units) for units in removed])
        return Plan(tuple(tuple(sorted(units)) for units in removed), params, params <= target)

    def unit_cost(self, plan: Plan) -> int:
        """Parameters that come back with the cheapest unit the plan removes; 0 where it removes none."""
        counts = np.array([len(units) for units in plan.removed], np.int64)
        costs = []
        for g in np.flatnonzero(counts):
            counts[g] -= 1
            costs.append(self.params(counts) - plan.params)
            counts[g] += 1
        return min(costs, default=0)

    def apply(self, plan: Plan) -> None:
        """Remove the plan's units from the model, in place. These groups are spent afterwards.

        Raises:
            Infeasible: the smaller model does not run, or counts otherwise than planned: its channels are
                coupled in a way that their trace did not show.
        """
        self._cut(self.model, plan)

    def pruned(self, plan: Plan) -> nn.Module:
        """Return a copy of the model without the plan's units; the model and these groups stay as they are.

        Only the caller refers to the copy, so its memory is free as soon as it is dropped.

        Raises:
            Infeasible: as `apply`.
        """
        model = copy.deepcopy(self.model)
        self._cut(model, plan)
        return model

    def _cut(self, model: nn.Module, plan: Plan) -> None:
        delete(self.groups, plan.removed, dict(model.named_modules()))
        try:
            compare(self._found, model, self._example, self.groups, plan.removed, time.thread_time() + SECONDS)
        except Lost as error:
            raise Infeasible(
                f"After removing channels the model is not what it was: {error}. It counts on fixed numbers of "
                "channels, as a reshape into attention heads does: name those layers with --keep."
            ) from error
        actual = sum(p.numel() for p in model.parameters())
        if actual != plan.params:
            raise Infeasible(
                f"After removing channels the model has {actual} parameters instead of {plan.params}: its layers are "
                "coupled in a way that could not be traced."
            )


def _formula(module: nn.Module) -> tuple[int, int, int, int]:
    """Inputs per part, outputs, parameters per input × output, parameters per output."""
    bias = int(getattr(module, "bias", None) is not None)
    if isinstance(module, _ConvNd):
        kernel = int(np.prod(module.kernel_size))
        if depthwise(module):
            return 1, module.out_channels, 0, kernel + bias
        return module.in_channels // module.groups, module.out_channels, kernel, bias
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features, 1, bias
    parameters = list(module.parameters())
    return 1, len(parameters[0]), 0, len(parameters)


def _chunk_sizes(group: Group, cap: int, round_to: int) -> list[int]:
    """Sizes of the steps in which a group may lose units so that what stays is a multiple of `round_to` channels."""
    quantum = round_to // gcd(round_to, group.copies)
    first = group.units % quantum or quantum
    if first > cap:
        return []
    return [first] + [quantum] * ((cap - first) // quantum)


def _chunks(group: Group, values: np.ndarray, cap: int, round_to: int) -> list[tuple[float, list[int]]]:
    """Units from the lowest score up, cut into steps; each step with its mean score."""
    order = np.argsort(values, kind="stable")
    chunks, start = [], 0
    for size in _chunk_sizes(group, cap, round_to):
        units = order[start : start + size]
        chunks.append((float(values[units].mean()), units.tolist()))
        start += size
    return chunks
