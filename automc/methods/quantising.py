"""What every quantiser's step shares: the layers that it quantises, their bits, its training and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from automc.errors import Infeasible, MethodError
from automc.methods.base import Method, StepContext, StepReport
from automc.methods.step import Step, setting
from automc.models.keeping import kept
from automc.models.measure import count_params
from automc.models.stored import Stored
from automc.surgery.layers import computed, extended
from automc.surgery.levels import MAX_BITS, Levels
from automc.surgery.quantised import Layer, quantise, settle
from automc.surgery.whole import shared
from kg.schema import Strategy

END_BITS = MAX_BITS
"""Of the first and the last layer, which have few weights and matter most."""


class Quantiser(Method):
    """A method that stores weights in fewer bits, HP22, and removes no parameter."""

    size: ClassVar = "HP22"

    def reach(self, model: nn.Module, strategy: Strategy, context: StepContext) -> float:
        """Return 0: no parameter goes.

        Raises:
            Infeasible: nothing of this model can be quantised.
        """
        QuantStep(model, strategy, context, ())
        return 0.0

    def relative_cost(self, strategy: Strategy) -> float:
        """HP1."""
        return setting(strategy, "HP1", 0.0, 1000.0)

    def bits_after(self, strategy: Strategy, model: Stored) -> int:
        """Return the most bits that all parameters take after a step on a model of floats, by arithmetic.

        Here a scale for each channel that a layer writes; a quantiser that stores something else says so.
        """
        return model.quantised(strategy.number(self.size), ends=END_BITS)

    def rounds(self, strategy: Strategy) -> int:
        """HP23 as a whole number.

        Raises:
            MethodError: it is none, or out of range.
        """
        rounds = setting(strategy, "HP23", 1, 8)
        if rounds != round(rounds):
            raise MethodError(f"{strategy.id}: HP23 must be a whole number of rounds.")
        return round(rounds)

    def bits(self, strategy: Strategy) -> int:
        """HP22 as bits that every layer in the middle has.

        Raises:
            MethodError: it is no whole number, or out of range.
        """
        bits = setting(strategy, "HP22", 2, MAX_BITS)
        if bits != round(bits):
            raise MethodError(f"{strategy.id}: HP22 must be a whole number of bits.")
        return round(bits)


class QuantStep(Step):
    """A step in progress of which `layers` are to be quantised, by name, in the order of the model.

    Raises:
        Infeasible: none can be, or some are already.
    """

    def __init__(self, model: nn.Module, strategy: Strategy, context: StepContext, lengths: Sequence[int]) -> None:
        super().__init__(model, strategy, context, lengths)
        self.insist_float("They would lose their levels: quantise once, to the bits that are wanted.")
        self.layers = quantisable(self.model, context.keep)
        if not self.layers:
            raise Infeasible(
                f"{strategy.id}: no layer of this model can be quantised: it has no plain convolution or linear layer "
                "of its own weights that may change."
            )

    @property
    def ends(self) -> tuple[str, ...]:
        """Names of the first and the last layer, which have `END_BITS`."""
        names = list(self.layers)
        return tuple(dict.fromkeys((names[0], names[-1])))

    def quantise(self, levels: Mapping[str, Levels]) -> None:
        """Make every layer the quantised one of its levels."""
        for name, layer in self.layers.items():
            quantise(layer, levels[name])

    def finish(self, **details: Any) -> StepReport:
        """Settle the weights, estimate batch-norm statistics anew and say what became of the bits.

        Args:
            details: figures of the method, plain values.
        """
        settle(self.model)
        self.recalibrate()
        widths = {name: int(layer.bits) for name, layer in self.layers.items()}  # type: ignore[arg-type]
        weights = {name: layer.weight.numel() for name, layer in self.layers.items()}
        inner = [name for name in widths if name not in self.ends]
        count = sum(weights[name] for name in inner)
        mean = sum(weights[name] * widths[name] for name in inner) / count if count else float(END_BITS)
        params = count_params(self.model)
        size = {"bits": widths, "mean_bits": mean, "weights": sum(weights.values()), "unit": 0}
        return StepReport(self.params_in, params, self.params_in, True, "", {**size, **details})


def quantisable(model: nn.Module, keep: Sequence[str] = ()) -> dict[str, Layer]:
    """Convolutions and linear layers that can be quantised, by name, in the order of the model.

    Left out: other kinds and subclasses, layers matched by `keep`, and those whose weight is computed, is another
    layer's too, or has tensors beside it.
    """
    several = shared(model)
    return {
        name: module
        for name, module in model.named_modules()
        if (type(module) is nn.Conv2d or type(module) is nn.Linear)
        and not (kept(name, keep) or name in several or computed(module) or extended(module))
    }
