"""Layers that lost inputs, fitted anew so that they give what they gave before, by least squares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automc.surgery.layers import Side

POSITIONS = 10
"""Places of each image at which a convolution is looked at."""
MOST = 2304
"""Weights of one output beyond which a layer is left as it is: the equations grow with their square."""
RIDGE = 1e-6
"""Added to the diagonal, as a share of its mean."""


@dataclass
class _Moments:
    """Sums over samples of a layer: inputs × inputs, inputs × outputs without bias, and outputs squared."""

    inputs: Tensor
    both: Tensor
    squares: Tensor

    def error(self, weight: Tensor, columns: Tensor, rows: Tensor) -> float:
        """The squared error of a weight (rows, columns) that reads these inputs and gives these outputs."""
        fit = (weight @ self.inputs[columns][:, columns] * weight).sum() - 2 * (
            weight.T * self.both[columns][:, rows]
        ).sum()
        return float(fit + self.squares[rows].sum())


class Repair:
    """What layers read and gave in the model as it was, and weights that give the same from fewer inputs.

    Args:
        model: as it was; left as it is.
        names: layers that may lose inputs. Only plain convolutions without groups and linear layers are looked at.
        run: runs the model on the images to sample, without gradients.
        seed: of the places.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], run: Callable[[], object], seed: int) -> None:
        self.moments: dict[str, _Moments] = {}
        self._draws = torch.Generator().manual_seed(seed)
        layers = {name: model.get_submodule(name) for name in dict.fromkeys(names)}
        hooks = [m.register_forward_hook(self._look(name)) for name, m in layers.items() if _fits(m)]
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()

    def _look(self, name: str) -> Any:
        def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs, outputs = self._samples(module, args[0].detach(), output.detach())
            if module.bias is not None:
                outputs = outputs - module.bias.detach().double()
            new = _Moments(inputs.T @ inputs, inputs.T @ outputs, outputs.square().sum(0))
            old = self.moments.setdefault(name, new)
            if old is not new:
                for part in ("inputs", "both", "squares"):
                    getattr(old, part).add_(getattr(new, part))

        return hook

    def _samples(self, module: Any, given: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (samples, weights of an output) and outputs (samples, outputs) in float64."""
        if isinstance(module, nn.Linear):
            return given.flatten(0, -2).double(), output.flatten(0, -2).double()
        patches = F.unfold(given, module.kernel_size, module.dilation, module.padding, module.stride)
        places = torch.randint(patches.shape[2], (len(patches), 1, POSITIONS), generator=self._draws).to(given.device)
        taken = [t.gather(2, places.expand(-1, t.shape[1], -1)) for t in (patches, output.flatten(2))]
        inputs, outputs = (t.transpose(1, 2).flatten(0, 1).double() for t in taken)
        return inputs, outputs

    @torch.no_grad()
    def apply(self, model: nn.Module, removed: Mapping[tuple[str, Side], np.ndarray]) -> dict[str, tuple[float, float]]:
        """Fit the layers of the cut model that lost inputs; return their squared errors before and after, by name.

        Both are sums over the samples, against what the model as it was gave from what it read. A layer keeps its
        weight where the fit is no better.

        Args:
            removed: the channels that are gone, by layer and side.
        """
        errors = {}
        for name, moments in self.moments.items():
            if (name, "in") not in removed:
                continue
            layer: Any = model.get_submodule(name)
            taps = prod(layer.kernel_size) if isinstance(layer, nn.Conv2d) else 1
            old = layer.weight.flatten(1).double()
            columns = _left(len(moments.inputs) // taps, removed[name, "in"], old.device)
            columns = (columns[:, None] * taps + torch.arange(taps, device=old.device)).flatten()
            rows = _left(len(moments.squares), removed.get((name, "out")), old.device)
            square = moments.inputs[columns][:, columns]
            ridge = RIDGE * square.diagonal().mean().clamp(min=1e-12) * torch.eye(len(square), device=old.device)
            new = torch.linalg.solve(square + ridge, moments.both[columns][:, rows]).T
            before, after = (moments.error(weight, columns, rows) for weight in (old, new))
            errors[name] = (before, min(before, after))
            if after < before:
                layer.weight.copy_(new.view_as(layer.weight))
        return errors


def _fits(module: nn.Module) -> bool:
    if type(module) is nn.Linear:
        return module.in_features <= MOST
    if type(module) is not nn.Conv2d or isinstance(module.padding, str):
        return False
    return module.groups == 1 and module.padding_mode == "zeros" and module.weight[0].numel() <= MOST


def _left(width: int, gone: np.ndarray | None, device: torch.device) -> Tensor:
    kept = np.arange(width) if gone is None else np.setdiff1d(np.arange(width), gone)
    return torch.from_numpy(kept).to(device)
