"""Soft filter pruning: masks that let filters come back, and a size that training does not change."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from group_nets import build
from test_contract import count, strategy
from torch import nn

from automc import methods
from automc.methods.sfp import SoftMask
from automc.methods.step import Step
from automc.surgery.groups import Groups
from automc.training.loop import FitReport, fit
from automc.training.recipe import Recipe

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def masked(name: str, share: float = 0.4) -> tuple[nn.Module, Groups, SoftMask]:
    model = build(name)
    groups = Groups(model, EXAMPLE)
    mask = SoftMask(groups, [int(share * group.units) for group in groups.groups], 1, 100)
    mask.mask()
    return model, groups, mask


@pytest.mark.parametrize("name", ["resnet-a", "resnet-b", "vgg", "factored", "grouped"])
def test_only_the_weights_of_producers_become_zero(name: str) -> None:
    before = build(name).state_dict()
    model, groups, mask = masked(name)
    zero: dict[str, set[int]] = {}
    for group, units in zip(groups.groups, mask.selection, strict=True):
        assert len(units) == int(0.4 * group.units)
        for member in group.members:
            if member.side == "out":
                zero.setdefault(f"{member.name}.weight", set()).update(member.rows[units.numpy()].flatten().tolist())
    assert zero
    for key, tensor in model.state_dict().items():
        for row in range(len(tensor) if tensor.dim() else 0):
            if row in zero.get(key, set()):
                assert not tensor[row].any()
            else:
                assert torch.equal(tensor[row], before[key][row])


def test_the_lowest_norms_are_chosen() -> None:
    original = build("vgg")
    _, groups, mask = masked("vgg")
    for group, units in zip(groups.groups, mask.selection, strict=True):
        norms = dict(original.named_modules())[group.root].weight.detach().flatten(1).norm(dim=1)
        assert set(units.tolist()) == set(norms.argsort()[: len(units)].tolist())


def test_a_masked_filter_gets_a_gradient_only_where_its_shift_is_positive() -> None:
    model, groups, mask = masked("vgg")
    filters = mask.selection[[g.root for g in groups.groups].index("features.4")]
    norm = model.features[5]
    with torch.no_grad():
        norm.bias[filters] = torch.tensor([0.5, -0.5] * len(filters))[: len(filters)]
    model.train()
    model(EXAMPLE).square().sum().backward()
    gradient = model.features[4].weight.grad.flatten(1).norm(dim=1)[filters]
    positive = norm.bias[filters] > 0
    assert positive.any()
    assert not positive.all()
    assert (gradient[positive] > 1e-6).all()
    assert (gradient[~positive] == 0).all()


def test_filters_grow_back_and_the_selection_changes(small_data) -> None:
    model = build("vgg")
    for norm in (model.features[1], model.features[5], model.features[9]):
        nn.init.constant_(norm.bias, 0.5)
    groups = Groups(model, EXAMPLE)
    mask = SoftMask(groups, groups.plan_uniform(int(count(model) * 0.6), groups.caps()), 10, 40)
    selections, regrown = [], []

    def after(step: int) -> None:
        if mask.selection and (step + 1) % 10 == 0:
            index = [g.root for g in groups.groups].index("features.4")
            regrown.append(float(model.features[4].weight.detach()[mask.selection[index]].norm()))
        mask(step)
        if (step + 1) % 10 == 0:
            selections.append([units.tolist() for units in mask.selection])

    fit(model, small_data, iterations=40, recipe=Recipe(batch=16, lr=0.1), seed=0, after_update=after)
    assert mask.masks == 4
    assert len(regrown) == 3
    assert min(regrown) > 1e-3
    assert any(a != b for a, b in pairwise(selections))


def test_a_zeroed_filter_does_not_outgrow_the_trained_ones(small_data) -> None:
    """Batch norm makes a filter near zero learn far faster than the others; tempered, it grows, but little."""
    outcome = {}
    for tempered in (False, True):
        model = build("vgg")
        for norm in (model.features[1], model.features[5], model.features[9]):
            nn.init.constant_(norm.bias, 0.5)
        groups = Groups(model, EXAMPLE)
        mask = SoftMask(groups, groups.plan_uniform(int(count(model) * 0.6), groups.caps()), 3, 100)
        mask.mask()
        first = [units.tolist() for units in mask.selection]
        regrown: list[float] = []

        def after(step: int, groups=groups, first=first, regrown=regrown) -> None:
            norms = [groups.weight_norms(group) for group in groups.groups]
            ratios = [(n[u].max() / n.median()).item() for n, u in zip(norms, first, strict=True) if u]
            regrown.append(max(ratios))

        hook = mask.temper if tempered else None
        fit(
            model, small_data, iterations=3, recipe=Recipe(batch=16, lr=0.01), seed=0, gradient_hook=hook,
            after_update=after,
        )  # fmt: skip
        outcome[tempered] = regrown
    assert max(outcome[False]) > 1.0  # larger than the median filter within three iterations
    assert 0.0 < max(outcome[True]) < 0.5


def test_tempering_leaves_the_others_gradients_alone(small_data) -> None:
    model = build("vgg")
    groups = Groups(model, EXAMPLE)
    mask = SoftMask(groups, [int(0.4 * group.units) for group in groups.groups], 1, 100)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 100
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    mask.temper(0, 0.01, model)
    assert all(torch.equal(p.grad, before[name]) for name, p in model.named_parameters())  # nothing is zeroed yet
    mask.mask()
    mask.temper(0, 0.01, model)
    layer = dict(model.named_modules())["features.4"]
    units = mask.selection[[g.root for g in groups.groups].index("features.4")]
    norms = before["features.4.weight"].flatten(1).norm(dim=1)
    others = [i for i in range(len(norms)) if i not in units.tolist()]
    limit = norms[others].median()
    for row, norm in enumerate(layer.weight.grad.flatten(1).norm(dim=1)):
        expected = min(norms[row], limit) if row in units.tolist() else norms[row]
        torch.testing.assert_close(norm, expected)


def test_the_last_iteration_masks_whatever_the_period() -> None:
    groups = Groups(build("vgg"), EXAMPLE)
    mask = SoftMask(groups, [1] * 4, 4, 10)
    due = []
    for step in range(10):
        before = mask.masks
        mask(step)
        if mask.masks > before:
            due.append(step)
    assert due == [3, 7, 9]


def test_the_period_is_on_the_200_epoch_scale() -> None:
    sfp = methods.get("SFP")
    recipe = Recipe(unit_epochs=10, batch=128)
    periods = [sfp.period(strategy("SFP", HP10=hp10), recipe, 5000) for hp10 in (1, 3, 5)]
    assert periods == [2, 6, 10]


@pytest.mark.parametrize("name", ["resnet-a", "vgg"])
def test_the_size_does_not_depend_on_training(name: str, context) -> None:
    model = build(name)
    sizes = set()
    for seed, hp9 in ((1, 0.1), (2, 0.5)):
        _, report = methods.get("SFP").apply(
            model, strategy("SFP", HP2=0.36, HP9=hp9), context(count(model), seed=seed)
        )
        sizes.add(report.params_out)
    assert len(sizes) == 1


def test_one_ratio_for_all_groups() -> None:
    model = build("vgg")
    groups = Groups(model, EXAMPLE)
    counts = groups.plan_uniform(int(count(model) * 0.5), groups.caps())
    ratios = [lost / group.units for lost, group in zip(counts, groups.groups, strict=True)]
    assert max(ratios) - min(ratios) <= 2 / min(group.units for group in groups.groups)


def test_streams_are_pruned_only_where_blocks_do_not_suffice(context) -> None:
    model = build("resnet-a")
    widths = {}
    step = context(count(model), max_iterations=1, keep=("layer3.0.conv1",))
    for hp2 in (0.1, 0.5):
        out, report = methods.get("SFP").apply(model, strategy("SFP", HP2=hp2), step)
        assert report.reached
        widths[report.details["scope"]] = len(out.conv1.weight)
    assert widths["blocks"] == 16 > widths["streams"]


def test_half_of_the_training_comes_after_the_deletion(context, monkeypatch) -> None:
    phases: list[tuple[int, int, int]] = []
    train = Step.train

    def noted(self, phase=0, **options):
        phases.append((phase, self.lengths[phase], count(self.model)))
        return train(self, phase, **options)

    monkeypatch.setattr(Step, "train", noted)
    model = build("vgg")
    step = context(count(model), epochs=5.0)
    _, report = methods.get("SFP").apply(model, strategy("SFP", HP2=0.3, HP9=0.5), step)
    total = methods.get("SFP").iterations(strategy("SFP", HP2=0.3, HP9=0.5), step.recipe, step.data.n)
    assert phases == [(0, total - total // 2, count(model)), (1, total // 2, report.params_out)]


def test_the_deleted_filters_are_the_masked_ones(context, monkeypatch) -> None:
    """Deleting equals zeroing what reads the filters; batch norms are estimated anew on both sides."""
    from test_groups import mask as mask_inputs

    from automc.training.evaluate import recalibrate

    train = Step.train
    monkeypatch.setattr(
        Step,
        "train",
        lambda self, phase=0, **more: train(self, phase, **more) if phase == 0 else FitReport(0.0, 0, 0.0),
    )
    model = build("vgg")
    step = context(count(model), epochs=5.0)
    out, report = methods.get("SFP").apply(model, strategy("SFP", HP2=0.3, HP9=0.5), step)
    dense = copy.deepcopy(model)
    groups = Groups(dense, EXAMPLE)
    soft = SoftMask(groups, groups.plan_uniform(report.target, groups.caps(stream=False)), report.details["period"], 5)
    from automc.training.seeds import derived

    fit(
        dense, step.data, iterations=5, recipe=step.recipe, seed=derived(step.seed, 0), after_update=soft,
        gradient_hook=soft.temper,
    )  # fmt: skip
    plan = groups.removal([units.tolist() for units in soft.selection], report.target)
    mask_inputs(dense, groups, plan)
    recalibrate(dense, step.data, step.recipe.recalibration_images)
    with torch.no_grad():
        torch.testing.assert_close(out.eval()(EXAMPLE), dense.eval()(EXAMPLE), rtol=1e-4, atol=1e-4)
