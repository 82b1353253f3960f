"""Incremental quantisation: portions of the weights are fixed on their levels, and the others train on to make up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automc.datasets.base import TrainData
from automc.methods.base import StepContext, StepReport
from automc.methods.quantising import QuantStep
from automc.models.modes import evaluating
from automc.models.outputs import logits
from automc.surgery.levels import Levels
from automc.training.loop import FitReport
from automc.training.seeds import derived
from kg.schema import Strategy

JUDGED = 512
"""Most training images on which the loss of fixing weights is estimated."""
BATCH = 32
"""Of these, images of one gradient."""


class Incremental(QuantStep):
    """A step in progress whose weights are fixed bit by bit; what is not fixed trains as plain floats.

    `levels` are set once, before the first portion; `fixed` says of each weight whether it still moves.
    """

    def __init__(self, model: nn.Module, strategy: Strategy, context: StepContext, lengths: Sequence[int]) -> None:
        super().__init__(model, strategy, context, lengths)
        self.levels: dict[str, Levels] = {}
        self.fixed = {name: torch.zeros_like(layer.weight, dtype=torch.bool) for name, layer in self.layers.items()}
        self.held = {name: layer.weight.detach().clone() for name, layer in self.layers.items()}
        self.loss: float | None = None

    @torch.no_grad()
    def fix(self, name: str, chosen: Tensor) -> None:
        """Put these weights of a layer, a mask of its shape, on their nearest levels for good."""
        layer, new = self.layers[name], chosen & ~self.fixed[name]
        layer.weight.copy_(torch.where(new, self.levels[name].nearest(layer.weight), layer.weight))
        self.held[name] = torch.where(new, layer.weight, self.held[name])
        self.fixed[name] = self.fixed[name] | new

    def share(self, name: str) -> float:
        """Share of a layer's weights that are fixed."""
        return float(self.fixed[name].double().mean())

    def advance(self, phase: int) -> None:
        """Train one phase; fixed weights stay bit by bit. A phase without iterations passes."""
        if self.lengths[phase]:
            self.loss = self._fitted(phase).loss

    def _fitted(self, phase: int) -> FitReport:
        def still(step: int, lr: float, model: nn.Module) -> None:
            for name, layer in self.layers.items():
                if layer.weight.grad is not None:
                    layer.weight.grad.masked_fill_(self.fixed[name], 0.0)

        @torch.no_grad()
        def back(step: int) -> None:  # momentum and weight decay move what has no gradient
            for name, layer in self.layers.items():
                layer.weight.copy_(torch.where(self.fixed[name], self.held[name], layer.weight))

        return self.train(phase=phase, gradient_hook=still, after_update=back)

    def done(self, **details: Any) -> StepReport:
        """Make the layers quantised ones and report: all of their weights are fixed."""
        assert all(bool(fixed.all()) for fixed in self.fixed.values())
        self.quantise(self.levels)
        return self.finish(**details, **({} if self.loss is None else {"loss": self.loss}))

    def judged(self) -> TrainData:
        """The training images on which the loss of fixing weights is estimated: a fifth of them, at most `JUDGED`."""
        data = self.context.data
        return data.take(max(1, min(JUDGED, data.n // 5)), derived(self.context.seed, "slice"))

    def sensitivity(self) -> dict[str, Tensor]:
        """Estimate what the loss rises by when each weight goes to its level, of the weights' shapes.

        To second order, g·e + F·e²/2, on a slice of the training images: e the way to the level, g the mean gradient, F
        the diagonal of the Gauss-Newton matrix. That is the mean square of gradients of the logits, each image's mixed
        by random signs such that their covariance is that of the predicted classes. Squared gradients of the loss
        itself say little where a network fits its images: they are all but zero.
        """
        images, draw = self.judged(), torch.Generator().manual_seed(derived(self.context.seed, "signs"))
        weights = [layer.weight for layer in self.layers.values()]
        mean = [torch.zeros_like(weight) for weight in weights]
        square = [torch.zeros_like(weight) for weight in weights]
        with evaluating(self.model):
            for rows in torch.arange(images.n, device=images.device).split(BATCH):  # type: ignore[no-untyped-call]
                found = logits(self.model, images.normalised(rows)).float()
                chance = found.detach().softmax(1)
                signs = (torch.randint(0, 2, found.shape, generator=draw) * 2 - 1).to(found.device)
                mix = chance.sqrt() * signs
                mixed = (found * (mix - chance * mix.sum(1, keepdim=True))).sum()
                loss = F.cross_entropy(found, images.y[rows], reduction="sum")
                slopes = torch.autograd.grad(loss, weights, retain_graph=True)
                for total, slope in zip(mean, slopes, strict=True):
                    total.add_(slope, alpha=1 / images.n)
                for total, slope in zip(square, torch.autograd.grad(mixed, weights), strict=True):
                    total.add_(slope.square(), alpha=1 / images.n)
        rises = {}
        for (name, layer), first, second in zip(self.layers.items(), mean, square, strict=True):
            way = self.levels[name].nearest(layer.weight.detach()) - layer.weight.detach()
            rises[name] = first * way + second * way.square() / 2
        return rises


def parts(total: int, number: int) -> list[int]:
    """Cut a length of training into nearly equal parts that sum to it."""
    return [total * (part + 1) // number - total * part // number for part in range(number)]


def by_level(codes: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the codes that occur, ascending, the sum of the values of each, and how many weights have it."""
    found, place, counts = codes.flatten().unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    sums = torch.zeros(len(found), dtype=torch.float64, device=values.device)
    return found, sums.index_add_(0, place, values.flatten().double()), counts
