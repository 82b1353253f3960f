"""Tucker-2 triples: as good as tensorly's, exact where they should be, priced exactly, and found again."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import tensorly
import torch
from group_nets import build
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import partial_tucker
from torch import nn

from automc.surgery import lowrank
from automc.surgery.ranks import choose_ranks, raise_cost, solve_ranks
from automc.surgery.tucker import decompose, energies, exact, hooi, kernel, sites

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def tensor(*shape: int, decay: float = 0.0) -> torch.Tensor:
    """Random numbers; with a decay, channels that matter less and less, in a random basis."""
    generator = torch.Generator().manual_seed(sum(shape))
    w = torch.randn(shape, generator=generator, dtype=torch.float64)
    for mode in (0, 1):
        basis = torch.linalg.qr(torch.randn(shape[mode], shape[mode], generator=generator, dtype=torch.float64))[0]
        weights = basis * torch.exp(-decay * torch.arange(shape[mode]))
        w = torch.tensordot(weights, w.transpose(0, mode), 1).transpose(0, mode)
    return w


def composed(first: nn.Conv2d, core: nn.Conv2d, last: nn.Conv2d) -> np.ndarray:
    u, c, v = (layer.weight.detach().double().numpy() for layer in (first, core, last))
    return np.einsum("oaij,abkl,bcmn->ockl", v, c, u)


def layers() -> dict[str, nn.Conv2d]:
    torch.manual_seed(0)
    return {
        "plain": nn.Conv2d(6, 10, 3, padding=1),
        "strided": nn.Conv2d(12, 9, 3, stride=2, padding=1, bias=False),
        "dilated": nn.Conv2d(8, 8, 3, padding=2, dilation=2, padding_mode="reflect"),
        "oblong": nn.Conv2d(8, 12, (1, 3), padding="same"),
        "wide": nn.Conv2d(40, 3, 2),
    }


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(20, 14, 3, 3), (9, 30, 1, 5), (16, 16, 2, 2)])
def test_as_good_as_tensorly(shape: tuple[int, ...], decay: float) -> None:
    w = tensor(*shape, decay=decay)
    for share in (0.25, 0.5, 0.8):
        ranks = [max(1, int(share * shape[0])), max(1, int(share * shape[1]))]
        (core, factors), _ = partial_tucker(
            w.numpy(), rank=ranks, modes=[0, 1], init="svd", n_iter_max=100, tol=1e-8
        )  # fmt: skip
        there = np.linalg.norm(w.numpy() - tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1]))
        wanted = there / float(w.norm())
        assert hooi(w, ranks[1], ranks[0], iterations=200, tolerance=1e-7).errors[-1] == pytest.approx(wanted, abs=1e-5)
        here = hooi(w, ranks[1], ranks[0])
        assert here.errors[-1] == pytest.approx(wanted, abs=2e-4 if decay else 1e-2)
        rebuilt = torch.einsum("rsxy,or,is->oixy", here.core, here.outputs, here.inputs)
        assert here.errors[-1] == pytest.approx(float((w - rebuilt).norm() / w.norm()), abs=1e-6)


def test_factors_are_orthonormal_and_the_error_falls() -> None:
    w = tensor(18, 25, 3, 3)
    for found in (hooi(w.float(), 7, 6), hooi(w, 7, 6)):
        for factor in (found.outputs, found.inputs):
            torch.testing.assert_close(factor.T @ factor, torch.eye(factor.shape[1], dtype=torch.float64))
    errors = found.errors
    assert len(errors) > 2
    assert all(after <= before + 1e-12 for before, after in pairwise(errors))
    assert hooi(w, 7, 6, iterations=1).errors == errors[:1]
    best = [hooi(w, rank, rank).errors[-1] for rank in range(1, 19)]
    assert best == sorted(best, reverse=True)
    assert best[0] > 0.9
    assert hooi(w, 25, 18).errors[-1] < 1e-6


def test_a_kernel_of_zeros_is_no_accident() -> None:
    found = hooi(torch.zeros(5, 6, 3, 3), 2, 2)
    assert found.errors[-1] == 0
    assert not found.core.any()
    assert found.inputs.isfinite().all()


@pytest.mark.parametrize("name", layers())
def test_a_triple_does_what_its_kernel_does(name: str) -> None:
    layer = layers()[name]
    model = nn.Sequential(layer)
    (site,) = sites(model)
    x = torch.randn(2, layer.in_channels, 9, 9)
    errors = []
    for level in range(1, site.full + 1):
        small = copy.deepcopy(model)
        forced = replace(site, levels=site.full)
        decompose(small, forced, level)
        rank_in, rank_out = site.ranks[level - 1]
        assert [m.weight.shape[:2] for m in small[0]] == [
            (rank_in, layer.in_channels), (rank_out, rank_in), (layer.out_channels, rank_out),
        ]  # fmt: skip
        assert [m.bias is not None for m in small[0]] == [False, False, layer.bias is not None]
        whole = composed(*small[0])
        wanted = copy.deepcopy(layer)
        with torch.no_grad():
            wanted.weight.copy_(torch.from_numpy(whole))
            torch.testing.assert_close(small(x), wanted(x), rtol=1e-4, atol=1e-5)
        first, last = small[0][0].weight[:, :, 0, 0].detach(), small[0][2].weight[:, :, 0, 0].detach()
        torch.testing.assert_close(first @ first.T, torch.eye(rank_in), rtol=0, atol=1e-5)
        torch.testing.assert_close(last.T @ last, torch.eye(rank_out), rtol=0, atol=1e-5)
        errors.append(float(np.linalg.norm(whole - layer.weight.detach().numpy())))
        assert count(small) - count(model) == forced.params(level) - site.cost
    assert all(after <= before + 1e-4 for before, after in pairwise(errors))
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=1e-5)


@given(st.integers(4, 40), st.integers(1, 40), st.sampled_from([(1, 2), (3, 3), (5, 1)]))
@settings(max_examples=50, deadline=None)
def test_levels_raise_one_rank_at_a_time_to_the_full_one(inputs: int, outputs: int, size: tuple[int, int]) -> None:
    found = sites(nn.ModuleList([nn.Conv2d(inputs, outputs, size, bias=False)]))
    for site in found:
        taps = size[0] * size[1]
        assert site.ranks[0] == (1, 1)
        assert site.ranks[-1] == (min(inputs, outputs * taps), min(outputs, inputs * taps))
        steps = np.diff(np.array(site.ranks), axis=0)
        assert (steps.sum(1) == 1).all()
        assert (steps >= 0).all()
        assert all(a <= b * taps and b <= a * taps for a, b in site.ranks)
        prices = [site.params(level) for level in range(1, site.levels + 2)]
        assert prices == sorted(set(prices))
        assert prices[-1] == site.cost == inputs * outputs * taps
    least = inputs + size[0] * size[1] + outputs
    assert bool(found) == (least < inputs * outputs * size[0] * size[1])


def test_triples_pairs_and_nested_chains_are_one_kernel() -> None:
    torch.manual_seed(0)
    triple = nn.Sequential(nn.Conv2d(8, 5, 1, bias=False), nn.Conv2d(5, 6, 3, bias=False), nn.Conv2d(6, 9, 1))
    pair = nn.Sequential(nn.Conv2d(9, 6, 3, padding=1, stride=2, bias=False), nn.Conv2d(6, 12, 1))
    nested = nn.Sequential(
        nn.Sequential(nn.Conv2d(12, 3, 1, bias=False), nn.Conv2d(3, 7, 1, bias=False)),
        nn.Sequential(nn.Conv2d(7, 8, 3, bias=False), nn.Conv2d(8, 10, 1)),
    )
    model = nn.Sequential(triple, nn.ReLU(), pair, nn.ReLU(), nested)
    found = sites(model)
    assert [site.name for site in found] == ["0", "2", "4"]
    assert [site.layers for site in found] == [
        ("0.0", "0.1", "0.2"), ("2.0", "2.1"), ("4.0.0", "4.0.1", "4.1.0", "4.1.1"),
    ]  # fmt: skip
    assert [site.ranks[-1] for site in found] == [(5, 6), (9, 6), (3, 8)]
    assert [site.cost for site in found] == [40 + 270 + 54, 486 + 72, 36 + 21 + 7 * 72 + 80]
    x = torch.randn(2, 8, 16, 16)
    before = model(x)
    for site, (part, size) in zip(found, ((triple, 8), (pair, 9), (nested, 12)), strict=True):
        alone = nn.Conv2d(
            site.inputs, site.outputs, 3, padding=1 if part is pair else 0, stride=2 if part is pair else 1
        )  # fmt: skip
        last = part[-1] if part is not nested else nested[1][1]
        with torch.no_grad():
            alone.weight.copy_(kernel(model, site))
            alone.bias.copy_(last.bias)
            y = torch.randn(2, size, 7, 7)
            torch.testing.assert_close(part(y), alone(y), rtol=1e-4, atol=1e-5)
    params = count(model)
    for site in found:
        decompose(model, site, site.full)
    assert [[type(m) for m in model[i]] for i in (0, 2, 4)] == [[nn.Conv2d] * 3] * 3
    with torch.no_grad():
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    again = sites(model)
    assert [site.ranks[-1] for site in again] == [(5, 6), (9, 6), (3, 8)]
    assert again[0].cost == found[0].cost
    for site in again:
        decompose(model, site, site.levels)
    assert count(model) < params


def test_a_smaller_triple_is_the_best_of_the_product_not_of_its_core() -> None:
    """After training the outer factors are no longer orthonormal, so the core alone says little."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(12, 8, 1, bias=False), nn.Conv2d(8, 8, 3, bias=False), nn.Conv2d(8, 12, 1))
    )
    with torch.no_grad():
        model[0][0].weight[2:].mul_(0.01)
    (site,) = sites(model)
    whole = kernel(model, site).detach()
    level = site.ranks.index((2, 2))
    decompose(model, site, level + 1)
    (smaller,) = sites(model)
    error = float((kernel(model, smaller).detach() - whole).norm() / whole.norm())
    assert smaller.ranks[-1] == (2, 2)
    assert error == pytest.approx(hooi(whole, 2, 2).errors[-1], abs=1e-4)


