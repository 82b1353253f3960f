"""What every registered method promises, tried on all of them."""

from __future__ import annotations

import copy
import gc
import json
import weakref

import pytest
import torch
from group_nets import build
from torch import nn

from automc import knowledge, methods
from automc.datasets.base import TrainData
from automc.errors import Infeasible, MethodError, OutOfReach
from automc.models import structure
from automc.surgery.quantised import quantised
from automc.training.evaluate import recalibrate
from automc.training.loop import fit
from automc.training.recipe import Recipe
from kg.cards import enumerate_strategies
from kg.schema import Strategy

CARDS = {card.id: card for card in knowledge.methods()}
NAMES = [name for name in methods.registered() if name in CARDS]  # other tests register methods that have no card
SHRINKING = [name for name in NAMES if methods.get(name).size == "HP2"]
QUANTISERS = [name for name in NAMES if name not in SHRINKING]
KINDS = ("NS", "LFB", "LMA", "UQ")
"""One method of each kind, tried at once on the second network too: channels, factors, activations, bits."""
EPISODES = 10
"""Of methods that search a policy: as many as tell one search from another; the grid has five times as many."""


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def strategy(name: str, **settings: float | str) -> Strategy:
    """The first strategy on the method's grid, with some settings replaced (those the method has); few episodes."""
    first = next(iter(enumerate_strategies(CARDS[name])))
    settings = {"HP17": EPISODES, **settings}
    return Strategy(name, tuple((hp, settings.get(hp, value)) for hp, value in first.settings))


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_every_method_of_ours_is_on_trial() -> None:
    assert {name for name, m in methods.registered().items() if type(m).__module__.startswith("automc.")} <= set(NAMES)


@pytest.mark.parametrize(
    ("name", "net"),
    [
        pytest.param(name, net, marks=[] if net == "vgg" or name in KINDS else [pytest.mark.slow])
        for name in NAMES
        for net in ("vgg", "resnet-a")
    ],
)
def test_a_step_keeps_its_promises(name: str, net: str, context) -> None:
    model = build(net).train()
    model.requires_grad_(False)
    before = copy.deepcopy(model)
    step = context(count(model))
    out, report = methods.get(name).apply(model, strategy(name, HP2=0.2), step)

    assert same(model, before)
    assert all(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    assert not {id(p) for p in model.parameters()} & {id(p) for p in out.parameters()}

    assert report.reached
    assert (report.params_in, report.params_out) == (count(before), count(out))
    if name in SHRINKING:
        assert report.target == count(before) - round(0.2 * count(before))
        assert report.params_out <= report.target
        assert report.target - report.params_out < report.details["unit"]
    else:
        assert report.params_out == report.target == report.params_in
        assert quantised(out)
        assert 0 <= strategy(name).number("HP22") - report.details["mean_bits"] < 1
    json.dumps(report.details, allow_nan=False)

    assert all(module.training for module in out.modules())
    assert all(p.requires_grad for p in out.parameters())
    assert all(p.shape.numel() > 0 for p in out.parameters())
    assert out.eval()(torch.randn(3, 3, 16, 16)).shape == (3, 10)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_result_and_another_seed_another(name: str, context) -> None:
    model = build("vgg")
    runs = [
        methods.get(name).apply(model, strategy(name, HP2=0.2), context(count(model), seed=seed))[0]
        for seed in (1, 1, 2)
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize("net", [pytest.param("resnet-a", marks=pytest.mark.slow), "vgg"])
@pytest.mark.parametrize("name", SHRINKING)
def test_sizes_are_ordered_like_their_targets(name: str, net: str, context) -> None:
    model = build(net)
    step = context(count(model), max_iterations=1)
    asked = (0.04, 0.2, 0.4)
    sizes = [methods.get(name).apply(model, strategy(name, HP2=hp2), step)[1] for hp2 in asked]
    assert all(report.reached for report in sizes)
    params = [report.params_out for report in sizes]
    assert params == sorted(set(params), reverse=True)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "AMC" else n for n in NAMES])
