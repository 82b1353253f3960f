"""Studies in the graph: written as often as one likes, read back as they were, removed without a trace."""

from __future__ import annotations

from typing import Any

import pytest

from kg import studies, sync, trial_tables
from kg.errors import NotInGraph, SchemaInvalid
from kg.schema import START, Experience, Hyperparameter, Method, Scheme, Strategy, Task, Technique
from kg.store import GraphStore

METHOD = Method(
    "NS", "Slimming", "A. Author, 2017", (Technique("TE3", "fine tune"),),
    (Hyperparameter("HP1", "epochs", "multiple", (0.1, 0.5)), Hyperparameter("HP2", "removed", "share", (0.04, 0.4))),
)  # fmt: skip
TASK = Task("net-digits", "digits", "net", 10, 8, 1, 1000, 5e4, 1e6, 0.97)
A = Strategy("NS", (("HP1", 0.1), ("HP2", 0.04)))
B = Strategy("NS", (("HP1", 0.5), ("HP2", 0.04)))
OFF = Strategy("NS", (("HP1", 0.1), ("HP2", 0.333)))
RECORD: dict[str, Any] = {
    "id": "net-digits-1", "model": "net", "data": "digits", "gamma": 0.3, "max_length": 5, "seed": 0, "saw": True,
    "spec": '{"text": "json"}', "recipe": {"batch": 128, "lr": 0.01, "steps": [1, 2]}, "odd": "json:[1]",
    "budget": "30m", "base_accuracy": 0.97, "base_params": 50000, "status": "running",
    "started": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


@pytest.fixture
def study(graph: GraphStore) -> GraphStore:
    """A graph with one method and one study."""
    sync.sync(graph, [METHOD], [], [])
    studies.save_study(graph, RECORD, task=TASK)
    return graph


def trial(ordinal: int, *steps: Strategy, **properties: Any) -> dict[str, Any]:
    figures = {"round": 1, "status": "ok", "cached": False, "accuracy": 0.9, "params": 40000, "pr": 0.2, "seconds": 1.5}
    return {"ordinal": ordinal, "scheme": Scheme(steps).id, **figures, **properties}


def everything(store: GraphStore) -> list[tuple[Any, ...]]:
    nodes = store.read("MATCH (n) RETURN labels(n)[0] AS label, n.id AS id ORDER BY label, id").rows
    rels = store.read(
        "MATCH (a)-[r]->(b) RETURN type(r) AS t, a.id AS a, b.id AS b, r.position AS p ORDER BY t, a, b, p"
    ).rows
    return [*nodes, *rels]


def test_a_study_comes_back(study: GraphStore) -> None:
    assert studies.load_study(study, "net-digits-1") == {**RECORD, "task": "net-digits"}


def test_a_name_is_given_once(study: GraphStore) -> None:
    """Also to one who tries again with the same token, not knowing that it has worked."""
    new = {**RECORD, "id": "net-digits-2"}
    assert studies.create_study(study, new, task=TASK, token="mine")
    before = everything(study)
    assert studies.create_study(study, new, task=TASK, token="mine")
    assert not studies.create_study(study, {**new, "gamma": 0.7}, task=TASK, token="theirs")
    assert not studies.create_study(study, RECORD, task=TASK, token="mine")
    assert everything(study) == before
    assert studies.load_study(study, "net-digits-2")["gamma"] == 0.3


def test_some_properties_may_be_written_later(study: GraphStore) -> None:
    for _ in range(2):
        studies.save_study(study, {"id": "net-digits-1", "status": "done", "budget": None})
    expected = {**RECORD, "status": "done", "task": "net-digits"}
    del expected["budget"]
    assert studies.load_study(study, "net-digits-1") == expected


def test_a_list_of_studies_counts_trials(study: GraphStore) -> None:
    studies.save_study(study, {"id": "earlier", "started": "2025-12-31T00:00:00+00:00"})
    studies.save_trial(study, "net-digits-1", trial(0, A))
    studies.save_trial(study, "net-digits-1", trial(1, B, status="crashed", reason="no memory"))
    listed = studies.list_studies(study, counted=True)
    assert [(row["id"], row["trials"]) for row in listed] == [("earlier", 0), ("net-digits-1", 2)]
    assert [row["id"] for row in studies.list_studies(study)] == ["earlier", "net-digits-1"]


def test_an_unknown_study(study: GraphStore) -> None:
    with pytest.raises(NotInGraph, match="nowhere"):
        studies.load_study(study, "nowhere")
    with pytest.raises(NotInGraph, match="nowhere"):
        studies.save_trial(study, "nowhere", trial(0, A))
    with pytest.raises(NotInGraph, match="nowhere"):
        studies.delete_study(study, "nowhere")
    assert studies.load_trials(study, "nowhere") == []


def test_trials_twice_are_the_same_as_once(study: GraphStore) -> None:
    rows = [trial(1, A, B, A), trial(0, A, OFF, reason="", reached=None), trial(10, B)]
    for row in rows:
        studies.save_trial(study, "net-digits-1", row)
    once = everything(study)
    for row in rows:
        studies.save_trial(study, "net-digits-1", row, task=TASK)
    assert everything(study) == once
    back = studies.load_trials(study, "net-digits-1")
    assert [row["ordinal"] for row in back] == [0, 1, 10]
    del rows[1]["reached"]
    assert back == [
        {"id": f"net-digits-1/{row['ordinal']}", **row} for row in sorted(rows, key=lambda row: row["ordinal"])
    ]


def test_trials_together_are_the_same_as_one_by_one(study: GraphStore) -> None:
    rows = [trial(0, A), trial(1, A, OFF), trial(2, A, B, A), trial(3, B, status="crashed")]
    studies.save_trials(study, "net-digits-1", rows, task=TASK)
    together = everything(study)
    for row in rows:
        studies.save_trial(study, "net-digits-1", row, task=TASK)
    assert everything(study) == together
    with pytest.raises(SchemaInvalid, match="net-digits-1/5 repeats the scheme of net-digits-1/4"):
        studies.save_trials(study, "net-digits-1", [trial(4, B, A), trial(5, B, A)])
    assert everything(study) == together


def test_figures_are_read_without_the_rest(study: GraphStore) -> None:
    for row in (trial(1, A), trial(2, B, accuracy=None, status="crashed"), trial(3, A, B, pr=0.25)):
        studies.save_trial(study, "net-digits-1", row)
    assert trial_tables.read(study, "net-digits-1", ("accuracy", "pr", "latency_ms")) == {
        "ordinal": [1, 2, 3], "accuracy": [0.9, None, 0.9], "pr": [0.2, 0.2, 0.25], "latency_ms": [None] * 3,
    }  # fmt: skip
    assert studies.ordinals_of(study, "net-digits-1", [Scheme((A, B))]) == [3]
    assert studies.ordinals_of(study, "net-digits-1", [Scheme((B, A))]) == []
    only = studies.load_trials(study, "net-digits-1", only=[3, 1])
    assert only == [t for t in studies.load_trials(study, "net-digits-1") if t["ordinal"] != 2]


def test_steps_and_parents_tell_the_same_scheme(study: GraphStore) -> None:
    schemes = [Scheme((A, B, A)), Scheme((A, OFF)), Scheme((B,))]
    for ordinal, scheme in enumerate(schemes):
        studies.save_trial(study, "net-digits-1", trial(ordinal, *scheme.steps))
    steps: dict[str, list[str]] = {START: []}
    for scheme, _, strategy in study.read(
        "MATCH (s:Scheme)-[r:STEP]->(t:Strategy) RETURN s.id AS s, r.position AS p, t.id AS t ORDER BY s, p"
    ).rows:
        steps.setdefault(scheme, []).append(strategy)
    parents = dict(study.read("MATCH (s:Scheme)-[:EXTENDS]->(p:Scheme) RETURN s.id AS s, p.id AS p").rows)
    assert set(steps) == {Scheme(s.steps[:n]).id for s in schemes for n in range(len(s) + 1)}
    for id, strategies in steps.items():
        assert Scheme.parse(id).steps == tuple(map(Strategy.parse, strategies))
        chain, at = [], id
        while at != START:
            chain.append(steps[at][-1])
            at = parents[at]
        assert chain[::-1] == strategies
    assert START not in parents


def test_a_strategy_off_the_grid_is_in_the_graph_but_not_searched(study: GraphStore) -> None:
    before = sync.strategy_ids(study)
    studies.save_trial(study, "net-digits-1", trial(0, OFF))
    assert sync.strategy_ids(study) == before
    found = study.read(
        "MATCH (m:Method)<-[:OF_METHOD]-(s:Strategy {id: $id})-[:HAS_SETTING]->(v) "
        "RETURN s.searchable AS on, m.id AS m, v.id AS v ORDER BY v",
        {"id": OFF.id},
    )
    assert found.rows == [(False, "NS", "HP1=0.1"), (False, "NS", "HP2=0.333")]


LAYERS = {"name": ["a", "a.0"], "params": [10, 20], "reads": ["", "0 3"], "edge_from": [], "missing": ""}


def test_layers_come_back_and_go_with_their_study(study: GraphStore) -> None:
    studies.delete_study(study, "net-digits-1")
    clean = everything(study)
    assert studies.create_study(study, RECORD, task=TASK, token="t", layers=LAYERS)
    for _ in range(2):
        studies.save_trial(study, "net-digits-1", trial(1, A), layers={**LAYERS, "params": [5, 20]})
        studies.save_trial(study, "net-digits-1", trial(1, A, seconds=3.0))
    studies.save_trial(study, "net-digits-1", trial(2, B))
    assert studies.load_layers(study, "net-digits-1") == LAYERS
    assert studies.load_layers(study, "net-digits-1/1") == {**LAYERS, "params": [5, 20]}
    assert studies.load_layers(study, "net-digits-1/2") is None
    assert study.read("MATCH (l:LayerTable) RETURN count(l) AS n").rows == [(2,)]
    assert "reads" not in studies.load_trials(study, "net-digits-1")[0]
    studies.delete_study(study, "net-digits-1")
    studies.save_study(study, {"id": "x"})
    study.write("MATCH (s:Study {id: 'x'}) DETACH DELETE s")
    assert everything(study) == clean


def test_a_trial_hangs_together(study: GraphStore) -> None:
    studies.save_trial(study, "net-digits-1", trial(3, A))
    found = study.read(
        "MATCH (k:Task)<-[:ON_TASK]-(t:Trial)-[:IN_STUDY]->(s:Study), (t)-[:OF_SCHEME]->(c:Scheme) "
        "RETURN t.id AS t, k.id AS k, s.id AS s, c.id AS c"
    )
    assert found.rows == [("net-digits-1/3", "net-digits", "net-digits-1", A.id)]


@pytest.mark.parametrize(
    ("row", "error", "said"),
    [
        (trial(1, A), SchemaInvalid, "repeats the scheme of net-digits-1/0"),
        (trial(1, B, status="lost"), SchemaInvalid, "'lost' is not a status"),
        (trial(1, A, Strategy("Nobody", (("HP2", 0.1),))), NotInGraph, "Nobody"),
    ],
)
def test_a_bad_trial_leaves_nothing(study: GraphStore, row: dict[str, Any], error: type[Exception], said: str) -> None:
    studies.save_trial(study, "net-digits-1", trial(0, A))
    before = everything(study)
    with pytest.raises(error, match=said):
        studies.save_trial(study, "net-digits-1", row)
    assert everything(study) == before


def experience(study: str, id: str = "trial:x", ar: float = -0.01) -> Experience:
    task = Task("net-digits-2", "digits", "net", params=4e4)
    return Experience(
        id, OFF, task, study, "trial", ar=ar, pr=0.2, fr=0.1, confidence="measured", details={"epochs": "10"}
    )


def test_experience_of_a_trial(study: GraphStore) -> None:
    for _ in range(2):
        studies.save_trial_experience(study, "net-digits-1", [experience("net-digits-1")])
    assert sync.read_experience(study) == (experience("net-digits-1"),)
    found = study.read("MATCH (e:Experience)-[:OBSERVED_IN]->(s:Study) RETURN e.id AS e, s.id AS s").rows
    assert found == [("trial:x", "net-digits-1")]


def test_a_deleted_study_leaves_no_trace(study: GraphStore) -> None:
    studies.delete_study(study, "net-digits-1")
    clean = everything(study)
    studies.save_study(study, RECORD, task=TASK)
    for ordinal, scheme in enumerate([(A, B, A), (A, OFF), (B,)]):
        studies.save_trial(study, "net-digits-1", trial(ordinal, *scheme))
    studies.save_trial_experience(study, "net-digits-1", [experience("net-digits-1")])
    studies.delete_study(study, "net-digits-1")
    assert everything(study) == clean


def test_a_replay_twice_is_once_and_outlives_its_study(study: GraphStore) -> None:
    studies.save_trial(study, "net-digits-1", trial(1, A))
    studies.save_trial(study, "net-digits-1", trial(2, A, OFF))
    other = Task("other-digits", "digits", "other", params=9e4)
    row = {"id": "replay:x", "scheme": Scheme((A, OFF)).id, "accuracy": 0.9, "forecast_pr": None, "steps": [{"a": 1}]}
    for _ in range(2):
        studies.save_replay(study, row, task=other, trial="net-digits-1/2")
    del row["forecast_pr"]
    assert studies.load_replays(study) == [{**row, "trial": "net-digits-1/2"}]
    before = everything(study)
    for bad, trial_id, missing in (
        (row, "net-digits-1/9", "net-digits-1/9"),
        ({**row, "id": "replay:y", "scheme": "Nobody[HP2=0.1]"}, None, "Nobody"),
    ):
        with pytest.raises(NotInGraph, match=missing):
            studies.save_replay(study, bad, task=other, trial=trial_id)
        assert everything(study) == before
    studies.delete_study(study, "net-digits-1")
    assert studies.load_replays(study) == [{**row, "trial": None}]
    found = study.read("MATCH (c:Scheme)-[:STEP]->(s:Strategy) RETURN c.id AS c, s.id AS s ORDER BY c, s").rows
    assert found == [(A.id, A.id), *((Scheme((A, OFF)).id, s.id) for s in (A, OFF))]


def test_deleting_leaves_alone_what_another_study_uses(study: GraphStore) -> None:
    def other() -> None:
        studies.save_study(study, {"id": "other-1"}, task=TASK)
        studies.save_trial(study, "other-1", trial(0, A, OFF))
        studies.save_trial_experience(study, "other-1", [experience("other-1")])

    studies.delete_study(study, "net-digits-1")
    other()
    alone = everything(study)
    studies.delete_study(study, "other-1")
    studies.save_study(study, RECORD, task=TASK)
    for ordinal, scheme in enumerate([(A,), (A, OFF), (A, OFF, B), (B,)]):
        studies.save_trial(study, "net-digits-1", trial(ordinal, *scheme))
    studies.save_trial_experience(
        study, "net-digits-1", [experience("net-digits-1"), experience("net-digits-1", "trial:y")]
    )
    other()
    # The first to observe it keeps it, until it is deleted.
    assert [e.source for e in sync.read_experience(study)] == ["net-digits-1", "net-digits-1"]
    studies.delete_study(study, "net-digits-1")
    assert everything(study) == alone
    assert [(e.id, e.source) for e in sync.read_experience(study)] == [("trial:x", "other-1")]
    assert [row["scheme"] for row in studies.load_trials(study, "other-1")] == [Scheme((A, OFF)).id]


def fill(store: GraphStore, trials: int = 7) -> None:
    """A study with schemes that begin alike, in an order in which a page's schemes extend those of another."""
    schemes = [(A,), (A, OFF), (A, OFF, B), (B,), (B, A), (B, A, A), (B, A, A, OFF)][:trials]
    for ordinal, scheme in enumerate(schemes, 1):
        studies.save_trial(store, "net-digits-1", trial(ordinal, *scheme))
    taught = [experience("net-digits-1", f"trial:{i}") for i in range(5)]
    studies.save_trial_experience(store, "net-digits-1", taught)


def test_long_work_goes_in_pages(study: GraphStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "PAGE", 2)
    studies.delete_study(study, "net-digits-1")
    clean = everything(study)
    studies.save_study(study, RECORD, task=TASK)
    fill(study)
    assert [row["ordinal"] for row in studies.load_trials(study, "net-digits-1")] == list(range(1, 8))
    deleted: list[int] = []
    write = study.write

    def counted(query: str, *args: Any, **options: Any) -> Any:
        table = write(query, *args, **options)
        deleted.append(table.counters.get("nodes_deleted", 0))
        return table

    monkeypatch.setattr(study, "write", counted)
    studies.delete_study(study, "net-digits-1")
    assert everything(study) == clean
    # Seven trials, five experiences and their nodes: never more than a page's at a time.
    assert sum(deleted) > 12
    assert max(deleted) <= 2


def test_a_deletion_that_was_cut_short_is_gone_on_with(study: GraphStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "PAGE", 2)
    studies.delete_study(study, "net-digits-1")
    clean = everything(study)
    for stop in (1, 4, 7):
        studies.save_study(study, RECORD, task=TASK)
        fill(study)
        done: list[int] = []

        def cut(work: Any, at: int = stop, done: list[int] = done) -> Any:
            done.append(1)
            if len(done) == at:
                raise KeyboardInterrupt
            return GraphStore.atomically(study, work)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
            patch.setattr(study, "atomically", cut)
            studies.delete_study(study, "net-digits-1")
        assert studies.load_study(study, "net-digits-1")["status"] == studies.DELETING
        studies.delete_study(study, "net-digits-1")
        assert everything(study) == clean


def test_a_scheme_is_measured_once_at_each_level(study: GraphStore) -> None:
    """The scheme is one node, whatever the level; the trial says it."""
    for ordinal, level in enumerate((0, 1, 2)):
        studies.save_trial(study, "net-digits-1", trial(ordinal, A) | {"scheme": Scheme((A, B), level)})
    with pytest.raises(SchemaInvalid, match="net-digits-1/9 repeats the scheme of net-digits-1/1"):
        studies.save_trial(study, "net-digits-1", trial(9, A) | {"scheme": Scheme((A, B), 1).id})
    rows = study.read(
        "MATCH (t:Trial)-[:OF_SCHEME]->(s) RETURN t.ordinal AS o, t.level AS level, s.id AS scheme ORDER BY o"
    ).rows
    assert rows == [(n, n, Scheme((A, B)).id) for n in range(3)]
    again = studies.load_trials(study, "net-digits-1")
    assert [Scheme.parse(row["scheme"]) for row in again] == [Scheme((A, B), level) for level in range(3)]


def test_levels_of_a_scheme() -> None:
    scheme = Scheme((A, B), 3)
    assert scheme.beginnings == (Scheme((A,), 1), Scheme((A, B), 1), Scheme((A, B), 2), scheme)
    assert [s.before for s in scheme.beginnings] == [Scheme(), *scheme.beginnings[:-1]]
    assert scheme.parent == Scheme((A,), 1)
    assert Scheme((A,), 2).parent == Scheme()
    assert Scheme.parse(scheme.id) == scheme
    assert scheme.id == f"{Scheme((A, B)).id} @3/3"
    assert Scheme.parse(f"{A.id}\n{B.id} @1/3\n") == Scheme((A, B), 1)
    assert scheme.full.beginnings == (Scheme((A,)), Scheme((A, B)))
    with pytest.raises(SchemaInvalid, match="line 1"):
        Scheme.parse(f"{A.id} @4/3")
