"""Uniform quantisation: all weights at once on a grid for each output channel, trained through the rounding.

Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".
"""

from __future__ import annotations

from torch import nn

from automc.methods import register
from automc.methods.base import StepContext, StepReport
from automc.methods.quantising import END_BITS, Quantiser, QuantStep
from automc.surgery.levels import uniform
from kg.schema import Strategy


@register
class UniformQuantisation(Quantiser):
    """Put every weight on uniform levels and train with them; gradients pass the rounding unchanged.

    HP1 epochs of training in units of E0; HP22 bits of every layer but the first and the last, which have 8. The scale
    of an output channel is that of the least squared error before the training, and stays. Differs from the paper in
    activations, which stay float, and in that clipping.
    """

    name = "UQ"
    version = 1

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Quantise a copy of `model`.

        Raises:
            Infeasible: no layer can be quantised, or some are already.
        """
        self.check(strategy)
        bits = self.bits(strategy)
        step = QuantStep(model, strategy, context, (self.iterations(strategy, context.recipe, context.data.n),))
        widths = {name: END_BITS if name in step.ends else bits for name in step.layers}
        step.quantise({name: uniform(layer.weight, widths[name]) for name, layer in step.layers.items()})
        fitted = step.train()
        return step.model, step.finish(loss=fitted.loss)