def test_every_hyperparameter_shows(name: str, context, small_data) -> None:
    base = strategy(name, HP2=0.4)
    policy = base.get("HP17") is not None  # has little to choose where one layer has most of the weights
    model = build("resnet-a" if policy else "vgg")
    if policy:  # and nothing to tell apart where the network knows nothing
        fit(model, small_data, iterations=40, recipe=Recipe(batch=16), seed=0)
    else:
        with torch.no_grad():
            # One layer that everybody wants to prune, also those who compare with its mean norm: the cap must hold.
            model.features[1].weight.mul_(0.1)
            model.features[0].weight[1:].mul_(0.01)
    masks = base.get("HP10") is not None  # one every so many epochs, so there must be many
    step = context(count(model), epochs=50.0 if masks else 8.0)
    reference, report = methods.get(name).apply(model, base, step)
    for hyperparameter in CARDS[name].hyperparameters:
        others = [value for value in hyperparameter.values if value != base.get(hyperparameter.id)]
        if not others:
            continue
        # A policy over channels may do well within either cap of the grid, and in few episodes: bind it, allow none.
        value = {"HP6": 0.45, "HP17": 2}.get(hyperparameter.id, others[0]) if name == "AMC" else others[0]
        changed = Strategy(name, tuple((hp, value if hp == hyperparameter.id else v) for hp, v in base.settings))
        other, other_report = methods.get(name).apply(model, changed, step)
        assert not same(reference, other) or report.params_out != other_report.params_out, hyperparameter.id


@pytest.mark.parametrize("name", SHRINKING)
def test_the_floor_of_15_percent_holds_and_is_said(name: str, context) -> None:
    model = build("vgg")
    binding = context(count(model) * 3, max_iterations=1)
    out, report = methods.get(name).apply(model, strategy(name, HP2=0.4), binding)
    assert report.reached
    assert "floor" in report.reason
    assert 0 <= -(-3 * count(model) * 15 // 100) - count(out) < report.details["unit"]
    below = context(count(model) * 10, max_iterations=1)
    out, report = methods.get(name).apply(model, strategy(name, HP2=0.4), below)
    assert not report.reached
    assert "floor" in report.reason
    assert count(model) - 400 < report.params_out == count(out) <= count(model)  # what a method adds, it removes


@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_those_of_augmented_images_after_training(name: str, context, small_data) -> None:
    data = TrainData(small_data.images, mean=[0.5] * 3, std=[0.25] * 3, augment="crop-flip")
    step = context(count(build("vgg")), data=data)
    out, _ = methods.get(name).apply(build("vgg"), strategy(name, HP2=0.2), step)
    again = copy.deepcopy(out)
    recalibrate(again, data, step.recipe.recalibration_images)
    for key, tensor in out.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], tensor, rtol=1e-4, atol=1e-5)
    recalibrate(again, data.without_augmentation(), step.recipe.recalibration_images)
    plain = (torch.allclose(t, again.state_dict()[k], rtol=1e-3) for k, t in out.state_dict().items() if "mean" in k)
    assert not all(plain)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_work_on_is_infeasible(name: str, context) -> None:
    model = build("vgg")
    with pytest.raises(Infeasible, match=name):
        methods.get(name).apply(model, strategy(name, HP2=0.4), context(count(model), keep=("*",)))


@pytest.mark.parametrize("name", SHRINKING)
def test_what_is_out_of_reach_is_refused_before_training_with_what_is_possible(name: str, context) -> None:
    model = build("vgg")
    trained: list[int] = []
    step = context(count(model), keep=("hidden", "features.8"), max_iterations=1, progress=lambda *_: trained.append(1))
    with pytest.raises(OutOfReach, match=r"80\.0% of the original parameters should go, but at most") as refusal:
        methods.get(name).apply(model, strategy(name, HP2=0.8), step)
    assert not trained
    assert 0 < refusal.value.params < count(model)
    reach = methods.get(name).reach(model, strategy(name, HP2=0.04), step)
    assert reach == pytest.approx(1 - refusal.value.params / count(model))
    assert not trained
    out, report = methods.get(name).apply(model, strategy(name, HP2=reach), step)
    assert trained
    assert report.params_out == count(out) <= refusal.value.params
    assert report.reached
    assert out.get_submodule("features.8").weight.shape[0] == 32
    assert "hidden.weight" in out.state_dict()


@pytest.mark.parametrize("name", SHRINKING)
def test_reach_ends_at_the_floor_and_says_where_nothing_can_be_done(name: str, context) -> None:
    model, method = build("vgg"), methods.get(name)
    before = copy.deepcopy(model.state_dict())
    whole = method.reach(model, strategy(name, HP2=0.04), context(count(model)))
    assert 0.4 < whole <= 0.85
    assert method.reach(model, strategy(name, HP2=0.4), context(count(model))) == whole  # whatever it asks for itself
    shrunk = context(2 * count(model))
    assert method.reach(model, strategy(name), shrunk) == pytest.approx(min(whole / 2, 0.35), abs=1e-3)
    assert method.reach(model, strategy(name), context(10 * count(model))) == 0  # below the floor already
    with pytest.raises(Infeasible, match=name):
        method.reach(model, strategy(name), context(count(model), keep=("*",)))
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", QUANTISERS)
def test_a_quantiser_removes_nothing_and_says_where_it_can_do_nothing(name: str, context) -> None:
    model, method = build("vgg"), methods.get(name)
    assert method.reach(model, strategy(name), context(count(model))) == 0
    with pytest.raises(Infeasible, match="no layer of this model can be quantised"):
        method.reach(model, strategy(name), context(count(model), keep=("*",)))


