"""Operators by a search: the mixture is what is built of it, scores decide, the price and the time have limits."""

from __future__ import annotations

import copy
import random
from typing import cast

import pytest
import torch
from group_nets import build
from test_contract import count, same
from torch import nn

from automc import methods
from automc.errors import Infeasible, MethodError
from automc.methods import operator_search
from automc.methods.operator_search import OperatorSearch
from automc.models import structure
from automc.models.load import load
from automc.surgery.branches import branches
from automc.surgery.operators import LowRank, Operator, searched
from automc.training.alternating import LR, Alternation, judging
from automc.training.loop import cross_entropy
from kg.schema import Strategy

DEFAULTS = {"HP1": 0.2, "HP2": 0.4, "HP25": 0.2, "HP26": 4}
EXAMPLE = torch.zeros(2, 3, 16, 16)


def strategy(**settings: float) -> Strategy:
    return Strategy("PCO", tuple({**DEFAULTS, **settings}.items()))


def searching(model: nn.Module, divisor: int = 1) -> OperatorSearch:
    return OperatorSearch(model, searched(model), branches(model, EXAMPLE), divisor, seed=0)


def set_to(scores: torch.Tensor, place: int) -> None:
    with torch.no_grad():
        scores.zero_()
        scores[place] = 60.0


def choose(search: OperatorSearch, draw: random.Random) -> dict[str, str]:
    """Make one operator of each place, and one side of each branch, the only one; return what they are."""
    chosen = {}
    for site, mixture in search.mixed.items():
        place = draw.randrange(len(mixture.operators))
        set_to(mixture.alpha, place)
        chosen[site.name] = cast(Operator, mixture.operators[place]).name
    for branch, bypassed in search.bypassed.items():
        place = draw.randrange(2)
        set_to(bypassed.beta, place)
        chosen |= {branch.name: "dropped"} if place else {}
    return chosen


@pytest.mark.parametrize("divisor", [1, 4])
@pytest.mark.parametrize("net", ["resnet-a", "vgg", "factored"])
def test_with_all_score_on_what_is_there_the_model_is_as_it_was(net: str, divisor: int) -> None:
    model = build(net)
    images = torch.randn(3, 3, 16, 16)
    wanted, before = model(images), copy.deepcopy(model)
    search = searching(model, divisor)
    for scores in search.scores:
        set_to(scores, 0)
    search.enter()
    assert any(not isinstance(model.get_submodule(site.name), nn.Sequential) for site in search.mixed)
    torch.testing.assert_close(model(images), wanted, rtol=1e-5, atol=1e-5)
    assert float(search.expected().detach()) == count(before)
    search.leave()
    assert same(model, before)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("net", ["resnet-a", "vgg"])
def test_with_all_score_on_one_operator_each_the_mixture_is_what_is_built(net: str, seed: int) -> None:
    model = build(net)
    search = searching(model)
    wanted = choose(search, random.Random(seed))
    for mixture in search.mixed.values():  # as after a search, no operator is what it started as
        for operator in mixture.operators[1:]:
            for parameter in operator.parameters():
                parameter.data.mul_(1 + 0.1 * torch.rand_like(parameter))
    images = torch.randn(3, 3, 16, 16)
    search.enter()
    mixed, expected = model(images), round(float(search.expected().detach()))
    search.leave()
    items = search.items()
    chosen = search.choose(items, expected)
    assert all(item.options[place][1] == 0 for item, place in zip(items, chosen, strict=True))
    for operator in (o for m in search.mixed.values() for o in m.operators if isinstance(o, LowRank)):
        with torch.no_grad():  # ranks are chosen anew by the layer's own weights: let them be of that rank
            if wanted[operator.site.name] == operator.name:
                model.get_submodule(operator.site.name).weight.copy_(operator.kernel())
    said = search.build(items, chosen, expected)
    assert count(model) == expected
    torch.testing.assert_close(model(images), mixed, rtol=1e-4, atol=1e-4)
    inside = tuple(f"{name}." for name, what in wanted.items() if what == "dropped")
    assert said.keys() == {n for n, what in wanted.items() if what != "keep" and not n.startswith(inside or ("?",))}


