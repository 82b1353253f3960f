"""The laws of a study's loop, on a real network, real steps and a real graph."""

from __future__ import annotations

import re
import resource
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from inline import Inline
from study_tools import RECIPE, Interrupt, counts, create, in_process, run, same, stored

from automc import knowledge
from automc.errors import EnvironmentFault, StudyError
from automc.execution.workers import Result
from automc.search import register
from automc.search.base import Limits, Outcome, SchemeIndices, Searcher, Space
from automc.study import Budget, Listener, Study
from automc.study import study as studies
from automc.study.loop import Plan
from automc.study.trial import Trial
from kg import studies as kg_studies
from kg.schema import Scheme
from kg.sync import read_experience

UNTOLD = ("seconds", "cached", "round", "told", "target")


@register
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


class Plans(Listener):
    plans: list[Plan]

    def __init__(self) -> None:
        self.plans = []

    def plan(self, plan: Plan) -> None:
        self.plans.append(plan)


def test_parents_come_first_and_the_graph_knows_before_the_searcher(full_home):
    workers: list[Inline] = []
    study = create(full_home, "11steps", searcher="deep")
    torch.set_num_threads(2)
    result = run(study, workers=workers)
    assert set(DeepSearch.threads) == {1}, "what a searcher learns must not depend on the number of threads"
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)

    # Schemes of three steps: asks of up to three trials, of which the last is cut at eleven; each once, parents first.
    assert len(result.trials) == 11
    assert [t.ordinal for t in result.trials] == list(range(1, 12))
    assert sorted(t.round for t in result.trials) == [t.round for t in result.trials]
    assert {t.round for t in result.trials} == {1, 2, 3, 4}
    executed = [Scheme.parse(id) for id in workers[0].executed]
    assert len(set(executed)) == len(executed) == 11
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
        [t.pr for t in result.trials if t.round == number] for number in (1, 2, 3, 4)
    ]
    for number, known in enumerate(DeepSearch.known, 1):
        assert known >= {t.scheme.id for t in result.trials if t.round <= number}
    assert same(stored(study)) == same(result.trials)
    assert result.front == tuple(study.protocol.front(result.trials))


def test_budget_of_steps_is_kept_exactly_and_a_larger_one_goes_on(full_home):
    study = create(full_home, "5steps")
    first = run(study)
    assert len(first.trials) == len(stored(study)) == 5
    again = Study.open(study.spec.id)
    workers: list[Inline] = []
    assert same(run(again, workers=workers).trials) == same(first.trials)
    assert workers[0].executed == []
    more = Study.open(study.spec.id, budget=Budget.parse("9steps"))
    listener = Plans()
    result = run(more, listener, workers)
    assert len(result.trials) == 9
    assert same(result.trials[:5]) == same(first.trials)
    assert listener.plans[0].done == 5
    assert len(workers[1].executed) == 4
    # A smaller budget than was spent takes nothing away.
    assert len(run(Study.open(study.spec.id, budget=Budget.parse("2steps"))).trials) == 9


def test_budget_of_seconds_starts_no_step_that_would_end_too_late(full_home):
    study = create(full_home, "3s")
    result = run(study)
    assert result.trials
    record = studies.load_record(study.spec.id)
    # Nothing is left: going on executes nothing.
    record_spent = float(record["elapsed_seconds"])
    workers: list[Inline] = []
    budget = Budget(seconds=record_spent)
    assert len(run(Study.open(study.spec.id, budget=budget), workers=workers).trials) == len(result.trials)
    assert workers[0].executed == []

    # Steps of minutes do not even begin.
    long = create(full_home, "3s", recipe=replace(RECIPE, unit_epochs=5000))
    workers = []
    assert run(long, workers=workers).trials == ()
    assert workers[0].executed == []


def test_second_study_is_all_cached_and_charged_the_recorded_cost(full_home):
    first = create(full_home, "5steps")
    trials = run(first).trials
    assert not any(t.cached for t in trials)
    second = create(full_home, "5steps")
    assert second.spec.id != first.spec.id
    again = run(second).trials
    assert all(t.cached for t in again)
    assert same(again) == same(trials)
    assert [t.seconds for t in again] == [t.seconds for t in trials]
    # Two workers share the cost, which the clock does not show.
    assert studies.load_record(second.spec.id)["elapsed_seconds"] > sum(t.seconds for t in trials) / 2

    # The same steps on the same task are the same experience: each counts once.
    ours = [e for e in trial_experience() if e.source in (first.spec.id, second.spec.id)]
    assert len(ours) == len(trials)


def trial_experience():
    with knowledge.graph() as store:
        return [e for e in read_experience(store) if e.origin == "trial"]


