"""What every registered searcher, and those of the benchmark, must do, in a synthetic environment."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest

from automc.errors import StudyError
from automc.search import get, register, registered
from automc.search.base import MORE, Limits, Outcome, Searcher, bare
from automc.study import schedule
from benchmarks.tab.measures import searchers

LIMITS = Limits(gamma=0.3, base_accuracy=0.9, max_length=4)
MADE = searchers()


@pytest.fixture(params=[name for name in MADE if not name.endswith(("own-size", "-net"))])
def searcher(request):
    return MADE[request.param]


def test_every_registered_searcher_is_here():
    # other tests register searchers of their own in this process
    ours = {name for name, kind in registered().items() if kind.__module__.startswith("automc.")}
    assert {"eco", "evolution", "progressive", "progressive-blind", "progressive-mean", "random", "reinforce"} <= ours
    assert ours < set(MADE)


def third_method_fails(scheme):
    return scheme[-1] >= 30


def every_other_fails(scheme):
    return bool(np.random.default_rng((3, *(step % 10**6 for step in scheme))).uniform() < 0.5)


def admissible(told, space, limits, scheme):
    """Whether each step of a scheme may be asked, by the definition; what was never executed goes by plan.

    What is trained on has ended well at the level below.
    """
    if scheme[-1] == MORE:
        return scheme.count(MORE) < 3 and told[scheme[:-1]].status == "ok"
    removed = planned = 0.0
    for length, last in enumerate(scheme, 1):
        part = scheme[:length]
        planned += space.hp2[last]
        target = removed + space.hp2[last]
        values = sorted(set(space.hp2[space.mask]))
        further = (
            sum(c) for r in range(limits.max_length - length + 1) for c in combinations_with_replacement(values, r)
        )
        fits = any(target + s >= limits.gamma - 1e-6 and planned + s <= limits.max_removed + 1e-6 for s in further)
        if not (fits and space.mask[last]) or length > limits.max_length:
            return False
        outcome = told.get(part)
        if outcome is not None and outcome.status != "ok":
            return False
        failures = [o.status for o in told.values() if o.scheme[:-1] == part[:-1] and o.status != "ok"
                    and space.method[o.scheme[-1]] == space.method[last]]  # fmt: skip
        if outcome is None and any(failures.count(status) >= 3 for status in set(failures)):
            return False
        removed = target if outcome is None else outcome.pr
    return True


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("failing", [lambda scheme: False, third_method_fails], ids=["fine", "failing"])
def test_asks_what_is_new_and_admissible(searcher, new_space, new_table, k, failing):
    table = new_table(new_space(), LIMITS, failing)
    search = searcher(table.space, LIMITS, seed=1)
    asked_before = set()
    for _ in range(8 if k == 4 else 10):
        asked = search.ask(k)
        assert 1 <= len(asked) <= k
        assert len(set(asked)) == len(asked)
        for scheme in asked:
            assert all(type(i) is int for i in scheme)
            assert scheme not in asked_before
            assert scheme not in table.told
            assert admissible(table.told, table.space, LIMITS, scheme), scheme
        asked_before.update(asked)
        search.tell(table.execute(asked))


@pytest.mark.parametrize("k", [1, 3])
def test_asks_what_is_new_and_admissible_while_others_are_pending(searcher, new_space, new_table, k):
    """Up to five asks under way, told late and in order: nothing told or pending is asked again, and it goes on."""
    table = new_table(new_space(), LIMITS, third_method_fails)
    search = searcher(table.space, LIMITS, seed=1)
    told, under_way = {}, []
    for _ in range(12):
        pending = [scheme for _, planned in under_way for scheme in planned]
        asked = search.ask(k, pending)
        assert 1 <= len(asked) <= k
        assert len(set(asked)) == len(asked)
        for scheme in asked:
            assert scheme not in told
            assert scheme not in pending
            assert admissible(told, table.space, LIMITS, scheme), scheme
        parts = dict.fromkeys(s[:n] for s in asked for n in range(1, len(s) + 1))
        under_way.append((table.execute(asked), [s for s in parts if s not in told and s not in pending]))
        if len(under_way) == 5:
            outcomes, _ = under_way.pop(0)
            search.tell(outcomes)
            told |= {o.scheme: o for o in outcomes}


def test_what_is_pending_decides_what_is_asked_and_nothing_else_does(searcher, new_space, new_table):
    """The same seed, told and pending: the same answer, whether a searcher was asked before or not."""
    table = new_table(new_space(), LIMITS)
    first, again = (searcher(table.space, LIMITS, seed=3) for _ in range(2))
    outcomes = table.execute(first.ask(3))
    for search in (first, again):
        search.tell(outcomes)
    pending = []
    for _ in range(4):
        asked = first.ask(1, pending)
        assert first.ask(1, pending) == asked
        pending.extend(asked)
    assert len(set(pending)) == 4
    assert again.ask(1, pending[:3]) == pending[3:]
    assert again.ask(1) == pending[:1]


def test_asking_twice_gives_the_same(searcher, new_space, new_table):
    table = new_table(new_space(), LIMITS)
    search = searcher(table.space, LIMITS, seed=3)
    for _ in range(3):
        asked = search.ask(5)
        assert search.ask(5) == asked
        search.tell(table.execute(asked))


def test_a_seed_gives_one_search_and_another_seed_another(searcher, new_space, new_table):
    first, again, other = (
        new_table(new_space(), LIMITS).search(searcher(new_space(), LIMITS, seed), 4, 5) for seed in (1, 1, 2)
    )
    assert [asked for asked, _ in first] == [asked for asked, _ in again]
    assert [asked for asked, _ in first] != [asked for asked, _ in other]


def test_resumed_equals_uninterrupted(searcher, new_space, new_table):
    rounds = new_table(new_space(), LIMITS, third_method_fails).search(searcher(new_space(), LIMITS, 7), 4, 6)
    for stopped in (0, 1, 5):
        search = searcher(new_space(), LIMITS, 7)
        for _, outcomes in rounds[:stopped]:
            search.tell(outcomes)
        assert search.ask(4) == rounds[stopped][0]


@pytest.mark.parametrize(
    "failing", [pytest.param(lambda scheme: False, id="fine", marks=pytest.mark.slow), third_method_fails]
)
def test_workers_and_stops_change_nothing_and_the_budget_is_kept(searcher, new_space, new_table, new_study, failing):
    """Stopped in the middle of asks and resumed by a new searcher with other workers: the same trials."""

    def run(*legs):
        study = new_study(new_table(new_space(), LIMITS, failing), budget=14)
        for workers, stop in legs:
            study.run(searcher(study.table.space, LIMITS, 5), workers, stop)
        return study.trials

    reference = run((1, None))
    assert len(reference) == 14
    assert sorted(t.ordinal for t in reference.values()) == sorted({t.ordinal for t in reference.values()})
    three = run((3, None))
    assert three == reference
    assert list(three) != list(reference), "the workers finished in another order"
    assert run((8, None)) == reference
    assert run((2, 3), (1, 6), (4, 11), (3, None)) == reference
    assert run((3, 1), *((2, n) for n in range(2, 14)), (3, None)) == reference, "stopped after every trial"


def test_where_an_answer_gives_several_rounds_stops_change_nothing_either(
    searcher, new_space, new_table, new_study, monkeypatch
):
    monkeypatch.setattr(schedule, "PART", 3)

    def run(*legs):
        study = new_study(new_table(new_space(), LIMITS), budget=30, window=9)
        for workers, stop in legs:
            study.run(searcher(study.table.space, LIMITS, 5), workers, stop)
        return study.trials

    reference = run((8, None))
    told = sorted({t.told for t in reference.values()})
    assert len(reference) == 30
    assert told[:2] == [0, 3]
    assert run((2, None)) == reference
    assert run((3, 2), *((4, n) for n in (4, 5, 6, 13, 22, 29)), (3, None)) == reference, "stopped within, and between"


@pytest.mark.parametrize("window", [pytest.param(4, marks=pytest.mark.slow), 9])
def test_rounds_that_leave_no_trial_are_asked_again_as_they_were(
    searcher, new_space, new_table, new_study, window, monkeypatch
):
    """Half of the steps fail, so what should follow them is never executed, and near its end the budget grows again."""
    monkeypatch.setattr(schedule, "PART", 3)

    def run(*legs):
        study = new_study(new_table(new_space(), LIMITS, every_other_fails), budget=14, window=window)
        for budget, workers, stop in legs:
            study.budget = budget
            study.run(searcher(study.table.space, LIMITS, 5), workers, stop)
        return study.trials

    def numberless(trials):
        return {scheme: replace(trial, ordinal=0) for scheme, trial in trials.items()}

    reference = run((14, 3, None))
    if searcher.name == "random":
        rounds = {t.round for t in reference.values()}
        assert rounds != set(range(1, max(rounds) + 1)), "some rounds leave nothing"
    assert run(*((14, 2, n) for n in range(7, 14)), (14, 3, None)) == reference, "stopped after every trial"
    # A larger budget goes on, and may be stopped too; only numbers that nothing has taken may differ.
    larger = run((9, 3, None), (14, 2, None))
    assert {t.scheme for t in larger.values()} >= set(run((9, 3, None)))
    for stop in (10, 12):
        assert numberless(run((9, 3, None), (14, 4, stop), (14, 2, None))) == numberless(larger)


@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(8, marks=pytest.mark.slow)]
)
def test_as_many_steps_are_under_way_as_there_are_workers(searcher, new_space, new_table, new_study, workers):
    study = new_study(new_table(new_space(), LIMITS), budget=5 * workers, window=2 * workers)
    study.run(searcher(study.table.space, LIMITS, 5), workers)
    assert study.most == workers
    assert len(study.trials) == 5 * workers


@pytest.mark.parametrize(
    ("known", "max_length"),
    [(True, 2), (False, 1), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((True, 1), (False, 2)))],
)
def test_a_small_space_is_searched_to_its_end(searcher, new_space, new_table, known, max_length):
    limits = Limits(gamma=0.2, base_accuracy=0.9, max_length=max_length)
    space = new_space(per_level=1, methods=2, grid=(0.12, 0.2, 0.4), known=known)
    table = new_table(space, limits, miss=0.0)
    search = searcher(space, limits, seed=1)
    table.search(search, 5, 60)
    every = [(i,) for i in range(6)] + [(i, j) for i in range(6) for j in range(6)]
    assert {bare(s) for s in table.told} == {
        s for s in every if len(s) <= max_length and admissible({}, space, limits, s)
    }
    assert search.ask(5) == []
    search.tell([])
    assert search.ask(5) == []


def test_when_everything_fails_it_stops(searcher, new_space, new_table):
    table = new_table(new_space(), LIMITS, lambda scheme: True)
    search = searcher(table.space, LIMITS, seed=1)
    table.search(search, 3, 40)
    assert search.ask(3) == []
    assert all(len(scheme) == 1 for scheme in table.told)
    # Three failures a method, and what was asked in the same round.
    assert 9 <= len(table.told) <= 15


@pytest.mark.parametrize("method", [0, 1, 2])
def test_one_method_only(searcher, new_space, new_table, method):
    space = new_space()
    space = replace(space, mask=space.method == method)
    table = new_table(space, LIMITS)
    table.search(searcher(space, LIMITS, seed=1), 4, 4)
    assert len(table.told) >= 12
    assert {int(space.method[i]) for scheme in table.told for i in bare(scheme)} == {method}


def test_nothing_is_left_of_an_empty_or_hopeless_space(searcher, new_space):
    space = new_space()
    assert searcher(replace(space, mask=np.zeros_like(space.mask)), LIMITS, 1).ask(4) == []
    assert searcher(space, Limits(gamma=0.5, base_accuracy=0.9, max_length=1), 1).ask(4) == []


def test_the_hardest_target_can_be_asked(searcher, new_space, new_table):
    limits = Limits(gamma=0.84, base_accuracy=0.9, max_length=5)
    table = new_table(new_space(), limits, miss=0.0)
    table.search(searcher(table.space, limits, seed=1), 4, 8)
    assert len(table.told) >= 8
    for outcome in table.told.values():
        assert sum(table.space.hp2[list(bare(outcome.scheme))]) <= 0.85 + 1e-9


def test_leaves_the_global_random_state_alone(searcher, new_space, new_table):
    import torch

    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    table = new_table(new_space(), LIMITS)
    table.search(searcher(table.space, LIMITS, seed=1), 4, 2)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_no_more_than_the_budget(searcher, new_space):
    assert searcher(new_space(), LIMITS, 1).ask(0) == []


def test_an_unknown_searcher_names_those_there_are():
    with pytest.raises(StudyError, match=r"'simulated-annealing'.*evolution, .*progressive-mean, random, reinforce"):
        get("simulated-annealing")


def test_a_name_is_given_once():
    class Other(Searcher):
        name = "random"

        def ask(self, k: int, pending: Sequence[tuple[int, ...]] = ()) -> list[tuple[int, ...]]:
            return []

        def tell(self, outcomes: list[Outcome]) -> None:
            """Forget it."""

    with pytest.raises(StudyError, match="Two searchers are called 'random'"):
        register(Other)
    assert get("random") is not Other


def test_searchers_of_other_packages_are_found(monkeypatch):
    package = sys.modules[get.__module__]  # automc.search is the public function

    class Point:
        def __init__(self, name, value, loaded):
            self.name, self.value, self.loaded = name, value, loaded

        def load(self):
            if isinstance(self.loaded, Exception):
                raise self.loaded
            return self.loaded

    theirs = type("Theirs", (get("random"),), {"name": "theirs"})
    monkeypatch.setattr(package, "entry_points", lambda group: [Point("theirs", "pkg:Theirs", theirs)])
    assert get("theirs") is theirs
    monkeypatch.setattr(package, "entry_points", lambda group: [Point("theirs", "pkg:Theirs", ImportError("no pkg"))])
    with pytest.raises(StudyError, match=r"'theirs'.*no pkg"):
        get("theirs")
    assert get("random").name == "random"
    monkeypatch.setattr(package, "entry_points", lambda group: [Point("theirs", "pkg:int", int)])
    with pytest.raises(StudyError, match="not a subclass"):
        registered()
