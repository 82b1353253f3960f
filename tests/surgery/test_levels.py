"""The levels of quantised weights: how far they lie from normal weights, and that they stay where they are."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from automc.surgery.levels import Levels, kmeans, uniform

NORMAL = torch.randn(1, 100_000, generator=torch.Generator().manual_seed(0))
ERRORS = {
    8: (0.00011, 0.00009, 0.00006),
    5: (0.00772, 0.00373, 0.00273),
    4: (0.0354, 0.0131, 0.0098),
    3: (0.192, 0.0472, 0.0363),
    2: (0.929, 0.190, 0.135),
}
"""By bits: squared error relative to the squared weights of N(0, 1), 100,000 values: not clipped, clipped, k-means."""


@pytest.mark.parametrize("bits", ERRORS)
def test_errors_on_normal_weights(bits: int) -> None:
    whole, clipped, clustered = ERRORS[bits]
    full = Levels(bits, scale=NORMAL.abs().amax(1) / (2 ** (bits - 1) - 1))
    assert full.error(NORMAL) == pytest.approx(whole, rel=0.06)
    assert uniform(NORMAL, bits).error(NORMAL) == pytest.approx(clipped, rel=0.06)
    assert Levels(bits, codebook=kmeans(NORMAL, 2**bits)).error(NORMAL) == pytest.approx(clustered, rel=0.06)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", ["uniform", "codebook"])
def test_what_lies_on_a_level_stays_and_codes_say_which(bits: int, kind: str) -> None:
    weight = torch.randn(64, 10, 3, 3, generator=torch.Generator().manual_seed(bits)) * torch.rand(64, 1, 1, 1)
    levels = uniform(weight, bits) if kind == "uniform" else Levels(bits, codebook=kmeans(weight, 2**bits))
    settled = levels.nearest(weight)
    codes = levels.codes(weight)
    assert torch.equal(levels.nearest(settled), settled)
    assert torch.equal(levels.codes(settled), codes)
    assert torch.equal(levels.decode(codes), settled)
    least, most = (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if kind == "uniform" else (0, 2**bits - 1)
    assert codes.min() >= least
    assert codes.max() <= most
    assert not levels.nearest(torch.zeros_like(weight)).any()


def test_the_nearest_level_is_the_nearest() -> None:
    weight = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    rows, book = uniform(weight, 3), Levels(3, codebook=kmeans(weight, 8))
    assert rows.scale is not None
    assert book.codebook is not None
    grid = rows.scale.view(-1, 1, 1) * torch.arange(-3, 4)
    for found, allowed in ((rows.nearest(weight), grid), (book.nearest(weight), book.codebook.expand(4, 1, -1))):
        best = (weight.unsqueeze(-1) - allowed).abs().amin(-1)
        torch.testing.assert_close((weight - found).abs(), best, rtol=0, atol=1e-6)


def test_clipping_never_costs_and_rows_have_their_own_scale() -> None:
    weight = torch.randn(8, 200, generator=torch.Generator().manual_seed(1)) * torch.arange(1, 9).view(-1, 1)
    for bits in range(2, 9):
        found = uniform(weight, bits)
        assert found.scale is not None
        full = Levels(bits, scale=weight.abs().amax(1) / (2 ** (bits - 1) - 1))
        assert found.error(weight) <= full.error(weight)
        assert len(found.scale.unique()) == 8
    errors = [uniform(weight, bits).error(weight) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)


def test_k_means_never_gets_worse_and_keeps_zero() -> None:
    weight = torch.randn(2000, generator=torch.Generator().manual_seed(2)) ** 3
    for number in (3, 4, 16):
        books = [kmeans(weight, number, iterations) for iterations in range(12)]
        errors = [Levels(8, codebook=book).error(weight) for book in books]
        assert all(after <= before * (1 + 1e-6) for before, after in pairwise(errors))
        assert errors[-1] < errors[0]
        assert all(len(book) == number and 0 in book and torch.equal(book, book.sort().values) for book in books)


def test_weights_that_are_all_alike() -> None:
    for weight in (torch.zeros(3, 5), torch.full((3, 5), 0.25)):
        for levels in (uniform(weight, 4), Levels(4, codebook=kmeans(weight, 16))):
            assert levels.error(weight) < 1e-3
            assert levels.nearest(weight).isfinite().all()
