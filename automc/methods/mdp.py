"""Resolutions and channels by one search: gates on channels, and on each convolution at several resolutions.

After Guo, Ouyang, Xu 2020, "Multi-Dimensional Pruning: A Unified Framework for Model Compression".
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from automc.errors import Infeasible
from automc.methods import register
from automc.methods.base import StepContext, StepReport
from automc.methods.gates import Gates
from automc.methods.ranking import rank_by_scales
from automc.methods.searching import Searching
from automc.methods.step import Step, setting, short_of
from automc.models.measure import count_flops
from automc.surgery.downsampled import Downsampled, Place, Resolutions, exact, places
from automc.surgery.groups import Groups
from automc.surgery.knapsack import filled, knapsack
from automc.training.alternating import Alternation, judging
from automc.training.seeds import derived
from kg.schema import Strategy


@register
class MultiDimensionalPruning(Searching):
    """Lower the resolution of convolutions and delete channels, both by scores of a search, and fine-tune.

    HP1 epochs of fine-tuning and HP25 epochs of the search in units of E0; HP2 share of the original parameters to
    remove, by channels; HP27 share of the input model's FLOPs to remove, by resolution. In the search a convolution is
    the weighted sum of itself at a whole, half and quarter resolution, with the same weights, and every removable
    channel has a gate. Scores and gates are trained in its second half on a fifth of the training images, under prices
    on the FLOPs and the parameters; then the best resolutions within the FLOPs are chosen exactly, gates become part of
    the scales that they stand beside, and channels go by these as in network slimming.

    Differs from the source, which has no public code and whose settings could not be read: prices double while a limit
    is missed; FLOPs are shares of the step's input, not of the study's M.
    """

    name = "MDP"
    factors = True
    search_cost = 1.9
    serves: ClassVar = ("flops", "latency_ms")

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Search on a copy of `model`, rebuild and train it.

        Raises:
            Infeasible: no convolution can have a lower resolution, all together do not save what is asked for, no
                channel can be removed, or all of them together are not enough.
        """
        self.check(strategy)
        step = Step(model, strategy, context, self.phases(strategy, context.recipe, context.data.n))
        step.insist_float("A search trains floats: lower resolution first, then quantise.")
        found, whole, budget = self.lowered(step, strategy)
        groups = step.groups()
        plan, scope = rank_by_scales(groups, step.target, 1.0, context.recipe.round_to)
        short = short_of(plan, "removing all but the last channels of every group")
        step.settle(plan.params, groups.unit_cost(plan), short)
        chosen = self.searched(step, found, groups, whole, budget)
        for place, factor in chosen.items():
            if factor > 1:
                conv = step.model.get_submodule(place.name)
                step.model.set_submodule(place.name, Downsampled(conv, factor).train(conv.training))
        groups = step.groups()
        plan, scope = rank_by_scales(groups, step.target, 1.0, context.recipe.round_to)
        unit = groups.unit_cost(plan)
        step.settle(plan.params, unit, short)
        groups.apply(plan)
        fitted = step.train(phase=1)
        step.recalibrate()
        lowered = {place.name: factor for place, factor in chosen.items() if factor > 1}
        saved = sum(place.flops[0] - place.flops[place.factors.index(factor)] for place, factor in chosen.items())
        return step.model, step.report(
            unit, short, channels=plan.units, scope=scope, resolutions=lowered, flops_by_resolution=saved / whole,
            loss=fitted.loss,
        )  # fmt: skip

    def lowered(self, step: Step, strategy: Strategy) -> tuple[list[Place], int, int]:
        """Return the places where resolution can be lowered, the model's FLOPs, and what the places may keep of them.

        Raises:
            Infeasible: there are none, or they cannot save enough.
        """
        share = setting(strategy, "HP27", 0.0, 0.8)
        still = (*step.context.keep, *step.context.still)
        found = places(step.model, step.example, still)
        step.whole(found, exact)
        found = [place for place in found if place.name not in step.refused]
        if not found:
            raise Infeasible(
                f"{strategy.id}: no convolution of this model has an output of at least 4 × 4 pixels and may be "
                f"replaced.{step.staying}"
            )
        whole = count_flops(step.model, step.example)
        budget = sum(place.flops[0] for place in found) - -(-share * whole // 1)
        least = sum(min(place.flops) for place in found)
        if least > budget:
            most = (sum(place.flops[0] for place in found) - least) / whole
            raise Infeasible(
                f"{strategy.id}: {share:.1%} of the FLOPs should go by resolution, but at most {most:.1%} "
                f"can.{step.staying}"
            )
        return found, whole, int(budget)

    def searched(self, step: Step, found: list[Place], groups: Groups, whole: int, budget: int) -> dict[Place, int]:
        """Train weights, scores and gates in turns; return the factor of each place. Gates are folded at the end."""
        context, model = step.context, step.model
        mixed = {p: Resolutions(model.get_submodule(p.name), p.factors, context.device) for p in found}
        gates = Gates(groups, context.still)
        flops = {p: m.lambda_.new_tensor(p.flops) for p, m in mixed.items()}

        def dear() -> Tensor:
            expected = torch.stack([m.lambda_.softmax(0) @ flops[p] for p, m in mixed.items()]).sum()
            return (expected - budget).clamp_min(0) / whole

        def large() -> Tensor:
            return (gates.open_params() - step.target).clamp_min(0) / step.params_in

        seed = derived(context.seed, "scores")
        turns = Alternation(
            model, [*(m.lambda_ for m in mixed.values()), *gates.scores], step.objective, [dear, large],
            judging(context.data, seed), context.recipe, step.lengths[0], seed,
        )  # fmt: skip
        for place, mixture in mixed.items():
            model.set_submodule(place.name, mixture.train(mixture.conv.training))
        try:
            with gates.working():
                step.train(phase=0, after_update=turns)
        finally:
            for place, mixture in mixed.items():
                model.set_submodule(place.name, mixture.conv)
        gates.fold()
        items = [
            list(zip(p.flops, mixed[p].lambda_.detach().double().log_softmax(0).tolist(), strict=True)) for p in found
        ]
        chosen = filled(items, knapsack(items, budget), budget)
        return {place: place.factors[i] for place, i in zip(found, chosen, strict=True)}
