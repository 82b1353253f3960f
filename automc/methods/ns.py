"""Network slimming: batch-norm scales say which channels matter.

Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming".
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from automc.errors import Infeasible
from automc.methods import register
from automc.methods.base import Method, StepContext, StepReport
from automc.methods.ranking import rank_by_scales
from automc.methods.step import Step, setting, short_of
from automc.training.loop import GradientHook, learning_rate
from automc.training.recipe import Recipe
from kg.schema import Strategy

TRAVEL = 0.5
"""Share of the mean |γ| by which the sparsity phase may move a scale towards zero."""


def scales(model: nn.Module) -> list[nn.Parameter]:
    """The γ of every batch norm that has one."""
    return [m.weight for m in model.modules() if isinstance(m, _BatchNorm) and m.weight is not None]


def sparsity_factor(model: nn.Module, iterations: int, recipe: Recipe) -> float:
    """λ such that the penalty's pull over the phase, λ·Σlr/(1−momentum), is half the mean |γ|; 0 for no iterations.

    The paper's 1e-4 and 1e-5 are for 160 epochs from scratch; in the short phases of a step they move nothing.
    """
    gammas = scales(model)
    pull = sum(learning_rate(step, iterations, recipe.lr) for step in range(iterations)) / (1 - recipe.momentum)
    if not gammas or pull == 0:
        return 0.0
    mean = torch.cat([gamma.detach().abs().flatten() for gamma in gammas]).mean()
    return TRAVEL * float(mean) / pull


def sparsity_hook(factor: float) -> GradientHook:
    """Gradient of the L1 penalty: adds λ·sign(γ) to the gradient of every batch-norm scale (the paper's Eq. 1)."""

    def hook(step: int, lr: float, model: nn.Module) -> None:
        for gamma in scales(model):
            if gamma.grad is not None:
                gamma.grad.add_(gamma.detach().sign(), alpha=factor)

    return hook


@register
class NetworkSlimming(Method):
    """Delete the channels with the smallest batch-norm scales, and fine-tune.

    HP1 fine-tuning epochs in units of E0; HP2 share of the original parameters to remove; HP6 most channels of a
    group that may go. The recipe's `sparsity` is the share of HP1 that goes into the paper's sparsity phase before
    the deletion: none by default, because in the short phases of a step it costs more than it gains. Coupled
    channels score by the mean |γ| of their batch norms. Differs from the paper in λ, see `sparsity_factor`, and in
    re-estimating batch-norm statistics at the end.
    """

    name = "NS"
    version = 2

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Slim a copy of `model`.

        Raises:
            Infeasible: no batch norm scales any removable channel, or all channels together are not enough.
        """
        share = setting(strategy, "HP6", 0.0, 1.0)
        total = self.iterations(strategy, context.recipe, context.data.n)
        first = int(context.recipe.sparsity * total)
        step = Step(model, strategy, context, (first, total - first))
        if not scales(step.model):
            raise Infeasible(f"{strategy.id}: the model has no batch norm, so there is nothing to rank channels by.")
        groups = step.groups()
        if all(groups.bn_scales(group) is None for group in groups.groups):
            raise Infeasible(f"{strategy.id}: no removable channel of the model has a batch norm to rank it by.")
        plan, scope = rank_by_scales(groups, step.target, share, context.recipe.round_to)
        short = short_of(plan, f"removing {share:.0%} of every channel group")
        step.settle(plan.params, groups.unit_cost(plan), short)
        factor = sparsity_factor(step.model, step.lengths[0], context.recipe)
        if step.lengths[0]:
            step.train(gradient_hook=sparsity_hook(factor), phase=0)
            plan, scope = rank_by_scales(groups, step.target, share, context.recipe.round_to)
        unit = groups.unit_cost(plan)
        groups.apply(plan)
        fitted = step.train(phase=1)
        step.recalibrate()
        return step.model, step.report(
            unit, short, channels=plan.units, scope=scope, sparsity=factor, loss=fitted.loss,
        )  # fmt: skip

    def relative_cost(self, strategy: Strategy) -> float:
        """HP1."""
        return setting(strategy, "HP1", 0.0, 1000.0)