def test_what_no_triple_can_replace_is_not_listed() -> None:
    class Odd(nn.Conv2d):
        pass

    shared = nn.Conv2d(16, 16, 3)
    model = nn.ModuleDict({
        "first": nn.Conv2d(3, 32, 3),
        "pointwise": nn.Conv2d(32, 32, 1),
        "depthwise": nn.Conv2d(32, 32, 3, groups=32),
        "odd": Odd(32, 32, 3),
        "a": shared,
        "b": shared,
        "kept": nn.Sequential(nn.Conv2d(32, 8, 1, bias=False), nn.Conv2d(8, 32, 3)),
        "norm": nn.Sequential(nn.Conv2d(32, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 9, 1)),
        "biased": nn.Sequential(nn.Conv2d(32, 8, 3), nn.Conv2d(8, 9, 1)),
        "strided": nn.Sequential(nn.Conv2d(32, 8, 3, bias=False), nn.Conv2d(8, 9, 1, stride=2)),
        "two": nn.Sequential(nn.Conv2d(32, 8, 3, bias=False), nn.Conv2d(8, 9, 3)),
        "good": nn.Conv2d(32, 32, 3),
    })  # fmt: skip
    found = [site.name for site in sites(model, ["kept.0"])]
    assert found == ["norm.0", "biased.0", "strided.0", "two.0", "two.1", "good"]


