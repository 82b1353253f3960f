"""The laws of a study's loop, on a real network, real steps and a real graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from inline import Inline
from study_tools import RECIPE, Interrupt, create, in_process, known, run, same, stored

from automc import knowledge
from automc.execution.workers import Result
from automc.search import _REGISTRY, evaluator
from automc.search.base import Limits, Outcome, SchemeIndices, Searcher, Space
from automc.search.evaluator import Evaluator
from automc.search.network import NetModel
from automc.study import Budget, Listener, Study, machine, spending
from automc.study import stored as studies
from automc.study.loop import Plan
from automc.training import loop
from automc.training.gradients import Recorded, Usual
from kg import studies as kg_studies
from kg.schema import Scheme

UNTOLD = ("seconds", "cached", "round", "told", "target")


class DeepSearch(Searcher):
    """Asks for schemes of three steps whose parents nobody executed, and looks into the graph when told."""

    name: ClassVar[str] = "deep"
    rounds: ClassVar[list[list[Outcome]]] = []
    known: ClassVar[list[set[str]]] = []
    threads: ClassVar[list[int]] = []

    def __init__(self, space: Space, limits: Limits, seed: int) -> None:
        super().__init__(space, limits, seed)
        self._told = 0
        type(self).rounds, type(self).known, type(self).threads = [], [], []

    def ask(self, k: int, pending: Sequence[SchemeIndices] = ()) -> list[SchemeIndices]:
        self.threads.append(torch.get_num_threads())
        light = np.flatnonzero(self.space.mask & (self.space.hp2 == self.space.hp2.min()))
        rng = np.random.default_rng((self.seed, self._told, len(pending)))
        return [tuple(int(i) for i in rng.choice(light, 3, replace=False)) for _ in range(k)]

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        self._told += 1
        self.threads.append(torch.get_num_threads())
        self.rounds.append(list(outcomes))
        table = knowledge.query(
            "MATCH (t:Trial)-[:OF_SCHEME]->(s:Scheme) RETURN s.id AS id, t.status AS status, t.accuracy AS accuracy"
        )
        self.known.append({row["id"] for row in table.dicts() if row["status"] and row["accuracy"] is not None})


@pytest.fixture
def deep(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of that searcher, which is known in this test alone."""
    monkeypatch.setitem(_REGISTRY, DeepSearch.name, DeepSearch)
    return DeepSearch.name


class Plans(Listener):
    plans: list[Plan]

    def __init__(self) -> None:
        self.plans = []

    def plan(self, plan: Plan) -> None:
        self.plans.append(plan)


def test_parents_come_first_and_the_graph_knows_before_the_searcher(full_home, deep):
    workers: list[Inline] = []
    study = create(full_home, "8steps", searcher=deep)
    result = run(study, workers=workers)

    # Schemes of three steps: asks of up to three trials, of which the last is cut at eight; each once, parents first.
    assert len(result.trials) == 8
    assert [t.ordinal for t in result.trials] == list(range(1, 9))
    assert sorted(t.round for t in result.trials) == [t.round for t in result.trials]
    assert {t.round for t in result.trials} == {1, 2, 3}
    executed = [Scheme.parse(id) for id in workers[0].executed]
    assert len(set(executed)) == len(executed) == 8
    for position, scheme in enumerate(executed):
        assert not scheme.parent.steps or scheme.parent in executed[:position]
    assert {len(t.scheme) for t in result.trials} == {1, 2, 3}
    for t in result.trials:
        target = Scheme.parse(t.target)
        assert len(target) == 3
        assert target.steps[: len(t.scheme)] == t.scheme.steps
    # Two workers have six asks under way: nothing need be told before the seventh.
    assert {t.told for t in result.trials} == {0}

    # Each trial is one step: its rates follow from its own figures and its parent's.
    by_scheme = {t.scheme: t for t in result.trials}
    for t in result.trials:
        before = by_scheme[t.scheme.parent].params if len(t.scheme) > 1 else result.base.params
        assert t.status == "ok"
        assert t.step_pr == pytest.approx(1 - t.params / before)
        assert t.pr == pytest.approx(1 - t.params / result.base.params)

    # With the budget spent, what is left is told too, ask by ask and in order: it might have set steps free.
    assert [[o.pr for o in told] for told in DeepSearch.rounds] == [
        [t.pr for t in result.trials if t.round == number] for number in (1, 2, 3)
    ]
    for number, told in enumerate(DeepSearch.known, 1):
        assert told >= {t.scheme.id for t in result.trials if t.round <= number}
    assert same(stored(study)) == same(result.trials)
    assert result.front == tuple(study.protocol.front(result.trials))


