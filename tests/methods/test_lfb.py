"""Learning filter basis: which layers, which ranks, which loss."""

from __future__ import annotations

import copy

import pytest
import torch
from group_nets import build
from test_contract import count, strategy
from torch import nn
from torch.nn import functional as F
from user_nets import reading

from automc import methods
from automc.errors import Infeasible, MethodError, OutOfReach
from automc.methods.lfb import auxiliary_loss, basis_loss, filter_error
from automc.methods.step import Step
from automc.surgery.lowrank import factor, halves, matrix, sites, write
from automc.surgery.ranks import choose_ranks
from automc.training.loop import fit
from automc.training.recipe import Recipe

EXAMPLE = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8)


def test_auxiliary_losses_are_what_they_say() -> None:
    student, teacher = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(1))
    p, q = torch.softmax(teacher, 1), torch.softmax(student, 1)
    assert float(auxiliary_loss("CE", student, teacher)) == pytest.approx(float(-(p * q.log()).sum() / 8), rel=1e-5)
    hard = -q.log()[torch.arange(8), teacher.argmax(1)].mean()
    assert float(auxiliary_loss("NLL", student, teacher)) == pytest.approx(float(hard), rel=1e-5)
    least = auxiliary_loss("CE", teacher, teacher)
    assert all(auxiliary_loss("CE", teacher + 0.1 * torch.randn(8, 10), teacher) > least for _ in range(5))


def test_the_mse_is_relative_to_each_layers_filters() -> None:
    model = build("vgg")
    chosen = sites(model)[:2]
    filters = [matrix(model, site).detach().clone() for site in chosen]
    factored = [factor(model, site, rank) for site, rank in zip(chosen, (3, 10), strict=True)]
    wanted = 0.0
    for site, w in zip(factored, filters, strict=True):
        b, a = model.get_submodule(site.name).weight.flatten(1), model.get_submodule(site.second).weight.flatten(1)
        wanted += float((w - a @ b).detach().square().sum() / w.square().sum())
    assert float(filter_error(model, factored, filters).detach()) == pytest.approx(wanted, rel=1e-4)
    assert 0 < wanted < 2


def test_hp15_has_an_effect_under_mse(context) -> None:
    """Once the factors have moved, its gradient is of the size of the cross-entropy's; and the steps differ."""
    model = build("vgg")
    teacher, site = copy.deepcopy(model), sites(model)[0]
    w = matrix(model, site).detach().clone()
    factored = [factor(model, site, 4)]
    with torch.no_grad():
        for name in factored[0].layers:  # a truncated decomposition itself is where the error is least
            weight = model.get_submodule(name).weight
            weight.add_(0.1 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))

    def gradient(weight: float) -> torch.Tensor:
        model.zero_grad()
        basis_loss("MSE", weight, teacher, factored, [w])(model, EXAMPLE, LABELS).backward()
        return torch.cat([model.get_submodule(n).weight.grad.flatten() for n in factored[0].layers])

    plain = gradient(0.0)
    assert float((gradient(5.0) - plain).norm() / plain.norm()) > 0.1
    step = context(count(build("vgg")), epochs=20.0)
    few, many = (
        methods.get("LFB").apply(build("vgg"), strategy("LFB", HP2=0.4, HP15=weight, HP16="MSE"), step)[0]
        for weight in (0.5, 5)
    )
    weights = [torch.cat([p.detach().flatten() for p in out.parameters()]) for out in (few, many)]
    assert float((weights[0] - weights[1]).norm() / weights[0].norm()) > 1e-4


def test_ranks_are_those_that_do_better_without_training(context, monkeypatch) -> None:
    """One layer of rank 2 among others of full rank: in proportion it gets what the others lack."""
    model = build("vgg")
    with torch.no_grad():
        layer = model.features[8]
        low = factor(copy.deepcopy(model), next(s for s in sites(model) if s.name == "features.8"), 2)
        small = copy.deepcopy(model)
        factor(small, next(s for s in sites(model) if s.name == "features.8"), 2)
        layer.weight.copy_(matrix(small, low).view_as(layer.weight))
    step = context(count(model), max_iterations=1)
    _, report = methods.get("LFB").apply(model, strategy("LFB", HP2=0.36), step)
    asked: list[int] = []
    ranks = []
    for place, by in enumerate(("proportion", "energy")):
        monkeypatch.setattr(Step, "best", lambda self, models, place=place: asked.append(len(models)) or place)
        out, other = methods.get("LFB").apply(model, strategy("LFB", HP2=0.36), step)
        assert other.details["ranks_by"] == by
        assert count(out) == other.params_out <= other.target
        assert other.target - other.params_out < other.details["unit"]
        ranks.append(other.details["ranks"]["features.8.0"])
    assert ranks[1] < ranks[0]
    assert asked == [4, 4]  # in both forms
    assert report.details["ranks_by"] in ("proportion", "energy")


def test_filters_that_are_products_of_a_column_and_a_row_get_the_form_that_holds_them(context) -> None:
    """Of rank 6 in one form, of full rank in the other: what is chosen computes the same."""
    model = build("vgg")
    for name, layer in model.named_modules():
        if type(layer) is nn.Conv2d and layer.in_channels > 3:
            site = next(s for s in sites(model, form="spatial") if s.name == name)
            with torch.no_grad():
                write(model, site, torch.linalg.multi_dot(halves(matrix(model, site), 6)).float())
    before = [p.detach().clone() for p in model.parameters()]
    out, report = methods.get("LFB").apply(model, strategy("LFB", HP2=0.3), context(count(model), max_iterations=1))
    assert report.details["form"] == "spatial"
    assert {m.kernel_size for m in out.modules() if type(m) is nn.Conv2d} >= {(3, 1), (1, 3)}
    assert report.reached
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_best_model_is_the_one_of_least_loss_on_training_images(context) -> None:
    step = Step(build("vgg"), strategy("LFB"), context(count(build("vgg"))), (1,))
    good, bad = build("vgg"), build("vgg")
    fit(good, step.context.data, iterations=60, recipe=Recipe(batch=16, lr=0.05), seed=0)
    assert step.best([bad, good]) == 1
    assert step.best([good, bad]) == 0
    assert step.best([bad]) == 0


