"""Factored layers: equal to truncated SVD, priced exactly, found where they are."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from group_nets import build
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from automc.surgery.lowrank import Form, Site, energies, exact, factor, matrix, push, sites, write
from automc.surgery.ranks import raise_cost, solve_energy, solve_ranks, spend
from automc.surgery.spectra import spectrum

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def single(module: nn.Module, form: Form = "channel") -> tuple[nn.Module, Site]:
    model = nn.Sequential(module)
    return model, sites(model, form=form)[0]


def layers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "plain": nn.Conv2d(6, 10, 3, padding=1),
        "strided": nn.Conv2d(12, 9, 3, stride=2, padding=1, bias=False),
        "dilated": nn.Conv2d(8, 8, 3, padding=2, dilation=2, padding_mode="reflect"),
        "oblong": nn.Conv2d(8, 12, (1, 3), padding=(0, 1)),
        "pointwise": nn.Conv2d(16, 24, 1, stride=2),
        "uneven": nn.Conv2d(6, 10, (5, 3), stride=(1, 2), padding=(2, 0), dilation=(1, 2), padding_mode="circular"),
        "same": nn.Conv2d(8, 8, 3, padding="same"),
    }


def unfolded(weight: torch.Tensor, form: Form) -> np.ndarray:
    """W with NumPy: outputs × inputs·k², or outputs·k (columns) × inputs·k (rows)."""
    found = weight.detach().numpy().astype(np.float64)
    if form == "channel":
        return found.reshape(len(found), -1)
    outputs, inputs, height, width = found.shape
    return found.transpose(0, 3, 1, 2).reshape(outputs * width, inputs * height)


@pytest.mark.parametrize("form", ["channel", "spatial"])
@pytest.mark.parametrize("name", layers())
def test_a_factored_layer_is_its_truncated_svd(name: str, form: Form) -> None:
    layer = layers()[name]
    model, site = single(layer, form)
    assert site.form == (form if min(layer.kernel_size) > 1 else "channel")
    x = torch.randn(2, layer.in_channels, 9, 9)
    weight = unfolded(layer.weight, site.form)
    u, s, vh = np.linalg.svd(weight, full_matrices=False)
    errors = []
    for rank in range(1, site.full + 1):
        small = copy.deepcopy(model)
        factored = factor(small, site, rank)
        assert sites(small) == ([factored] if factored.levels else [])
        best = torch.from_numpy((u[:, :rank] * s[:rank]) @ vh[:rank]).float()
        with torch.no_grad():
            wanted = copy.deepcopy(model)
            write(wanted, site, best)
            torch.testing.assert_close(small(x), wanted(x), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(matrix(small, factored), best, rtol=1e-4, atol=1e-6)
        errors.append(float((matrix(small, factored).detach() - torch.from_numpy(weight)).norm()))
        assert errors[-1] == pytest.approx(float(np.sqrt((s[rank:] ** 2).sum())), abs=1e-5)
        assert count(small) - count(model) == rank * site.unit - site.cost
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5
    with torch.no_grad():
        torch.testing.assert_close(small(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_spatial_form_is_a_column_and_a_row(stride: int) -> None:
    model, site = single(nn.Conv2d(8, 12, 3, stride=stride, padding=1), "spatial")
    assert (site.kind, site.unit, site.full, site.levels) == ("spatial", 8 * 3 + 12 * 3, 24, 14)
    factored = factor(model, site, 5)
    column, row = model[0]
    assert (column.kernel_size, column.stride, column.padding) == ((3, 1), (stride, 1), (1, 0))
    assert (row.kernel_size, row.stride, row.padding) == ((1, 3), (1, stride), (0, 1))
    assert (column.bias, row.bias is None) == (None, False)
    assert sites(model) == sites(model, form="spatial") == [factored]
    with torch.no_grad():
        before = matrix(model, factored)
        smaller = factor(model, factored, 3)
    assert [layer.out_channels for layer in model[0]] == [3, 12]
    assert len(sites(model)) == 1
    s = torch.linalg.svdvals(before)
    assert float((matrix(model, smaller).detach() - before).norm()) == pytest.approx(float(s[3:].norm()), rel=1e-4)


def test_columns_and_rows_that_are_no_pair_are_layers_of_their_own() -> None:
    def found(*layers: nn.Module) -> list[str | None]:
        return [site.second for site in sites(nn.Sequential(*layers))]

    column, row = {"kernel_size": (3, 1), "padding": (1, 0)}, {"kernel_size": (1, 3), "padding": (0, 1)}
    assert found(nn.Conv2d(16, 12, **column, bias=False), nn.Conv2d(12, 16, **row)) == ["1"]
    assert found(nn.Conv2d(16, 12, **column), nn.Conv2d(12, 16, **row)) == [None, None]
    assert found(nn.Conv2d(16, 12, **column, bias=False), nn.ReLU(), nn.Conv2d(12, 16, **row)) == [None, None]
    assert found(nn.Conv2d(16, 12, **row, bias=False), nn.Conv2d(12, 16, **column)) == [None, None]
    assert found(nn.Conv2d(16, 12, **column, bias=False), nn.Conv2d(12, 16, **column)) == [None, None]
    assert found(nn.Conv2d(16, 12, 3, bias=False), nn.Conv2d(12, 16, **row)) == [None, None]
    assert found(nn.Conv2d(16, 12, **column, bias=False), nn.Conv2d(12, 24, **row, groups=2)) == [None]
    wide = {"kernel_size": (3, 1), "padding": (1, 2)}
    assert found(nn.Conv2d(16, 12, **wide, bias=False), nn.Conv2d(12, 16, **row)) == [None, None]


@pytest.mark.parametrize("form", ["channel", "spatial"])
@pytest.mark.parametrize("inner", [0, 6])
def test_weights_are_written_and_their_gradients_pushed_as_the_product(form: Form, inner: int) -> None:
    model, site = single(nn.Conv2d(8, 12, 3), form)
    site = factor(model, site, inner) if inner else site
    low = spectrum(matrix(model, site)).low(4)
    write(model, site, low)
    torch.testing.assert_close(matrix(model, site).detach().double(), low, rtol=0, atol=1e-6)
    slope = torch.randn(matrix(model, site).shape, generator=torch.Generator().manual_seed(0))
    layers = [model.get_submodule(name) for name in site.layers]
    (matrix(model, site) * slope).sum().backward()
    wanted = [layer.weight.grad for layer in layers]
    for layer in layers:
        layer.weight.grad = torch.ones_like(layer.weight)
    push(model, site, slope)
    for layer, gradient in zip(layers, wanted, strict=True):
        torch.testing.assert_close(layer.weight.grad, 1 + gradient)
    layers[0].weight.grad = None
    push(model, site, slope)
    assert layers[0].weight.grad is None


@pytest.mark.parametrize("shape", [(7, 20), (20, 7)])
def test_spectra(shape: tuple[int, int]) -> None:
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    seen = spectrum(whole)
    u, s, vh = np.linalg.svd(whole.numpy().astype(np.float64), full_matrices=False)
    assert seen.nuclear == pytest.approx(s.sum())
    assert seen.energies == pytest.approx(list((s**2).cumsum() / (s**2).sum()))
    np.testing.assert_allclose(seen.low(3).numpy(), (u[:, :3] * s[:3]) @ vh[:3], atol=1e-12)
    np.testing.assert_allclose(seen.direction(3).numpy(), u[:, :3] @ vh[:3], atol=1e-12)
    again = spectrum(seen.low(3).float())
    np.testing.assert_allclose(again.low(3).numpy(), seen.low(3).numpy(), atol=1e-6)
    assert float(torch.linalg.matrix_norm(again.direction(7), 2)) == pytest.approx(1)
    assert float(torch.linalg.matrix_rank(again.direction(7))) == 3
    assert not bool(spectrum(torch.zeros(shape)).direction(2).any())


def test_both_factors_share_the_singular_values() -> None:
    model, site = single(nn.Linear(20, 12))
    factor(model, site, 5)
    basis, coefficients = model[0][0].weight, model[0][1].weight
    torch.testing.assert_close(basis.norm(dim=1), coefficients.norm(dim=0))


@pytest.mark.parametrize("inner", [0, 3])
def test_weights_of_low_rank_give_factors_of_usual_size(inner: int) -> None:
    """Singular values that are nothing but rounding must not become huge entries of a factor."""
    model, site = single(nn.Linear(20, 12))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(12, inner) @ torch.randn(inner, 20))
    whole = model[0].weight.detach().clone()
    factored = factor(model, site, 7)
    torch.testing.assert_close(matrix(model, factored).detach(), whole)
    assert max(float(p.detach().abs().max()) for p in model.parameters()) <= 1 + float(whole.abs().max())


def test_a_factored_layer_keeps_two_layers() -> None:
    model = build("factored")
    found = {site.name: site for site in sites(model)}
    assert set(found) == {"two.0", "three.0", "three.1", "fc.0"}
    site = found["two.0"]
    assert (site.second, site.cost, site.levels) == ("two.1", 7 * (12 * 9 + 16), 6)
    whole = matrix(model, site).detach().clone()
    with torch.no_grad():
        before = model(EXAMPLE)
    exact = copy.deepcopy(model)
    factor(exact, site, 7)
    with torch.no_grad():
        torch.testing.assert_close(exact(EXAMPLE), before, rtol=1e-4, atol=1e-5)
    smaller = factor(model, site, 3)
    assert [type(m) for m in model.two] == [nn.Conv2d, nn.Conv2d]
    s = torch.linalg.svdvals(whole)
    error = float((matrix(model, smaller).detach() - whole).norm())
    assert error == pytest.approx(float(s[3:].norm()), rel=1e-4)


@pytest.mark.parametrize("form", ["channel", "spatial"])
@pytest.mark.parametrize("name", layers())
def test_the_layers_of_the_proof_are_equal(name: str, form: Form) -> None:
    layer = layers()[name].double()
    model, site = single(layer, form)
    x = torch.randn(2, layer.in_channels, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        before = model(x)
        exact(model, site)
        torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)


def test_the_proof_of_two_layers_changes_their_width() -> None:
    model = build("factored").double()
    site = next(site for site in sites(model) if site.name == "two.0")
    with torch.no_grad():
        before = model(EXAMPLE.double())
        exact(model, site)
        torch.testing.assert_close(model(EXAMPLE.double()), before)
    assert model.two[0].out_channels == 16


def test_what_cannot_be_factored_is_not_listed() -> None:
    class Odd(nn.Conv2d):
        pass

    shared = nn.Conv2d(16, 16, 3)
    model = nn.ModuleDict({
        "first": nn.Conv2d(3, 32, 3),
        "depthwise": nn.Conv2d(32, 32, 3, groups=32),
        "grouped": nn.Conv2d(32, 32, 3, groups=4),
        "odd": Odd(32, 32, 3),
        "a": shared,
        "b": shared,
        "thin": nn.Linear(40, 1),
        "kept": nn.Conv2d(32, 32, 3),
        "good": nn.Conv2d(32, 32, 3),
    })  # fmt: skip
    assert [site.name for site in sites(model, ["kept"])] == ["good"]


@pytest.mark.parametrize("name", ["resnet-a", "resnet-b", "vgg", "factored"])
@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.01, 0.99))
def test_ranks_meet_the_budget(name: str, share: float) -> None:
    found = sites(build(name))
    budget = int(sum(site.cost for site in found) * share)
    ranks = solve_ranks(found, budget)
    total = sum(site.params(rank) for site, rank in zip(found, ranks, strict=True))
    raises = [c for site, rank in zip(found, ranks, strict=True) if (c := raise_cost(site, rank)) is not None]
    if total > budget:
        assert set(ranks) == {1}
    else:
        assert budget - total < min(raises)
    assert all(1 <= rank <= site.levels + 1 for site, rank in zip(found, ranks, strict=True))


@pytest.mark.parametrize("name", ["vgg", "factored"])
def test_energies_are_what_ranks_retain(name: str) -> None:
    model = build(name)
    for site in sites(model):
        s = torch.linalg.svdvals(matrix(model, site).detach().double()).square()
        shares = (s.cumsum(0) / s.sum())[: site.full].tolist()
        assert energies(model, site) == pytest.approx(shares, abs=1e-9)
        assert energies(model, site)[-1] == pytest.approx(1)


@pytest.mark.parametrize("name", ["resnet-b", "factored"])
@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.01, 1.0))
def test_ranks_by_energy_meet_the_budget_and_retain_more(name: str, share: float) -> None:
    model = build(name)
    found = sites(model)
    spectra = [energies(model, site) for site in found]
    budget = int(sum(site.cost for site in found) * share)

    def retained(ranks: list[int]) -> float:
        pairs = zip(found, ranks, spectra, strict=True)
        return sum(1.0 if rank > site.levels else energy[rank - 1] for site, rank, energy in pairs)

    ranks, even = spend(found, budget, spectra), solve_ranks(found, budget)
    total = sum(site.params(rank) for site, rank in zip(found, ranks, strict=True))
    raises = [c for site, rank in zip(found, ranks, strict=True) if (c := raise_cost(site, rank)) is not None]
    assert set(ranks) == {1} if total > budget else budget - total < min(raises, default=budget + 1)
    nexts = [
        (1.0 if r >= site.levels else e[r]) - e[r - 1]
        for site, r, e in zip(found, ranks, spectra, strict=True)
        if r <= site.levels
    ]
    assert retained(ranks) >= retained(even) - max(nexts, default=0) - 1e-9  # one raise may be too dear at the very end


@pytest.mark.parametrize("form", ["channel", "spatial"])
@pytest.mark.parametrize("name", ["resnet-b", "vgg", "factored"])
@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.05, 1.0))
def test_ranks_of_one_energy_meet_the_budget_and_stay_where_weights_have_them(
    name: str, form: Form, share: float
) -> None:
    model = build(name)
    found = sites(model, form=form)
    budget = int(sum(site.cost for site in found) * share)
    seen = [spectrum(matrix(model, site)) for site in found]
    ranks = solve_energy(found, budget, [each.energies for each in seen])
    total = sum(site.params(rank) for site, rank in zip(found, ranks, strict=True))
    raises = [c for site, rank in zip(found, ranks, strict=True) if (c := raise_cost(site, rank)) is not None]
    if total > budget:
        assert set(ranks) == {1}
        return
    assert budget - total < min(raises, default=budget + 1)
    for site, rank, each in zip(found, ranks, seen, strict=True):
        if rank <= site.levels:
            write(model, site, each.low(rank))
    cut = [matrix(model, site).detach().clone() for site in found]
    seen = [spectrum(each) for each in cut]
    again = solve_energy(found, budget, [each.energies for each in seen])
    for whole, site, rank, each in zip(cut, found, again, seen, strict=True):
        if rank <= site.levels:
            torch.testing.assert_close(each.low(rank).float(), whole, rtol=0, atol=1e-5 * float(whole.abs().max()))


def test_one_energy_is_one_share_for_all() -> None:
    model = build("vgg")
    found = sites(model)
    energies = [spectrum(matrix(model, site)).energies for site in found]
    ranks = solve_energy(found, sum(site.cost for site in found) // 2, energies)
    cut = [(rank, energy) for site, rank, energy in zip(found, ranks, energies, strict=True) if rank <= site.levels]
    assert len(cut) == 3  # at that share the last layer would be no smaller
    retained = min(energy[rank - 1] for rank, energy in cut)
    least = [rank for rank, energy in cut if rank > 1 and energy[rank - 2] >= retained]
    assert len(least) <= 2  # of the rest of the budget one rank more, in order


def test_nothing_is_reduced_where_the_budget_allows_everything() -> None:
    found = sites(build("vgg"))
    assert solve_ranks(found, sum(site.cost for site in found)) == [site.levels + 1 for site in found]


@pytest.mark.parametrize("name", ["resnet-a", "vgg", "factored"])
def test_the_model_has_the_predicted_size(name: str) -> None:
    model = build(name)
    found = sites(model)
    ranks = solve_ranks(found, sum(site.cost for site in found) // 2)
    saved = sum(site.cost - site.params(rank) for site, rank in zip(found, ranks, strict=True))
    before = count(model)
    for site, rank in zip(found, ranks, strict=True):
        if rank <= site.levels:
            factor(model, site, rank)
    assert count(model) == before - saved
    assert model(EXAMPLE).shape == (2, 10)
