"""Convolutions as Tucker-2 triples: what a pair of ranks costs, the decomposition, and triples found again.

Kim et al. 2016, "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from automc.models.keeping import kept
from automc.surgery.lowrank import MIN_INPUTS, combines, geometry
from automc.surgery.whole import stays

ITERATIONS = 10
TOLERANCE = 1e-5
"""Improvement of the relative error at which the iteration stops; trained kernels get there in a few."""

Named = tuple[str, nn.Conv2d]


@dataclass(frozen=True, slots=True)
class Tucker:
    """W ≈ core ×₁ outputs ×₂ inputs, in float64.

    `core` (r_out, r_in, kh, kw); `outputs` (o, r_out) and `inputs` (i, r_in) have orthonormal columns; `errors` are
    the relative errors ‖W − Ŵ‖/‖W‖ after each iteration.
    """

    core: Tensor
    outputs: Tensor
    inputs: Tensor
    errors: tuple[float, ...]


@torch.no_grad()
def hooi(
    kernel: Tensor, rank_in: int, rank_out: int, iterations: int = ITERATIONS, tolerance: float = TOLERANCE
) -> Tucker:
    """Decompose a kernel (o, i, kh, kw) in its two channel modes by higher-order orthogonal iteration.

    De Lathauwer et al. 2000, "On the best rank-1 and rank-(R1, R2, …, RN) approximation of higher-order tensors",
    Algorithm 4.2, started from the truncated higher-order SVD. The singular vectors of an unfolding come from the
    eigenvectors of its small Gram matrix. The error never grows from one iteration to the next.
    """
    w = kernel.detach().double()
    total = w.square().sum()
    inputs, _ = _leading(w.transpose(0, 1), rank_in)
    errors: list[float] = []
    for _ in range(iterations):
        outputs, _ = _leading(torch.einsum("oixy,ir->orxy", w, inputs), rank_out)
        inputs, energy = _leading(torch.einsum("oixy,or->irxy", w, outputs), rank_in)
        errors.append(float(((total - energy).clamp_min(0) / total.clamp_min(1e-300)).sqrt()))
        if len(errors) > 1 and errors[-2] - errors[-1] < tolerance:
            break
    core = torch.einsum("oixy,or,is->rsxy", w, outputs, inputs)
    return Tucker(core, outputs, inputs, tuple(errors))


def _leading(tensor: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Largest left singular vectors of the first mode's unfolding, and the sum of their squared singular values."""
    unfolded = tensor.flatten(1)
    values, vectors = torch.linalg.eigh(unfolded @ unfolded.T)
    return vectors[:, -rank:].flip(1), values[-rank:].sum()


@dataclass(frozen=True, slots=True)
class TuckerSite:
    """A k×k convolution, or a `Sequential` that is one: 1×1 layers, a k×k layer and 1×1 layers.

    Level l means the ranks (r_in, r_out) = `ranks[l − 1]`. From (1, 1) upwards each level raises one rank by one, the
    one that is smaller in proportion to its width; level `full` represents the kernel exactly.
    """

    name: str
    """The module that a triple replaces."""
    layers: tuple[str, ...]
    """The convolutions it consists of, in order."""
    inputs: int
    outputs: int
    taps: int
    """Pixels of the kernel."""
    ranks: tuple[tuple[int, int], ...]
    cost: int
    """Weights of the site as it is, without bias."""
    levels: int
    """Largest level that is cheaper than the site as it is."""
    kind: Literal["spatial"] = "spatial"

    @property
    def full(self) -> int:
        """Level at which the triple equals the site."""
        return len(self.ranks)

    def params(self, rank: int) -> int:
        """Weights at a level; beyond `levels` the site stays as it is."""
        return _cost(self.inputs, self.outputs, self.taps, *self.ranks[rank - 1]) if rank <= self.levels else self.cost


def sites(model: nn.Module, keep: Sequence[str] = ()) -> list[TuckerSite]:
    """List what a triple can replace, in the order of the model.

    Ungrouped k×k `Conv2d` with more than three inputs, alone or in a `Sequential` (nested ones count as one) that
    holds nothing but 1×1 convolutions besides it and no bias except the last layer's: what an earlier factoring left.
    Such a chain is seen as the one kernel that it computes, so a smaller triple takes its place and layers do not
    add up. Left out: subclasses, layers matched by `keep`, those of `whole.stays`, and those where even ranks of 1
    save nothing.
    """
    whole = stays(model)
    taken: set[str] = set()
    found = []
    for name, module in model.named_modules():
        layers = [] if name in taken else _chain(name, module)
        if not layers:
            continue
        taken.update(f"{name}.{inner}" for inner, _ in module.named_modules() if inner)
        inside = (".".join(filter(None, (name, inner))) for inner, _ in module.named_modules())
        if any(n in whole for n in inside) or any(kept(n, keep) for n, _ in layers):
            continue
        site = _site(name, layers)
        if site.levels >= 1:
            found.append(site)
    return found


def _chain(name: str, module: nn.Module) -> list[Named]:
    """The convolutions that `module` applies one after the other where these are one k×k convolution, else none."""
    if type(module) is nn.Conv2d:
        leaves: list[tuple[str, nn.Module]] = [(name, module)]
    elif type(module) is nn.Sequential and name:
        leaves = list(_leaves(name, module))
        if len(leaves) < 2:
            return []
    else:
        return []
    if any(type(leaf) is not nn.Conv2d or leaf.groups != 1 for _, leaf in leaves):
        return []
    layers = [(n, cast(nn.Conv2d, leaf)) for n, leaf in leaves]
    spatial = [layer for _, layer in layers if _taps(layer) > 1]
    if len(spatial) != 1 or layers[0][1].in_channels < MIN_INPUTS:
        return []
    if any(layer.bias is not None for _, layer in layers[:-1]):
        return []
    return layers if all(layer is spatial[0] or combines(layer) for _, layer in layers) else []


