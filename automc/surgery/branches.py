"""Residual branches: modules that only add to what comes in, so that nothing breaks where they are left out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from automc.models.keeping import kept
from automc.models.measure import count_params
from automc.models.modes import observe, unheard
from automc.surgery.whole import stays


@dataclass(frozen=True, slots=True)
class Branch:
    """A module around a shortcut without parameters: without the branch it is `rest`."""

    name: str
    params: int
    rectified: bool
    """Whether what the shortcut carries is rectified after the sum."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    @property
    def rest(self) -> nn.Module:
        """What is left of the module without the branch."""
        return nn.ReLU() if self.rectified else nn.Identity()

    def holds(self, name: str) -> bool:
        """Whether a layer lies within."""
        return name.startswith(f"{self.name}.")


def branches(model: nn.Module, example: Tensor, keep: Sequence[str] = ()) -> list[Branch]:
    """List the innermost modules that pass on what comes in, or its positive part, where all their parameters are 0.

    That is what a residual block does whose shortcut has no parameters: its branch ends in a layer that gives 0 then.
    They take one tensor, run once, and hold no layer that `keep` matches or that `whole.stays` names.
    """
    whole = stays(model)
    shapes = _shapes(model, example)
    found: list[Branch] = []
    for name, module in reversed(list(model.named_modules())):
        inside = [f"{name}.{own}" if own else name for own, _ in module.named_modules()]
        if not name or module not in shapes or not _holds_layers(module):
            continue
        if any(kept(n, keep) or n in whole for n in inside) or any(b.name in inside for b in found):
            continue
        rectified = _passes(module, shapes[module], example)
        if rectified is not None:
            found.append(Branch(name, count_params(module), rectified))
    return found[::-1]


def exact(model: nn.Module, branch: Branch) -> None:
    """Put another module that computes the same in the place of a branch's."""
    block = model.get_submodule(branch.name)
    model.set_submodule(branch.name, nn.Sequential(copy.deepcopy(block)).train(block.training))


class Bypassed(nn.Module):
    """A residual module in a search: the weighted sum of what it gives and of what is left without its branch.

    `beta` are both scores; a plain tensor: only who asks for it trains it.
    """

    def __init__(self, block: nn.Module, rest: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.block, self.rest = block, rest
        self.beta = torch.zeros(2, device=device, requires_grad=True)

    def forward(self, x: Tensor) -> Any:
        """Mix."""
        with_it, without = self.beta.softmax(0)
        rest = self.rest(x)  # before the block, which may write to its input
        return with_it * self.block(x) + without * rest


def _holds_layers(module: nn.Module) -> bool:
    return any(p.dim() > 1 for p in module.parameters()) and bool(list(module.children()))


def _shapes(model: nn.Module, example: Tensor) -> dict[nn.Module, tuple[int, ...]]:
    """Input shapes of the modules that run once, take one tensor, and give one of the same shape."""
    seen: dict[nn.Module, tuple[int, ...]] = {}
    other: set[nn.Module] = set()

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor)
        if module in seen or not alone or args[0].shape != output.shape:
            other.add(module)
        else:
            seen[module] = tuple(args[0].shape)

    observe(model, example, [m.register_forward_hook(watch, with_kwargs=True) for m in model.modules()])
    return {module: shape for module, shape in seen.items() if module not in other}


@torch.no_grad()
def _passes(module: nn.Module, shape: tuple[int, ...], example: Tensor) -> bool | None:
    """Whether a module whose parameters are 0 rectifies its input (True) or passes it on (False); else None."""
    silent = copy.deepcopy(module).eval()
    for parameter in silent.parameters():
        parameter.zero_()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(example)
    try:
        with unheard(), torch.random.fork_rng([]):
            y = silent(x.clone())
    except Exception:  # any user code runs here
        return None
    if torch.equal(y, x):
        return False
    return True if torch.equal(y, x.clamp_min(0)) else None
