"""Every searcher in a real study: workers and interruptions change nothing; and the ablations."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from inline import Inline
from study_tools import Interrupt, create, create_fully, run, same

from automc import knowledge
from automc.errors import MethodError
from automc.search import registered
from automc.study import Study
from automc.study import stored as studies
from automc.study.space import StrategySpace
from automc.study.spec import StudySpec
from kg.errors import NotInGraph
from kg.schema import Strategy


@pytest.mark.slow
@pytest.mark.parametrize("searcher", [name for name in registered() if name != "progressive"])
def test_stopped_and_resumed_with_other_workers_equals_never_stopping(full_home, searcher):
    """As test_loop does with the progressive search."""
    reference = run(create(full_home, "10steps", workers=1, searcher=searcher)).trials
    # The cache would hide an execution: the second study starts with an empty one.
    (full_home / "cache").rename(full_home / "old-cache")
    study = create(full_home, "10steps", workers=3, searcher=searcher)
    for after in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            run(study, Interrupt(after))
        study = Study.open(study.spec.id, workers=2)
    workers: list[Inline] = []
    result = run(study, workers=workers)
    assert same(result.trials) == same(reference)
    assert len(workers[0].executed) == 4


@pytest.mark.slow
def test_one_method_only_is_searched_and_recorded(full_home, monkeypatch):
    monkeypatch.setattr(knowledge, "ablated", partial(knowledge.ablated, epochs=2))
    study = create_fully(full_home, "5steps", only=("NS",), searcher="reinforce", gamma=0.2)
    result = run(study)
    assert len(result.trials) == 5
    assert {step.method for t in result.trials for step in t.scheme.steps} == {"NS"}
    record = studies.load_record(study.spec.id)
    assert (record["searcher"], record["ablations"]) == ("reinforce", "no own experience, only NS")
    again = StudySpec.from_dict(record["spec"])
    assert again == study.spec
    assert again.only == ("NS",)
    assert len(Study.open(study.spec.id).vectors.strategies) == 50


def test_a_method_that_cannot_run_is_refused_before_anything_slow(full_home):
    with pytest.raises(MethodError, match="Psychic"):
        create_fully(full_home, only=("NS", "Psychic"))


@pytest.mark.slow
def test_ablated_vectors_are_kept_apart(full_home):
    before = knowledge.status()["embedding_run"]
    whole = knowledge.vectors()
    links = knowledge.ablated(use_experience=False, only=["NS"], epochs=1)
    experience = knowledge.ablated(use_graph=False, epochs=1)
    nothing = knowledge.ablated(use_graph=False, use_experience=False, epochs=1)
    assert [len(v.losses.get("graph", ())) for v in (links, experience, nothing)] == [1, 0, 0]
    assert [len(v.losses.get("experience", ())) for v in (links, experience, nothing)] == [0, 1, 0]
    assert experience.strategies == whole.strategies
    assert {Strategy.parse(s).method for s in links.strategies} == {"NS"}
    files = sorted(path.name for path in (full_home / "vectors" / "ablated").iterdir())
    assert len(files) == 3
    # Learned once, never continued from, never in the graph.
    times = [path.stat().st_mtime_ns for path in (full_home / "vectors" / "ablated").iterdir()]
    assert (knowledge.ablated(use_graph=False, epochs=1).vectors == experience.vectors).all()
    assert times == [path.stat().st_mtime_ns for path in (full_home / "vectors" / "ablated").iterdir()]
    assert knowledge.status()["embedding_run"] == before
    assert (knowledge.vectors().vectors == whole.vectors).all()
    with pytest.raises(NotInGraph, match="Psychic"):
        knowledge.ablated(only=["Psychic"], epochs=1)


def test_without_experience_a_search_has_no_first_guess(full_home):
    study = create(full_home)
    recipe, task, n = study.spec.recipe, study.subject.task(), study.subject.splits.train.n
    told = StrategySpace(study.vectors, task, {}, recipe, n).space
    assert told.slope.shape == (len(told.methods),)
    assert (told.slope > 0).all()
    bare = knowledge.ablated(use_experience=False, only=["SFP"], epochs=1)
    space = StrategySpace(bare, task, {}, recipe, n).space
    assert space.slope is None
    assert {Strategy.parse(s).method for s in space.strategies} == {"SFP"}


def test_ablations_are_named(full_home):
    spec = create(full_home).spec
    assert spec.ablations == ("no own experience",)
    assert replace(spec, own_experience=True).ablations == ()
    everything = replace(spec, use_graph=False, use_experience=False, only=("NS", "SFP"))
    assert everything.ablations == ("no graph", "no experience", "no own experience", "only NS", "only SFP")
