"""Learning filter basis: filters as combinations of a few learned ones.

Li et al. 2019, "Learning Filter Basis for Convolutional Neural Network Compression".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automc.errors import Infeasible
from automc.methods import register
from automc.methods.base import Method, StepContext, StepReport
from automc.methods.step import Step, setting
from automc.models.outputs import logits
from automc.surgery.lowrank import Form, Site, energies, exact, factor, matrix, sites
from automc.surgery.ranks import choose_ranks, raise_cost
from automc.training.distill import scored
from automc.training.loop import Loss, cross_entropy
from kg.schema import Strategy

AUXILIARY = ("NLL", "CE", "MSE")
FORMS: tuple[Form, ...] = ("channel", "spatial")


def auxiliary_loss(kind: str, student: Tensor, teacher: Tensor) -> Tensor:
    """Distance of two batches of logits: "CE" with the teacher's softmax, "NLL" with its predicted label."""
    log_probabilities = F.log_softmax(student, 1)
    if kind == "NLL":
        return F.nll_loss(log_probabilities, teacher.argmax(1))
    return -(teacher.softmax(1) * log_probabilities).sum(1).mean()


def filter_error(model: nn.Module, factored: Sequence[Site], filters: Sequence[Tensor]) -> Tensor:
    """Σ ‖W − A·B‖² / ‖W‖² over the factored layers: from 0 where the factors are exact to 1 a layer where they are 0.

    A mean over all weights has a gradient that vanishes beside the cross-entropy's, whatever HP15 is.
    """
    with torch.autocast(filters[0].device.type, enabled=False):
        errors = [
            (matrix(model, site) - w).square().sum() / w.square().sum().clamp_min(1e-12)
            for site, w in zip(factored, filters, strict=True)
        ]
    return torch.stack(errors).sum()


def basis_loss(
    kind: str, weight: float, teacher: nn.Module, factored: Sequence[Site], filters: Sequence[Tensor],
    objective: Loss = cross_entropy,
) -> Loss:  # fmt: skip
    """L = objective (CE) + HP15 · Aux(HP16).

    The sources name the auxiliary loss without defining it. Here "MSE" is the paper's reconstruction term,
    between the input model's filters and A·B; "CE" and "NLL" compare with the input model's outputs on the same
    batch. MSE is 0 and CE minimal where the factored model equals its input.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        total, found = scored(objective, model, x, y)
        if kind == "MSE":
            return total + weight * filter_error(model, factored, filters) if filters else total
        with torch.no_grad():
            wanted = logits(teacher, x).float()
        return total + weight * auxiliary_loss(kind, found.float(), wanted)

    return loss


@dataclass(frozen=True, slots=True)
class Draft:
    """A way to choose form and ranks: `reduced` sites with theirs, and the parameters left."""

    form: Form
    by: str
    reduced: list[tuple[Site, int]]
    params: int

    @property
    def unit(self) -> int:
        """Parameters of the cheapest rank that goes."""
        return min((raise_cost(site, rank) or 0 for site, rank in self.reduced), default=0)

    def factored(self, model: nn.Module) -> tuple[nn.Module, list[Site]]:
        """Return a copy of the model with these ranks, and its factored sites."""
        small = copy.deepcopy(model)
        return small, [factor(small, site, rank) for site, rank in self.reduced]


@register
class LearningFilterBasis(Method):
    """Write convolutions as m basis filters and a combination of them, then fine-tune.

    HP1 epochs in units of E0; HP2 share of the original parameters to remove; HP15 factor and HP16 kind of the
    auxiliary loss, see `basis_loss`. One split of the input channels (the paper's s = 1), so that the result is
    two ordinary layers that any later step understands; a layer that is two factors already keeps its form and gets a
    smaller basis. The basis is of k×k filters with a 1×1 combination, as in the paper, or of k×1 filters with a 1×k
    one; ranks are in proportion to what would be exact, or where they retain most energy: whichever of the four is
    best on a slice of the training images before any training. Differs from the paper in that, and in starting from
    the trained filters by truncated SVD, not from scratch.
    """

    name = "LFB"
    version = 5
    factors = True
    choices: ClassVar = {"HP16": AUXILIARY}

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Factor a copy of `model`.

        Raises:
            Infeasible: no layer gets smaller by factoring, or all together not enough.
        """
        self.check(strategy)
        weight, kind = setting(strategy, "HP15", 0.0, 1e6), strategy.get("HP16")
        step = Step(model, strategy, context, (self.iterations(strategy, context.recipe, context.data.n),))
        step.insist_float("Factors would not lie on their levels: factor first, then quantise.")
        drafts = self.drafts(step)
        if not drafts:
            raise Infeasible(
                f"{strategy.id}: no convolution or linear layer of this model gets smaller by factoring.{step.staying}"
            )
        drafts = [draft for draft in drafts if draft.params <= step.target + draft.unit] or drafts
        short = f"rank 1 everywhere leaves {drafts[0].params} parameters"
        step.settle(drafts[0].params, drafts[0].unit, short)
        teacher = copy.deepcopy(step.model).eval().requires_grad_(False).to(memory_format=context.data.layout)
        done = [draft.factored(step.model) for draft in drafts]
        place = step.best([model for model, _ in done])
        draft, (step.model, factored) = drafts[place], done[place]
        step.check_runs(teacher)
        filters = [matrix(teacher, site).detach().clone() for site, _ in draft.reduced]
        fitted = step.train(loss=basis_loss(str(kind), weight, teacher, factored, filters, step.objective))
        step.recalibrate()
        return step.model, step.report(
            draft.unit, short, form=draft.form, ranks_by=draft.by, layers=len(factored), loss=fitted.loss,
            kinds=sorted({site.kind for site, _ in draft.reduced}),
            ranks={site.name: rank for site, (_, rank) in zip(factored, draft.reduced, strict=True)},
        )  # fmt: skip

    def drafts(self, step: Step) -> list[Draft]:
        """Both forms, each with ranks in proportion and ranks by energy, but no two that are the same."""
        drafts: list[Draft] = []
        for form in FORMS:
            found = sites(step.model, step.whole(sites(step.model, step.context.keep, form), exact), form)
            for by, spectra in (("proportion", None), ("energy", [energies(step.model, site) for site in found])):
                chosen, ranks, left = choose_ranks(found, step.params_in, step.target, spectra)
                reduced = [(site, rank) for site, rank in zip(chosen, ranks, strict=True) if rank <= site.levels]
                if found and reduced not in [draft.reduced for draft in drafts]:
                    drafts.append(Draft(form, by, reduced, left))
        return drafts

    def relative_cost(self, strategy: Strategy) -> float:
        """HP1."""
        return setting(strategy, "HP1", 0.0, 1000.0)
