"""Light multi-segment activations: a narrower student whose activations are learned, taught by the step's input.

Xu et al. 2020, "Light Multi-segment Activation for Model Compression".
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from automc.errors import Infeasible, MethodError
from automc.methods import register
from automc.methods.base import Method, StepContext, StepReport
from automc.methods.step import Step, setting
from automc.models.outputs import logits
from automc.surgery.groups import Groups, Plan
from automc.surgery.lma_sites import insert, multi_segment, told_apart
from automc.training.distill import distillation, scored
from automc.training.evaluate import PIXELS_AT_ONCE
from automc.training.loop import Loss, cross_entropy
from kg.schema import Strategy

CALIBRATION = 256
"""Training images from which a new activation takes its statistics; fewer where images are large."""


def distilled(teacher: nn.Module, weight: float, temperature: float, objective: Loss = cross_entropy) -> Loss:
    """(1 − HP5)·objective (CE) + HP5·τ²·KL to the teacher's outputs on the same batch.

    The paper's Eq. 5, with τ² as in its code. The teacher must be in evaluation mode.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        value, found = scored(objective, model, x, y)
        with torch.no_grad():
            wanted = logits(teacher, x)
        return (1 - weight) * value + weight * distillation(found, wanted, temperature)

    return loss


def plan_widths(groups: Groups, target: int, round_to: int) -> tuple[Plan, str]:
    """Remove one share of every group, its units of lowest L2 norm; also name the scope.

    Inside blocks first, residual streams only where the target is out of reach otherwise.
    """
    counts, scope = groups.plan_uniform(target, groups.caps(stream=False), round_to), "blocks"
    if groups.params(counts) > target:
        counts, scope = groups.plan_uniform(target, groups.caps(), round_to), "streams"
    units = [
        torch.argsort(groups.weight_norms(group), stable=True)[:count].tolist()
        for group, count in zip(groups.groups, counts, strict=True)
    ]
    return groups.removal(units, target), scope


@register
class LightMultiSegmentActivation(Method):
    """Prune all groups alike, make every activation an LMA, and train with the input model as the teacher.

    HP1 epochs in units of E0; HP2 share of the original parameters to remove; HP3 segments k; HP4 temperature and
    HP5 weight of the distillation loss, see `distilled`. An LMA has 2k parameters: they count, so as many more are
    pruned. Activations that are an LMA already stay one; with another k they are fitted anew. Parameter-free
    activations other than ReLU are fitted likewise.

    Differs from the paper, and from the AutoMC authors' code, in the student: it is the trained input model with its
    weakest filters removed, not a narrower network with fresh weights, which no later step of a scheme could follow.
    And an LMA starts as what it replaces, not as a ReLU whose kink sits at the mean.

    A model whose forward pass cannot be traced, or that has no such activation, is refused. Pruning and distillation
    alone would be another method: HP3 had no effect, and strategies that differ in it would all be tried in vain.
    """

    name = "LMA"
    version = 4
    adds = True

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Compress a copy of `model`.

        Raises:
            Infeasible: no activation can be replaced, they cannot be told apart, no channel can be removed, all of
                them together are not enough, or the activations would add more parameters than pruning can remove.
        """
        segments = _segments(strategy)
        temperature, weight = setting(strategy, "HP4", 0.01, 1000.0), setting(strategy, "HP5", 0.0, 1.0)
        step = Step(model, strategy, context, (self.iterations(strategy, context.recipe, context.data.n),))
        teacher = self.teacher(step).eval().requires_grad_(False).to(memory_format=context.data.layout)
        apart = told_apart(step.model, step.example, context.keep)
        step.model, new = apart.model, apart.names
        known = multi_segment(step.model, context.keep)
        if not new and not known:
            raise Infeasible(
                f"{strategy.id}: the model has no activation that an LMA could replace: outside of torch's layers it "
                "calls no ReLU or the like, "
                "every one has parameters of its own, or a --keep pattern covers them."
            )
        changed = [name for name, lma in known.items() if lma.segments != segments]
        extra = 2 * segments * len(new) + sum(2 * (segments - known[name].segments) for name in changed)
        groups = step.groups()
        target = min(step.target, step.params_in) - extra
        plan, scope = plan_widths(groups, target, context.recipe.round_to)
        if plan.params + extra > step.params_in:
            raise Infeasible(
                f"{strategy.id}: its activations would add {extra} parameters to {step.params_in}, and pruning "
                f"can remove only {step.params_in - plan.params}: the model would grow."
            )
        unit = groups.unit_cost(plan)
        short = f"removing all but the last filters of every group leaves {plan.params + extra} parameters"
        step.settle(plan.params + extra, unit, short)
        groups.apply(plan)
        step.recalibrate()  # the activations are fitted to what they get in evaluation
        insert(step.model, [*new, *changed], segments, _calibration(context))
        fitted = step.train(loss=distilled(teacher, weight, temperature, step.objective))
        step.recalibrate()
        return step.model, step.report(
            unit, short, channels=plan.units, scope=scope, sites=len(new), refitted=len(changed), segments=segments,
            activation_params=extra, temperature=temperature, distillation=weight, loss=fitted.loss, left=apart.note,
        )  # fmt: skip

    def teacher(self, step: Step) -> nn.Module:
        """Return a copy of the model whose outputs are learned: the step's input, as in the paper."""
        return copy.deepcopy(step.model)

    def relative_cost(self, strategy: Strategy) -> float:
        """HP1."""
        return setting(strategy, "HP1", 0.0, 1000.0)


def _segments(strategy: Strategy) -> int:
    value = setting(strategy, "HP3", 2, 100)
    if value != int(value):
        raise MethodError(f"{strategy.id}: HP3 must be a whole number of segments.")
    return int(value)


def _calibration(context: StepContext) -> Tensor:
    """Normalised training images, always the same in the same views: augmented, as the activations will see them."""
    height, width = context.data.images.shape
    images = context.data.take(max(1, min(CALIBRATION, PIXELS_AT_ONCE // (height * width))))
    generator = torch.Generator().manual_seed(0)
    return images.batch(torch.arange(images.n, device=images.device), generator)