@pytest.mark.parametrize("kind", ["NLL", "CE", "MSE"])
def test_the_loss_is_cross_entropy_plus_weighted_auxiliary(kind: str) -> None:
    teacher, model = build("vgg"), build("vgg")
    site = sites(model)[0]
    w = matrix(model, site).detach().clone()
    factored = [factor(model, site, 4)]
    losses = [basis_loss(kind, weight, teacher, factored, [w])(model, EXAMPLE, LABELS) for weight in (0.0, 1.0, 3.0)]
    plain = F.cross_entropy(model(EXAMPLE), LABELS)
    torch.testing.assert_close(losses[0], plain)
    torch.testing.assert_close(losses[2] - plain, 3 * (losses[1] - plain))
    assert losses[1] > plain


def test_convolutions_come_before_pointwise_before_linear() -> None:
    model = build("resnet-b")
    found = sites(model)
    kinds = {kind: [s.name for s in found if s.kind == kind] for kind in ("spatial", "pointwise", "linear")}
    assert len(kinds["spatial"]) == 6
    assert kinds["pointwise"] == ["layer2.0.shortcut.0", "layer3.0.shortcut.0"]
    assert kinds["linear"] == ["linear"]
    params = count(model)
    spatial, _, left = choose_ranks(found, params, int(params * 0.6))
    assert {site.kind for site in spatial} == {"spatial"}
    least = params - sum(s.cost - s.unit for s in found if s.kind == "spatial")
    assert left <= int(params * 0.6)
    wider, _, left = choose_ranks(found, params, least - 1)
    assert {site.kind for site in wider} == {"spatial", "pointwise"}
    assert left <= least - 1
    everything, ranks, left = choose_ranks(found, params, 0)
    assert len(everything) == len(found)
    assert set(ranks) == {1}
    assert left == params - sum(s.cost - s.unit for s in found)


def test_the_result_is_ordinary_layers(context) -> None:
    model = build("vgg")
    out, report = methods.get("LFB").apply(model, strategy("LFB", HP2=0.4), context(count(model), max_iterations=1))
    pair = out.features[4]
    assert [type(m) for m in pair] == [nn.Conv2d, nn.Conv2d]
    assert pair[0].bias is None
    assert pair[1].bias is not None
    assert report.details["ranks"]["features.4.0"] == pair[0].out_channels


def test_a_second_step_shrinks_the_basis_instead_of_adding_layers(context) -> None:
    model = build("resnet-a")
    step = context(count(model), max_iterations=1)
    once, _ = methods.get("LFB").apply(model, strategy("LFB", HP2=0.2), step)
    twice, report = methods.get("LFB").apply(once, strategy("LFB", HP2=0.2), step)
    names = {name for name, module in once.named_modules() if type(module) is nn.Sequential}
    assert names < dict(twice.named_modules()).keys()
    assert all(type(layer) is not nn.Sequential for name in names for layer in twice.get_submodule(name))
    assert report.reached
    assert twice.layer3[0].conv2[0].out_channels < once.layer3[0].conv2[0].out_channels


def test_layers_whose_weights_are_read_elsewhere_stay_whole(context) -> None:
    model = reading()
    small, report = methods.get("LFB").apply(model, strategy("LFB", HP2=0.02), context(count(model)))
    assert report.params_out == count(small) < count(model)
    assert [type(m) for m in (small.last, small.encoder.linear1, small.tied)] == [nn.Sequential, nn.Linear, nn.Linear]
    with torch.no_grad():
        assert small.eval()(EXAMPLE).shape == (8, 10)


def test_bad_settings_and_nothing_to_factor(context) -> None:
    model = build("vgg")
    with pytest.raises(MethodError, match="HP16 must be one of"):
        methods.get("LFB").apply(model, strategy("LFB", HP16="L1"), context(count(model)))
    tiny = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    with pytest.raises(Infeasible, match="smaller by factoring"):
        methods.get("LFB").apply(tiny, strategy("LFB"), context(count(tiny)))


def test_layers_whose_type_is_asked_for_are_named_where_the_rest_is_not_enough(context) -> None:
    class ByType(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Conv2d(3, 24, 3), nn.Conv2d(24, 32, 3), nn.Conv2d(32, 32, 3)])
            self.fc = nn.Linear(32, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = F.relu(layer(x)) if isinstance(layer, nn.Conv2d) else layer(x)
            return self.fc(x.mean((2, 3)))

    model = ByType()
    with pytest.raises(
        OutOfReach, match=r"at most 1\.\d% can.*layers\.1 for one: other code asks for its type"
    ) as refusal:
        methods.get("LFB").apply(model, strategy("LFB", HP2=0.2), context(count(model)))
    assert refusal.value.params == count(model) - 10 * 32 + 10 + 32
    out, _ = methods.get("LFB").apply(model, strategy("LFB", HP2=0.005), context(count(model)))
    assert [type(layer) for layer in (*out.layers, out.fc)] == [nn.Conv2d, nn.Conv2d, nn.Conv2d, nn.Sequential]
