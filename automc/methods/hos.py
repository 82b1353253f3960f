"""Higher-order statistics: prune where weights look Gaussian, decompose what is left, recover with the input's outputs.

Chatzikonstantinou et al. 2020, "Neural Network Compression Using Higher-Order Statistics and Auxiliary Reconstruction
Losses".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automc.errors import Infeasible
from automc.methods import register
from automc.methods.base import Method, StepContext, StepReport
from automc.methods.normality import GLOBAL, LOCAL, Layer, measure, scores
from automc.methods.step import Step, setting
from automc.models.measure import count_params
from automc.models.outputs import logits
from automc.surgery import lowrank, tucker
from automc.surgery.groups import Groups, Plan
from automc.surgery.lowrank import factor
from automc.surgery.ranks import choose_ranks, raise_cost
from automc.surgery.tucker import TuckerSite, decompose
from automc.training.distill import scored
from automc.training.loop import Loss, cross_entropy
from automc.training.recipe import Recipe
from kg.schema import Strategy

Site = TuckerSite | lowrank.Site

CAP = 0.9
"""Most of a channel group that goes."""
RATE = 0.1
"""Learning rate with the reconstruction loss, as a share of the recipe's.

On trained logits its gradient is five times that of the cross-entropy (HP14 = 1): at the full rate it leaves a network
that fine-tuning does not repair. The paper's code trains this phase at 0.001.
"""
SPLITS = (0.5, 0.25, 0.125, 0.0)
"""Pruning leaves P_in^s · T^(1−s) parameters: the first s with which decomposing reaches T is taken."""


def reconstruction_loss(teacher: nn.Module, weight: float, objective: Loss = cross_entropy) -> Loss:
    """Objective (CE) + HP14 · MSE between the logits of the model and the teacher's on the same batch.

    The teacher must be in evaluation mode. The MSE is the mean over images and classes; it is 0 where both agree.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        value, found = scored(objective, model, x, y)
        with torch.no_grad():
            wanted = logits(teacher, x).float()
        return value + weight * F.mse_loss(found.float(), wanted)

    return loss


def factorable(model: nn.Module, keep: Sequence[str] = ()) -> list[Site]:
    """List what can be decomposed: k×k convolutions into triples, 1×1 and linear layers into two factors.

    A k×1 and a 1×k layer that are one factored layer already stay two.
    """
    pairs = lowrank.sites(model, keep)
    crossed = {layer for site in pairs if site.form == "spatial" for layer in site.layers}
    spatial = [site for site in tucker.sites(model, keep) if crossed.isdisjoint(site.layers)]
    taken = {layer for site in spatial for layer in site.layers}
    flat = [site for site in pairs if (site.kind != "spatial" or site.name in crossed) and site.name not in taken]
    return [*spatial, *flat]


def exact(model: nn.Module, site: Site) -> None:
    """Put layers that compute the same in the place of a site."""
    if isinstance(site, TuckerSite):
        tucker.exact(model, site)
    else:
        lowrank.exact(model, site)


def rank_channels(
    groups: Groups, layers: Sequence[Layer], target: int, round_to: int
) -> tuple[Plan, str, dict[str, float]]:
    """Plan by normality in the narrowest scope that reaches the target; also name the scope and each root's share."""

    def planned(caps: Sequence[int]) -> tuple[Plan, dict[str, float]]:
        scored, shares = scores(groups, layers, caps)
        roots = {g.root: share for g, share, cap in zip(groups.groups, shares, caps, strict=True) if cap}
        return groups.plan(scored, target, caps, round_to), roots

    (plan, shares), scope = planned(groups.caps(CAP, stream=False)), "blocks"
    if not plan.reached:
        (plan, shares), scope = planned(groups.caps(CAP)), "streams"
    return plan, scope, shares


@dataclass(frozen=True, slots=True)
class Draft:
    """A pruned model, and the ranks that bring it to the target; `params` are what is left then."""

    model: nn.Module
    whole: Sequence[str]
    """Patterns of layers that stay as they are."""
    chosen: list[tuple[Site, int]]
    """The sites that get smaller, with their levels."""
    params: int
    unit: int
    """Parameters of the cheapest unit removed."""
    details: dict[str, Any]

    def factored(self) -> dict[str, int | list[int]]:
        """Decompose the chosen sites, in place; return their ranks: two of a triple, one of two factors."""
        ranks: dict[str, int | list[int]] = {}
        for site, level in self.chosen:
            if isinstance(site, TuckerSite):
                decompose(self.model, site, level)
                ranks[site.name] = list(site.ranks[level - 1])
            else:
                ranks[factor(self.model, site, level).name] = level
        return ranks


def draft(step: Step, model: nn.Module, whole: Sequence[str], unit: int, **details: Any) -> Draft:
    """Choose the ranks of a pruned model but for the layers `whole`; `unit` and `details` are the pruning's."""
    pruned = count_params(model)
    chosen, params = ranked(factorable(model, whole), pruned, step.target)
    unit = min((raise_cost(site, level) or 0 for site, level in chosen), default=unit)
    return Draft(model, whole, chosen, params, unit, {"pruned_to": pruned, **details})


def ranked(
    found: Sequence[Site], params: int, target: int, energies: Sequence[Sequence[float]] | None = None
) -> tuple[list[tuple[Site, int]], int]:
    """Sites that get smaller, with their levels, see `choose_ranks`; and what is left."""
    sites, levels, left = choose_ranks(found, params, target, energies)
    return [(site, level) for site, level in zip(sites, levels, strict=True) if level <= site.levels], left


