"""Layers whose weights lie on a few levels: trained through the rounding, and stored as numbers of levels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automc.models.edits import insertable
from automc.surgery.levels import Levels


class _Quantised(nn.Module):
    """What quantised layers share; the other base is the layer that it was.

    In training the layer computes with the nearest levels, and gradients pass the rounding unchanged (straight-through
    estimator). In evaluation it computes with the weight as it is stored: `settle`, at the end of every training, has
    put that on its levels. So the layer is its float kind for counters, exports and timing.
    """

    weight: Tensor
    bits: int
    scale: Tensor | None
    codebook: Tensor | None

    @property
    def levels(self) -> Levels:
        """The levels of this layer."""
        return Levels(self.bits, self.scale, self.codebook)

    def used(self) -> Tensor:
        """The weight that the forward pass computes with."""
        if not self.training:
            return self.weight
        return self.weight + (self.levels.nearest(self.weight) - self.weight).detach()

    @torch.no_grad()
    def settle(self) -> None:
        """Put the weight on its levels; what lies there stays bit by bit."""
        self.weight.copy_(self.levels.nearest(self.weight))


@insertable("QuantConv2d")
class QuantConv2d(_Quantised, nn.Conv2d):
    """A convolution, also a grouped one, of which the weight lies on levels; the bias is float."""

    def __init__(self, *given: Any, bits: int, levels: int | None = None, **more: Any) -> None:
        """Make the layer like a `Conv2d`, with `bits` of each weight and `levels` in its codebook; None is uniform."""
        super().__init__(*given, **more)
        _hold(self, bits, levels)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the levels."""
        out: Tensor = self._conv_forward(x, self.used(), self.bias)
        return out

    def spec(self) -> dict[str, Any]:
        """Arguments that rebuild this module."""
        names = (
            "in_channels",
            "out_channels",
            "kernel_size",
            "stride",
            "padding",
            "dilation",
            "groups",
            "padding_mode",
        )
        return {name: getattr(self, name) for name in names} | _spec(self)

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> QuantConv2d:
        """Rebuild from `spec()`."""
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}
        return cls(**given)

    def extra_repr(self) -> str:
        """Show the bits besides what a convolution shows."""
        return f"{super().extra_repr()}, bits={self.bits}"  # type: ignore[no-untyped-call]


@insertable("QuantLinear")
class QuantLinear(_Quantised, nn.Linear):
    """A linear layer of which the weight lies on levels; the bias is float."""

    def __init__(self, *given: Any, bits: int, levels: int | None = None, **more: Any) -> None:
        """Make the layer like a `Linear`, with `bits` of each weight and `levels` in its codebook; None is uniform."""
        super().__init__(*given, **more)
        _hold(self, bits, levels)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply with the levels."""
        return F.linear(x, self.used(), self.bias)

    def spec(self) -> dict[str, Any]:
        """Arguments that rebuild this module."""
        return {"in_features": self.in_features, "out_features": self.out_features} | _spec(self)

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> QuantLinear:
        """Rebuild from `spec()`."""
        return cls(**spec)

    def extra_repr(self) -> str:
        """Show the bits besides what a linear layer shows."""
        return f"{super().extra_repr()}, bits={self.bits}"


Layer = nn.Conv2d | nn.Linear
QUANTISED = (QuantConv2d, QuantLinear)


def quantise(layer: Layer, levels: Levels) -> None:
    """Make a float layer the quantised one of these levels, in place: whoever holds on to it has the new one.

    The weight stays as it is until `settle`.
    """
    layer.__class__ = QuantConv2d if isinstance(layer, nn.Conv2d) else QuantLinear
    assert isinstance(layer, _Quantised)
    layer.bits = levels.bits
    for name in ("scale", "codebook"):
        tensor = getattr(levels, name)
        layer.register_buffer(name, None if tensor is None else tensor.detach().clone())


def quantised(model: nn.Module) -> list[str]:
    """Name the quantised layers of a model."""
    return [name for name, module in model.named_modules() if isinstance(module, QUANTISED)]


def settle(model: nn.Module) -> None:
    """Put the weights of all quantised layers on their levels: at the end of every training, and before saving."""
    for module in model.modules():
        if isinstance(module, QUANTISED):
            module.settle()


def _hold(layer: QuantConv2d | QuantLinear, bits: int, levels: int | None) -> None:
    layer.bits = bits
    like = layer.weight.detach()
    layer.register_buffer("scale", like.new_ones(len(like)) if levels is None else None)
    layer.register_buffer("codebook", None if levels is None else like.new_zeros(levels))


def _spec(layer: QuantConv2d | QuantLinear) -> dict[str, Any]:
    levels = None if layer.codebook is None else len(layer.codebook)
    return {"bias": layer.bias is not None, "bits": layer.bits, "levels": levels}
