"""Gradient descent with Nesterov momentum, by torch's own function."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd


class Descent:
    """What `torch.optim.SGD` does, by the function it calls, without the object around it.

    The objects load torch's compiler when they are made: 80 MB in each worker, and a second of its first step.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], momentum: float, weight_decay: float) -> None:
        """Move these parameters.

        Args:
            parameters: all with a gradient to come; one without a gradient at an update stays as it is.
            momentum: share of the last update that goes on, in [0, 1); Nesterov's, where there is any.
            weight_decay: share of each parameter that is added to its gradient.
        """
        self.parameters = list(parameters)
        self._momentum, self._weight_decay = momentum, weight_decay
        self.momenta: dict[Tensor, Tensor] = {}
        """By parameter; of those that were moved before."""

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the parameters by their gradients at a learning rate."""
        moved = [p for p in self.parameters if p.grad is not None]
        gradients = [p.grad for p in moved if p.grad is not None]
        momenta = [self.momenta.get(p) for p in moved]
        sgd(
            list[Tensor](moved), gradients, momenta, foreach=True, weight_decay=self._weight_decay,
            momentum=self._momentum, lr=rate, dampening=0.0, nesterov=self._momentum > 0, maximize=False,
        )  # fmt: skip
        self.momenta.update((p, m) for p, m in zip(moved, momenta, strict=True) if m is not None)
