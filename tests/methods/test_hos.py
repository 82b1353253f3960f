"""Higher-order statistics: the criteria, the split between pruning and decomposing, the loss, any order of steps."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from group_nets import NETS, build
from scipy import stats
from test_contract import count, same
from torch import nn
from torch.nn import functional as F

from automc import methods
from automc.errors import Infeasible, MethodError
from automc.methods.hos import factorable, rank_channels, reconstruction_loss
from automc.methods.normality import GLOBAL, LOCAL, gaussianity, importance, measure, scores, shares
from automc.models import load, structure
from automc.surgery import lowrank
from automc.surgery.groups import Groups
from automc.surgery.tucker import sites
from kg.schema import Strategy

EXAMPLE = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8)
DEFAULTS = {"HP1": 0.1, "HP2": 0.3, "HP11": "P1", "HP12": "l1norm", "HP13": 0.3, "HP14": 1}
OTHERS = {
    "NS": {"HP1": 0.1, "HP2": 0.2, "HP6": 0.9},
    "LFB": {"HP1": 0.1, "HP2": 0.2, "HP15": 1, "HP16": "CE"},
    "HOS": {**DEFAULTS, "HP2": 0.2},
}


def strategy(**settings: float | str) -> Strategy:
    return Strategy("HOS", tuple({**DEFAULTS, **settings}.items()))


def samples() -> dict[str, np.ndarray]:
    """From Gaussian to ever less so; skewed, because symmetry alone makes k₃ vanish."""
    rng = np.random.default_rng(0)
    return {
        "gaussian": rng.normal(size=2000),
        "bent": rng.gamma(30.0, size=2000),
        "skewed": rng.gamma(3.0, size=2000),
        "heavy": rng.exponential(size=2000) ** 2,
    }


@pytest.mark.parametrize("criterion", GLOBAL)
def test_the_more_gaussian_a_layer_the_larger_its_share(criterion: str) -> None:
    values = [gaussianity(sample, criterion) for sample in samples().values()]
    assert values == sorted(values, reverse=True)
    found = shares(values)
    assert found[0] == 1
    assert found[-1] == 0
    for sample, value in zip(samples().values(), values, strict=True):
        assert gaussianity(-0.003 * sample + 5, criterion) == pytest.approx(value, rel=1e-6)


def test_global_criteria_are_what_they_say() -> None:
    sample = samples()["bent"]
    n, z = len(sample), (sample - sample.mean()) / sample.std()
    assert gaussianity(sample, "P1") == stats.shapiro(sample).statistic
    skewness, excess = (z**3).mean(), (z**4).mean() - 3
    assert gaussianity(sample, "P2") == pytest.approx(-np.log10(n / 6 * (skewness**2 + excess**2 / 4)), rel=1e-9)
    k3 = n**2 * skewness / ((n - 1) * (n - 2))
    k4 = n**2 * ((n + 1) * (excess + 3) - 3 * (n - 1)) / ((n - 1) * (n - 2) * (n - 3))
    assert gaussianity(sample, "P3") == pytest.approx(-np.log10(abs(k3 * k4)), rel=1e-9)


def test_local_criteria_are_those_of_each_filter() -> None:
    filters = np.random.default_rng(1).gamma(2.0, size=(6, 36)) - 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = {
            "l1norm": [np.abs(f).sum() for f in filters],
            "k34": [abs(stats.kstat(f, 3) * stats.kstat(f, 4)) for f in filters],
            "skew_kur": [abs(stats.skew(f) * stats.kurtosis(f)) for f in filters],
        }
    for criterion in LOCAL:
        found = importance(filters, criterion)
        np.testing.assert_allclose(found, wanted[criterion], rtol=1e-9)
        np.testing.assert_allclose(importance(-filters, criterion), found, rtol=1e-9)  # the sign does not decide


def test_what_has_no_statistics_comes_last_or_falls_back() -> None:
    filters = np.random.default_rng(2).normal(size=(5, 27))
    filters[3] = 0
    for criterion in ("k34", "skew_kur"):
        assert importance(filters, criterion).argmin() == 3
    filters[1, 4] = np.nan
    assert [importance(filters, c)[1] for c in LOCAL] == [-np.inf] * 3
    few = np.random.default_rng(3).normal(size=(5, 8))
    for criterion in LOCAL:
        np.testing.assert_allclose(importance(few, criterion), np.abs(few).sum(1))
        assert np.isnan([gaussianity(few[0], c) for c in GLOBAL]).all()
    np.testing.assert_allclose(shares([0.2, np.nan, 0.7, -np.inf, 0.45]), [0, 0, 1, 0, 0.5])
    np.testing.assert_array_equal(shares([0.3, 0.3]), [1, 1])
    np.testing.assert_array_equal(shares([np.nan, np.nan]), [1, 1])


def test_ratios_follow_the_shares_and_filters_the_local_criterion() -> None:
    model = build("vgg")
    with torch.no_grad():
        model.features[4].weight.copy_(0.1 * torch.randn(24, 16, 3, 3, generator=torch.Generator().manual_seed(5)))
        model.features[8].weight.pow_(5)
    groups = Groups(model, EXAMPLE)
    roots = [group.root for group in groups.groups]
    for by_layer in GLOBAL:
        for by_filter in LOCAL:
            layers = measure(groups, by_layer, by_filter)
            plan, scope, share = rank_channels(groups, layers, int(0.8 * count(model)), 1)
            assert scope == "blocks"
            assert plan.reached
            assert share["features.4"] == 1
            assert share["features.8"] == min(share.values()) == 0
            lost = dict(zip(roots, plan.removed, strict=True))
            assert not lost["features.8"]
            # ⌊n · s/c⌋ with one c; a few units went back to meet the target
            rates = {root: len(lost[root]) / groups.groups[roots.index(root)].units for root in roots}
            threshold = rates["features.4"]
            for root in roots:
                units = groups.groups[roots.index(root)].units
                assert rates[root] <= threshold * share[root] + 2 / units
                weights = model.get_submodule(root).weight.detach().flatten(1).numpy()
                least = np.argsort(importance(weights, by_filter), kind="stable")
                assert set(lost[root]) == set(least[: len(lost[root])].tolist())


def test_a_share_of_zero_is_pruned_only_where_nothing_else_is_left() -> None:
    groups = Groups(build("vgg"), EXAMPLE)
    layers = measure(groups, "P1", "l1norm")
    plan, _, share = rank_channels(groups, layers, 1, 1)
    assert not plan.reached
    assert 0 in share.values()
    assert [len(units) for units in plan.removed] == groups.caps(0.9)


def test_inner_ranks_are_ranked_by_both_factors() -> None:
    one, other = build("factored"), build("factored")
    with torch.no_grad():
        scale = torch.logspace(-3, 3, 7)
        other.two[0].weight.mul_(scale[:, None, None, None])
        other.two[1].weight.div_(scale[None, :, None, None])
    for criterion in LOCAL:
        found = []
        for model in (one, other):
            groups = Groups(model, EXAMPLE)
            position = [group.root for group in groups.groups].index("two.0")
            assert groups.groups[position].rank
            scored, _ = scores(groups, measure(groups, "P1", criterion), groups.caps(0.9))
            found.append(np.argsort(scored[position]).tolist())
        assert found[0] == found[1]


def test_the_loss_is_cross_entropy_plus_weighted_mse() -> None:
    teacher, model = build("vgg"), build("vgg", seed=1)
    plain = F.cross_entropy(model(EXAMPLE), LABELS)
    distance = (model(EXAMPLE) - teacher(EXAMPLE)).square().sum() / (8 * 10)
    for weight in (0.0, 1.0, 5.0):
        torch.testing.assert_close(
            reconstruction_loss(teacher, weight)(model, EXAMPLE, LABELS), plain + weight * distance
        )  # fmt: skip
    torch.testing.assert_close(
        reconstruction_loss(teacher, 5.0)(copy.deepcopy(teacher), EXAMPLE, LABELS),
        F.cross_entropy(teacher(EXAMPLE), LABELS), rtol=0, atol=0,
    )  # fmt: skip


def test_the_teacher_sees_the_same_batches_and_learns_nothing(context) -> None:
    """The first phase alone pulls towards the input's outputs: with a large weight the result stays closer to them."""
    model = build("vgg")
    step = context(count(model), epochs=6.0)
    images = step.data.normalised(slice(None))
    with torch.no_grad():
        wanted = model(images)
    distances = []
    for weight in (0, 50):
        out, report = methods.get("HOS").apply(model, strategy(HP13=1.0, HP14=weight), step)
        with torch.no_grad():
            distances.append(float((out.eval()(images) - wanted).square().mean()))
        assert report.details["reconstruction"] == weight
    assert distances[1] < 0.7 * distances[0]
    assert same(model, build("vgg"))


