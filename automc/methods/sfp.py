"""Soft filter pruning: zeroed filters go on learning, and may come back.

He et al. 2018, "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from automc.methods import register
from automc.methods.base import Method, StepContext, StepReport
from automc.methods.step import Step, setting, short_of
from automc.surgery.groups import Groups
from automc.training.recipe import Recipe
from kg.schema import Strategy

PAPER_EPOCHS = 200
"""HP10 counts epochs of a training this long (the paper's CIFAR schedule)."""


class SoftMask:
    """Zeroes the weakest filters of each group now and then.

    Only the weights of the layers that produce the channels are zeroed: batch-norm scale and shift stay, so a
    filter whose shift β is positive gets a gradient through its ReLU and can grow back. Zeroing those too, or
    the layers that follow, would make the pruning hard.

    Args:
        counts: filters to zero in each group.
        period: iterations between masks.
        iterations: length of the training; the last iteration masks in any case.
    """

    def __init__(self, groups: Groups, counts: Sequence[int], period: int, iterations: int) -> None:
        self._groups, self._counts = groups, counts
        self._period, self._last = period, iterations - 1
        self.masks = 0
        """How often filters were zeroed."""
        self.selection: list[torch.Tensor] = []
        """Units zeroed by the last mask, one tensor per group."""

    def __call__(self, step: int) -> None:
        """Mask after an update where it is due: `fit`'s `after_update`."""
        if (step + 1) % self._period == 0 or step == self._last:
            self.mask()

    @torch.no_grad()
    def temper(self, step: int, rate: float, model: nn.Module) -> None:
        """Let zeroed filters learn no faster than the others of their layer do in the median: `fit`'s `gradient_hook`.

        Batch norm divides by the deviation of a channel, so the gradient of a filter near zero is up to 1/√ε, some 300,
        times as large: untempered it outgrows the others in two iterations, and the next mask takes trained filters
        in its place.
        """
        for group, units in zip(self._groups.groups, self.selection, strict=False):
            for member in group.of_kind(_ConvNd, nn.Linear, side="out") if len(units) else ():
                gradient = member.weight.grad
                if gradient is None:
                    continue
                norms = gradient.flatten(1).norm(dim=1)
                zeroed = self._groups.rows(member)[units].flatten()
                # No choice by a mask: how many it finds is known on the host only after a wait for the device.
                others = norms.index_fill(0, zeroed, torch.inf).sort().values
                limit = others[(len(norms) - len(zeroed) - 1) // 2]
                slower = (limit / norms[zeroed].clamp_min(torch.finfo(norms.dtype).tiny)).clamp(max=1.0)
                gradient[zeroed] *= slower.view(-1, *[1] * (gradient.ndim - 1))

    @torch.no_grad()
    def mask(self) -> None:
        """Select the filters of lowest L2 norm anew and zero them."""
        self.selection = []
        for group, count in zip(self._groups.groups, self._counts, strict=True):
            units = torch.argsort(self._groups.weight_norms(group), stable=True)[:count]
            for member in group.of_kind(_ConvNd, nn.Linear, side="out") if count else ():
                member.weight[self._groups.rows(member)[units].flatten()] = 0.0
            self.selection.append(units)
        self.masks += 1


@register
class SoftFilterPruning(Method):
    """Train with the filters of lowest L2 norm zeroed every HP10 epochs; delete the last selection, and fine-tune.

    HP2 share of the original parameters to remove; HP9 epochs in units of E0, one half with soft pruning, the other
    after the deletion; HP10 epochs between masks on a 200-epoch schedule, scaled to E0. How many filters each group
    loses is settled before the training, by one common ratio, so the size does not depend on it; inside blocks first,
    residual streams only where the target is out of reach otherwise. Differs from the paper in the ratio being solved
    for a parameter count, in re-estimating batch-norm statistics at the end, in zeroed filters that learn no
    faster than the others (`SoftMask.temper`), and in the second half: the paper ends with the deletion. Without both a
    training of a few epochs is worse than no soft pruning at all (docs/results/variants).
    """

    name = "SFP"
    version = 3

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Prune a copy of `model` softly, then for good.

        Raises:
            Infeasible: no channel can be removed, or all of them together are not enough.
        """
        recipe = context.recipe
        step = Step(model, strategy, context, self.phases(strategy, recipe, context.data.n))
        groups = step.groups()
        counts, scope = groups.plan_uniform(step.target, groups.caps(stream=False), recipe.round_to), "blocks"
        if groups.params(counts) > step.target:
            counts, scope = groups.plan_uniform(step.target, groups.caps(), recipe.round_to), "streams"
        planned = groups.removal([range(count) for count in counts], step.target)  # which ones is settled by training
        short = short_of(planned, "removing all but the last filters of every group")
        step.settle(planned.params, groups.unit_cost(planned), short)
        period = self.period(strategy, recipe, context.data.n)
        mask = SoftMask(groups, counts, period, step.lengths[0])
        fitted = step.train(after_update=mask, gradient_hook=mask.temper)
        plan = groups.removal([units.tolist() for units in mask.selection], step.target)
        unit = groups.unit_cost(plan)
        groups.apply(plan)
        if step.lengths[1]:
            fitted = step.train(phase=1)
        step.recalibrate()
        return step.model, step.report(
            unit, short, channels=plan.units, scope=scope, period=period, masks=mask.masks, loss=fitted.loss,
        )  # fmt: skip

    def relative_cost(self, strategy: Strategy) -> float:
        """HP9."""
        return setting(strategy, "HP9", 0.0, 1000.0)

    def signature(self, strategy: Strategy, recipe: Recipe, n_train: int) -> tuple[object, ...]:
        """As every method's, with all periods alike that are longer than the training they divide."""
        masked = self.phases(strategy, recipe, n_train)[0]
        found = super().signature(strategy, recipe, n_train)
        return tuple(("HP10", min(v[1], masked)) if isinstance(v, tuple) and v[0] == "HP10" else v for v in found)

    def phases(self, strategy: Strategy, recipe: Recipe, n_train: int) -> tuple[int, int]:
        """Iterations with soft pruning, and of the fine-tuning after the deletion."""
        total = self.iterations(strategy, recipe, n_train)
        return total - total // 2, total // 2

    def period(self, strategy: Strategy, recipe: Recipe, n_train: int) -> int:
        """Iterations between masks: max(1, round(HP10 · E0/200 · n/batch))."""
        return recipe.iterations(setting(strategy, "HP10", 0.0, 1000.0) / PAPER_EPOCHS, n_train)
