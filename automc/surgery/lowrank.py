"""Layers that can be written as two factors: where they are, and the factors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from automc.models.keeping import kept
from automc.surgery.layers import unfilled
from automc.surgery.ranks import Kind
from automc.surgery.whole import stays

Layer = nn.Conv2d | nn.Linear
Form = Literal["channel", "spatial"]
"""How a k×k convolution is seen as a matrix: outputs × inputs·k², or outputs·k × inputs·k."""

MIN_INPUTS = 4
"""Layers with fewer inputs are left alone: the first convolution of an image network."""


@dataclass(frozen=True, slots=True)
class Site:
    """A convolution or linear layer seen as a matrix W, to be written as A·B: two layers.

    In the channel form W is (outputs × inputs·k²): a k×k layer, then a pointwise one. In the spatial form it is
    (outputs·k × inputs·k): a k×1 layer, then a 1×k one. `second` names the second layer where the site is factored
    already (rank `levels` + 1); then W is the product of both and gets a smaller rank, instead of a third layer.
    """

    name: str
    second: str | None
    kind: Kind
    full: int
    """Rank at which A·B is W for any W."""
    unit: int
    """Parameters of one rank: columns and rows of W."""
    cost: int
    """Weights of the site as it is, without bias."""
    levels: int
    """Largest rank that is cheaper than the site as it is (and below `full` + 1)."""
    form: Form = "channel"

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the one or two layers."""
        return (self.name,) if self.second is None else (self.name, self.second)

    def params(self, rank: int) -> int:
        """Weights at a rank; beyond `levels` the site stays as it is."""
        return rank * self.unit if rank <= self.levels else self.cost


def sites(model: nn.Module, keep: Sequence[str] = (), form: Form = "channel") -> list[Site]:
    """List what can be factored, in the order of the model.

    Ungrouped `Conv2d` and `Linear` with more than three inputs, and pairs of them that are one factored layer:
    two neighbours in a `Sequential` with no bias and nothing else in between. Left out: subclasses, layers
    matched by `keep`, those of `whole.stays`, and those where even rank 1 saves nothing.

    Args:
        form: of the convolutions that are no pair yet and have several rows and columns; others have one form only.
    """
    whole = stays(model)
    pairs = dict(_pairs(model))
    taken: set[str] = set()
    found = []
    for name, module in model.named_modules():
        second = pairs.get(name)
        names = [name] if second is None else [name, second]
        if name in taken or not _eligible(module) or any(kept(n, keep) for n in names):
            continue
        taken.update(names)
        if any(n in whole for n in names):
            continue
        site = _site(model, name, second, form)
        if site.levels >= 1:
            found.append(site)
    return found