def test_experience_is_written_once_and_read_by_the_next_learning(full_home):
    before = knowledge.learnable()
    study = create(full_home, "6steps")
    trials = run(study).trials
    written = trial_experience()
    assert len(written) == len(trials) == 6
    after = knowledge.learnable()
    assert after.fingerprint != before.fingerprint
    assert {e.id for e in after.experience} == {e.id for e in before.experience} | {e.id for e in written}
    assert knowledge.learnable(own_trials=False).fingerprint == before.fingerprint

    base, by_scheme = study.subject, {t.scheme: t for t in trials}
    for t in trials:
        step = t.scheme.steps[-1]
        parent = by_scheme.get(t.scheme.parent)
        params_in, accuracy_in = (parent.params, parent.accuracy) if parent else (base.params, base.accuracy)
        of_trial = [
            e
            for e in written
            if e.task.params == params_in
            and e.strategy.method == step.method
            and all(e.strategy.get(n) == v for n, v in step.settings if n != "HP2")
            and e.strategy.number("HP2") == pytest.approx(step.number("HP2") * base.params / params_in)
        ]
        assert len(of_trial) == 1
        one = of_trial[0]
        assert one.ar == pytest.approx(t.accuracy / accuracy_in - 1)
        assert one.pr == pytest.approx(1 - t.params / params_in)
        assert one.task.accuracy == pytest.approx(accuracy_in)
        assert one.source == study.spec.id


def test_resuming_in_the_middle_of_a_round_equals_never_stopping(full_home):
    reference = run(create(full_home, "10steps", workers=1, window=4)).trials
    # The cache would hide an execution: the second study starts with an empty one.
    (full_home / "cache").rename(full_home / "old-cache")
    study, executed = create(full_home, "10steps", workers=3, window=4), []
    for after in (2, 3, 1):
        workers: list[Inline] = []
        with pytest.raises(KeyboardInterrupt):
            run(study, Interrupt(after), workers)
        executed += workers[0].executed
        record = studies.load_record(study.spec.id)
        assert record["status"] == "interrupted"
        study = Study.open(study.spec.id)
    assert len(stored(study)) == 6
    workers = []
    result = run(study, workers=workers)
    assert same(result.trials) == same(reference)
    assert len(workers[0].executed) == 4
    assert studies.load_record(study.spec.id)["status"] == "done"
    assert not any(t.cached for t in result.trials)
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


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_n_workers_have_n_steps_under_way_and_the_plan_counts_on_them(full_home, workers, monkeypatch):
    made: list[Crowd] = []
    monkeypatch.setattr(studies, "local_workers", lambda setup, count: made.append(Crowd(setup, count)) or made[0])
    study, listener = create(full_home, f"{workers + 4}steps", workers=workers), Plans()
    result = study.run(listener)
    assert made[0].most == workers
    assert [t.ordinal for t in result.trials] == list(range(1, workers + 5))
    plan = listener.plans[0]
    assert plan.seconds == pytest.approx(plan.step_seconds * (workers + 4) / workers)


def test_a_study_that_asked_in_rounds_goes_on_with_what_it_has(full_home):
    study = create(full_home, "6steps")
    first = run(study).trials
    with knowledge.graph() as store:
        # As a version wrote them that asked for four schemes at once.
        store.write("MATCH (t:Trial) SET t.round = CASE WHEN t.ordinal <= 4 THEN 1 ELSE 2 END, t.asked = 4 "
                    "REMOVE t.target, t.told")  # fmt: skip
        spec = {**studies.load_record(study.spec.id)["spec"], "round_size": 4}
        del spec["window"]
        kg_studies.save_study(store, {"id": study.spec.id, "spec": spec})
    workers: list[Inline] = []
    result = run(Study.open(study.spec.id, budget=Budget.parse("9steps")), workers=workers)
    assert same(result.trials[:6], but=UNTOLD) == same(first, but=UNTOLD)
    assert [t.ordinal for t in result.trials] == list(range(1, 10))
    assert len(workers[0].executed) == 3
    assert same(stored(study)) == same(result.trials)


def test_nothing_can_work_is_said_and_loses_nothing(full_home):
    before = counts()
    with pytest.raises(StudyError, match="at most 0 of the parameters can go") as told:
        create(full_home, keep_shape=("*",))
    for method in ("LMA", "LeGR", "NS", "SFP", "HOS", "LFB"):
        assert f"{method} 0%" in str(told.value)
    # Why, by method: said once where it is the same.
    assert " LFB: no convolution or linear layer of this model gets smaller by factoring." in str(told.value)
    assert re.search(r" (SFP|NS|LeGR)(, (SFP|NS|LeGR)){2}: no channels of this model can be removed: ", str(told.value))
    assert " LMA: the model has no activation " in str(told.value)
    assert "[HP" not in str(told.value)
    assert counts() == before


def test_infeasible_method_is_masked_counted_and_never_asked(full_home, tmp_path):
    # A network without batch norm: slimming has nothing to go by.
    (tmp_path / "plain.py").write_text(
        "from torch import nn\n"
        "def build(classes=10, channels=1):\n"
        "    return nn.Sequential(nn.Conv2d(channels, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1),\n"
        "        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes))\n"
    )
    from automc.datasets import DataRef

    study = Study.create(
        f"{tmp_path}/plain.py:build", DataRef("digits"), gamma=0.3, budget=Budget(steps=4), recipe=RECIPE,
        precision="float32", device="cpu", learn_from_trials=False, final=False,
    )  # fmt: skip
    listener = Plans()
    result = run(study, listener)
    plan = listener.plans[0]
    assert set(plan.infeasible) == {"NS"}
    assert plan.space.infeasible == {"NS": 50}
    assert plan.space.total == 4525
    assert plan.space.searchable == 4525 - 50 - sum(plan.space.without_code.values())
    assert len(result.trials) == 4
    assert "NS" not in {step.method for t in result.trials for step in t.scheme.steps}