@pytest.mark.parametrize("name", ["resnet-a", "vgg", "factored"])
@settings(max_examples=30, deadline=None)
@given(share=st.floats(0.01, 0.99))
def test_both_ranks_meet_the_budget(name: str, share: float) -> None:
    found = sites(build(name))
    budget = int(sum(site.cost for site in found) * share)
    levels = solve_ranks(found, budget)
    total = sum(site.params(level) for site, level in zip(found, levels, strict=True))
    raises = [c for site, level in zip(found, levels, strict=True) if (c := raise_cost(site, level)) is not None]
    if total > budget:
        assert set(levels) == {1}
    else:
        assert budget - total < min(raises)


@pytest.mark.parametrize("name", ["resnet-a", "resnet-b", "vgg", "factored"])
def test_the_model_has_the_predicted_size(name: str) -> None:
    model = build(name)
    before = count(model)
    chosen, levels, left = choose_ranks(sites(model), before, int(0.7 * before))
    reduced = [(site, level) for site, level in zip(chosen, levels, strict=True) if level <= site.levels]
    assert reduced
    for site, level in reduced:
        decompose(model, site, level)
    assert count(model) == left < before
    assert model(EXAMPLE).shape == (2, 10)


def test_factoring_in_two_works_on_a_triple() -> None:
    """The basis of the core shrinks together with the layer that reads it; the first layer is one of its own."""
    model = nn.Sequential(nn.Conv2d(12, 16, 3), nn.ReLU())
    (site,) = sites(model)
    decompose(model, site, site.ranks.index((6, 8)) + 1)
    found = lowrank.sites(model)
    assert [(s.name, s.second, s.kind) for s in found] == [("0.0", None, "pointwise"), ("0.1", "0.2", "spatial")]
    lowrank.factor(model, found[1], 3)
    assert [m.weight.shape[:2] for m in model[0]] == [(6, 12), (3, 6), (16, 3)]
    lowrank.factor(model, found[0], 2)
    (again,) = sites(model)
    assert again.layers == ("0.0.0", "0.0.1", "0.1", "0.2")
    assert again.ranks[-1] == (2, 3)


@pytest.mark.parametrize("name", ["resnet-b", "factored"])
def test_the_layers_of_the_proof_are_equal(name: str) -> None:
    model = build(name).double()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        before = model(x)
        for site in sites(model):
            exact(model, site)
            assert len(model.get_submodule(site.name)) == 3
        torch.testing.assert_close(model(x), before)


def test_energies_are_what_levels_retain() -> None:
    """By the truncated higher-order SVD: never more than `hooi` finds, and nearly as much."""
    model = build("resnet-b")
    for site in sites(model)[:3]:
        shares = energies(model, site)
        assert len(shares) == site.full
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1)
        for level in (1, site.full // 3, site.full // 2):
            best = 1 - hooi(kernel(model, site), *site.ranks[level - 1]).errors[-1] ** 2
            assert best - 0.1 < shares[level - 1] <= best + 1e-6