def test_scores_decide_within_the_target() -> None:
    model = build("vgg")
    search = searching(model)
    first, second = sorted(search.mixed, key=lambda site: site.cost)
    names = [cast(Operator, o).name for o in search.mixed[second].operators]
    for liked in ("separable", "grouped 2", "1×1"):
        set_to(search.mixed[second].alpha, names.index(liked))
        set_to(search.mixed[first].alpha, 0)
        items = search.items()
        chosen = search.choose(items, count(model) - 3000)
        picked = dict(pair for item, place in zip(items, chosen, strict=True) for pair in item.choices[place].operators)
        assert picked[first] == 0
        # What is liked best is cheaper than it must be: the dearest that fits takes its place.
        costs = [cast(Operator, o).params for o in search.mixed[second].operators]
        assert costs[picked[second]] == max(c for c in costs if c <= second.cost - 3000)


def test_a_search_trains_weights_and_then_scores_towards_the_target(context) -> None:
    model = build("vgg")
    step = context(count(model))
    search = searching(model, 2)
    target = count(model) // 2
    search.enter()
    turns = Alternation(
        model, search.scores, cross_entropy, [lambda: (search.expected() - target).clamp_min(0) / count(model)],
        judging(step.data, 0), step.recipe, 8, seed=0,
    )  # fmt: skip
    before = float(search.expected().detach())
    for update in range(4):
        turns(update)
    assert turns.updates == 0
    assert turns.weights == [4.0]
    assert not any(scores.any() for scores in search.scores)
    for update in range(4, 8):
        turns(update)
    assert turns.updates == 4
    assert turns.weights == [16.0]
    assert float(search.expected().detach()) < before
    assert all(scores.abs().max() <= 4 * LR * 1.5 for scores in search.scores)
    assert not any(p.grad is not None for p in model.parameters())


def test_the_result_is_plain_layers_in_a_file_of_the_target_size(context, tmp_path) -> None:
    start = load("resnet8")
    out, report = methods.get("PCO").apply(start.model, strategy(HP2=0.5), context(count(start.model)))
    kinds = {type(m).__name__ for m in out.modules() if not list(m.children())}
    there = {type(m).__name__ for m in start.model.modules() if not list(m.children())}
    assert kinds - there <= {"ReLU", "Identity", "ChannelShuffle"}
    assert report.reached
    assert report.details["operators"]
    assert all(what for what in report.details["operators"].values())
    structure.save(tmp_path / "x.am", out, start.source, metadata={})
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(structure.read(tmp_path / "x.am").model.eval()(images), out.eval()(images))


def test_what_a_divisor_and_a_longer_search_change(context) -> None:
    model = build("vgg")
    step = context(count(model), epochs=20.0)
    rows = {k: [len(m.rows) for m in searching(model, k).mixed.values()] for k in (1, 4, 16)}
    assert rows == {1: [32, 24], 4: [8, 6], 16: [2, 2]}
    longer = methods.get("PCO").phases(strategy(HP25=0.3), step.recipe, step.data.n)
    assert longer == (24, 16)


def test_a_model_is_refused_where_there_is_nothing_to_choose_or_no_time(context, monkeypatch) -> None:
    linear = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(Infeasible, match=r"PCO.*no k×k convolution"):
        methods.get("PCO").apply(linear, strategy(), context(count(linear)))
    with pytest.raises(MethodError, match="HP26 must lie between 1 and 16"):
        methods.get("PCO").apply(build("vgg"), strategy(HP26=32), context(1))
    monkeypatch.setattr(operator_search, "SECONDS", -1.0)
    with pytest.raises(Infeasible, match="no time to look at 2 of them"):
        methods.get("PCO").apply(build("vgg"), strategy(), context(count(build("vgg"))))
