"""Learning filter basis: filters as combinations of a few learned ones.

Li et al. 2019, "Learning Filter Basis for Convolutional Neural Network Compression".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automc.errors import Infeasible
from automc.methods import register
from automc.methods.base import Method, StepContext, StepReport
from automc.methods.step import Step, setting
from automc.models.lowrank import Site, exact, factor, matrix, sites
from automc.models.outputs import logits
from automc.models.ranks import choose_ranks, raise_cost
from automc.training.loop import Loss
from kg.schema import Strategy

AUXILIARY = ("NLL", "CE", "MSE")


def auxiliary_loss(kind: str, student: Tensor, teacher: Tensor) -> Tensor:
    """Distance of two batches of logits: "CE" with the teacher's softmax, "NLL" with its predicted label."""
    log_probabilities = F.log_softmax(student, 1)
    if kind == "NLL":
        return F.nll_loss(log_probabilities, teacher.argmax(1))
    return -(teacher.softmax(1) * log_probabilities).sum(1).mean()


def filter_error(model: nn.Module, factored: Sequence[Site], filters: Sequence[Tensor]) -> Tensor:
    """Mean squared error between the filters W and their factors A·B, over all weights of the factored layers."""
    with torch.autocast(filters[0].device.type, enabled=False):
        errors = [(matrix(model, site) - w).square().sum() for site, w in zip(factored, filters, strict=True)]
    return torch.stack(errors).sum() / sum(w.numel() for w in filters)


def basis_loss(
    kind: str, weight: float, teacher: nn.Module, factored: Sequence[Site], filters: Sequence[Tensor]
) -> Loss:
    """L = CE + HP15 · Aux(HP16).

    The sources name the auxiliary loss without defining it. Here "MSE" is the paper's reconstruction term,
    between the input model's filters and A·B; "CE" and "NLL" compare with the input model's outputs on the same
    batch. MSE is 0 and CE minimal where the factored model equals its input.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        found = logits(model, x).float()
        total = F.cross_entropy(found, y)
        if kind == "MSE":
            return total + weight * filter_error(model, factored, filters) if filters else total
        with torch.no_grad():
            wanted = logits(teacher, x).float()
        return total + weight * auxiliary_loss(kind, found, wanted)

    return loss


@register
class LearningFilterBasis(Method):
    """Write convolutions as m basis filters and a 1×1 combination of them, then fine-tune.

    HP1 epochs in units of E0; HP2 share of the original parameters to remove; HP15 factor and HP16 kind of the
    auxiliary loss, see `basis_loss`. One split of the input channels (the paper's s = 1), so that the result is
    two ordinary layers that any later step understands; a layer that is two factors already gets a smaller
    basis. Differs from the paper in starting from the trained filters by truncated SVD, not from scratch.
    """

    name = "LFB"
    version = 2
    choices: ClassVar = {"HP16": AUXILIARY}

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Factor a copy of `model`.

        Raises:
            Infeasible: no layer gets smaller by factoring, or all together not enough.
        """
        self.check(strategy)
        weight, kind = setting(strategy, "HP15", 0.0, 1e6), strategy.get("HP16")
        step = Step(model, strategy, context, (self.iterations(strategy, context.recipe, context.data.n),))
        found = sites(step.model, step.whole(sites(step.model, context.keep), exact))
        if not found:
            raise Infeasible(
                f"{strategy.id}: no convolution or linear layer of this model gets smaller by factoring.{step.staying}"
            )
        chosen, ranks, left = choose_ranks(found, step.params_in, step.target)
        reduced = [(site, rank) for site, rank in zip(chosen, ranks, strict=True) if rank <= site.levels]
        unit = min((raise_cost(site, rank) or 0 for site, rank in reduced), default=0)
        short = f"rank 1 everywhere leaves {left} parameters"
        step.settle(left, unit, short)
        filters = [matrix(step.model, site).detach().clone() for site, _ in reduced]
        teacher = copy.deepcopy(step.model).eval().requires_grad_(False).to(memory_format=context.data.layout)
        factored = [factor(step.model, site, rank) for site, rank in reduced]
        step.check_runs(teacher)
        fitted = step.train(loss=basis_loss(str(kind), weight, teacher, factored, filters))
        step.recalibrate()
        return step.model, step.report(
            unit, short, layers=len(reduced), kinds=sorted({site.kind for site, _ in reduced}), loss=fitted.loss,
            ranks={site.name: rank for site, rank in zip(factored, (rank for _, rank in reduced), strict=True)},
        )  # fmt: skip

    def relative_cost(self, strategy: Strategy) -> float:
        """HP1."""
        return setting(strategy, "HP1", 0.0, 1000.0)
