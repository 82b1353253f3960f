"""Single-level quantisation: clusters of weights are fixed round by round, the rest train on to make up for them.

Xu et al. 2018, "Deep Neural Network Compression with Single and Multiple Level Quantization".
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from automc.methods import register
from automc.methods.base import StepContext, StepReport
from automc.methods.incremental import Incremental, by_level, parts
from automc.methods.quantising import END_BITS, Quantiser
from automc.models.stored import Stored
from automc.surgery.levels import Levels, kmeans, uniform
from automc.training.recipe import Recipe
from kg.schema import Strategy


@register
class SingleLevelQuantisation(Quantiser):
    """Cluster each layer's weights, fix the clusters in rounds, and train what is not fixed yet after each.

    HP1 epochs of training in all rounds together, in units of E0; HP22 bits of every layer but the first and the last,
    which have 8 and uniform levels: 2^HP22 levels by k-means, one of them zero; HP23 rounds: after round j of R a share
    of 1 − 2^−j of each layer is fixed, after the last all of it, and the last training moves batch norms and biases
    only. HP24 which clusters are fixed first: "loss", those that the loss rises by most, so that the rest can still
    make up for it; or "magnitude", those of the largest level. Differs from the paper's code in using all codes, and in
    the loss, which that does not have: it is estimated to second order, see `Incremental.sensitivity`.
    """

    name = "SLQ"
    version = 1
    choices: ClassVar = {"HP24": ("loss", "magnitude")}

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Quantise a copy of `model`.

        Raises:
            Infeasible: no layer can be quantised, or some are already.
            MethodError: HP22 or HP23 is no whole number, or HP24 is none of the orders.
        """
        self.check(strategy)
        bits, rounds = self.bits(strategy), self.rounds(strategy)
        step = Incremental(model, strategy, context, self.phases(strategy, context.recipe, context.data.n))
        for name, layer in step.layers.items():
            book = Levels(bits, codebook=kmeans(layer.weight, 2**bits))
            step.levels[name] = uniform(layer.weight, END_BITS) if name in step.ends else book
        for phase in range(rounds):
            fix(step, 1 - 2.0 ** -(phase + 1) if phase < rounds - 1 else 1.0, str(strategy.get("HP24")))
            step.advance(phase)
        return step.model, step.done()

    def bits_after(self, strategy: Strategy, model: Stored) -> int:
        """As every quantiser's, with a codebook of 2^HP22 levels for each layer but the first and the last."""
        bits = strategy.number(self.size)
        return model.quantised(bits, ends=END_BITS, codebook=round(2**bits))

    def phases(self, strategy: Strategy, recipe: Recipe, n_train: int) -> list[int]:
        """Iterations of each round."""
        return parts(self.iterations(strategy, recipe, n_train), self.rounds(strategy))


def fix(step: Incremental, share: float, order: str) -> None:
    """Fix whole clusters of every layer in this order until so large a share of its weights is fixed."""
    rises = step.sensitivity() if order == "loss" and share < 1 else {}
    for name, layer in step.layers.items():
        levels, free = step.levels[name], ~step.fixed[name]
        codes = levels.codes(layer.weight.detach())
        values = rises[name] if name in rises else levels.nearest(layer.weight.detach()).abs()
        found, sums, counts = by_level(codes[free], values[free])
        keys = sums if name in rises else sums / counts
        missing = share * free.numel() - int(step.fixed[name].sum())
        ranked = torch.argsort(keys, descending=True, stable=True)
        enough = int((counts[ranked].cumsum(0) < missing).sum()) + 1
        step.fix(name, torch.isin(codes, found[ranked[:enough]]) if missing > 0 else torch.zeros_like(free))
