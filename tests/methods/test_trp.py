"""Trained rank pruning: what is truncated and when, how the nuclear norm pulls, and that factoring costs nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from group_nets import build
from test_contract import count, same
from torch import nn

from automc import methods
from automc.errors import Infeasible, MethodError
from automc.methods.step import Step
from automc.methods.trp import END, Truncation
from automc.models.measure import count_params
from automc.surgery.lowrank import Form, factor, matrix, sites
from automc.surgery.ranks import choose_ranks, solve_energy
from automc.surgery.spectra import spectrum
from automc.training.evaluate import recalibrate
from automc.training.loop import fit
from automc.training.seeds import derived
from kg.schema import Strategy

DEFAULTS = {"HP1": 0.5, "HP2": 0.4, "HP19": 5, "HP20": 0.0, "HP21": "channel"}
FORMS: tuple[Form, ...] = ("channel", "spatial")


def strategy(**settings: float | str) -> Strategy:
    return Strategy("TRP", tuple({**DEFAULTS, **settings}.items()))


def trained(context, model: nn.Module, *, epochs: float = 10.0, **settings: float | str):
    return methods.get("TRP").apply(model, strategy(**settings), context(count(model), epochs=epochs))


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_truncation_leaves_low_rank_and_a_second_one_changes_nothing(form: Form, factored: bool) -> None:
    model = build("vgg")
    if factored:
        for site in sites(model, form=form):
            factor(model, site, site.levels)
    found = sites(model, form=form)
    params = count(model)
    cuts = Truncation(model, found, params, int(0.6 * params), 0.0)
    cuts.cut()
    assert len(cuts.reduced) >= 2
    for site, rank in cuts.reduced:
        values = torch.linalg.svdvals(matrix(model, site).detach().double())
        assert float(values[rank]) < 1e-6 * float(values[0])
    left = params - sum(site.cost - site.params(rank) for site, rank in cuts.reduced)
    assert left == cuts.left
    assert 0 <= int(0.6 * params) - left < cuts.unit
    before = copy.deepcopy(model.state_dict())
    cuts.cut()
    assert cuts.times == 2
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-5)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(images)
        for site, rank in cuts.reduced:
            factor(model, site, rank)
        torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=1e-5)
    assert count(model) == left


@pytest.mark.parametrize("form", FORMS)
def test_without_truncation_and_norm_it_is_factoring_after_fine_tuning(form: Form, context) -> None:
    model = build("resnet-a")
    step = context(count(model), epochs=3.0)
    out, report = methods.get("TRP").apply(model, strategy(HP19=1000, HP21=form), step)
    assert report.details["truncations"] == 0

    plain = copy.deepcopy(model)
    first, second = 4, 2
    assert methods.get("TRP").phases(strategy(), step.recipe, step.data.n) == (first, second)
    fit(plain, step.data, iterations=first, recipe=step.recipe, seed=derived(step.seed, 0), floor=END)
    found = sites(plain, form=form)
    energies = [spectrum(matrix(plain, site)).energies for site in found]
    chosen, ranks, left = choose_ranks(found, count(plain), report.target, energies, solve_energy)
    for site, rank in zip(chosen, ranks, strict=True):
        if rank <= site.levels:
            factor(plain, site, rank)
    fit(plain, step.data, iterations=second, recipe=step.recipe, seed=derived(step.seed, 1))
    recalibrate(plain, step.data, step.recipe.recalibration_images)
    assert left == count(plain)
    assert same(plain, out)


def test_truncations_come_every_so_many_updates_but_the_last(context, monkeypatch) -> None:
    lengths: list[int] = []

    def train(self: Step, phase: int = 0, train=Step.train, **how):
        lengths.append(self.lengths[phase])
        return train(self, phase, **how)

    monkeypatch.setattr(Step, "train", train)
    times = {every: trained(context, build("vgg"), HP19=every)[1].details["truncations"] for every in (1, 5, 13, 20)}
    assert lengths == [13, 7] * 4
    assert times == {1: 12, 5: 2, 13: 0, 20: 0}


def test_trained_towards_its_rank_a_layer_loses_little_when_factored(context, monkeypatch) -> None:
    """The energy that the factoring takes away is a fraction of what it would be without truncations."""
    lost: dict[int, float] = {}

    def look(self: Truncation, look=Truncation.look) -> None:
        look(self)
        lost[every] = max(1 - self.spectra[site.name].energies[rank - 1] for site, rank in self.reduced)

    monkeypatch.setattr(Truncation, "look", look)
    for every in (1, 1000):
        trained(context, build("vgg"), HP19=every)
    assert lost[1] < 0.1 * lost[1000]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("every", [1, 20])
def test_the_nuclear_norm_falls_with_its_weight(form: Form, every: int, context) -> None:
    norms = [
        trained(context, build("vgg"), HP19=every, HP20=weight, HP21=form)[1].details["nuclear"]
        for weight in (0, 0.001, 0.01)
    ]
    assert len({first for first, _ in norms}) == 1
    assert norms[0][1] > norms[1][1] > norms[2][1]


def test_the_gradient_of_the_norm_is_that_of_the_truncated_weights() -> None:
    model = build("vgg")
    found = sites(model)[:1]
    cuts = Truncation(model, found, count(model), count(model) - 1000, 0.01)
    cuts.cut()
    ((site, rank),) = cuts.reduced
    whole = matrix(model, site).detach().double().requires_grad_()
    torch.linalg.svdvals(whole)[:rank].sum().backward()
    layer = model.get_submodule(site.name)
    layer.weight.grad = torch.zeros_like(layer.weight)
    cuts.press()
    torch.testing.assert_close(layer.weight.grad.flatten(1), (0.01 * whole.grad).float(), rtol=1e-3, atol=1e-6)
    assert float(torch.linalg.matrix_norm(layer.weight.grad.flatten(1), 2)) == pytest.approx(0.01, rel=1e-4)


def test_the_result_is_ordinary_layers_of_either_form(context) -> None:
    for form, kernels in (("channel", [(3, 3), (1, 1)]), ("spatial", [(3, 1), (1, 3)])):
        out, report = trained(context, build("resnet-a"), HP21=form)
        pair = out.layer3[0].conv2
        assert [(type(layer), layer.kernel_size) for layer in pair] == [(nn.Conv2d, kernel) for kernel in kernels]
        assert report.details["ranks"]["layer3.0.conv2.0"] == pair[0].out_channels
        assert report.reached
        assert report.params_out == count_params(out)


@pytest.mark.parametrize("other", ["TRP", *(pytest.param(name, marks=pytest.mark.slow) for name in ("LFB", "HOS"))])
def test_a_column_and_a_row_get_smaller_instead_of_more(other: str, context) -> None:
    once, _ = trained(context, build("resnet-a"), HP2=0.3, HP21="spatial")
    names = {name for name, module in once.named_modules() if type(module) is nn.Sequential}
    later = {
        "TRP": strategy(HP2=0.3),
        "LFB": Strategy.parse("LFB[HP1=0.1,HP2=0.3,HP15=1,HP16=CE]"),
        "HOS": Strategy.parse("HOS[HP1=0.1,HP2=0.3,HP11=P1,HP12=l1norm,HP13=0.3,HP14=1]"),
    }[other]
    twice, report = methods.get(other).apply(once, later, context(count(build("resnet-a"))))
    assert report.reached
    assert all(type(layer) is not nn.Sequential for name in names for layer in twice.get_submodule(name))
    assert twice.layer3[0].conv2[0].out_channels < once.layer3[0].conv2[0].out_channels


def test_bad_settings_and_nothing_to_factor(context) -> None:
    model = build("vgg")
    for settings, said in (
        ({"HP21": "both"}, "HP21 must be one of channel, spatial"), ({"HP19": 0}, "HP19 must lie between 1"),
        ({"HP20": 1}, "HP20 must lie between 0 and 0.1"),
    ):  # fmt: skip
        with pytest.raises(MethodError, match=said):
            trained(context, model, **settings)
    tiny = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    with pytest.raises(Infeasible, match="smaller by factoring"):
        trained(context, tiny)
