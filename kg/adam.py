"""Adam, by torch's own function: for what learns here and above, and knows nothing of a graph."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam

State = list[tuple[Tensor, Tensor, Tensor]]
"""Of each parameter: updates so far, mean of its gradients, mean of their squares."""


class Adam:
    """What `torch.optim.Adam` does, by the function it calls, without the object around it.

    The objects load torch's compiler when they are made: two seconds, and up to 150 MB of memory.
    """

    def __init__(
        self, parameters: Iterable[Tensor], rate: float, betas: tuple[float, float] = (0.9, 0.999), fused: bool = False
    ) -> None:
        """Move these parameters.

        Args:
            parameters: one without a gradient at an update stays as it is.
            rate: learning rate.
            betas: share of the means of gradients and of their squares that an update leaves.
            fused: in one kernel for all, which rounds otherwise.
        """
        self.parameters = list(parameters)
        self._rate, self._betas, self._fused = rate, betas, fused
        self.state: State = [
            (torch.zeros((), device=p.device if fused else None), torch.zeros_like(p), torch.zeros_like(p))
            for p in self.parameters
        ]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters by their gradients."""
        moved = [(p, p.grad, state) for p, state in zip(self.parameters, self.state, strict=True) if p.grad is not None]
        adam(
            [p for p, _, _ in moved], [g for _, g, _ in moved], [s[1] for _, _, s in moved],
            [s[2] for _, _, s in moved], [], [s[0] for _, _, s in moved], foreach=False, fused=self._fused,
            amsgrad=False, beta1=self._betas[0], beta2=self._betas[1], lr=self._rate, weight_decay=0.0, eps=1e-8,
            maximize=False,
        )  # fmt: skip
