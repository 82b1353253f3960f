"""What lies beside the paper's grid: steps that close the distance to the target, and each method straight to it."""

from __future__ import annotations

import pytest
from inline import Inline
from study_tools import Interrupt, create, run, same, stored

from automc import knowledge
from automc.study import Budget, Study
from automc.study import stored as studies
from automc.study.closing import REST, solved, straight, template
from automc.study.space import StrategySpace
from kg.cards import enumerate_strategies, on_grid, read_cards
from kg.schema import Scheme, Strategy

GRID = [strategy for method in on_grid(read_cards()) for strategy in enumerate_strategies(method)]
METHODS = list(dict.fromkeys(s.method for s in GRID))


def seconds(strategy: Strategy) -> float:
    """As many as the multiples of E0 that it trains."""
    return sum(float(v) for name, v in strategy.settings if name in ("HP1", "HP9"))


def test_a_solved_step_meets_the_target_by_less_than_a_digit() -> None:
    strategy = Strategy.parse("NS[HP1=0.5,HP2=0.2,HP6=0.9]")
    assert template(strategy).get("HP2") == REST
    assert solved(template(strategy), 0.3) == Strategy.parse("NS[HP1=0.5,HP2=0.3,HP6=0.9]")
    for missing in (0.123456, 0.7, 0.1 + 0.2, 1e-9):
        found = solved(strategy, missing).number("HP2")
        assert missing - 1e-9 <= found < missing + 1e-4
        assert Strategy.parse(solved(strategy, missing).id).number("HP2") == found


def test_each_method_goes_straight_to_the_target_once_with_the_longest_training() -> None:
    found = straight(GRID, 0.7, {}, seconds)
    assert [scheme.steps[0].method for scheme in found] == METHODS
    for scheme in found:
        (step,) = scheme.steps
        assert step.number("HP2") == 0.7
        assert seconds(step) == max(seconds(s) for s in GRID if s.method == step.method)


def test_what_is_out_of_reach_is_not_tried_and_the_promising_come_first() -> None:
    reach = {"NS": 0.69, "LFB": 0.7}
    found = straight(GRID, 0.7, reach, seconds, order=["SFP", "NS", "HOS"])
    assert [scheme.steps[0].method for scheme in found][:2] == ["SFP", "HOS"]
    assert sorted(scheme.steps[0].method for scheme in found) == sorted(set(METHODS) - {"NS"})


@pytest.mark.parametrize(
    ("most", "each", "count"), [(3.5, 0.5, 7), (3.4, 0.4, 7), (0.7, 0.1, 7), (0.45, 0.1, 4), (0.0, 0.1, 0)]
)
def test_a_short_budget_shortens_all_alike_and_then_drops_the_last(most: float, each: float, count: int) -> None:
    found = straight(GRID, 0.7, {}, seconds, most + 1e-9, METHODS)
    assert [seconds(scheme.steps[0]) for scheme in found] == [each] * count
    assert [scheme.steps[0].method for scheme in found] == list(METHODS[:count])


def test_where_not_all_can_be_tried_the_dearest_are_not() -> None:
    """A promising method with dear steps keeps no other one out."""

    def dear(strategy: Strategy) -> float:
        return seconds(strategy) * (5 if strategy.method == METHODS[0] else 1)

    found = straight(GRID, 0.7, {}, dear, 0.65, METHODS)
    assert [scheme.steps[0].method for scheme in found] == list(METHODS[1:])


def test_the_space_goes_both_ways(full_home):
    study = create(full_home)
    n, recipe = study.subject.splits.train.n, study.spec.recipe
    grid = StrategySpace(study.vectors, study.subject.task(), {"NS": "it says no"}, recipe, n)
    space = grid.closing_at(0.5)
    closing = [i for i, closes in enumerate(space.space.closing) if closes]
    assert len(closing) == len({template(s) for s in grid.strategies}) == len(space.space.mask) - len(grid.strategies)
    assert not any(space.space.mask[i] for i in closing if space.step(i, 0.1).method == "NS")
    assert space.report.closing == sum(bool(space.space.mask[i]) for i in closing) > 0
    assert space.largest == grid.largest
    for i in closing[::50]:
        scheme = space.scheme((3, i), 0.123)
        assert scheme.steps[1].number("HP2") == 0.377
        assert space.indices(scheme) == (3, i)
        assert not space.on_grid(scheme)
        # Where the grid has what is missing, a closing step is still another one.
        near = space.scheme((i,), 0.1)
        assert near.steps[0].number("HP2") == 0.4001
        assert space.indices(near) == (i,)
    assert grid.on_grid(grid.scheme((3, 4)))


def test_the_methods_that_lose_least_at_equal_length_come_first(full_home):
    """HOS and LeGR have the longest steps on the grid, which is no merit: what is chosen trains on."""
    study = create(full_home, "1step", METHODS)
    space = StrategySpace(study.vectors, study.subject.task(), {}, study.spec.recipe, study.subject.splits.train.n)
    law, order = study.vectors.guess, space.promising()
    costs = [law.costs.get(name, law.cost) for name in order]
    assert costs == sorted(costs)
    assert len(set(costs)) == len(order) == 7


def test_a_study_begins_with_every_method_straight_to_the_target(full_home):
    study = create(full_home, "9steps", METHODS, gamma=0.3123, workers=1)
    result = run(study)
    first = [t for t in result.trials if not t.grid][:7]
    assert {len(t.scheme) for t in first} == {1}
    assert sorted(t.scheme.steps[0].method for t in first) == sorted(METHODS)
    assert [t.ordinal for t in first] == [1, 2, 3, 4, 5, 6, 7]
    for trial in first:
        assert trial.scheme.steps[0].number("HP2") == 0.3123
        assert trial.status != "ok" or trial.pr == pytest.approx(0.3123, abs=0.02)
    # With few workers the searcher is asked when it knows them all.
    assert {t.told for t in result.trials[7:]} <= {7, 8}
    # The graph has them as strategies beside the grid, and goes on with them.
    table = knowledge.query(
        "MATCH (t:Trial {grid: false})-[:OF_SCHEME]->(:Scheme)-[:STEP]->(s:Strategy) RETURN DISTINCT s.searchable AS on"
    )
    assert False in table.column("on")
    more = run(Study.open(study.spec.id, budget=Budget.parse("10steps")))
    assert same(more.trials[:9]) == same(result.trials)


@pytest.mark.slow
def test_resuming_among_the_first_trials_equals_never_stopping(full_home):
    reference = run(create(full_home, "10steps", workers=1, gamma=0.5)).trials
    (full_home / "cache").rename(full_home / "old-cache")
    study = create(full_home, "10steps", workers=3, gamma=0.5)
    for after in (2, 3, 3):
        with pytest.raises(KeyboardInterrupt):
            run(study, Interrupt(after))
        study = Study.open(study.spec.id)
    assert len(stored(study)) == 8
    assert same(run(study).trials) == same(reference)


@pytest.mark.parametrize(
    "options",
    [
        {"grid_only": True},
        pytest.param({"searcher": "random"}, marks=pytest.mark.slow),
        pytest.param({"gamma": None, "max_drop": 0.5}, marks=pytest.mark.slow),
    ],
)
def test_the_papers_search_stays_on_the_grid(full_home, options):
    workers: list[Inline] = []
    study = create(full_home, "2steps", **options)
    result = run(study, workers=workers)
    grid = set(study.vectors.strategies)
    assert all(t.grid for t in result.trials)
    assert {step.id for name in workers[0].executed for step in Scheme.parse(name).steps} <= grid
    assert studies.load_record(study.spec.id).get("first") is None