def test_unmet_target_keeps_its_trials(full_home):
    study = create(full_home, "1step", gamma=0.8)
    result = run(study)
    assert (result.recommendation, result.final, result.front) == (None, None, ())
    assert studies.load_record(study.spec.id)["status"] == "unmet"
    assert len(stored(study)) == 1


@pytest.mark.slow
def test_deleting_leaves_the_graph_as_it_was(full_home):
    before = counts()
    kept = create(full_home, "4steps")
    run(kept)
    between = counts()
    other = create(full_home, "6steps")
    run(other)
    studies.delete(other.spec.id)
    assert counts() == between
    assert not (full_home / "studies" / other.spec.id).exists()
    assert same(stored(kept))
    studies.delete(kept.spec.id)
    assert counts() == before
    with pytest.raises(StudyError, match="There is none yet"):
        studies.load_record(kept.spec.id)


def test_recommended_scheme_is_run_once_more_saved_and_tested(full_home):
    study = create(full_home, "4steps", final=True, gamma=0.2)
    result = run(study)
    assert result.model is not None
    from automc import api

    measured = api.measure(str(result.model), "digits", device="cpu")
    assert measured.params == result.final["params"]
    assert 1 - measured.params / result.base.params >= 0.2 - 1e-4
    assert measured.test_accuracy == pytest.approx(result.final["test_accuracy"])
    assert result.final["scheme"] == result.recommendation.trial.scheme.id
    # Resumed: the final model stands, and is not made again.
    when = result.model.stat().st_mtime_ns
    assert run(Study.open(study.spec.id)).final == result.final
    assert result.model.stat().st_mtime_ns == when


def test_names_are_numbered_and_bad_options_cost_nothing(full_home):
    before = counts()
    for options in ({"gamma": 0.9}, {"searcher": "psychic"}, {"max_length": 0}, {"workers": -1}):
        with pytest.raises(StudyError):
            create(full_home, **options)
    assert counts() == before
    assert not (full_home / "studies").exists()

    first, second = create(full_home), create(full_home)
    assert (first.spec.id, second.spec.id) == ("digits-digits-1", "digits-digits-2")
    with pytest.raises(StudyError, match="digits-digits-1, digits-digits-2"):
        Study.open("digits-digits-3")
    # Another search has just taken the name, and is not in the graph yet.
    (full_home / "studies" / "digits-digits-3").mkdir()
    assert create(full_home).spec.id == "digits-digits-4"
    (full_home / "studies" / first.spec.id / "base.am").unlink()
    with pytest.raises(StudyError, match="cannot be resumed"):
        Study.open(first.spec.id)


def test_a_running_study_is_neither_run_twice_nor_deleted(full_home):
    class Second(Listener):
        refused = 0

        def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
            for attempt in (lambda: Study.open(name).run(), lambda: studies.delete(name)):
                with pytest.raises(StudyError, match=f"{name} is running in another process"):
                    attempt()
                self.refused += 1

    study, listener = create(full_home, "1step"), Second()
    name = study.spec.id
    run(study, listener)
    assert listener.refused == 2
    studies.delete(name)


def test_full_disk_at_the_start_leaves_nothing_behind(full_home):
    before = counts()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(EnvironmentFault, match=r"base\.am cannot be written"):
            create(full_home)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert counts() == before
    assert not list((full_home / "studies").glob("*"))


def test_listener_hears_of_a_trial_after_the_graph(full_home):
    class Asks(Listener):
        heard: ClassVar[list[int]] = []

        def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
            self.heard.append(spent_steps)
            table = knowledge.query(
                "MATCH (t:Trial)-[:OF_SCHEME]->(:Scheme {id: $id}) RETURN t.ordinal AS n", {"id": trial.scheme.id}
            )
            assert table.column("n") == [trial.ordinal]

    with in_process():
        create(full_home, "3steps").run(Asks())
    assert Asks.heard == [1, 2, 3]


@pytest.mark.slow
def test_the_models_of_the_front_stay_in_a_small_cache(full_home):
    class Bench(Listener):
        """Looks at the pins while the search goes on."""

        pinned: ClassVar[list[int]] = []

        def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
            self.pinned.append(len(study.setup.open().cache.pinned()))

    study = create(full_home, "8steps", gamma=0.04, cache_bytes=700_000)
    result = run(study, Bench())
    bench = study.setup.open()
    assert max(Bench.pinned) > 0, "pinned after the first round, not only at the end"
    assert bench.cache.pinned() == {bench.key(t.scheme) for t in result.front}
    assert bench.cache.status().weights_bytes <= 700_000
    assert any(bench.cache.model_path(bench.key(t.scheme)) for t in result.front)
