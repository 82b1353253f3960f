"""Where a training stands between two pieces of it, so that the next piece goes on as if there had been no break."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_MOMENTUM, _RANDOM, _DEVICE_RANDOM, _PLACE = "momentum/", "random", "device_random", "place"


@dataclass
class FitState:
    """What `fit` needs besides the weights to go on: momenta, generators, and the place in the stream of batches.

    Empty it is the beginning of a training. `fit` reads it when it begins and writes it when it ends.
    """

    seed: int | None = None
    """Of the training; None: it has not begun."""
    done: int = 0
    """Iterations so far, which are the batches that were drawn."""
    momentum: dict[str, Tensor] = field(default_factory=dict)
    """By the parameter's name."""
    random: Tensor | None = None
    """State of torch's generator, from which dropout draws."""
    device_random: Tensor | None = None
    """The same of the accelerator's."""

    def begin(self) -> None:
        """Become the beginning of a training."""
        self.seed, self.done, self.momentum, self.random, self.device_random = None, 0, {}, None, None

    def restore(self, model: nn.Module, momenta: dict[Tensor, Tensor], device: torch.device) -> None:
        """Give generators and momenta, by parameter, what they had; one that has changed its shape begins without."""
        if self.random is not None:
            torch.set_rng_state(self.random.cpu())
        if self.device_random is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.device_random.cpu(), device)
        for name, parameter in model.named_parameters():
            known = self.momentum.get(name)
            if known is not None and known.shape == parameter.shape and parameter.requires_grad:
                momenta[parameter] = torch.empty_like(parameter).copy_(known)

    def keep(self, model: nn.Module, momenta: Mapping[Tensor, Tensor], device: torch.device, iterations: int) -> None:
        """Take what they have after so many iterations more."""
        self.done += iterations
        self.random = torch.get_rng_state()
        self.device_random = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        held = ((name, momenta.get(p)) for name, p in model.named_parameters())
        self.momentum = {name: buffer.detach().clone() for name, buffer in held if buffer is not None}

    def tensors(self) -> dict[str, Tensor]:
        """Return it as tensors by name, for a file."""
        found = {_MOMENTUM + name: tensor.cpu().contiguous() for name, tensor in self.momentum.items()}
        found |= {} if self.random is None else {_RANDOM: self.random}
        found |= {} if self.device_random is None else {_DEVICE_RANDOM: self.device_random}
        return {**found, _PLACE: torch.tensor([-1 if self.seed is None else self.seed, self.done], dtype=torch.int64)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> FitState:
        """Read what `tensors` returned.

        Raises:
            KeyError: it is something else.
        """
        seed, done = (int(value) for value in tensors[_PLACE])
        momentum = {n.removeprefix(_MOMENTUM): t for n, t in tensors.items() if n.startswith(_MOMENTUM)}
        return cls(
            None if seed < 0 else seed, done, momentum, tensors.get(_RANDOM), tensors.get(_DEVICE_RANDOM)
        )  # fmt: skip
