"""FLOPs against formulas by hand; what is not counted is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from automc.errors import Note
from automc.models.flops import count
from automc.models.measure import count_params

IMAGES = torch.zeros(2, 3, 8, 8)


class Net(nn.Module):
    """Parts and a function over them: one line for one case."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def rows(x: Tensor) -> Tensor:
    """Images as sequences of 3 tokens of 64."""
    return x.flatten(2)


def self_attending(**options: bool) -> Net:
    part = nn.MultiheadAttention(64, 4, batch_first=True)
    return Net(lambda m, x: m.r(rows(x), rows(x), rows(x), **options)[0][:, 0], r=part)


def attending(tokens: int = 3, width: int = 64) -> int:
    """Four projections, scores and their sum."""
    return 2 * tokens * width * width * 4 + 2 * 2 * tokens * tokens * width


LAYER = nn.TransformerEncoderLayer(64, 4, 32, batch_first=True)
FEED = 2 * 3 * 64 * 32 * 2
CASES: dict[str, tuple[Net, int]] = {
    "lstm": (Net(lambda m, x: m.r(rows(x))[0][:, -1], r=nn.LSTM(64, 16, batch_first=True)), 3 * 2 * 64 * (64 + 16)),
    "gru": (Net(lambda m, x: m.r(rows(x))[0][:, -1], r=nn.GRU(64, 16, batch_first=True)), 3 * 2 * 48 * (64 + 16)),
    "two ways": (
        Net(lambda m, x: m.r(rows(x))[0][:, -1], r=nn.LSTM(64, 16, 2, batch_first=True, bidirectional=True)),
        3 * 2 * 2 * 64 * (64 + 16 + 32 + 16),
    ),
    "cell": (Net(lambda m, x: m.r(x.flatten(1))[0], r=nn.LSTMCell(192, 16)), 2 * 64 * (192 + 16)),
    "attention": (self_attending(), attending()),
    "without weights": (self_attending(need_weights=False), attending()),
    "encoder": (
        Net(lambda m, x: m.r(rows(x)).mean(1), r=nn.TransformerEncoder(LAYER, 2)),
        2 * (attending() + FEED),
    ),
    "decoder": (
        Net(lambda m, x: m.r(rows(x), rows(x)).mean(1), r=nn.TransformerDecoderLayer(64, 4, 32, batch_first=True)),
        2 * attending() + FEED,
    ),
    "transformer": (
        Net(lambda m, x: m.r(rows(x), rows(x)).mean(1), r=nn.Transformer(64, 4, 1, 1, 32, batch_first=True)),
        3 * attending() + 2 * FEED,
    ),
    "scaled dot product": (Net(lambda m, x: F.scaled_dot_product_attention(x, x, x).flatten(1)), 2 * 2 * 3 * 8 * 8 * 8),
    "bilinear": (
        Net(lambda m, x: m.r(x[:, 0].flatten(1), x[:, 1].flatten(1)), r=nn.Bilinear(64, 64, 10)),
        2 * 10 * 64 * 64,
    ),
    "unfolded": (
        Net(lambda m, x: (m.w @ F.unfold(x, 3)).mean(2), w=nn.Parameter(torch.randn(10, 27))),
        2 * 36 * 27 * 10,
    ),
    "einsum": (Net(lambda m, x: torch.einsum("nchw,oc->no", x, m.w), w=nn.Parameter(torch.randn(10, 3))), 2 * 3 * 10),
    "one by one": (
        Net(lambda m, x: torch.stack([m.w @ image.flatten() for image in x]), w=nn.Parameter(torch.randn(10, 192))),
        2 * 10 * 192,
    ),
    "transposed": (Net(lambda m, x: m.r(x).mean((2, 3)), r=nn.ConvTranspose2d(3, 10, 2, 2)), 2 * 64 * 3 * 10 * 4),
    "transposed groups": (
        Net(lambda m, x: m.r(torch.cat([x, x], 1)).mean((2, 3)), r=nn.ConvTranspose2d(6, 10, 2, 2, groups=2)),
        2 * 64 * 6 * 5 * 4,
    ),
    "dilated": (Net(lambda m, x: m.r(x).mean((2, 3)), r=nn.Conv2d(3, 10, 3, dilation=2)), 2 * 16 * 27 * 10),
    "one dimension": (Net(lambda m, x: m.r(rows(x)).mean(2), r=nn.Conv1d(3, 10, 3)), 2 * 62 * 9 * 10),
    "looked up": (Net(lambda m, x: m.r(x[:, 0].flatten(1).long()), r=nn.EmbeddingBag(10, 10)), 0),
    "tied": (Net(lambda m, x: m.a(m.b(x[:, 0].flatten(1))), a=(tied := nn.Linear(64, 64)), b=tied), 2 * 2 * 64 * 64),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_flops_are_those_of_the_formula(case: str) -> None:
    model, right = CASES[case]
    model.train()
    found = count(model, IMAGES)
    assert (found.flops, found.uncounted, found.unused) == (right, (), ())
    assert model.training
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_deformable_convolution_counts_as_one() -> None:
    ops = pytest.importorskip("torchvision.ops")
    model = Net(
        lambda m, x: m.r(x, x.new_zeros(len(x), 18, 8, 8)).mean((2, 3)), r=ops.DeformConv2d(3, 10, 3, padding=1)
    )
    assert count(model, IMAGES).flops == 2 * 64 * 27 * 10


@torch.library.custom_op("automc_tests::halve", mutates_args=())
def halve(x: Tensor) -> Tensor:
    """An operation of a library that no counter knows."""
    return x / 2


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda m, x: torch.fft.rfft2(x).abs().flatten(1), "aten::_fft_r2c"),
        (lambda m, x: torch.cdist(x.flatten(1), torch.ones(4, 192)), "aten::_cdist_forward"),
        (lambda m, x: torch.cdist(x.flatten(1), torch.ones(40, 192)), "aten::_euclidean_dist"),
        (lambda m, x: torch.linalg.inv(torch.eye(8) + x[:, 0]).flatten(1), "aten::linalg_inv_ex"),
        (lambda m, x: halve(x).flatten(1), "automc_tests::halve"),
    ],
)
def test_what_is_not_counted_is_named(function: Callable[[nn.Module, Tensor], Tensor], name: str) -> None:
    model = Net(function)
    found = count(model, IMAGES)
    assert (found.flops, found.uncounted) == (0, (name,))
    with pytest.warns(Note, match=f"not counted: {name}"):
        found.tell(model)


def test_parameters_that_nothing_reads_are_said() -> None:
    model = Net(lambda m, x: m.a(x.flatten(1)), a=nn.Linear(192, 10), spare=nn.Linear(3, 3))
    found = count(model, IMAGES)
    assert found.unused == ("spare.weight", "spare.bias")
    with pytest.warns(Note, match=r"12 of the 1,942 parameters are not used in evaluation \(spare.weight, spare"):
        found.tell(model)
    assert count_params(CASES["tied"][0]) == 64 * 64 + 64