def _leaves(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Follow nested `Sequential`s down to the layers that they apply, in order."""
    if type(module) is not nn.Sequential:
        yield name, module
        return
    for child_name, child in module.named_children():
        yield from _leaves(f"{name}.{child_name}", child)


def _site(name: str, layers: Sequence[Named]) -> TuckerSite:
    convolutions = [layer for _, layer in layers]
    at = next(position for position, layer in enumerate(convolutions) if _taps(layer) > 1)
    taps, inputs, outputs = _taps(convolutions[at]), convolutions[0].in_channels, convolutions[-1].out_channels
    most_out = min(outputs, *(layer.out_channels for layer in convolutions[at:]))
    most_in = min(inputs, most_out * taps, *(layer.in_channels for layer in convolutions[: at + 1]))
    ranks = _path(most_in, min(most_out, most_in * taps), taps)
    cost = sum(layer.weight.numel() for layer in convolutions)
    levels = sum(_cost(inputs, outputs, taps, *pair) < cost for pair in ranks)
    return TuckerSite(name, tuple(n for n, _ in layers), inputs, outputs, taps, ranks, cost, levels)


def _taps(layer: nn.Conv2d) -> int:
    return layer.weight[0, 0].numel()


def _cost(inputs: int, outputs: int, taps: int, rank_in: int, rank_out: int) -> int:
    return inputs * rank_in + rank_in * rank_out * taps + rank_out * outputs


def _path(most_in: int, most_out: int, taps: int) -> tuple[tuple[int, int], ...]:
    """Ranks from (1, 1) to the most, one raised by one at a time, both in proportion.

    Neither exceeds the other times the taps: an unfolding of the core has no higher rank.
    """
    rank_in = rank_out = 1
    path = [(1, 1)]
    while (rank_in, rank_out) != (most_in, most_out):
        wider = rank_in < min(most_in, rank_out * taps)
        taller = rank_out < min(most_out, rank_in * taps)
        if wider and (not taller or rank_in * most_out <= rank_out * most_in):
            rank_in += 1
        else:
            rank_out += 1
        path.append((rank_in, rank_out))
    return tuple(path)


def kernel(model: nn.Module, site: TuckerSite) -> Tensor:
    """The one kernel (o, i, kh, kw) that the site computes."""
    weights = [cast(nn.Conv2d, model.get_submodule(name)).weight for name in site.layers]
    whole = weights[0]
    for weight in weights[1:]:
        if weight[0, 0].numel() == 1:
            whole = torch.einsum("om,mixy->oixy", weight[:, :, 0, 0], whole)
        else:
            whole = torch.einsum("omxy,mi->oixy", weight, whole[:, :, 0, 0])
    return whole


@torch.no_grad()
def energies(model: nn.Module, site: TuckerSite) -> list[float]:
    """Share of the squared weights of the kernel that each level from 1 to `full` retains.

    By the truncated higher-order SVD, from which `hooi` starts: it retains a little more.
    """
    w = kernel(model, site).detach().double()
    outputs, _ = _leading(w, site.ranks[-1][1])
    inputs, _ = _leading(w.transpose(0, 1), site.ranks[-1][0])
    core = torch.einsum("oixy,or,is->rsxy", w, outputs, inputs).square().sum((2, 3))
    kept = core.cumsum(0).cumsum(1) / core.sum().clamp_min(1e-300)
    return [float(kept[rank_out - 1, rank_in - 1]) for rank_in, rank_out in site.ranks]


@torch.no_grad()
def decompose(model: nn.Module, site: TuckerSite, level: int) -> None:
    """Replace a site by its triple at a level, in place.

    1×1 from the inputs to r_in, k×k with the stride, padding and dilation of the site, and 1×1 from r_out to the
    outputs with its bias. Nothing in between, so the triple is the kernel's approximation.
    """
    rank_in, rank_out = site.ranks[level - 1]
    found = hooi(kernel(model, site), rank_in, rank_out)
    _place(model, site, found.inputs, found.core, found.outputs)


@torch.no_grad()
def exact(model: nn.Module, site: TuckerSite) -> None:
    """Replace a site by a triple that computes the same: the kernel between two identities."""
    whole = kernel(model, site)
    ends = (torch.eye(n, dtype=whole.dtype, device=whole.device) for n in (site.inputs, site.outputs))
    _place(model, site, next(ends), whole, next(ends))


def _place(model: nn.Module, site: TuckerSite, inputs: Tensor, core: Tensor, outputs: Tensor) -> None:
    layers = [cast(nn.Conv2d, model.get_submodule(name)) for name in site.layers]
    spatial, bias = next(layer for layer in layers if _taps(layer) > 1), layers[-1].bias
    options: dict[str, Any] = {"device": spatial.weight.device, "dtype": spatial.weight.dtype}
    first = nn.Conv2d(site.inputs, core.shape[1], 1, bias=False, **options)
    middle = nn.Conv2d(core.shape[1], core.shape[0], bias=False, **geometry(spatial), **options)
    last = nn.Conv2d(core.shape[0], site.outputs, 1, bias=bias is not None, **options)
    first.weight.copy_(inputs.T[:, :, None, None])
    middle.weight.copy_(core)
    last.weight.copy_(outputs[:, :, None, None])
    if bias is not None and last.bias is not None:
        last.bias.copy_(bias)
    model.set_submodule(site.name, nn.Sequential(first, middle, last).train(spatial.training))
