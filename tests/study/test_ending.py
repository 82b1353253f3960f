"""What follows a search, on a real network: finalists' runs, the saved model, its recovery; also when stopped.

The trials are those of the home's study, out of its cache.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from study_tools import create, run

from automc import api
from automc.models import structure
from automc.study import Budget, Listener, Study, race
from automc.study import stored as studies
from automc.study.ending import Ending
from automc.study.place import folder


class Sayings(Listener):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class StopsIn(Sayings):
    """Presses Ctrl-C as soon as some long work goes on."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def progress(self, what: str, done: int, of: int) -> None:
        if what.startswith(self.what):
            raise KeyboardInterrupt


def ended(study: Study) -> dict[str, Any]:
    return studies.load_record(study.spec.id)


def test_finalists_are_run_again_and_the_best_is_saved_and_trains_on(searched, automc_home):
    study, listener = create(automc_home, "6steps", final=True, recover="3epochs"), Sayings()
    result = run(study, listener)
    record = ended(study)
    runs = record["finals"]
    assert 1 <= len(runs) <= 6
    # Half as many steps as the search has executed, but for a first run that is longer.
    steps = [key.count("->") + 1 for key in runs]
    assert sum(steps) <= max(3, steps[0])
    chosen = result.recommendation
    assert f"1 {chosen.trial.scheme.id}" in runs
    assert "mean validation accuracy" in chosen.why
    assert (record["recommended"], record["why"]) == (chosen.trial.scheme.id, chosen.why)

    final = result.final
    assert final["recovered"]
    assert final["recovery"]["before"] <= final["accuracy"]
    loaded = structure.read(result.model)
    assert loaded.metadata["run_seed"] != study.spec.run_seed
    measured = api.measure(str(result.model), "digits", device="cpu")
    assert measured.accuracy == pytest.approx(final["accuracy"])
    assert measured.test_accuracy == pytest.approx(final["test_accuracy"])
    assert any("It trains on" in said for said in listener.said)
    # What is said first is of the model that trained on.
    assert result.headline.validation.value == final["accuracy"]

    # Nothing is done twice.
    before = result.model.stat().st_mtime_ns
    again = Sayings()
    assert run(Study.open(study.spec.id), again).final == json.loads(json.dumps(final))
    assert result.model.stat().st_mtime_ns == before
    assert not [said for said in again.said if said.startswith(("Final run", "Saved"))]


def test_a_stop_in_a_final_run_or_in_the_recovery_loses_only_that(searched, automc_home):
    study = create(automc_home, "6steps", final=True, recover="3epochs")
    with pytest.raises(KeyboardInterrupt):
        run(study, StopsIn("final run 1"))
    record = ended(study)
    assert record["status"] == "interrupted"
    assert "final" not in record
    with pytest.raises(KeyboardInterrupt):
        run(Study.open(study.spec.id), StopsIn("recovery"))
    # The model that did not recover is saved, and can be used.
    record, file = ended(study), folder(study.spec.id) / "final.am"
    saved = api.measure(str(file), "digits", device="cpu")
    assert not record["final"]["recovered"]
    assert saved.accuracy == pytest.approx(record["final"]["accuracy"])
    runs = sorted(file.parent.joinpath("finals").iterdir())
    times = [path.stat().st_mtime_ns for path in runs]

    listener = Sayings()
    result = run(Study.open(study.spec.id), listener)
    assert [path.stat().st_mtime_ns for path in runs] == times
    assert not [said for said in listener.said if said.startswith("Final run")]
    assert result.final["recovered"]
    assert result.final["recovery"]["before"] == pytest.approx(saved.accuracy)
    assert ended(study)["status"] == "done"


def test_without_a_final_run_the_trials_own_model_is_saved_and_can_recover(searched, automc_home):
    study = create(automc_home, "4steps", final=False, recover="2epochs")
    result = run(study)
    assert "finals" not in ended(study)
    assert result.final["recovery"]["before"] == pytest.approx(result.recommendation.trial.accuracy)


def test_finalists_of_different_kinds_race_and_the_winner_trains_on(searched, automc_home, monkeypatch):
    study = create(automc_home, "6steps", final=False, recover="none")
    run(study)
    monkeypatch.setattr(race, "SHORTEST", 0.0)
    monkeypatch.setattr(race, "NEAR", 1.0)
    spec = replace(study.spec, recover="auto", final=True, budget=Budget.parse("3s"))
    trials, record, listener = studies.load_trials(study.spec.id), dict[str, Any](), Sayings()

    def end(heard: Listener) -> Any:
        given = (spec, study.setup, study.subject, study.protocol, None, record, lambda **new: record.update(new))
        return Ending(*given, heard, 0.0).of(trials)

    final = end(listener)
    told = [said for said in listener.said if said.startswith("Race: trial")]
    kinds = {frozenset(s.method for s in t.scheme.steps) for t in trials if study.protocol.feasible(t)}
    assert len(kinds) > 1
    counts = [count for count, _, _ in race.legs(min(len(kinds), race.MOST))]
    assert counts[0] <= len(told) <= sum(counts)
    assert "finalists of different kinds" in final["why"]
    assert 0 < final["place"] < 1
    assert final["recovered"]
    assert api.measure(str(final["path"]), "digits", device="cpu").accuracy == pytest.approx(final["accuracy"])
    # Resumed, it does not run again.
    again = Sayings()
    assert end(again) == final
    assert not [said for said in again.said if said.startswith(("Race", "Saved"))]
    # Killed after a leg's model was written and before it was noted, that leg alone runs again, from where it began.
    files = sorted(path for path in (folder(study.spec.id) / "finals").iterdir() if "-race-" in path.name)
    times = {path: path.stat().st_mtime_ns for path in files}
    del record["final"], record["race"][list(record["race"])[-1]]
    killed = Sayings()
    end(killed)
    assert len([said for said in killed.said if said.startswith("Race: trial")]) == 1
    (changed,) = (path for path, was in times.items() if path.stat().st_mtime_ns != was)
    assert changed.name.endswith(f"race-{final['place']:g}.am")


def test_where_the_time_allows_no_comparison_the_trials_own_model_is_what_trains_on(searched, automc_home):
    study = create(automc_home, "3steps", final=True, recover="auto")
    with pytest.raises(KeyboardInterrupt):
        run(study, StopsIn("final run 1"))
    listener = Sayings()
    result = run(Study.open(study.spec.id, budget=Budget.parse("1s")), listener)
    assert "finals" not in ended(study)
    assert not [said for said in listener.said if said.startswith("Final run")]
    chosen = result.recommendation
    assert chosen.why == "the most accurate scheme that removes at least 30% of the parameters"
    assert result.final["accuracy"] == pytest.approx(chosen.trial.accuracy)