def _eligible(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        return module.groups == 1 and module.in_channels >= MIN_INPUTS
    return type(module) is nn.Linear and module.in_features >= MIN_INPUTS


def _pairs(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of neighbouring layers that are linear together."""
    for name, parent in model.named_modules():
        if not isinstance(parent, nn.Sequential):
            continue
        prefix = f"{name}." if name else ""
        used: str | None = None
        for (first, a), (second, b) in pairwise(parent.named_children()):
            if first != used and type(a) is type(b) and _eligible(a) and a.bias is None and _joins(a, b):
                yield prefix + first, prefix + second
                used = second


def combines(module: nn.Module) -> bool:
    """Say whether a layer forms linear combinations of its input channels, pixel by pixel."""
    if type(module) is nn.Linear:
        return True
    return isinstance(module, nn.Conv2d) and (
        module.kernel_size == (1, 1) and module.stride == (1, 1) and module.padding == (0, 0) and module.groups == 1
    )


def _joins(first: nn.Module, second: nn.Module) -> bool:
    """Say whether two layers, one after the other, are one factored layer of either form."""
    return combines(second) or _form(first, second) == "spatial"


def _form(first: nn.Module, second: nn.Module) -> Form:
    """The form of two layers that are one factored layer."""
    if not (isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)) or second.groups != 1:
        return "channel"
    moves = ((_moves(first, 1), _moves(second, 0)), (_moves(first, 0), _moves(second, 1)))
    return "spatial" if moves == ((False, False), (True, True)) else "channel"


def _moves(layer: nn.Conv2d, dim: int) -> bool:
    """Whether a convolution does more in a dimension (0: rows) than to look at each place."""
    padding = 0 if isinstance(layer.padding, str) else layer.padding[dim]
    return (layer.kernel_size[dim], layer.stride[dim], padding) != (1, 1, 0)


def _layer(model: nn.Module, name: str) -> Layer:
    return cast(Layer, model.get_submodule(name))


def _site(model: nn.Module, name: str, second: str | None, form: Form = "channel") -> Site:
    first = _layer(model, name)
    last = _layer(model, second) if second is not None else first
    kernel = tuple(getattr(first, "kernel_size", ()))
    kind: Kind = "linear" if not kernel else "pointwise" if set(kernel) == {1} else "spatial"
    if second is not None:
        form = _form(first, last)
    elif min(kernel, default=1) == 1:
        form = "channel"
    inputs, outputs = matrix_of(first.weight, form).shape[1], len(matrix_of(last.weight, form))
    unit, full = inputs + outputs, min(inputs, outputs)
    if second is None:
        return Site(name, None, kind, full, unit, inputs * outputs, min(full, (inputs * outputs - 1) // unit), form)
    rank = len(first.weight)
    return Site(name, second, kind, full, unit, rank * unit, min(full, rank - 1), form)


def matrix_of(weight: Tensor, form: Form) -> Tensor:
    """A weight (m, n, kh, kw) or (m, n) as a matrix: (m, n·kh·kw), or in the spatial form (m·kw, n·kh)."""
    return weight.flatten(1) if form == "channel" else weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)


def weight_of(found: Tensor, like: Tensor, form: Form) -> Tensor:
    """A matrix as a weight of the shape of `like`: undoes `_matrix`."""
    if form == "channel":
        return found.reshape(like.shape)
    outputs, inputs, height, width = like.shape
    return found.reshape(outputs, width, inputs, height).permute(0, 2, 3, 1)


def matrix(model: nn.Module, site: Site) -> Tensor:
    """The site's W, see `Site`, the product of both factors where it is factored; differentiable."""
    first = matrix_of(_layer(model, site.name).weight, site.form)
    return first if site.second is None else matrix_of(_layer(model, site.second).weight, site.form) @ first


@torch.no_grad()
def write(model: nn.Module, site: Site, whole: Tensor) -> None:
    """Make `whole` the site's W, in place.

    Of two layers the second stays, so `whole` must be a combination of its columns, as a truncation of W is.
    """
    first = _layer(model, site.name).weight
    if site.second is not None:
        combination = matrix_of(_layer(model, site.second).weight, site.form).to(whole.dtype)
        whole = torch.linalg.pinv(combination) @ whole
    first.copy_(weight_of(whole, first, site.form))


@torch.no_grad()
def push(model: nn.Module, site: Site, slope: Tensor) -> None:
    """Add to the gradients of the site's layers, where they have one, that of a function of W with this derivative."""
    first = _layer(model, site.name).weight
    slope = slope.to(first.dtype)
    if site.second is None:
        _pushed(first, slope, site.form)
        return
    last = _layer(model, site.second).weight
    _pushed(first, matrix_of(last, site.form).T @ slope, site.form)
    _pushed(last, slope @ matrix_of(first, site.form).T, site.form)


def _pushed(weight: Tensor, slope: Tensor, form: Form) -> None:
    if weight.grad is not None:
        weight.grad.add_(weight_of(slope, weight, form))


@torch.no_grad()
def energies(model: nn.Module, site: Site) -> list[float]:
    """Share of the squared weights of W that each rank from 1 to `full` retains."""
    wide = matrix(model, site).double()
    wide = wide if wide.shape[0] <= wide.shape[1] else wide.T
    squares = torch.linalg.eigvalsh(wide @ wide.T).flip(0).clamp_min(0)[: site.full]
    shares: list[float] = (squares.cumsum(0) / squares.sum().clamp_min(1e-300)).tolist()
    return shares


@torch.no_grad()
def halves(whole: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Write a matrix (m, n) as the product of (m, rank) and (rank, n): its truncated singular value decomposition.

    Each takes the square roots of the singular values. The vectors of the shorter side are eigenvectors of its Gram
    matrix, and the other side follows by projection: a fraction of a full decomposition's time for large layers. In
    float64 that loses nothing that float32 weights could keep. Returns float64.
    """
    if whole.shape[0] > whole.shape[1]:
        long, short = halves(whole.T, rank)
        return short.T, long.T
    wide = whole.double()
    values, vectors = torch.linalg.eigh(wide @ wide.T)
    # A value that is rounding only must not become a tiny root to divide by.
    root = values[-rank:].flip(0).clamp_min(float(values[-1]) * torch.finfo(wide.dtype).eps + 1e-300) ** 0.25
    leading = vectors[:, -rank:].flip(1)
    return leading * root, (leading.T @ wide) / root[:, None]


@torch.no_grad()
def factor(model: nn.Module, site: Site, rank: int) -> Site:
    """Replace a site by two layers of the given inner rank, in place; return the factored site.

    W is truncated to its largest singular values, each factor taking their square roots: the best
    approximation of that rank (Eckart and Young). In the channel form the first layer keeps kernel, stride, padding
    and dilation; in the spatial form each has its half of them. The second keeps the bias.
    """
    return _place(model, site, *halves(matrix(model, site), rank))


@torch.no_grad()
def exact(model: nn.Module, site: Site) -> None:
    """Replace a site by two layers that compute the same: W, and the identity."""
    whole = matrix(model, site)
    _place(model, site, torch.eye(len(whole), dtype=whole.dtype, device=whole.device), whole)


def _place(model: nn.Module, site: Site, coefficients: Tensor, basis: Tensor) -> Site:
    first = _layer(model, site.name)
    last = _layer(model, site.second) if site.second is not None else first
    new_first, new_last = _layers(first, last, len(basis), site)
    new_first.weight.copy_(weight_of(basis, new_first.weight, site.form))
    new_last.weight.copy_(weight_of(coefficients, new_last.weight, site.form))
    if last.bias is not None and new_last.bias is not None:
        new_last.bias.copy_(last.bias)
    new_first.train(first.training)
    new_last.train(first.training)
    if site.second is not None:
        model.set_submodule(site.name, new_first)
        model.set_submodule(site.second, new_last)
        return _site(model, site.name, site.second)
    model.set_submodule(site.name, nn.Sequential(new_first, new_last).train(first.training))
    return _site(model, f"{site.name}.0", f"{site.name}.1")


def _layers(first: Layer, last: Layer, rank: int, site: Site) -> tuple[Layer, Layer]:
    """Two layers of the sizes of the factors; nothing is drawn for their weights."""
    options: dict[str, Any] = {"device": "meta", "dtype": first.weight.dtype}
    bias = last.bias is not None
    basis: Layer
    combination: Layer
    if isinstance(first, nn.Linear):
        basis = nn.Linear(first.in_features, rank, bias=False, **options)
        combination = nn.Linear(rank, last.weight.shape[0], bias=bias, **options)
    else:
        place = {"kernel_size": 1} if site.form == "channel" else half(first, 1)
        if isinstance(last, nn.Conv2d) and site.second is not None:
            place = geometry(last)
        start = geometry(first) if site.form == "channel" or site.second is not None else half(first, 0)
        basis = nn.Conv2d(first.in_channels, rank, bias=False, **start, **options)
        combination = nn.Conv2d(rank, last.weight.shape[0], bias=bias, **place, **options)
    return unfilled(basis, first.weight.device), unfilled(combination, first.weight.device)


def geometry(layer: nn.Conv2d) -> dict[str, Any]:
    """Arguments with which another convolution moves over its input as this one does."""
    return {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}


def half(layer: nn.Conv2d, dim: int) -> dict[str, Any]:
    """Arguments with which another convolution moves as this one does in one dimension only (0: rows)."""
    found = geometry(layer)
    for name, still in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
        if not isinstance(found[name], str):
            found[name] = tuple(value if place == dim else still for place, value in enumerate(found[name]))
    return found