class Threaded(Inline):
    """Leaves two threads set, as a caller may; works on one, because two that wait for each other take long."""

    def collect(self, timeout: float | None = None) -> list[Result]:
        torch.set_num_threads(1)
        found = super().collect(timeout)
        torch.set_num_threads(2)
        return found


def test_a_searcher_thinks_on_one_thread(full_home, deep, monkeypatch):
    monkeypatch.setattr(machine, "local_workers", Threaded)
    study = create(full_home, "1step", methods=("LFB",), searcher=deep)
    try:
        study.run()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert set(DeepSearch.threads) == {1}, "what a searcher learns must not depend on the number of threads"


def test_budget_of_steps_is_kept_exactly_and_a_larger_one_goes_on(searched):
    first = stored(searched)
    assert len(first) == 6
    workers: list[Inline] = []
    assert same(run(Study.open(searched), workers=workers).trials) == same(first)
    assert workers[0].executed == []
    listener = Plans()
    result = run(Study.open(searched, budget=Budget.parse("9steps")), listener, workers)
    assert len(result.trials) == len(stored(searched)) == 9
    assert same(result.trials[:6]) == same(first)
    assert listener.plans[0].done == 6
    assert len(workers[1].executed) == 3
    # A smaller budget than was spent takes nothing away.
    assert len(run(Study.open(searched, budget=Budget.parse("2steps"))).trials) == 9


def test_budget_of_seconds_starts_no_step_that_would_end_too_late(full_home):
    study = create(full_home, "3600s")
    with pytest.raises(KeyboardInterrupt):
        run(study, Interrupt(1))
    spent = float(studies.load_record(study.spec.id)["elapsed_seconds"])
    # Nothing is left: going on executes nothing.
    workers: list[Inline] = []
    assert len(run(Study.open(study.spec.id, budget=Budget(seconds=spent)), workers=workers).trials) == 1
    assert workers[0].executed == []
    # A little is: the study ends by itself, however many steps that was enough for.
    result = run(Study.open(study.spec.id, budget=Budget(seconds=spent + 1.0)))
    assert same(stored(study)) == same(result.trials)
    assert studies.load_record(study.spec.id)["status"] in ("done", "unmet")

    # Steps of minutes do not even begin.
    long = create(full_home, "3s", recipe=replace(RECIPE, unit_epochs=5000))
    workers = []
    assert run(long, workers=workers).trials == ()
    assert workers[0].executed == []


def test_a_search_that_found_nothing_goes_on_in_the_time_of_what_follows_it(full_home, monkeypatch):
    """Two steps are needed for the target, and the share of the search is enough for none."""
    monkeypatch.setattr(spending, "SEARCH", 1e-9)
    options = {"gamma": 0.6, "grid_only": True, "final": True}
    listener, said = Interrupt(2), list[str]()
    monkeypatch.setattr(listener, "say", said.append)
    with pytest.raises(KeyboardInterrupt):
        run(create(full_home, "3600s", **options), listener)
    assert any("the search goes on in the time that was to follow it" in text for text in said)
    with monkeypatch.context() as patch:
        patch.setattr(spending.Spending, "most", None)
        assert run(create(full_home, "3600s", **options)).trials == ()


def test_resuming_in_the_middle_of_a_round_equals_never_stopping(full_home, monkeypatch):
    monkeypatch.setattr(evaluator, "LEARN", 1)
    monkeypatch.setattr(Evaluator, "with_net", property(lambda self: self._trained))
    lessons, learn = Counter(), NetModel.learn
    monkeypatch.setattr(NetModel, "learn", lambda self, steps: lessons.update([len(steps)]) or learn(self, steps))
    reference = run(create(full_home, "6steps", workers=1, window=4)).trials
    # The cache would hide an execution: the second study starts with an empty one.
    (full_home / "cache").rename(full_home / "old-cache")
    once = lessons.copy()
    study, executed = create(full_home, "6steps", workers=3, window=4), []
    for after in (2, 2):
        workers: list[Inline] = []
        with pytest.raises(KeyboardInterrupt):
            run(study, Interrupt(after), workers)
        executed += workers[0].executed
        record = studies.load_record(study.spec.id)
        assert record["status"] == "interrupted"
        study = Study.open(study.spec.id)
    assert len(stored(study)) == 4
    workers = []
    result = run(study, workers=workers)
    assert same(result.trials) == same(reference)
    assert len(workers[0].executed) == 2
    assert studies.load_record(study.spec.id)["status"] == "done"
    assert not any(t.cached for t in result.trials)
    assert once
    assert lessons == once + once, "what was learned before a stop is not learned again"
    # Steps that were under way when Ctrl-C came are asked again; what was committed is not.
    assert set(executed + workers[0].executed) == {t.scheme.id for t in reference}