def test_both_phases_have_their_length(context) -> None:
    model = build("vgg")
    method = methods.get("HOS")
    seen: list[tuple[int, int]] = []
    step = context(count(model), epochs=10.0, progress=lambda done, of: seen.append((done, of)))
    assert method.phases(strategy(HP1=0.2, HP13=0.5), step.recipe, step.data.n) == (20, 8)
    results = {}
    for name, settings in {"base": {}, "HP1": {"HP1": 0.2}, "HP13": {"HP13": 0.4}, "HP14": {"HP14": 5}}.items():
        seen.clear()
        results[name], _ = method.apply(model, strategy(**settings), step)
        assert len(seen) == seen[-1][0] == seen[-1][1] == method.iterations(strategy(**settings), step.recipe, 64)
    assert len(seen) == 12 + 4
    assert not any(same(results["base"], results[name]) for name in ("HP1", "HP13", "HP14"))


def test_criteria_choose_other_channels(context) -> None:
    model = build("vgg")
    step = context(count(model), max_iterations=1)
    found = {}
    for by_layer in GLOBAL:
        for by_filter in LOCAL:
            out, report = methods.get("HOS").apply(model, strategy(HP11=by_layer, HP12=by_filter), step)
            assert report.reached
            found[by_layer, by_filter] = out, report.details["gaussian"]
    ratios = [tuple(found[by_layer, "l1norm"][1].values()) for by_layer in GLOBAL]
    assert len(set(ratios)) == 3
    assert all(found["P1", "l1norm"][1] == found["P1", by_filter][1] for by_filter in LOCAL)
    assert not same(found["P1", "l1norm"][0], found["P1", "k34"][0])
    assert not same(found["P1", "k34"][0], found["P1", "skew_kur"][0])


