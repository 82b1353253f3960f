"""LMA: sites and their parameters, the student, the distillation loss, and steps before and after it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from group_nets import build
from model_nets import USER_FILE
from test_contract import count, same, strategy
from torch import Tensor, fx, nn

from automc import methods
from automc.errors import Infeasible, MethodError, OutOfReach
from automc.methods.lma import distilled, plan_widths
from automc.models import load, structure
from automc.surgery.groups import Groups
from automc.surgery.lma import LMA
from automc.surgery.lma_sites import insert, multi_segment, replaceable
from automc.training.evaluate import accuracy, recalibrate
from automc.training.loop import fit
from automc.training.recipe import Recipe
from kg.schema import Strategy

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SITES = {"resnet-a": 7, "vgg": 4, "grouped": 3, "concat": 3, "inverted": 3, "factored": 3, "norms": 2}


def lma(hp2: float = 0.2, **settings: float) -> Strategy:
    values = {"HP1": 0.1, "HP2": hp2, "HP3": 6, "HP4": 3, "HP5": 0.5, **settings}
    return Strategy("LMA", tuple(values.items()))


def recipe_of_tests() -> Recipe:
    return Recipe(batch=16, lr=0.05)


def widths(model: nn.Module) -> dict[str, int]:
    return {n: len(m.weight) for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


@pytest.mark.parametrize("net", SITES)
def test_every_call_gets_an_activation_of_its_own_and_pays_for_it(net: str, context) -> None:
    model = build(net)
    out, report = methods.get("LMA").apply(model, lma(HP3=8), context(count(model), max_iterations=1))
    found = multi_segment(out)
    assert len(found) == report.details["sites"] == SITES[net]
    assert {m.segments for m in found.values()} == {8}
    assert report.details["activation_params"] == 16 * SITES[net]
    bare = count(out) - sum(p.numel() for m in found.values() for p in m.parameters())
    assert bare + 16 * SITES[net] == report.params_out <= report.target
    assert not [m for m in out.modules() if isinstance(m, nn.ReLU | nn.ReLU6)]
    assert all(m.batches >= 1 and m.std > 0 for m in found.values())


def test_all_groups_keep_the_same_share_and_lose_their_weakest_filters() -> None:
    model = build("resnet-b")
    groups = Groups(model, EXAMPLE)
    plan, scope = plan_widths(groups, int(0.7 * count(model)), 1)
    assert (scope, plan.reached) == ("blocks", True)
    inner = [(g, units) for g, units in zip(groups.groups, plan.removed, strict=True) if not g.stream]
    shares = [len(units) / g.units for g, units in inner]
    assert max(shares) - min(shares) < 0.07
    for group, units in inner:
        norms = model.get_submodule(group.root).weight.flatten(1).norm(dim=1)
        assert set(units) == set(norms.argsort()[: len(units)].tolist())
    plan, scope = plan_widths(groups, int(0.05 * count(model)), 1)
    assert (scope, plan.reached) == ("streams", True)


def test_swapping_alone_hardly_changes_the_model(small_data) -> None:
    model = build("resnet-a")
    fit(model, small_data, iterations=20, recipe=recipe_of_tests(), seed=0)
    x = small_data.normalised(slice(None))
    swapped = copy.deepcopy(model)
    insert(swapped, replaceable(swapped, x), 10, x)
    with torch.no_grad():
        before, after = model(x), swapped(x)
    assert (after - before).abs().mean() < 0.1 * before.std()
    assert abs(accuracy(swapped, small_data) - accuracy(model, small_data)) < 0.05


def test_the_loss_is_cross_entropy_and_distillation() -> None:
    teacher, student = build("vgg", seed=1), build("vgg", seed=2)
    x, y = 20 * EXAMPLE, torch.tensor([1, 7])
    with torch.no_grad():
        s, t = student(x).double(), teacher(x).double()
    for weight, tau in ((0.0, 3.0), (0.3, 1.0), (0.99, 6.0), (1.0, 10.0)):
        p, q = ((v / tau).exp() / (v / tau).exp().sum(1, keepdim=True) for v in (t, s))
        divergence = (p * (p / q).log()).sum(1).mean()
        entropy = -(s - s.exp().sum(1, keepdim=True).log())[torch.arange(2), y].mean()
        expected = (1 - weight) * entropy + weight * tau**2 * divergence
        loss = distilled(teacher, weight, tau)(student, x, y)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


def test_the_input_model_teaches(context) -> None:
    """With all weight on the teacher, labels do not matter: turned round, they give the same student."""
    model = build("vgg")
    given = context(count(model), epochs=10.0)
    outs = []
    for labels in (given.data.y, 9 - given.data.y):
        images = type(given.data)(given.data.x, labels, mean=[0.5] * 3, std=[0.25] * 3)
        outs.append(methods.get("LMA").apply(model, lma(HP5=1.0), replace(given, data=images))[0])
    assert same(outs[0], outs[1])
    other = methods.get("LMA").apply(model, lma(HP5=0.5), given)[0]
    assert not same(outs[0], other)


@pytest.mark.parametrize(("name", "value"), [("HP1", 0.5), ("HP3", 10), ("HP4", 10), ("HP5", 0.99)])
def test_every_hyperparameter_acts_where_it_should(name: str, value: float, context) -> None:
    model = build("vgg")
    step = context(count(model), epochs=20.0)
    (out, report), (other, changed) = (methods.get("LMA").apply(model, s, step) for s in (lma(), lma(**{name: value})))
    assert methods.get("LMA").iterations(lma(), step.recipe, 64) == 8
    if name == "HP1":
        assert methods.get("LMA").iterations(lma(HP1=value), step.recipe, 64) == 40
    if name == "HP3":
        assert {m.segments for m in multi_segment(other).values()} == {10}
        assert changed.details["activation_params"] == 4 * 20
    else:
        assert widths(out) == widths(other)
        assert changed.details["loss"] != report.details["loss"]
    assert not same(out, other)


def test_a_second_step_keeps_the_activations_and_adds_none(context) -> None:
    model = build("vgg")
    step = context(count(model), max_iterations=1)
    first, _ = methods.get("LMA").apply(model, lma(0.12), step)
    slopes = {n: m.slope.detach().clone() for n, m in multi_segment(first).items()}
    second, report = methods.get("LMA").apply(first, lma(0.12), step)
    assert (report.details["sites"], report.details["refitted"], report.details["activation_params"]) == (0, 0, 0)
    for name, module in multi_segment(second).items():
        torch.testing.assert_close(module.slope.detach(), slopes[name], rtol=0, atol=0.2)  # one update apart
    third, report = methods.get("LMA").apply(second, lma(0.12, HP3=10), step)
    assert (report.details["sites"], report.details["refitted"]) == (0, 4)
    assert report.details["activation_params"] == 4 * 8
    assert report.reached
    assert {m.segments for m in multi_segment(third).values()} == {10}
    fourth, report = methods.get("LMA").apply(third, lma(0.12, HP3=6), step)
    assert report.details["activation_params"] == -4 * 8
    assert report.reached
    assert report.target - count(fourth) < report.details["unit"]


BESIDE = [(other, net) for other in ("NS", "SFP", "LFB") for net in ("resnet-a", "vgg", "concat")]
AT_ONCE = [("LFB", "resnet-a"), ("NS", "vgg"), ("SFP", "concat")]


@pytest.mark.parametrize(
    ("other", "net"), [pytest.param(*one, marks=[] if one in AT_ONCE else [pytest.mark.slow]) for one in BESIDE]
)
def test_before_and_after_other_methods(other: str, net: str, context) -> None:
    start = build(net)
    step = context(count(start), max_iterations=2)
    for order in (("LMA", other), (other, "LMA")):
        model = start
        for name in order:
            used = lma() if name == "LMA" else strategy(name, HP2=0.2)
            expected = step.target(count(model), 0.2)
            model, report = methods.get(name).apply(model, used, step)
            assert report.reached, report
            assert 0 <= expected - count(model) < report.details["unit"]
        assert len(multi_segment(model)) == SITES[net]
        assert torch.isfinite(model.eval()(EXAMPLE)).all()


def test_a_step_that_prunes_gives_activations_new_statistics(context, small_data) -> None:
    model = build("vgg")
    step = context(count(model), max_iterations=1)
    model, _ = methods.get("LMA").apply(model, lma(), step)
    for module in multi_segment(model).values():
        module.mean.fill_(100.0)
    used = recalibrate(model, small_data, 64)
    assert used == 64
    seen: dict[str, Tensor] = {}
    for name, module in multi_segment(model).items():
        module.register_forward_pre_hook(lambda m, args, name=name: seen.update({name: args[0]}))
    model.eval()(small_data.without_augmentation().normalised(slice(None)))
    for name, module in multi_segment(model).items():
        torch.testing.assert_close(module.mean, seen[name].mean(), rtol=0.05, atol=0.02)
        torch.testing.assert_close(module.std, seen[name].std(), rtol=0.05, atol=0.02)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    recalibrate(model, small_data, 64)
    assert all(torch.allclose(v.float(), before[k].float(), atol=1e-5) for k, v in model.state_dict().items())


def test_keep_patterns_hold_for_channels_and_activations(context) -> None:
    model = build("resnet-a")
    out, report = methods.get("LMA").apply(
        model, lma(), context(count(model), keep=("layer2", "layer1.0.relu2"), max_iterations=1)
    )
    assert report.reached
    assert [n for n, m in out.named_modules() if type(m) is nn.ReLU] == [
        "layer1.0.relu2", "layer2.0.relu1", "layer2.0.relu2",
    ]  # fmt: skip
    assert report.details["sites"] == 4
    again, _ = methods.get("LMA").apply(out, lma(0.1, HP3=8), context(count(model), keep=("layer3",), max_iterations=1))
    found = {name: module.segments for name, module in multi_segment(again).items()}
    assert {name for name, k in found.items() if k == 6} == {"layer3.0.relu1", "layer3.0.relu2"}


def test_widths_are_rounded_where_the_recipe_says_so(context) -> None:
    model = build("vgg")
    given = context(count(model), max_iterations=1)
    out, report = methods.get("LMA").apply(model, lma(0.36), replace(given, recipe=replace(given.recipe, round_to=4)))
    assert report.reached
    assert all(width % 4 == 0 for name, width in widths(out).items() if name != "fc")


def test_a_bottomless_target_says_what_is_left(context) -> None:
    """Activations count: what pruning could leave is more by their parameters."""
    model = build("vgg")
    step = context(count(model), keep=("hidden", "features.8"), max_iterations=1)
    with pytest.raises(OutOfReach) as refusal:
        methods.get("LMA").apply(model, lma(0.8), step)
    assert f"leaves {refusal.value.params} parameters of {count(model)}" in str(refusal.value)
    out, report = methods.get("LMA").apply(model, lma(1 - refusal.value.params / count(model)), step)
    assert report.reached
    assert count(out) == refusal.value.params


def test_a_step_never_makes_a_model_larger(context) -> None:
    """Below the floor nothing needs to go, but what the activations cost still does."""
    model = build("vgg")
    out, report = methods.get("LMA").apply(model, lma(), context(10 * count(model), max_iterations=1))
    assert not report.reached
    assert count(model) - 400 < count(out) <= count(model)


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = build("vgg")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if x.sum() < 1e30 else x.flatten(1)[:, :10]


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return self.fc(x.mean((2, 3)) if x.sum() < 1e30 else x.amax((2, 3)))


def test_modules_that_run_once_need_no_graph(context) -> None:
    model = Branch()
    out, report = methods.get("LMA").apply(model, lma(), context(count(model), max_iterations=1))
    assert [name for name, m in out.named_modules() if isinstance(m, LMA)] == [f"net.features.{n}" for n in (2, 6, 10)]
    assert isinstance(out, Branch)
    assert report.details["sites"] == 3
    assert "Branch cannot be traced" in report.details["left"]


class Tanh(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.act, self.conv2 = nn.Conv2d(3, 8, 3), act, nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.conv2(self.act(self.conv(x)))).mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Functional(), "Functional cannot be traced"),
        (Tanh(nn.Tanh()), "no activation that an LMA could replace"),
        (Tanh(nn.PReLU(8)), "no activation that an LMA could replace"),
    ],
)
def test_what_it_cannot_do_is_said(model: nn.Module, said: str, context) -> None:
    with pytest.raises(Infeasible, match=said):
        methods.get("LMA").apply(model, lma(), context(count(model), max_iterations=1))


def test_kept_activations_alone_are_infeasible(context) -> None:
    model = build("vgg")
    keep = ("features.2", "features.6", "features.10", "act1")
    with pytest.raises(Infeasible, match="--keep pattern"):
        methods.get("LMA").apply(model, lma(), context(count(model), keep=keep, max_iterations=1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"HP3": 6.5}, "whole number"), ({"HP3": 1}, "HP3 must lie"), ({"HP4": 0}, "HP4 must lie"),
        ({"HP5": 1.2}, "HP5 must lie"),
    ],
)  # fmt: skip
def test_settings_out_of_range(settings: dict[str, float], said: str, context) -> None:
    model = build("vgg")
    with pytest.raises(MethodError, match=said):
        methods.get("LMA").apply(model, lma(**settings), context(count(model)))


def test_it_trains_in_bfloat16(context) -> None:
    model = build("resnet-a")
    given = context(count(model), max_iterations=3)
    out, report = methods.get("LMA").apply(
        model, lma(), replace(given, recipe=replace(given.recipe, precision="bfloat16"))
    )
    assert all(p.dtype == torch.float32 for p in out.parameters())
    assert torch.isfinite(out.eval()(EXAMPLE)).all()
    assert report.details["loss"] > 0


def test_a_split_model_travels_through_a_file_and_further_steps(context, tmp_path: Path) -> None:
    """A forward pass that calls functions becomes a graph."""
    (tmp_path / "mine.py").write_text(USER_FILE.replace("classes=4", "classes=10"))
    loaded = load.load(f"{tmp_path / 'mine.py'}:build")
    model = load.prepare(loaded.model, EXAMPLE)
    step = context(count(model), max_iterations=1)
    model, report = methods.get("LMA").apply(model, lma(0.3, HP3=8), step)
    assert report.details["sites"] == 5
    model, _ = methods.get("LFB").apply(model, strategy("LFB", HP2=0.1), step)
    assert isinstance(model, fx.GraphModule)
    structure.save(tmp_path / "m.am", model, loaded.source, metadata={})
    again = structure.read(tmp_path / "m.am").model
    assert torch.equal(again(EXAMPLE), model.eval()(EXAMPLE))
    assert sum(isinstance(m, LMA) for m in again.modules()) == 5
    third, report = methods.get("NS").apply(again, strategy("NS", HP2=0.1), step)
    assert report.reached
    assert sum(isinstance(m, LMA) for m in third.modules()) == 5


def test_training_teaches_the_student(context, small_data) -> None:
    """More weight on the teacher brings the student's outputs closer to it."""
    model = build("vgg")
    fit(model, small_data, iterations=40, recipe=recipe_of_tests(), seed=0)
    x = small_data.normalised(slice(None))
    apart = []
    for weight in (0.05, 0.99):
        out, _ = methods.get("LMA").apply(model, lma(0.36, HP5=weight), context(count(model), epochs=100.0))
        with torch.no_grad():
            apart.append(F.kl_div(out.eval()(x).log_softmax(1), model(x).softmax(1), reduction="batchmean").item())
    assert apart[1] < apart[0]