def test_reach_depends_on_the_cap(context) -> None:
    model, step = build("resnet-a"), context(count(build("resnet-a")))
    for name in ("NS", "LeGR"):
        few, most = (methods.get(name).reach(model, strategy(name, HP6=cap), step) for cap in (0.3, 0.7))
        assert few < most, name


@pytest.mark.parametrize("name", NAMES)
def test_kept_layers_stay_bit_by_bit_and_the_others_learn(name: str, context) -> None:
    model = build("resnet-a")
    step = context(count(model), keep=("layer2",), still=("layer2", "conv1.weight"), max_iterations=1)
    out, report = methods.get(name).apply(model, strategy(name, HP2=0.2), step)
    assert report.reached
    assert same(model.layer2, out.layer2)
    assert all(p.requires_grad for p in out.parameters())
    assert not same(model.layer1, out.layer1)


@pytest.mark.parametrize("name", NAMES)
def test_kept_layers_keep_their_shape(name: str, context) -> None:
    model = build("resnet-a")
    out, report = methods.get(name).apply(
        model, strategy(name, HP2=0.2), context(count(model), keep=("layer2",), max_iterations=1)
    )
    assert report.reached
    before, after = model.layer2.state_dict(), out.layer2.state_dict()
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}


@pytest.mark.parametrize("name", NAMES)
def test_length_of_a_step(name: str, context) -> None:
    model = build("vgg")
    method, first = methods.get(name), strategy(name, HP2=0.2)
    seen: list[tuple[int, int]] = []
    step = context(count(model), epochs=20.0, progress=lambda done, of: seen.append((done, of)))
    method.apply(model, first, step)
    wanted = method.iterations(first, step.recipe, step.data.n)
    if first.get("HP17") is first.get("HP25") is None:  # episodes cost, but train nothing; searches cost more
        assert wanted == round(method.relative_cost(first) * 20 * 64 / 16)
    assert seen == [(i + 1, wanted) for i in range(wanted)]
    seen.clear()
    method.apply(model, first, context(count(model), epochs=20.0, max_iterations=1, progress=lambda *a: seen.append(a)))
    assert 1 <= len(seen) <= 4


@pytest.mark.parametrize("name", NAMES)
def test_the_result_survives_a_file(name: str, context, tmp_path) -> None:
    from automc.models import load

    start = load.load("resnet8")
    out, _ = methods.get(name).apply(
        start.model, strategy(name, HP2=0.36), context(count(start.model), max_iterations=1)
    )
    structure.save(tmp_path / "x.am", out, start.source, metadata={})
    back = structure.read(tmp_path / "x.am").model
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(out.eval()(x), back.eval()(x))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_old_survives_a_step(name: str, context) -> None:
    model = build("vgg")
    step = context(count(model), max_iterations=1)
    first, _ = methods.get(name).apply(model, strategy(name, HP2=0.12), step)
    reference = weakref.ref(first)
    tensors = [weakref.ref(p) for p in first.parameters()]
    then = name if name in SHRINKING else "NS"  # nothing is quantised twice
    second, _ = methods.get(then).apply(first, strategy(then, HP2=0.12), step)
    del first
    gc.collect()
    assert reference() is None
    assert all(tensor() is None for tensor in tensors)
    assert count(second) < count(model)


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_out_of_range_is_refused(name: str, context) -> None:
    model = build("vgg")
    size = methods.get(name).size
    with pytest.raises(MethodError, match=f"{size} must lie between"):
        methods.get(name).apply(model, strategy(name, **{size: 1.5}), context(count(model)))


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(MethodError, match="NS"):
        methods.get("Nothing")


def test_a_name_belongs_to_one_class() -> None:
    class Impostor(type(methods.get("NS"))):  # type: ignore[misc]
        pass

    with pytest.raises(MethodError, match="Two classes"):
        methods.register(Impostor)
    assert type(methods.get("NS")) is not Impostor
