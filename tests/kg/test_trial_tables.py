"""The columns of a study's trials say what its trials say, whenever they are read, and whoever wrote meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from kg import fresh, studies, sync, trial_tables
from kg.schema import Hyperparameter, Method, Scheme, Strategy, Task
from kg.store import GraphStore

METHOD = Method("NS", "Slimming", "A. Author, 2017", (), (Hyperparameter("HP2", "removed", "share", (0.04, 0.4)),))
TASK = Task("net-digits", "digits", "net")
STUDY = "net-digits-1"
NAMES = ("accuracy", "status", "latency_ms")


@pytest.fixture
def study(graph: GraphStore, monkeypatch: pytest.MonkeyPatch) -> GraphStore:
    monkeypatch.setattr(trial_tables, "PAGE", 3)
    sync.sync(graph, [METHOD], [], [])
    studies.save_study(graph, {"id": STUDY}, task=TASK)
    return graph


def rows(ordinals: Iterable[int]) -> list[dict[str, Any]]:
    """A trial for each ordinal; every fourth has failed."""
    good, bad = {"status": "ok", "accuracy": 0.5}, {"status": "crashed", "accuracy": None}
    scheme = [Scheme((Strategy("NS", (("HP2", n / 100),)),)) for n in range(100)]
    return [{"ordinal": n, "scheme": scheme[n], "seconds": n / 2} | (bad if n % 4 == 3 else good) for n in ordinals]


def recounted(store: GraphStore, *names: str) -> dict[str, list[Any]]:
    trials = studies.load_trials(store, STUDY)
    return {name: [row.get(name) for row in trials] for name in ("ordinal", *names)}


def tables(store: GraphStore) -> list[int]:
    return sorted(store.read("MATCH (:Study)-[:HAS_TRIALS]->(p:TrialTable) RETURN p.number AS n").column("n"))


def test_columns_are_those_of_the_trials_at_any_time(study: GraphStore) -> None:
    """They come one by one, several together, out of order, with gaps, again, and changed."""
    steps = [[1], [2, 3], [5, 4], [6, 7, 8], [12], [10], [9], [11], [20], [10, 14], [15, 22], [1], [31]]
    for step in steps:
        studies.save_trials(study, STUDY, rows(step))
        assert trial_tables.read(study, STUDY, NAMES) == recounted(study, *NAMES)
        last = max(studies.load_trials(study, STUDY)[-1]["ordinal"], 0)
        assert tables(study) == list(range(last // 3 - 1))
    studies.save_trial(study, STUDY, rows([10])[0] | {"accuracy": 0.75, "latency_ms": 2.5})
    found = trial_tables.read(study, STUDY, NAMES)
    assert found == recounted(study, *NAMES)
    assert found["latency_ms"][found["ordinal"].index(10)] == 2.5
    # What a table lacks is read from the trials.
    assert trial_tables.read(study, STUDY, ["cached", "step_ar"]) == recounted(study, "cached", "step_ar")
    studies.delete_study(study, STUDY)
    assert tables(study) == []
    assert trial_tables.read(study, STUDY, NAMES) == {name: [] for name in ("ordinal", *NAMES)}


def test_a_transaction_that_fails_leaves_no_table(study: GraphStore) -> None:
    studies.save_trials(study, STUDY, rows(range(1, 9)))
    before = tables(study)

    def work() -> None:
        studies.save_trials(study, STUDY, rows(range(9, 20)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.atomically(work)
    assert tables(study) == before
    assert trial_tables.read(study, STUDY, NAMES) == recounted(study, *NAMES)


def test_tables_that_are_missing_are_made(study: GraphStore) -> None:
    """As in a graph of before there were any, or after somebody wrote to it by hand."""
    studies.save_study(study, {"id": "short"}, task=TASK)
    studies.save_trial(study, "short", rows([1])[0])
    studies.save_trials(study, STUDY, rows(range(1, 24)))
    whole, there = trial_tables.read(study, STUDY, NAMES), tables(study)
    assert len(there) == 6
    fresh.forget(study)
    assert tables(study) == []
    assert trial_tables.read(study, STUDY, NAMES) == whole
    assert trial_tables.build(study) == 6
    assert trial_tables.build(study) == 0
    assert tables(study) == there
    study.write("MATCH (p:TrialTable) WHERE p.number IN [1, 3] DETACH DELETE p")
    study.write("MATCH (p:TrialTable {number: 4}) REMOVE p.accuracy")
    assert trial_tables.read(study, STUDY, NAMES) == whole
    fresh.forget(study)
    studies.save_trials(study, STUDY, rows([24]))
    assert tables(study) == [*there, 6]
    assert trial_tables.read(study, STUDY, NAMES) == recounted(study, *NAMES)
