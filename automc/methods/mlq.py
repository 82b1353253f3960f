"""Multiple-level quantisation: ternary weights, fixed layer by layer, the others train on to make up for them.

Xu et al. 2018, "Deep Neural Network Compression with Single and Multiple Level Quantization".
"""

from __future__ import annotations

import torch
from torch import nn

from automc.errors import MethodError
from automc.methods import register
from automc.methods.base import StepContext, StepReport
from automc.methods.incremental import Incremental, parts
from automc.methods.quantising import END_BITS, Quantiser
from automc.models.stored import Stored
from automc.surgery.levels import Levels, kmeans, uniform
from automc.training.recipe import Recipe
from kg.schema import Strategy

LEVELS = 3
BITS = 2
"""Three levels, −a, 0 and b, are stored in so many."""


@register
class MultipleLevelQuantisation(Quantiser):
    """Fix the layers in portions, those first that the loss rises by most; of each the outer levels, then the zeros.

    HP1 epochs of training in all portions together, in units of E0; HP22 is 2: a layer's levels are −a, 0 and b by
    k-means, but for the first and the last layer, which have 8 bits, uniform levels, and go before all others; HP23
    portions, of about as many weights each. After each half of a portion the weights that are not fixed yet train.
    Differs from the paper in the order of layers, see `Incremental.sensitivity`.
    """

    name = "MLQ"
    version = 1

    def check(self, strategy: Strategy) -> None:
        """As every quantiser's; and HP22 must be 2.

        Raises:
            MethodError: it is not.
        """
        super().check(strategy)
        if self.bits(strategy) != BITS:
            raise MethodError(f"{strategy.id}: HP22 must be {BITS}, MLQ's weights are ternary. UQ and SLQ take others.")

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Quantise a copy of `model`.

        Raises:
            Infeasible: no layer can be quantised, or some are already.
            MethodError: HP22 is not 2, or HP23 no whole number.
        """
        self.check(strategy)
        step = Incremental(model, strategy, context, self.phases(strategy, context.recipe, context.data.n))
        for name, layer in step.layers.items():
            book = Levels(BITS, codebook=kmeans(layer.weight, LEVELS))
            step.levels[name] = uniform(layer.weight, END_BITS) if name in step.ends else book
        order = portions(step, self.rounds(strategy))
        for name in step.ends:
            step.fix(name, torch.ones_like(step.fixed[name]))
        for place, names in enumerate(order):
            for name in names:
                step.fix(name, step.levels[name].nearest(step.layers[name].weight.detach()) != 0)
            step.advance(2 * place)
            for name in names:
                step.fix(name, torch.ones_like(step.fixed[name]))
            step.advance(2 * place + 1)
        return step.model, step.done()

    def bits_after(self, strategy: Strategy, model: Stored) -> int:
        """As every quantiser's, with a codebook of three levels for each layer but the first and the last."""
        return model.quantised(BITS, ends=END_BITS, codebook=LEVELS)

    def phases(self, strategy: Strategy, recipe: Recipe, n_train: int) -> list[int]:
        """Iterations after each half of a portion."""
        return parts(self.iterations(strategy, recipe, n_train), 2 * self.rounds(strategy))


def portions(step: Incremental, number: int) -> list[list[str]]:
    """Cut the layers but the first and the last into portions of about as many weights, the most sensitive first."""
    rises = step.sensitivity()
    inner = [name for name in step.layers if name not in step.ends]
    ranked = sorted(inner, key=lambda name: -float(rises[name].sum()))
    total = sum(step.layers[name].weight.numel() for name in inner)
    found: list[list[str]] = [[] for _ in range(number)]
    before = 0
    for name in ranked:
        size = step.layers[name].weight.numel()
        found[int((before + size / 2) / total * number)].append(name)
        before += size
    return found
