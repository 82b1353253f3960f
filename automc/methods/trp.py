"""Trained rank pruning: weights are cut to low rank again and again while they train, so that factoring costs nothing.

Xu et al. 2020, "TRP: Trained Rank Pruning for Efficient Deep Neural Networks".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar, cast

from torch import nn

from automc.errors import Infeasible
from automc.methods import register
from automc.methods.base import Method, StepContext, StepReport
from automc.methods.step import Step, setting
from automc.surgery.lowrank import Form, Site, exact, factor, matrix, push, sites, write
from automc.surgery.ranks import choose_ranks, raise_cost, solve_energy
from automc.surgery.spectra import spectrum
from automc.training.recipe import Recipe
from kg.schema import Strategy

SHARE = 2 / 3
"""Of the training, what comes before the factoring."""
END = 0.1
"""Learning rate at the end of that part, as a share of its begin: not 0, so that a truncation still moves weights."""


class Truncation:
    """The low rank that a model trains towards, and what of it was seen last.

    Args:
        model: trains; its weights are read and written in place.
        found: its sites.
        params: parameters of the model.
        target: how many the factored model may have.
        weight: of the nuclear norm, HP20.
    """

    def __init__(self, model: nn.Module, found: Sequence[Site], params: int, target: int, weight: float) -> None:
        self.model, self.found, self.params, self.target, self.weight = model, found, params, target, weight
        self.times = 0
        self.look()
        self.at_first = self.nuclear

    def look(self) -> None:
        """Decompose all sites as they are now, and choose ranks: one share of energy for all, within the target."""
        spectra = {site.name: spectrum(matrix(self.model, site)) for site in self.found}
        energies = [seen.energies for seen in spectra.values()]
        chosen, ranks, self.left = choose_ranks(self.found, self.params, self.target, energies, solve_energy)
        self.ranks = list(zip(chosen, ranks, strict=True))
        self.nuclear = sum(spectra[site.name].nuclear for site in chosen)
        self.slopes = [
            (site, self.weight * spectra[site.name].direction(rank)) for site, rank in self.ranks if self.weight
        ]
        self.spectra = spectra

    def cut(self) -> None:
        """Truncate W where its factors would be smaller; a site that stays as it is stays."""
        self.look()
        for site, rank in self.reduced:
            write(self.model, site, self.spectra[site.name].low(rank))
        self.times += 1

    def press(self) -> None:
        """Add HP20 times the sub-gradient of the nuclear norm, as of the last look, to the gradients."""
        for site, slope in self.slopes:
            push(self.model, site, slope)

    @property
    def reduced(self) -> list[tuple[Site, int]]:
        """Sites that get smaller, with their ranks."""
        return [(site, rank) for site, rank in self.ranks if rank <= site.levels]

    @property
    def unit(self) -> int:
        """Parameters of the cheapest rank that goes."""
        return min((raise_cost(site, rank) or 0 for site, rank in self.reduced), default=0)


@register
class TrainedRankPruning(Method):
    """Train with truncated weights, factor them, and fine-tune the factors.

    HP1 epochs in units of E0, two thirds of them before the factoring; HP2 share of the original parameters to remove;
    HP19 iterations between two truncations; HP20 weight of the nuclear norm, the sum of the singular values; HP21
    form of the factors: a k×k layer and a pointwise one, or a k×1 and a 1×k one. All layers retain one common share of
    their energy, so that the factored model has the parameters it may have. Pointwise and linear layers have the
    first form only, and are factored where the k×k ones are not enough; a layer that is two factors already keeps its
    form and gets a smaller rank.

    Differs from the paper in the share of energy, which there is fixed and here follows from the parameters; in the
    nuclear norm's sub-gradient, which here is added in every iteration, as of the last truncation; in layers of any
    stride; and in a learning rate that ends at a tenth before the factoring and begins anew after it.
    """

    name = "TRP"
    factors = True
    choices: ClassVar = {"HP21": ("channel", "spatial")}

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Train a copy of `model` towards low rank, and factor it.

        Raises:
            Infeasible: no layer gets smaller by factoring, or all together not enough.
        """
        self.check(strategy)
        every, weight = round(strategy.number("HP19")), strategy.number("HP20")
        form = cast(Form, strategy.get("HP21"))
        step = Step(model, strategy, context, self.phases(strategy, context.recipe, context.data.n))
        step.insist_float("Factors would not lie on their levels: factor first, then quantise.")
        found = sites(step.model, step.whole(sites(step.model, context.keep, form), exact), form)
        if not found:
            raise Infeasible(
                f"{strategy.id}: no convolution or linear layer of this model gets smaller by factoring.{step.staying}"
            )
        cuts = Truncation(step.model, found, step.params_in, step.target, weight)
        short = f"rank 1 everywhere leaves {cuts.left} parameters"
        step.settle(cuts.left, cuts.unit, short)
        reference = copy.deepcopy(step.model)
        self.towards(step, cuts, every)
        cuts.look()
        factored = [factor(step.model, site, rank) for site, rank in cuts.reduced]
        step.check_runs(reference)
        fitted = step.train(phase=1)
        step.recalibrate()
        return step.model, step.report(
            cuts.unit, short, layers=len(factored), loss=fitted.loss, form=form, truncations=cuts.times,
            kinds=sorted({site.kind for site, _ in cuts.reduced}), nuclear=[cuts.at_first, cuts.nuclear],
            ranks={site.name: rank for site, (_, rank) in zip(factored, cuts.reduced, strict=True)},
        )  # fmt: skip

    def towards(self, step: Step, cuts: Truncation, every: int) -> None:
        """Run the first phase: a truncation after every so many updates, but for the last, which the factoring is."""
        last = step.lengths[0] - 1

        def after_update(update: int) -> None:
            if (update + 1) % every == 0 and update != last:
                cuts.cut()

        step.train(phase=0, floor=END, after_update=after_update, gradient_hook=lambda *_: cuts.press())

    def phases(self, strategy: Strategy, recipe: Recipe, n_train: int) -> tuple[int, int]:
        """Iterations before and after the factoring; at least one each."""
        whole = recipe.iterations(setting(strategy, "HP1", 0.0, 1000.0), n_train)
        before = max(1, round(SHARE * whole))
        return before, max(1, whole - before)

    def iterations(self, strategy: Strategy, recipe: Recipe, n_train: int) -> int:
        """Iterations of both phases."""
        return sum(self.phases(strategy, recipe, n_train))

    def relative_cost(self, strategy: Strategy) -> float:
        """HP1."""
        return setting(strategy, "HP1", 0.0, 1000.0)