@pytest.mark.parametrize("hp2", [0.04, *(pytest.param(hp2, marks=pytest.mark.slow) for hp2 in (0.12, 0.2, 0.36)), 0.4])
def test_the_target_is_met_half_by_pruning(hp2: float, context) -> None:
    model = load.prepare(load.load("resnet20").model, EXAMPLE[:1])
    params = count(model)
    out, report = methods.get("HOS").apply(model, strategy(HP2=hp2), context(params, max_iterations=1))
    assert report.reached
    assert report.target == params - round(hp2 * params)
    slack = report.target - count(out)
    assert 0 <= slack < report.details["unit"]
    assert slack < 0.002 * params
    middle = (params * report.target) ** 0.5
    assert 0 <= middle - report.details["pruned_to"] < 0.01 * params
    assert report.details["scope"] == "blocks"
    assert report.details["kinds"] == ["spatial"]
    for name, (rank_in, rank_out) in report.details["ranks"].items():
        first, core, last = out.get_submodule(name)
        assert (first.out_channels, core.in_channels, core.out_channels) == (rank_in, rank_in, rank_out)
        assert last.in_channels == rank_out


@pytest.mark.parametrize(
    "net", [pytest.param(n, marks=[pytest.mark.slow] if n in ("resnet-a", "resnet-b", "concat") else []) for n in NETS]
)
def test_every_kind_of_network_gets_as_small_as_wanted(net: str, context) -> None:
    model = build(net)
    before = copy.deepcopy(model)
    for hp2 in (0.1, 0.3):
        out, report = methods.get("HOS").apply(model, strategy(HP2=hp2), context(count(model), max_iterations=1))
        assert same(model, before)
        assert report.reached, report
        assert 0 <= report.target - count(out) < report.details["unit"]
        assert out.eval()(EXAMPLE).shape == (8, 10)


