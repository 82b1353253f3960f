"""Norms of filters, layer by layer, and the scores that channel groups get from affine maps of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from automc.surgery.groups import Group, Groups, Plan

ORDERS = {"l1_weight": 1, "l2_weight": 2}
"""Criteria that read weights, with their power."""
CRITERIA = (*ORDERS, "l2_bn", "l2_bn_param")

_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer says about the units of its group: `norms`, (units,) float64, summed over a unit's channels."""

    group: int
    name: str
    norms: np.ndarray


def norm_table(groups: Groups, caps: Sequence[int], criterion: str) -> list[Layer]:
    """Norms of every layer whose group may lose units, in the order of the groups.

    l1_weight: Σ|w| of a filter; l2_weight: Σw², without a root; l2_bn: γ² of the batch norm; l2_bn_param: γ² times
    the weights of one filter that feeds it. The inner rank of a factored layer has one entry, the product of both
    factors' norms, because scaling one factor up and the other down changes nothing. Groups without a batch norm
    take l2_weight under the last two criteria, of another order of magnitude: see `relative`.

    Args:
        caps: most units each group may lose; groups that may lose none are left out.
        criterion: one of `CRITERIA`.
    """
    order = ORDERS.get(criterion)
    table: list[Layer] = []
    for g, group in enumerate(groups.groups):
        if not caps[g]:
            continue
        norms = _weight_norms(groups, group, order) if order else _bn_norms(groups, group, criterion == "l2_bn_param")
        for name, values in norms or _weight_norms(groups, group, 2):
            table.append(Layer(g, name, values.double().cpu().numpy()))
    return table


def relative(table: Sequence[Layer]) -> list[Layer]:
    """Norms as multiples of their layer's mean, so that how long a layer's filters are is of no account."""
    return [replace(layer, norms=layer.norms / max(layer.norms.mean(), _TINY)) for layer in table]


def scores(table: Sequence[Layer], maps: np.ndarray, number: int) -> list[np.ndarray | None]:
    """Scores of the units of each of `number` groups: Σ over its layers of α·norm + κ; None without a layer.

    Args:
        maps: (layers, 2), a row (α, κ) for each layer of the table.
    """
    found: list[np.ndarray | None] = [None] * number
    for layer, (alpha, kappa) in zip(table, maps, strict=True):
        mapped = alpha * layer.norms + kappa
        known = found[layer.group]
        found[layer.group] = mapped if known is None else known + mapped
    return found


def narrowest(groups: Groups, target: int, share: float, round_to: int) -> tuple[list[int], str, Plan]:
    """Caps of the narrowest scope in which the target can be reached, its name, and a plan by no ranking at all.

    The scope is "blocks", else "streams". What any ranking leaves where the target is out of reach, the plan leaves.
    """
    alike = [np.zeros(group.units) for group in groups.groups]
    caps, scope = groups.caps(share, stream=False), "blocks"
    plan = groups.plan(alike, target, caps, round_to)
    if not plan.reached:
        caps, scope = groups.caps(share), "streams"
        plan = groups.plan(alike, target, caps, round_to)
    return caps, scope, plan


def _weight_norms(groups: Groups, group: Group, order: int) -> list[tuple[str, Tensor]]:
    producers = group.of_kind(_ConvNd, nn.Linear, side="out")
    norms = [(member.name, groups.weight_sums(member, order)) for member in producers]
    if group.rank:
        (consumer,) = group.of_kind(_ConvNd, nn.Linear, side="in")
        return [(name, values * groups.weight_sums(consumer, order)) for name, values in norms]
    return norms


def _bn_norms(groups: Groups, group: Group, by_params: bool) -> list[tuple[str, Tensor]]:
    found = []
    for member in group.of_kind(_BatchNorm):
        if member.weight is not None:
            squares = member.weight.detach().square()[groups.rows(member)].sum(1)
            found.append((member.name, squares * groups.fan_in(group, member) if by_params else squares))
    return found


def rank_by_scales(groups: Groups, target: int, share: float, round_to: int) -> tuple[Plan, str]:
    """Plan by |γ| under one global threshold, in the narrowest scope that reaches the target; also name the scope.

    Scopes: groups with a batch norm inside blocks; residual streams too; last the groups without a batch norm,
    by the L2 norm of their filters rescaled to the mean |γ|.
    """
    gammas = [_numpy(groups.bn_scales(group)) for group in groups.groups]
    ranked = [gamma for gamma in gammas if gamma is not None]
    mean = float(sum(g.sum() for g in ranked) / max(1, sum(len(g) for g in ranked)))
    filled = []
    for group, gamma in zip(groups.groups, gammas, strict=True):
        norms = groups.weight_norms(group).double().cpu().numpy()
        filled.append(gamma if gamma is not None else norms * (mean / max(norms.mean(), 1e-12)))
    plan, scope = groups.plan(gammas, target, groups.caps(share, stream=False), round_to), "blocks"
    if not plan.reached:
        plan, scope = groups.plan(gammas, target, groups.caps(share), round_to), "streams"
    if not plan.reached:
        plan, scope = groups.plan(filled, target, groups.caps(share), round_to), "all"
    return plan, scope


def _numpy(values: Tensor | None) -> np.ndarray | None:
    return None if values is None else values.double().cpu().numpy()
