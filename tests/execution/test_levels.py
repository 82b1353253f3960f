"""Levels: a scheme at a third of its length, trained on from there, whatever the cache has kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from steps import result
from torch import nn

from automc.execution.cache import STATE
from automc.execution.jobs import execute
from automc.execution.monitor import Monitor
from automc.execution.setup import Bench, Setup, open_bench
from automc.execution.step import model_after, run_step
from automc.methods.step import Step
from automc.training.state import FitState
from kg.schema import Scheme, Strategy

NS = Strategy.parse("NS[HP1=0.5,HP2=0.12,HP6=0.9]")
SFP = Strategy.parse("SFP[HP2=0.12,HP9=0.4,HP10=5]")
ONE, TWO = Scheme((NS,)), Scheme((NS, SFP))


@pytest.fixture
def bench(setup: Setup) -> Bench:
    return open_bench(replace(setup, recipe=replace(setup.recipe, unit_epochs=4.0)))


def equal(one: nn.Module, other: nn.Module) -> bool:
    mine, its = one.state_dict(), other.state_dict()
    return mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)


def test_each_level_trains_a_third_and_has_a_key_of_its_own(bench: Bench) -> None:
    full = execute(bench, ONE)
    levels = [execute(bench, ONE.at(level)) for level in (1, 2, 3)]
    third = levels[0].iterations
    assert third == bench.recipe(ONE.at(1)).iterations(0.5, bench.train.n)
    assert abs(full.iterations - 3 * third) <= 2
    assert [o.iterations for o in levels] == [third] * 3
    assert len({bench.key(s) for s in (ONE, *(ONE.at(level) for level in (1, 2, 3)))}) == 4
    assert len({o.accuracy for o in levels} | {full.accuracy}) > 1
    assert {(o.params, o.flops, o.reached) for o in levels} == {(full.params, full.flops, True)}


def test_three_levels_are_one_training_with_restarts(bench: Bench) -> None:
    """Bit by bit, though each level has been through files."""
    execute(bench, ONE.at(3))
    context = bench.context(ONE.at(1), Monitor())
    state = FitState()
    _, first = run_step(bench.model, NS, replace(context, state=state), bench, Monitor())
    assert first is not None
    rest = Step(first, NS, context, (2 * state.done,))
    rest.train(state=state, cycles=2)
    rest.recalibrate()
    assert equal(model_after(bench, ONE.at(3)), rest.model)
    assert not equal(model_after(bench, ONE.at(3)), model_after(bench, ONE.at(2)))


@pytest.mark.parametrize("lost", ["state", "models"])
def test_what_the_cache_has_lost_is_run_again_with_the_same_result(bench: Bench, lost: str) -> None:
    third = execute(bench, TWO.at(3))
    model = model_after(bench, TWO.at(3))
    if lost == "state":
        bench.cache.drop(bench.key(TWO.at(2)) + STATE)
    else:
        bench.cache.prune(0)
    for path in bench.cache.folder.glob(f"outcomes/*/{bench.key(TWO.at(3))}.json"):
        path.unlink()
    bench.cache.drop(bench.key(TWO.at(3)))
    again = execute(bench, TWO.at(3))
    assert not again.cached
    assert result(again) == result(third)
    assert equal(model_after(bench, TWO.at(3)), model)


def test_a_step_goes_on_from_the_first_level_of_its_prefix(bench: Bench) -> None:
    """So results do not depend on what was promoted before."""
    early = execute(bench, TWO.at(1))
    execute(bench, ONE.at(3))
    (bench.cache.folder / "outcomes").rename(bench.cache.folder / "old")
    (bench.cache.folder / "outcomes").mkdir()
    assert result(execute(bench, TWO.at(1))) == result(early)
    assert early.details["params_in"] == execute(bench, ONE.at(1)).params


def test_a_failure_is_that_of_every_level_above(bench: Bench) -> None:
    hopeless = Scheme((Strategy.parse("NS[HP1=0.5,HP2=0.4,HP6=0.0]"),))
    assert execute(bench, hopeless.at(1)).status == "infeasible"
    assert execute(bench, hopeless.at(2)).status == "infeasible"