def by_energy(step: Step, done: Draft) -> Draft:
    """The same draft on a copy, but with levels where they retain most energy."""
    found = factorable(done.model, done.whole)
    spectra = [
        tucker.energies(done.model, site) if isinstance(site, TuckerSite) else lowrank.energies(done.model, site)
        for site in found
    ]
    chosen, params = ranked(found, count_params(done.model), step.target, spectra)
    unit = min((raise_cost(site, level) or 0 for site, level in chosen), default=done.unit)
    return replace(done, model=copy.deepcopy(done.model), chosen=chosen, params=params, unit=unit)


def smallest_draft(step: Step, layer_criterion: str, filter_criterion: str) -> Draft:
    """Prune half of the way, as a ratio, and decompose the rest; more is pruned where that does not reach the target.

    A model whose channels cannot be removed is only decomposed.

    Raises:
        Infeasible: nothing can be pruned and nothing be decomposed.
    """
    whole = step.whole(factorable(step.model, step.context.keep), exact)
    try:
        groups = step.groups()
    except Infeasible as reason:
        if not factorable(step.model, whole):
            text = f"{reason} Nor does any of its layers get smaller by factoring.{step.staying}"
            raise Infeasible(text) from reason
        return draft(step, step.model, whole, 0, channels=0, scope="none", gaussian={})
    layers = measure(groups, layer_criterion, filter_criterion)
    drafts: list[Draft] = []
    for split in SPLITS:
        middle = round(step.params_in**split * step.target ** (1 - split))
        plan, scope, shares = rank_channels(groups, layers, middle, step.context.recipe.round_to)
        model, unit = groups.pruned(plan), groups.unit_cost(plan)
        drafts.append(draft(step, model, whole, unit, channels=plan.units, scope=scope, gaussian=shares))
        if drafts[-1].params <= step.target or not plan.reached:
            break
    return min(drafts, key=lambda done: done.params)


@register
class HigherOrderStatistics(Method):
    """Prune layers that look Gaussian, decompose their kernels, recover with an auxiliary loss, and fine-tune.

    HP1 epochs of fine-tuning in units of E0; HP2 share of the original parameters to remove; HP11 how Gaussian a
    layer is, see `normality.gaussianity`: the more so, the larger the share of its channels that goes; HP12 which
    filters go, see `normality.importance`; HP13 epochs of training with the reconstruction loss, in units of E0; HP14
    its weight, see `reconstruction_loss`. Pruning leaves √(P_in·T) parameters, in blocks first and in residual
    streams where that is not enough; then k×k convolutions become Tucker-2 triples, and where T needs it 1×1 and
    linear layers two factors. A layer that is factored already gets smaller ranks, not more layers.

    Differs from the paper's code in pruning ratios and ranks, which are solved for a parameter count and not set by
    hand; in P3, which there prunes the *least* Gaussian layers most and depends on the scale of their weights; in
    cumulants of filters by absolute value; in comparing logits only, not features; and in batch-norm statistics being
    estimated anew.
    """

    name = "HOS"
    version = 5
    factors = True
    choices: ClassVar = {"HP11": tuple(GLOBAL), "HP12": tuple(LOCAL)}

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Prune and decompose a copy of `model`.

        Raises:
            Infeasible: nothing can be pruned and nothing be decomposed, or all together not enough.
            MethodError: HP11 or HP12 is none of the criteria.
        """
        self.check(strategy)
        weight = setting(strategy, "HP14", 0.0, 1e6)
        by_layer, by_filter = str(strategy.get("HP11")), str(strategy.get("HP12"))
        step = Step(model, strategy, context, self.phases(strategy, context.recipe, context.data.n))
        step.insist_float("Factors would not lie on their levels: factor first, then quantise.")
        teacher = copy.deepcopy(step.model).eval().requires_grad_(False).to(memory_format=context.data.layout)
        done = smallest_draft(step, by_layer, by_filter)
        least = "rank 1 everywhere"
        if done.details["scope"] != "none":
            least = f"removing {CAP:.0%} of every channel group and {least}"
        short = f"{least} leaves {done.params} parameters"
        step.settle(done.params, done.unit, short)
        drafts = [done, by_energy(step, done)]
        ranks = [each.factored() for each in drafts]
        place = step.best([each.model for each in drafts])
        done, step.model = drafts[place], drafts[place].model
        step.check_runs(teacher)
        loss = reconstruction_loss(teacher, weight, step.objective)
        recovered = step.train(phase=0, loss=loss, lr=RATE * context.recipe.lr)
        fitted = step.train(phase=1)
        step.recalibrate()
        return step.model, step.report(
            done.unit, short,
            layers=len(done.chosen), kinds=sorted({site.kind for site, _ in done.chosen}), ranks=ranks[place],
            ranks_by=("proportion", "energy")[place], **done.details,
            reconstruction=weight, reconstruction_loss=recovered.loss, loss=fitted.loss,
        )  # fmt: skip

    def phases(self, strategy: Strategy, recipe: Recipe, n_train: int) -> tuple[int, int]:
        """Iterations with the reconstruction loss, HP13, and of the fine-tuning, HP1; at least one each."""
        lengths = [setting(strategy, name, 0.0, 1000.0) for name in ("HP13", "HP1")]
        first, second = (recipe.iterations(length, n_train) for length in lengths)
        return first, second

    def iterations(self, strategy: Strategy, recipe: Recipe, n_train: int) -> int:
        """Iterations of both phases."""
        return sum(self.phases(strategy, recipe, n_train))

    def relative_cost(self, strategy: Strategy) -> float:
        """HP13 + HP1."""
        return setting(strategy, "HP13", 0.0, 1000.0) + setting(strategy, "HP1", 0.0, 1000.0)