class Crowd(Inline):
    """Notes how many steps were under way at once; finishes the latest one first."""

    most = 0

    def collect(self, timeout: float | None = None) -> list[Result]:
        self.most = max(self.most, sum(isinstance(job, Scheme) for _, job in self._queue))
        self._queue.reverse()
        found = super().collect(timeout)
        self._queue.reverse()
        return found


@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(8, marks=pytest.mark.slow)]
)
def test_n_workers_have_n_steps_under_way_and_the_plan_counts_on_them(full_home, workers, monkeypatch):
    made: list[Crowd] = []
    monkeypatch.setattr(machine, "local_workers", lambda setup, count: made.append(Crowd(setup, count)) or made[0])
    study, listener = create(full_home, f"{workers + 2}steps", methods=("LFB",), workers=workers), Plans()
    result = study.run(listener)
    assert made[0].most == workers
    assert [t.ordinal for t in result.trials] == list(range(1, workers + 3))
    plan = listener.plans[0]
    assert plan.seconds == pytest.approx(plan.step_seconds * (workers + 2) / workers)


def test_a_study_that_asked_in_rounds_goes_on_with_what_it_has(searched):
    first = stored(searched)
    with knowledge.graph() as store:
        # As a version wrote them that asked for four schemes at once.
        store.write("MATCH (t:Trial) SET t.round = CASE WHEN t.ordinal <= 4 THEN 1 ELSE 2 END, t.asked = 4 "
                    "REMOVE t.target, t.told")  # fmt: skip
        spec = {**studies.load_record(searched)["spec"], "round_size": 4}
        del spec["window"]
        kg_studies.save_study(store, {"id": searched, "spec": spec})
    workers: list[Inline] = []
    result = run(Study.open(searched, budget=Budget.parse("9steps")), workers=workers)
    assert same(result.trials[:6], but=UNTOLD) == same(first, but=UNTOLD)
    assert [t.ordinal for t in result.trials] == list(range(1, 10))
    assert len(workers[0].executed) == 3
    assert same(stored(searched)) == same(result.trials)


def test_infeasible_method_is_masked_counted_and_never_asked(full_home, tmp_path):
    # A network without batch norm: slimming has nothing to go by.
    (tmp_path / "plain.py").write_text(
        "from torch import nn\n"
        "def build(classes=10, channels=1):\n"
        "    return nn.Sequential(nn.Conv2d(channels, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1),\n"
        "        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes))\n"
    )
    from automc.datasets import DataRef

    with known(full_home, ("NS", "LFB")):
        study = Study.create(
            f"{tmp_path}/plain.py:build", DataRef("digits"), gamma=0.3, budget=Budget(steps=2), recipe=RECIPE,
            precision="float32", device="cpu", learn_from_trials=False, final=False,
        )  # fmt: skip
    listener = Plans()
    result = run(study, listener)
    plan = listener.plans[0]
    assert set(plan.infeasible) == {"NS"}
    assert plan.space.infeasible == {"NS": 50}
    assert plan.space.total == 50 + 375
    assert plan.space.searchable == 375
    assert len(result.trials) == 2
    assert "NS" not in {step.method for t in result.trials for step in t.scheme.steps}


@pytest.mark.slow
def test_training_that_cannot_be_a_graph_is_said_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU that refuses to record any."""
    monkeypatch.setattr(loop, "passes", lambda *given: Recorded(Usual(*given[:4])))
    said: list[str] = []

    class Heard(Listener):
        def say(self, text: str) -> None:
            said.append(text)

    with in_process():
        create(home, "3steps").run(Heard())
    (only,) = [text for text in said if "CUDA graphs" in text]
    assert only.startswith("Training runs without CUDA graphs, and slower for it: ")
