"""Learned global ranking: evolution, budgets, the fitness of candidates, and what each setting does."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from group_nets import build
from hypothesis import given
from hypothesis import strategies as st
from test_contract import count, same
from torch.nn import functional as F

from automc import methods
from automc.errors import MethodError
from automc.methods import legr
from automc.methods.legr import SCALES, Budget, Fitness, evolve, share_out, split
from automc.methods.ranking import CRITERIA
from automc.surgery.groups import Groups, Plan
from automc.training.evaluate import recalibrate
from automc.training.loop import fit
from automc.training.recipe import Recipe
from kg.schema import Strategy

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
DEFAULTS = {"HP1": 0.1, "HP2": 0.2, "HP6": 0.9, "HP7": 0.4, "HP8": "l2_weight"}


def strategy(**settings: float | str) -> Strategy:
    return Strategy("LeGR", tuple({**DEFAULTS, **settings}.items()))


class Bowl:
    """A loss with a known optimum, which keeps what it was asked."""

    def __init__(self, layers: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.logs, self.shifts = rng.normal(size=layers), rng.normal(size=layers)
        self.seen: list[np.ndarray] = []

    def __call__(self, maps: np.ndarray) -> np.ndarray:
        self.seen.append(maps.copy())
        return np.array([((np.log(maps[:, 0]) - self.logs) ** 2 + (maps[:, 1] - self.shifts) ** 2).mean()])


def test_evolution_finds_better_than_the_identity_and_than_chance() -> None:
    for seed in range(3):
        bowl = Bowl(8, seed)
        found = evolve(bowl, np.ones(8), 400, np.random.default_rng(seed))
        rng = np.random.default_rng(seed + 10)
        chance = min(float(bowl(np.stack([np.exp(rng.normal(size=8)), rng.normal(size=8)], 1))[0]) for _ in range(400))
        assert bowl(found.maps) == min(found.losses) < 0.5 * min(found.losses[0], chance)


def test_the_identity_comes_first_then_mutants_of_the_living() -> None:
    """Parents are recognised: a mutant shares all but a tenth of its maps with one of the last 16 candidates."""
    layers, candidates, spreads = 40, 600, np.linspace(0.5, 2.0, 40)
    bowl = Bowl(layers)
    losses = evolve(bowl, spreads, candidates, np.random.default_rng(3)).losses
    assert np.array_equal(bowl.seen[0], np.tile([1.0, 0.0], (layers, 1)))
    ranks, alphas, kappas = [], [], []
    for born in range(1, candidates):
        living = range(max(0, born - 16), born)
        changed = {i: (bowl.seen[born] != bowl.seen[i]).any(1) for i in living}
        parent = next(i for i in living if changed[i].sum() == 4)
        if born >= 16:
            ranks.append(sum(losses[i] < losses[parent] for i in living))
        new, old, where = bowl.seen[born], bowl.seen[parent], changed[parent]
        alphas.append(np.log(new[where, 0] / old[where, 0]) / (1 - born / (1.25 * candidates)))
        kappas.append((new[where, 1] - old[where, 1]) / spreads[where])
    # the best of four drawn with replacement from sixteen: Σ ((16 − r)/16)⁴ over ranks r = 1 … 15
    assert np.mean(ranks) == pytest.approx(sum(((16 - r) / 16) ** 4 for r in range(1, 16)), abs=0.4)
    for half in (slice(0, 300), slice(300, None)):
        assert np.std(alphas[half]) == pytest.approx(1, abs=0.1)
        assert np.std(kappas[half]) == pytest.approx(1, abs=0.1)


def test_few_layers_still_mutate_and_nothing_needs_a_layer() -> None:
    bowl = Bowl(3)
    evolve(bowl, np.ones(3), 48, np.random.default_rng(0))
    assert all((bowl.seen[born] != bowl.seen[i]).any() for born in range(1, 48) for i in range(max(0, born - 16), born))
    assert evolve(lambda maps: np.ones(1), np.zeros(0), 48, np.random.default_rng(0)).maps.shape == (0, 2)
    assert np.array_equal(evolve(bowl, np.ones(3), 0, np.random.default_rng(0)).maps, np.tile([1.0, 0.0], (3, 1)))


def test_nothing_is_searched_where_the_identity_does_hardly_better_than_guessing() -> None:
    rng = np.random.default_rng(0)
    assert evolve(lambda maps: np.full(9, 2.2), np.ones(3), 12, rng, 2.1).losses == [pytest.approx(2.2)]
    assert len(evolve(lambda maps: np.full(9, 2.0), np.ones(3), 12, rng, 2.1).losses) == 12
    assert len(evolve(lambda maps: np.full(9, math.nan), np.ones(3), 12, rng, 2.1).losses) == 12


def test_of_equal_losses_the_first_wins() -> None:
    found = evolve(lambda maps: np.full(9, 2.3), np.ones(3), 12, np.random.default_rng(0))
    assert found.maps.tolist() == [[1, 0]] * 3


@pytest.mark.parametrize(("gain", "wins"), [(0.02, False), (0.08, True)])
def test_the_identity_stays_where_the_gain_may_be_chance(gain: float, wins: bool) -> None:
    """The same gain on average, from images that differ by 0.3: the standard error is 0.03."""
    spread = 0.3 * np.tile([-1.0, 1.0], 50)
    seen: list[np.ndarray] = []

    def measure(maps: np.ndarray) -> np.ndarray:
        seen.append(maps)
        return np.full(100, 2.0) if len(seen) == 1 else 2.0 - gain + spread

    found = evolve(measure, np.ones(3), 6, np.random.default_rng(0))
    assert found.losses == pytest.approx([2.0, *[2.0 - gain] * 5])
    assert found.maps is seen[1 if wins else 0]


def test_a_loss_that_is_not_a_number_never_wins() -> None:
    values = iter([math.nan, 2.0, math.nan, 1.0, *[math.nan] * 44])
    seen = []

    def measure(maps: np.ndarray) -> np.ndarray:
        seen.append(maps)
        return np.full(2, next(values))

    found = evolve(measure, np.ones(5), 48, np.random.default_rng(0))
    assert np.array_equal(found.maps, seen[3])
    lost = evolve(lambda maps: np.full(2, math.inf), np.ones(5), 48, np.random.default_rng(0))
    assert np.array_equal(lost.maps, np.tile([1.0, 0.0], (5, 1)))


@given(st.integers(0, 20_000), st.integers(1, 60_000), st.integers(1, 512))
def test_a_search_costs_half_of_what_it_was_given(iterations: int, n: int, batch: int) -> None:
    budget, images = share_out(iterations, n, batch), sum(split(n))
    if budget.candidates:
        assert 12 <= budget.candidates <= 48
        assert 0 <= 3 * batch * budget.spent - budget.candidates * images < 3 * batch
        assert budget.candidates * images <= 1.5 * batch * iterations
    else:
        assert budget.spent == 0
    if budget.candidates < 48:
        assert max(12, budget.candidates + 1) * images > 1.5 * batch * iterations


def test_budgets_of_the_mini_set() -> None:
    assert [share_out(n, 5000, 128) for n in (12, 60, 156, 273)] == [
        Budget(0, 0), Budget(20, 30), Budget(48, 71), Budget(48, 71),
    ]  # fmt: skip


def some_plan(groups: Groups, share: float = 0.3) -> Plan:
    norms = [groups.weight_norms(group).double().numpy() for group in groups.groups]
    return groups.plan(norms, int(count(groups.model) * (1 - share)), groups.caps(0.9))


@pytest.mark.parametrize("name", ["resnet-a", "resnet-b", "vgg", "grouped", "concat", "inverted", "factored"])
def test_a_pruned_copy_equals_the_surgery_and_leaves_the_groups_good(name: str) -> None:
    model = build(name)
    before, groups = copy.deepcopy(model), Groups(model, EXAMPLE)
    plan = some_plan(groups)
    copies = [groups.pruned(plan) for _ in range(2)]
    assert same(model, before)
    groups.apply(plan)
    assert count(model) == plan.params
    for pruned in copies:
        assert same(pruned, model)
        assert torch.equal(pruned(EXAMPLE), model(EXAMPLE))
        assert all(p.requires_grad for p in pruned.parameters())


def test_a_candidate_goes_with_its_last_reference() -> None:
    groups = Groups(build("resnet-a"), EXAMPLE)
    plan = some_plan(groups)
    gc.collect()
    gc.disable()
    try:
        pruned = groups.pruned(plan)
        references = [weakref.ref(pruned), weakref.ref(pruned.conv1), weakref.ref(pruned.conv1.weight)]
        del pruned
        assert not any(reference() for reference in references)
    finally:
        gc.enable()


def test_the_fitness_is_the_losses_of_the_pruned_model_at_its_best_scale(context) -> None:
    model = build("vgg")
    step, groups = context(count(model)), Groups(model, EXAMPLE)
    fitness, plan = Fitness(groups, step, Budget(3, 3), 10), some_plan(groups)
    found = fitness(plan)
    assert np.array_equal(fitness(plan), found)
    by_hand = copy.deepcopy(model)
    Groups(by_hand, EXAMPLE).apply(plan)
    recalibrate(by_hand, fitness.statistics)
    with torch.no_grad():
        logits = by_hand.eval()(fitness.held.normalised(slice(None)))
    losses = [F.cross_entropy(scale * logits, fitness.held.y, reduction="none").numpy() for scale in SCALES]
    assert found == pytest.approx(min(losses, key=np.mean), rel=1e-5)
    assert losses[0] == pytest.approx(math.log(10))


def test_candidates_are_not_measured_on_images_of_their_statistics(context) -> None:
    groups = Groups(build("vgg"), EXAMPLE)
    draws = []
    for seed in (1, 1, 2):
        fitness = Fitness(groups, context(1, seed=seed), Budget(1, 1), 1)
        statistics, held = (set(part.images.rows.tolist()) for part in (fitness.statistics, fitness.held))
        assert len(statistics) == len(held) == 32
        assert not statistics & held
        draws.append(held)
    assert draws[0] == draws[1] != draws[2]
    assert [split(n) for n in (1, 2, 3, 130, 5000)] == [(1, 1), (1, 1), (2, 1), (66, 64), (500, 64)]


def test_a_candidate_whose_outputs_are_no_numbers_is_no_failure(context) -> None:
    groups = Groups(build("vgg"), EXAMPLE)
    with torch.no_grad():
        list(groups.model.parameters())[-1].fill_(math.nan)
    assert np.isnan(Fitness(groups, context(1), Budget(3, 3), 3)(some_plan(groups))).all()


def test_evolution_beats_a_misleading_norm(context) -> None:
    """Filters in front of a batch norm can be scaled down without any effect, and then their norms offer them up."""
    model = build("vgg")
    step = context(count(model), epochs=40.0)
    fit(model, step.data, iterations=60, recipe=Recipe(batch=16, lr=0.1), seed=0)
    with torch.no_grad():
        model.features[4].weight[:22].mul_(0.1)
        model.features[4].bias[:22].mul_(0.1)
        model.features[5].running_mean[:22].mul_(0.1)
        model.features[5].running_var[:22].mul_(0.01)
    out, report = methods.get("LeGR").apply(model, strategy(HP2=0.4), step)
    found = report.details
    assert found["candidates"] >= 24
    assert len(found["least"]) == found["candidates"]
    assert found["least"] == sorted(found["least"], reverse=True)
    assert found["identity"] == found["least"][0]
    assert found["least"][-1] < found["identity"]
    assert [row[1] for row in found["maps"]] == ["features.0", "features.4", "features.8", "hidden"]
    plain, _ = methods.get("LeGR").apply(model, strategy(HP2=0.4), replace(step, max_iterations=1))
    widths = [[len(m.features[i].weight) for i in (0, 4, 8)] for m in (model, plain, out)]
    assert widths[1] == [16, widths[1][1], 32]  # nothing but the layer that was tampered with
    assert widths[1][1] < widths[2][1] <= widths[0][1]


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(net, marks=pytest.mark.slow) for net in ("resnet-a", "resnet-b", "concat", "factored")),
        "vgg",
        "norms",
    ],
)
def test_every_criterion_meets_the_target_exactly(name: str, context, monkeypatch) -> None:
    monkeypatch.setattr(legr, "LEAST", 2)
    monkeypatch.setattr(legr, "HOPELESS", 9.0)
    model = build(name)
    step = context(count(model), epochs=4.0)
    removed = set()
    for criterion in CRITERIA:
        out, report = methods.get("LeGR").apply(model, strategy(HP8=criterion), step)
        assert report.details["candidates"] == 2
        assert report.reached
        assert 0 <= step.target(count(model), 0.2) - count(out) < report.details["unit"]
        removed.add(tuple(len(p) for p in out.parameters()))
    assert len(removed) > 1 or name == "norms"


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_no_group_loses_more_than_the_cap(share: float, context, monkeypatch) -> None:
    monkeypatch.setattr(legr, "LEAST", 2)
    monkeypatch.setattr(legr, "HOPELESS", 9.0)
    model = build("vgg")
    with torch.no_grad():
        model.features[0].weight[1:].mul_(0.01)
    for steps in (1, 6):
        out, report = methods.get("LeGR").apply(
            model, strategy(HP2=0.3, HP6=share), context(count(model), max_iterations=steps)
        )
        assert report.reached
        assert report.details["candidates"] == (2 if steps == 6 else 0)
        for (name, before), after in zip(model.named_parameters(), out.parameters(), strict=True):
            if name.endswith("weight") and name != "fc.weight":
                assert len(after) >= max(2, math.ceil((1 - share) * len(before) - 1e-9))
        if steps == 1:
            assert len(out.features[0].weight) == {0.5: 8, 0.9: 2}[share]


def test_lengths_of_search_and_fine_tuning(context) -> None:
    method, step = methods.get("LeGR"), context(1, epochs=20.0)
    for hp1, hp7, budget in ((0.1, 0.2, Budget(0, 0)), (0.1, 0.4, Budget(12, 16)), (0.3, 0.8, Budget(24, 32))):
        chosen = strategy(HP1=hp1, HP7=hp7)
        assert method.budget(chosen, step) == budget
        assert method.iterations(chosen, step.recipe, step.data.n) == round((hp1 + hp7) * 80)


def test_what_the_search_leaves_over_goes_into_fine_tuning(context, monkeypatch) -> None:
    model, seen = build("vgg"), []
    step = context(count(model), epochs=7.5, progress=lambda done, of: seen.append((done, of)))
    _, report = methods.get("LeGR").apply(model, strategy(HP1=0.1, HP7=0.1), step)
    assert report.details["candidates"] == 0
    assert seen == [(i + 1, 6) for i in range(6)]  # 3 of them are HP7's, which buy too few candidates
    for hopeless, candidates, spent in ((9.0, 12, 16), (0.0, 1, 1)):
        seen.clear()
        monkeypatch.setattr(legr, "HOPELESS", hopeless)
        _, report = methods.get("LeGR").apply(model, strategy(HP1=0.1, HP7=1.1), step)
        assert report.details["candidates"] == candidates
        done = [done for done, _ in seen]
        assert done == sorted(set(done))
        assert done[-36 + spent :] == list(range(spent + 1, 37))  # HP7 is 33, of which a whole search costs 16


def test_residual_streams_are_searched_only_where_blocks_do_not_suffice(context) -> None:
    model = build("resnet-a")
    step = context(count(model), max_iterations=2)
    for hp2, scope in ((0.2, "blocks"), (0.8, "streams")):
        out, report = methods.get("LeGR").apply(model, strategy(HP2=hp2, HP6=0.7), step)
        assert report.reached
        assert report.details["scope"] == scope
        assert any(row[1] == "conv1" for row in report.details["maps"]) == (scope == "streams")
        streams = [len(layer.weight) for layer in (out.conv1, out.layer2[0].conv2, out.layer3[0].conv2)]
        assert (streams == [16, 32, 64]) == (scope == "blocks")


def test_a_criterion_that_is_none_is_refused(context) -> None:
    model = build("vgg")
    with pytest.raises(MethodError, match="HP8 must be one of l1_weight"):
        methods.get("LeGR").apply(model, strategy(HP8="l3"), context(count(model)))
