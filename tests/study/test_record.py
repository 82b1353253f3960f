"""What a study leaves in the graph and on disk: experience, figures, models, and nothing where it is refused."""

from __future__ import annotations

import re
import resource
from typing import ClassVar

import pytest
from study_tools import counts, create, create_fully, in_process, run, same, stored
from typer.testing import CliRunner

from automc import knowledge
from automc.cli.main import app
from automc.errors import EnvironmentFault, StudyError
from automc.report.layers import layers
from automc.study import Listener, Study
from automc.study import stored as studies
from automc.study.limits import Limit
from automc.study.outline import Outline
from automc.study.protocol import settled
from automc.study.trial import Trial
from kg.schema import Scheme
from kg.sync import read_experience


def test_second_study_is_all_cached_and_charged_the_recorded_cost(searched, automc_home):
    first = stored(searched)
    assert not any(t.cached for t in first)
    second = create(automc_home, "6steps")
    assert second.spec.id != searched
    again = run(second).trials
    assert all(t.cached for t in again)
    assert same(again) == same(first)
    assert [t.seconds for t in again] == [t.seconds for t in first]
    # Two workers share the cost, which the clock does not show.
    assert studies.load_record(second.spec.id)["elapsed_seconds"] > sum(t.seconds for t in first) / 2

    # The same steps on the same task are the same experience: each counts once.
    ours = [e for e in trial_experience() if e.source in (searched, second.spec.id)]
    assert len(ours) == len(first)


def test_the_best_of_a_study_is_read_without_the_rest(searched):
    trials = stored(searched)
    record, protocol, best, outline = studies.load_best(searched)
    assert record == studies.load_record(searched)
    assert outline.columns == studies.load_outline(searched).columns == Outline.of(trials).columns
    assert same(protocol.front(best)) == same(protocol.front(trials))
    assert record["final"]["scheme"] in {t.scheme.id for t in best}
    assert settled(record, protocol, best, len(outline)) == settled(record, protocol, trials)
    assert studies.load_some(searched, [2], trials[4].scheme, Scheme()) == [trials[1], trials[4]]


def trial_experience():
    with knowledge.graph() as store:
        return [e for e in read_experience(store) if e.origin == "trial"]


def test_experience_is_written_once_and_read_by_the_next_learning(searched, automc_home, prepared_home, monkeypatch):
    monkeypatch.setenv("AUTOMC_HOME", str(prepared_home))
    before = knowledge.learnable()
    monkeypatch.setenv("AUTOMC_HOME", str(automc_home))
    study = Study.open(searched)
    trials = stored(searched)
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


def test_nothing_can_work_is_said_and_loses_nothing(full_home):
    before = counts()
    with pytest.raises(StudyError, match="at most 0 of the parameters can go") as told:
        create_fully(full_home, keep_shape=("*",))
    for method in ("LMA", "LeGR", "NS", "SFP", "HOS", "LFB"):
        assert f"{method} 0%" in str(told.value)
    # Why, by method: said once where it is the same.
    assert " LFB: no convolution or linear layer of this model gets smaller by factoring." in str(told.value)
    assert re.search(r" (SFP|NS|LeGR)(, (SFP|NS|LeGR)){2}: no channels of this model can be removed: ", str(told.value))
    assert " LMA: the model has no activation " in str(told.value)
    assert "[HP" not in str(told.value)
    assert counts() == before


def test_what_no_method_can_work_on_is_told_by_a_study_that_was_begun(full_home):
    """Of a time when nobody asked before."""
    study = create(full_home, methods=("NS", "LFB"), keep_shape=("*",))
    with pytest.raises(StudyError, match="No method can work on this model") as told:
        run(study)
    for reason in ("NS", "LFB", "no channels of this model can be removed", "gets smaller by factoring"):
        assert reason in str(told.value)
    assert stored(study) == []


def test_unmet_target_keeps_its_trials(full_home):
    study = create(full_home, "1step", limits=(Limit("latency_ms", 1e-6),))
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


def test_recommended_scheme_is_run_once_more_saved_and_tested(searched, automc_home):
    study = create(automc_home, "6steps", final=True)
    result = run(study)
    assert result.model is not None
    from automc import api

    measured = api.measure(str(result.model), "digits", device="cpu")
    assert measured.params == result.final["params"]
    assert 1 - measured.params / result.base.params >= 0.3 - 1e-4
    assert measured.test_accuracy == pytest.approx(result.final["test_accuracy"])
    assert result.final["scheme"] == result.recommendation.trial.scheme.id
    # Resumed: the final model stands, and is not made again.
    when = result.model.stat().st_mtime_ns
    assert run(Study.open(study.spec.id)).final == result.final
    assert result.model.stat().st_mtime_ns == when


def test_names_are_numbered_and_bad_options_cost_nothing(full_home):
    before = counts()
    for options, said in (
        ({"gamma": 0.9}, r"--gamma must .* it is 0\.9"),
        ({"searcher": "psychic"}, "psychic"),
        ({"max_length": 0}, r"--max-length must .* it is 0"),
        ({"workers": -1}, r"--workers must .* it is -1"),
    ):
        with pytest.raises(StudyError, match=said):
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

    # Smaller than the front in the end: the saved model may have to be made again.
    study = create(full_home, "8steps", gamma=0.04, cache_bytes=700_000)
    result = run(study, Bench())
    assert result.model.is_file()
    bench = study.setup.open()
    assert max(Bench.pinned) > 0, "pinned after the first round, not only at the end"
    assert bench.cache.pinned() == {bench.key(t.scheme) for t in result.front}
    assert bench.cache.status().weights_bytes <= 700_000
    assert any(bench.cache.model_path(bench.key(t.scheme)) for t in result.front)


def test_layers_of_the_model_and_of_every_trial(searched, automc_home):
    account = layers(searched, "1")
    first = stored(searched)[0]
    assert (account["trial"], account["scheme"]) == (1, first.scheme.id)
    left = [one["after"] for one in account["layers"] if one["after"]]
    assert 2 * sum(layer["macs"] for layer in left) == first.flops
    assert sum(one["before"]["params"] for one in account["layers"] if one["before"]) > sum(
        layer["params"] for layer in left
    )
    with pytest.raises(StudyError, match="has not executed 99"):
        layers(searched, "99")
    shown = CliRunner().invoke(app, ["show", searched, "--layers", "1", "--format", "csv"], catch_exceptions=False)
    assert shown.stdout.splitlines()[0].startswith("layer,kind,channels")
    assert len(shown.stdout.splitlines()) == 1 + len(account["layers"])
    assert CliRunner().invoke(app, ["show", searched, "--layers", "99"]).exit_code == 2
    with knowledge.graph() as store:
        store.write("MATCH (l:LayerTable {id: $id}) DETACH DELETE l", {"id": f"{searched}/1"})
    with pytest.raises(StudyError, match=f"No layers are recorded of {searched}/1: it is of before they were recorded"):
        layers(searched, "1")
