"""Cheaper operators for a convolution: what each starts from, and how a search sees all of them at once.

Every operator here is linear, so a weighted sum of them is one convolution with the weighted sum of their kernels: a
search costs what training the convolution costs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automc.surgery.layers import unfilled
from automc.surgery.lowrank import Site, energies, geometry, halves, matrix, matrix_of, sites, weight_of

SHARES = (1 / 2, 1 / 4)
"""Of the rank at which a low-rank operator would be exact."""
FEWER = (1 / 2, 1 / 4, 1 / 8)
"""Of the rank of two factors, which can have no other operator."""
PARTS = (2, 4)
"""Groups of a grouped operator."""


class Operator(nn.Module, ABC):
    """A way to compute about what a convolution computes, with weights of its own."""

    name: str
    params: int
    """Weights, without a bias."""

    @abstractmethod
    def start(self, weight: Tensor) -> None:
        """Take the weights that are nearest to a kernel (outputs, inputs, kh, kw)."""

    @abstractmethod
    def kernel(self) -> Tensor:
        """Return the kernel (outputs, inputs, kh, kw) of the convolution that computes the same; differentiable."""


class Kept(Operator):
    """The layer or the two factors as they are: it trains their own weights."""

    name = "keep"

    def __init__(self, model: nn.Module, site: Site, shape: Sequence[int]) -> None:
        super().__init__()
        self.first = model.get_submodule(site.name)
        if site.second is not None:
            self.last = model.get_submodule(site.second)
        self.site = replace(site, name="first", second=None if site.second is None else "last")
        self.like = torch.empty(shape, device="meta")
        self.params = site.cost

    def start(self, weight: Tensor) -> None:
        """Stay."""

    def kernel(self) -> Tensor:
        """Return W, the product of both factors where there are two."""
        return weight_of(matrix(self, self.site), self.like, self.site.form)


class LowRank(Operator):
    """Two layers of a smaller inner rank: a site in one of the forms, see `lowrank.Site`."""

    def __init__(self, site: Site, rank: int, name: str, weight: Tensor) -> None:
        super().__init__()
        self.site, self.rank, self.name = site, rank, name
        self.like = torch.empty(weight.shape, device="meta")
        self.params = site.params(rank)
        self.start(weight)

    def start(self, weight: Tensor) -> None:
        """Truncate."""
        left, right = halves(matrix_of(weight.detach(), self.site.form), self.rank)
        self.left, self.right = nn.Parameter(left.to(weight.dtype)), nn.Parameter(right.to(weight.dtype))

    def kernel(self) -> Tensor:
        """Return the product."""
        return weight_of(self.left @ self.right, self.like, self.site.form)


class Built(Operator):
    """An operator that becomes plain layers of its own, with the geometry and the bias of a convolution."""

    @abstractmethod
    def layers(self, conv: nn.Conv2d) -> nn.Module:
        """Return layers with copies of the weights."""


class Separable(Built):
    """One kernel for each input, then combinations of them: for each input the nearest product of both."""

    name = "separable"

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.params = weight[0].numel() + weight.shape[0] * weight.shape[1]
        self.start(weight)

    def start(self, weight: Tensor) -> None:
        """Take the best product for each input."""
        outputs, inputs, *kernel = weight.shape
        whole = weight.detach().double().permute(1, 0, 2, 3).flatten(2)  # (inputs, outputs, kh·kw)
        _, vectors = torch.linalg.eigh(whole.mT @ whole)
        filters = vectors[..., -1:]
        scale = (whole @ filters).norm(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
        columns = (whole @ filters) / scale
        self.depth = nn.Parameter((filters * scale).reshape(inputs, 1, *kernel).to(weight.dtype))
        self.point = nn.Parameter(columns[..., 0].T.reshape(outputs, inputs, 1, 1).to(weight.dtype).contiguous())

    def kernel(self) -> Tensor:
        """Return the outer products."""
        return self.point * self.depth.transpose(0, 1)

    def layers(self, conv: nn.Conv2d) -> nn.Module:
        """Return a depthwise layer and a pointwise one."""
        inputs, outputs = conv.in_channels, conv.out_channels
        depth = _conv(self.depth, None, inputs, inputs, groups=inputs, **geometry(conv))
        return nn.Sequential(depth, _conv(self.point, conv.bias, inputs, outputs, kernel_size=1))


class Grouped(Built):
    """A grouped convolution and a shuffle: a group reads neighbouring inputs and writes every so-many-th output."""

    def __init__(self, weight: Tensor, parts: int) -> None:
        super().__init__()
        self.parts, self.name = parts, f"grouped {parts}"
        self.params = weight.numel() // parts
        self.start(weight)

    def start(self, weight: Tensor) -> None:
        """Take the weights between the inputs and outputs of each group."""
        outputs, inputs, *kernel = weight.shape
        wide = weight.detach().reshape(outputs // self.parts, self.parts, self.parts, inputs // self.parts, *kernel)
        own = torch.stack([wide[:, g, g] for g in range(self.parts)])
        self.weight = nn.Parameter(own.reshape(outputs, inputs // self.parts, *kernel).clone())

    def kernel(self) -> Tensor:
        """Return the weights, and zeros between the groups."""
        outputs, inputs, *kernel = self.weight.shape
        own = self.weight.reshape(self.parts, outputs // self.parts, inputs, *kernel)
        wide = own.new_zeros(outputs // self.parts, self.parts, self.parts, inputs, *kernel)
        group = torch.arange(self.parts, device=own.device)
        wide[:, group, group] = own.transpose(0, 1)
        return wide.reshape(outputs, self.parts * inputs, *kernel)

    def layers(self, conv: nn.Conv2d) -> nn.Module:
        """Return the convolution and the shuffle; the bias stands in the order of the convolution."""
        bias = None
        if conv.bias is not None:
            bias = conv.bias.detach().reshape(-1, self.parts).T.reshape(-1)
        grouped = _conv(self.weight, bias, conv.in_channels, conv.out_channels, groups=self.parts, **geometry(conv))
        return nn.Sequential(grouped, nn.ChannelShuffle(self.parts))


class Pointwise(Built):
    """A 1×1 convolution at the centre of the kernel, with the sum of its weights."""

    name = "1×1"

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.size = weight.shape[2:]
        self.params = weight.shape[0] * weight.shape[1]
        self.start(weight)

    def start(self, weight: Tensor) -> None:
        """Sum over places."""
        self.weight = nn.Parameter(weight.detach().sum((2, 3), keepdim=True))

    def kernel(self) -> Tensor:
        """Return the weights, and zeros around them."""
        height, width = self.size
        return F.pad(self.weight, (width // 2, width // 2, height // 2, height // 2))

    def layers(self, conv: nn.Conv2d) -> nn.Module:
        """Return the convolution."""
        return _conv(self.weight, conv.bias, conv.in_channels, conv.out_channels, kernel_size=1, stride=conv.stride)


class Mixed(nn.Conv2d):
    """A convolution in a search: in some of its rows the weighted sum of operators, in the others the layer as it is.

    `alpha` are the operators' scores, the first is the layer's own; a plain tensor: only who asks for it trains it.
    """

    def __init__(self, conv: nn.Conv2d, operators: Sequence[Operator], rows: Tensor) -> None:
        super().__init__(conv.in_channels, conv.out_channels, bias=False, device="meta", **cast(Any, geometry(conv)))
        self.weight = None  # type: ignore[assignment]
        self.bias = conv.bias
        self.operators = nn.ModuleList(operators)
        self.register_buffer("rows", rows, persistent=False)
        self.alpha = torch.zeros(len(operators), device=rows.device, requires_grad=True)

    def mixture(self) -> Tensor:
        """Return the kernel of the sum, with shares by softmax of the scores."""
        with torch.autocast(self.alpha.device.type, enabled=False):
            own, *others = (cast(Operator, operator).kernel() for operator in self.operators)
            rows = cast(Tensor, self.rows)
            shares = self.alpha.softmax(0)
            mixed: Tensor = shares[0] * own[rows]
            for share, kernel in zip(shares[1:], others, strict=True):
                mixed = mixed + share * kernel[rows]
            return torch.index_copy(own, 0, rows, mixed)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the mixture."""
        output: Tensor = self._conv_forward(x, self.mixture(), self.bias)
        return output