def test_pointwise_networks_are_factored_in_two(context) -> None:
    model = build("inverted")
    out, report = methods.get("HOS").apply(model, strategy(HP2=0.35), context(count(model), max_iterations=1))
    assert report.reached
    assert "pointwise" in report.details["kinds"]
    assert all(isinstance(rank, int) for rank in report.details["ranks"].values())
    assert out.depth[0].groups == out.depth[0].out_channels


def test_more_is_pruned_where_decomposing_does_not_suffice(context) -> None:
    model = build("grouped")
    step = context(count(model), max_iterations=1)
    assert sum(site.cost for site in factorable(model)) < 0.25 * count(model)
    out, report = methods.get("HOS").apply(model, strategy(HP2=0.4), step)
    assert report.reached
    assert report.details["pruned_to"] < 0.95 * (count(model) * report.target) ** 0.5
    assert 0 <= report.target - count(out) < report.details["unit"]


class Shuffled(nn.Module):
    """Channels are mixed by reshaping, which no dependency graph follows."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.one(x))
        n, c, h, w = x.shape
        x = x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(torch.relu(self.two(x)).mean((2, 3)))


def test_a_network_that_cannot_be_pruned_is_decomposed(context) -> None:
    torch.manual_seed(0)
    model = Shuffled()
    keep = ("one", "fc") if Groups(model, EXAMPLE).groups else ()
    out, report = methods.get("HOS").apply(model, strategy(), context(count(model), keep=keep, max_iterations=1))
    assert report.reached
    assert (report.details["scope"], report.details["channels"]) == ("none", 0)
    assert [type(m) for m in out.two] == [nn.Conv2d] * 3
    with pytest.raises(Infeasible, match="factoring"):
        methods.get("HOS").apply(model, strategy(), context(count(model), keep=("*",)))


def test_a_column_and_a_row_stay_two_layers(context) -> None:
    model = build("vgg")
    lowrank.factor(model, next(s for s in lowrank.sites(model, form="spatial") if s.name == "features.8"), 12)
    places = [site.layers for site in factorable(model)]
    assert ("features.8.0", "features.8.1") in places
    assert len({layer for place in places for layer in place}) == sum(map(len, places))
    out, report = methods.get("HOS").apply(model, strategy(HP2=0.5), context(count(model), max_iterations=1))
    assert report.reached
    assert [type(layer) for layer in out.features[8]] == [nn.Conv2d, nn.Conv2d]
    assert [layer.kernel_size for layer in out.features[8]] == [(3, 1), (1, 3)]
    assert out.features[8][0].out_channels < 12


def test_kept_layers_are_neither_pruned_nor_decomposed(context) -> None:
    model = build("vgg")
    out, report = methods.get("HOS").apply(
        model, strategy(HP2=0.3), context(count(model), keep=("features.4",), max_iterations=1)
    )
    assert report.reached
    assert isinstance(out.features[4], nn.Conv2d)
    assert out.features[4].weight.shape == model.features[4].weight.shape
    assert "features.8" in report.details["ranks"]


def test_kept_channels_are_multiples_where_the_recipe_wants_it(context) -> None:
    model = build("vgg")
    given = context(count(model), max_iterations=1)
    given = replace(given, recipe=replace(given.recipe, round_to=8))
    out, report = methods.get("HOS").apply(model, strategy(HP2=0.3), given)
    assert report.reached
    assert report.details["channels"] >= 8
    assert all(m.num_features % 8 == 0 for m in out.modules() if isinstance(m, nn.BatchNorm2d))


def test_without_training_the_result_is_pruned_and_decomposed_input(context) -> None:
    """What is not pruned is only approximated: with all of the ranks it would still be the input."""
    model = build("vgg")
    given = context(count(model), max_iterations=1)
    given = replace(given, recipe=replace(given.recipe, lr=1e-12, weight_decay=0.0))
    out, report = methods.get("HOS").apply(model, strategy(HP2=0.04), given)
    for site in sites(out):
        if site.name in report.details["ranks"]:
            first, core, last = (out.get_submodule(name).weight.detach() for name in site.layers)
            for rows in (first[:, :, 0, 0], last[:, :, 0, 0].T):
                torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-4)
            assert core.norm() > 0
    assert report.details["ranks"]


ORDERS = ("HOS-HOS", "NS-HOS", "HOS-NS", "LFB-HOS", "HOS-LFB")
ON_NETS = [
    (order, net) for order in ORDERS for net in ("vgg", "resnet-a", "norms") if (net, order[:2]) != ("norms", "NS")
]


@pytest.mark.parametrize(
    ("order", "net"),
    [pytest.param(*one, marks=[] if one[1] == "vgg" or one == ("HOS-HOS", "norms") else [pytest.mark.slow])
     for one in ON_NETS if one != ("HOS-NS", "norms")],  # nothing to rank channels by
)  # fmt: skip
def test_any_order(order: str, net: str, context) -> None:
    model = build(net)
    params = count(model)
    step = context(params, max_iterations=1)
    for name in order.split("-"):
        before = model
        model, report = methods.get(name).apply(before, Strategy(name, tuple(OTHERS[name].items())), step)
        assert report.reached, report
        assert report.target == count(before) - round(0.2 * params)
        assert 0 <= report.target - count(model) < report.details["unit"]
        assert model.eval()(EXAMPLE).isfinite().all()
    deepest = max(name.count(".") for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if "NS" not in order:
        assert deepest <= max(name.count(".") for name, _ in build(net).named_modules()) + 1 + (order == "HOS-LFB")


def test_a_second_step_shrinks_triples_instead_of_adding_layers(context) -> None:
    model = build("resnet-a")
    step = context(count(model), max_iterations=1)
    once, first = methods.get("HOS").apply(model, strategy(HP2=0.2), step)
    _, second = methods.get("HOS").apply(once, strategy(HP2=0.2), step)
    both = set(first.details["ranks"]) & set(second.details["ranks"])
    assert both
    assert set(second.details["ranks"]) <= {site.name for site in sites(model)}
    assert all(second.details["ranks"][n] <= first.details["ranks"][n] for n in both)


def test_the_result_survives_a_file(context, tmp_path) -> None:
    start = load.load("resnet8")
    step = context(count(start.model), max_iterations=1)
    out = start.model
    for n in range(2):
        out, _ = methods.get("HOS").apply(out, strategy(HP2=0.25), step)
        structure.save(tmp_path / f"{n}.am", out, start.source, metadata={})
        back = structure.read(tmp_path / f"{n}.am").model
        assert torch.equal(out.eval()(EXAMPLE), back.eval()(EXAMPLE))


def test_bad_settings_are_refused(context) -> None:
    model = build("vgg")
    for name, value in (("HP11", "P4"), ("HP12", "l2norm")):
        with pytest.raises(MethodError, match=f"{name} must be one of"):
            methods.get("HOS").apply(model, strategy(**{name: value}), context(count(model)))
    with pytest.raises(MethodError, match="HP14 must lie between"):
        methods.get("HOS").apply(model, strategy(HP14=-1), context(count(model)))