def searched(model: nn.Module, keep: Sequence[str] = ()) -> list[Site]:
    """List the convolutions with several places that are not grouped, and pairs of layers that are one such."""
    return [site for site in sites(model, keep) if site.kind == "spatial" and _frame(model, site) is not None]


@torch.no_grad()
def mixed(model: nn.Module, site: Site, rows: Tensor) -> Mixed:
    """Make the mixture of a site's layer with all operators that have fewer weights; a pair has smaller ranks only."""
    frame = _frame(model, site)
    assert frame is not None, site
    kept = Kept(model, site, frame.weight.shape)
    weight = kept.kernel().detach()
    found: list[Operator] = [*_ranks(model, site, weight)]
    if site.second is None:
        found.append(Separable(weight))
        found += [Grouped(weight, n) for n in PARTS if frame.in_channels % n == frame.out_channels % n == 0]
        found += [Pointwise(weight)] if _centred(frame) else []
    cheaper = [operator for operator in found if operator.params < site.cost]
    return Mixed(frame, [kept, *cheaper], rows)


def _ranks(model: nn.Module, site: Site, weight: Tensor) -> list[LowRank]:
    """Low-rank operators, each in the form that loses less energy with no more weights."""
    forms = [site]
    if site.second is None:
        forms += [s for s in sites(model, form="spatial") if s.name == site.name and s.form != site.form]
    spectra = [energies(model, one) for one in forms]
    found = []
    for share in SHARES if site.second is None else FEWER:
        budget = max(1, round(share * min(site.full, site.levels + 1))) * site.unit
        ranks = [min(one.levels, budget // one.unit) for one in forms]
        best = max((i for i, rank in enumerate(ranks) if rank), key=lambda i: spectra[i][ranks[i] - 1], default=None)
        if best is not None:
            name = f"rank {share:g}{', spatial' if forms[best].form == 'spatial' else ''}"
            found.append(LowRank(forms[best], ranks[best], name, weight))
    return found


def _frame(model: nn.Module, site: Site) -> nn.Conv2d | None:
    """A convolution without weights that moves as the site's layers do together; None where no single one does."""
    first, last = (cast(nn.Conv2d, model.get_submodule(name)) for name in (site.layers[0], site.layers[-1]))
    place = geometry(first)
    if site.form == "spatial" and site.second is not None:
        if isinstance(first.padding, str) or isinstance(last.padding, str) or first.padding_mode != last.padding_mode:
            return None
        place |= {
            part: (getattr(first, part)[0], getattr(last, part)[1])
            for part in ("kernel_size", "stride", "padding", "dilation")
        }
    frame = nn.Conv2d(first.in_channels, last.out_channels, bias=False, device="meta", **place)
    frame.bias = last.bias
    return frame


def _centred(conv: nn.Conv2d) -> bool:
    """Whether the middle of the kernel looks at what an unpadded 1×1 layer of the same stride looks at."""
    if isinstance(conv.padding, str) or not all(size % 2 for size in conv.kernel_size):
        return False
    middle = tuple(d * (size // 2) for d, size in zip(conv.dilation, conv.kernel_size, strict=True))
    return conv.padding == middle


def _conv(weight: Tensor, bias: Tensor | None, inputs: int, outputs: int, **options: Any) -> nn.Conv2d:
    """A convolution with copies of these."""
    layer = nn.Conv2d(inputs, outputs, bias=bias is not None, device="meta", dtype=weight.dtype, **options)
    layer = unfilled(layer, weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer
