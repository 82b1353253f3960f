"""Cards and experience into the graph and out again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kg import studies, sync
from kg.cards import read_cards
from kg.errors import NotInGraph
from kg.experience import read_experience
from kg.resources import migrations_dir
from kg.schema import Experience, Hyperparameter, Method, Paper, Scheme, Strategy, Task, Technique
from kg.store import Changes, GraphStore, connect
from kg.store.migrate import migrate
from kg.sync import SyncReport

FINE_TUNE = Technique("TE3", "fine tune")
SLIM = Method(
    "SLIM", "Slimming", "A. Author, 2017", (Technique("TE4", "scaling factors"), FINE_TUNE),
    (
        Hyperparameter("HP1", "epochs", "multiple", (0.1, 1)),
        Hyperparameter("HP2", "removed", "share", (0.04, 0.12, 0.4)),
    ),
    label="C1", url="https://example.org",
)  # fmt: skip
RANK = Method(
    "RANK", "Low rank", "B. Author, 2019", (FINE_TUNE,),
    (
        Hyperparameter("HP2", "removed here", "share", (0.12, 0.2)),
        Hyperparameter("HP8", "criterion", "category", ("l2_bn", "l1")),
    ),
    label="C2",
)  # fmt: skip
KNOWN = Method("KNOWN", "Only known", "C. Author, 2020", (Technique("TE20", "thinking"),))
METHODS = (SLIM, RANK, KNOWN)

TASK = Task("vgg-cifar10", "cifar10", "vgg16", 10, 32, 3, 50000, 14.7e6, 6.3e8, 0.9366)
BARE = Task("net-digits", "digits", "net")
PAPERS = (Paper("author2017", "Slimming", "https://example.org", 2017), Paper("author2020", "Thinking"))
EXPERIENCE = (
    Experience(
        "r1", Strategy("SLIM", (("HP2", 0.885),)), TASK, "author2017", ar=0.0015, pr=0.885, table="Table 1",
        confidence="verified-two-sources", note="mean of 5", details={"raw": '{"a": 1}', "odd": "json:x"},
    ),
    Experience("r2", Strategy("SLIM", (("HP1", 1), ("HP2", 0.12))), TASK, "author2017", pr=0.12, pr_derived=True),
    Experience("r3", Strategy("KNOWN"), BARE, "author2020", ar=-0.01),
)  # fmt: skip


def changed(report: SyncReport) -> dict[str, Changes]:
    return {name: change for name, change in report.changes.items() if change.changed}


def counts(store: GraphStore) -> dict[str, int]:
    nodes = store.read("MATCH (n) RETURN labels(n)[0] AS name, count(n) AS n").rows
    return {name: n for name, n in nodes if name != "Migration"}


@pytest.fixture
def full(graph: GraphStore) -> GraphStore:
    """A graph with the three methods and their experience."""
    assert sync.sync(graph, METHODS, EXPERIENCE, PAPERS).changed
    return graph


def test_a_second_sync_changes_nothing_and_says_so(full: GraphStore) -> None:
    report = sync.sync(full, METHODS, EXPERIENCE, PAPERS)
    assert not report.changed
    assert changed(report) == {}
    assert report.changes["Strategy"] == Changes(unchanged=12)


def test_what_is_there(full: GraphStore) -> None:
    # SLIM: 2 × 3, RANK: 2 × 2 on the grid; two of experience are not, one of experience is.
    assert len(sync.strategy_ids(full)) == 10
    off = full.read("MATCH (s:Strategy {searchable: false}) RETURN s.id AS id ORDER BY id").column("id")
    assert off == ["KNOWN[]", "SLIM[HP2=0.885]"]
    assert counts(full) == {
        "Strategy": 12, "Method": 3, "Hyperparameter": 3, "Technique": 3, "Setting": 9, "Paper": 2, "Task": 2,
        "Experience": 3,
    }  # fmt: skip
    # The grid of HP2 is the union over methods, in order; a paper's value off the grid is not on it.
    grid = full.read(
        "MATCH (:Hyperparameter {id: 'HP2'})-[:HAS_VALUE]->(s) RETURN s.value AS v, s.ordinal AS o ORDER BY o"
    )
    assert grid.rows == [(0.04, 0), (0.12, 1), (0.2, 2), (0.4, 3)]
    found = full.read(
        "MATCH (p:Paper)<-[:REPORTED_IN]-(e)-[:ON_TASK]->(t) RETURN p.id AS p, e.id AS e, t.id AS t ORDER BY e"
    )
    assert found.rows == [
        ("author2017", "r1", "vgg-cifar10"), ("author2017", "r2", "vgg-cifar10"), ("author2020", "r3", "net-digits"),
    ]  # fmt: skip


def test_triples(full: GraphStore) -> None:
    triples = sync.triples(full)
    assert triples == sync.triples(full)
    assert len(set(triples)) == len(triples)
    by_relation = {r: [(h, t) for h, name, t in triples if name == r] for _, r, _ in triples}
    assert {r: len(pairs) for r, pairs in by_relation.items()} == {
        "OF_METHOD": 10, "HAS_SETTING": 20, "HAS_HYPERPARAMETER": 4, "USES_TECHNIQUE": 4, "HAS_VALUE": 8,
    }  # fmt: skip
    assert ("KNOWN", "TE20") in by_relation["USES_TECHNIQUE"]
    assert by_relation["HAS_SETTING"][:2] == [
        ("RANK[HP2=0.12,HP8=l1]", "HP2=0.12"),
        ("RANK[HP2=0.12,HP8=l1]", "HP8=l1"),
    ]
    more = sync.triples(full, next_value=True)
    assert sorted(set(more) - set(triples)) == [
        ("HP1=0.1", "NEXT_VALUE", "HP1=1"), ("HP2=0.04", "NEXT_VALUE", "HP2=0.12"),
        ("HP2=0.12", "NEXT_VALUE", "HP2=0.2"), ("HP2=0.2", "NEXT_VALUE", "HP2=0.4"),
    ]  # fmt: skip


def test_off_the_default_grid_a_method_keeps_its_card_and_its_strategies_wait_in_it(full: GraphStore) -> None:
    before = sync.triples(full)
    off = replace(SLIM, default_grid=False)
    assert sync.sync(full, (off, RANK, KNOWN), EXPERIENCE, PAPERS).changed
    assert off in sync.read_methods(full)
    after = sync.triples(full)
    gone = {triple for triple in before if triple not in after}
    assert gone == set(sync.grid_triples(off)) - set(sync.grid_triples(RANK))
    assert after == [triple for triple in before if triple not in gone]
    assert not [id for id in sync.strategy_ids(full) if id.startswith("SLIM")]
    assert not sync.sync(full, (off, RANK, KNOWN), EXPERIENCE, PAPERS).changed


def test_methods_and_experience_come_back(full: GraphStore) -> None:
    assert sync.read_methods(full) == METHODS
    back = sync.read_experience(full)
    assert back == EXPERIENCE
    assert [e.details for e in back] == [e.details for e in EXPERIENCE]


def test_an_edit_is_written_and_what_is_gone_is_removed(full: GraphStore) -> None:
    edited = replace(SLIM, title="Network slimming", techniques=(FINE_TUNE,))
    report = sync.sync(full, (edited, RANK), EXPERIENCE[1:2], PAPERS[:1])
    assert changed(report) == {
        "Experience": Changes(removed=2, unchanged=1),
        "Strategy": Changes(removed=2, unchanged=10),
        "Setting": Changes(removed=1, unchanged=8),
        "Method": Changes(updated=1, removed=1, unchanged=1),
        "Technique": Changes(removed=2, unchanged=1),
        "Paper": Changes(removed=1, unchanged=1),
        "Task": Changes(removed=1, unchanged=1),
        "USES_TECHNIQUE": Changes(updated=1, removed=1, unchanged=1),
    }
    assert sync.read_methods(full) == (edited, RANK)
    assert not sync.sync(full, (edited, RANK), EXPERIENCE[1:2], PAPERS[:1]).changed
    assert sync.sync(full, METHODS, EXPERIENCE, PAPERS).changed
    assert sync.read_methods(full) == METHODS


def test_what_a_study_uses_stays_but_is_no_longer_searched(full: GraphStore) -> None:
    used = Strategy("RANK", (("HP2", 0.2), ("HP8", "l1")))
    studies.save_study(full, {"id": "s-1"}, task=BARE)
    studies.save_trial(full, "s-1", {"ordinal": 0, "scheme": Scheme((used,)), "status": "ok"})
    sync.sync(full, (SLIM, KNOWN), EXPERIENCE, PAPERS)
    assert not any(id.startswith("RANK") for id in sync.strategy_ids(full))
    kept = full.read(
        "MATCH (s:Strategy)-[:OF_METHOD]->(m:Method {id: 'RANK'}) "
        "RETURN s.id AS id, s.searchable AS on, m.searchable AS method"
    )
    assert kept.rows == [(used.id, False, False)]
    assert studies.load_trials(full, "s-1")[0]["scheme"] == used.id
    assert not sync.sync(full, (SLIM, KNOWN), EXPERIENCE, PAPERS).changed
    sync.sync(full, METHODS, EXPERIENCE, PAPERS)
    assert used.id in sync.strategy_ids(full)
    assert sync.read_methods(full) == METHODS


def test_studies_do_not_enter_triples_and_outlive_a_sync(full: GraphStore) -> None:
    before = sync.triples(full, next_value=True)
    off = Strategy("SLIM", (("HP1", 1), ("HP2", 0.3333)))
    studies.save_study(full, {"id": "s-1"}, task=replace(BARE, id="own"))
    studies.save_trial(full, "s-1", {"ordinal": 0, "scheme": Scheme((off,)), "status": "ok"})
    own = Experience("trial:1", off, replace(BARE, id="own2"), "s-1", "trial", ar=0.1, pr=0.3, n=2)
    studies.save_trial_experience(full, "s-1", [own])
    assert sync.triples(full, next_value=True) == before
    assert not sync.sync(full, METHODS, EXPERIENCE, PAPERS).changed
    assert sync.read_experience(full) == (*EXPERIENCE, own)


def test_an_unknown_paper_leaves_the_graph_as_it_was(full: GraphStore) -> None:
    before = counts(full)
    lost = Experience("r9", Strategy("SLIM", (("HP2", 0.5),)), BARE, "nowhere2020")
    with pytest.raises(NotInGraph, match="nowhere2020"):
        sync.sync(full, METHODS, (*EXPERIENCE, lost), PAPERS)
    assert counts(full) == before


def test_embeddings_come_back_bit_for_bit_with_their_run(full: GraphStore) -> None:
    assert sync.latest_run(full) is None
    assert sync.read_embeddings(full)[0] == ()
    ids = sync.strategy_ids(full)
    for seed in (1, 2):
        vectors = np.random.default_rng(seed).normal(size=(len(ids), 32)).astype(np.float32)
        run = {"id": f"run-{seed}", "fingerprint": "f", "seed": seed, "losses": [0.5, 0.25]}
        for _ in range(2):
            sync.write_embeddings(full, ids[::-1], vectors[::-1], run)
    found, back = sync.read_embeddings(full)
    assert list(found) == ids
    assert back.tobytes() == vectors.tobytes()
    latest = sync.latest_run(full)
    assert latest is not None
    assert latest.pop("created_at")
    assert latest == run
    assert counts(full)["EmbeddingRun"] == 2
    # A sync leaves them alone.
    assert not sync.sync(full, METHODS, EXPERIENCE, PAPERS).changed
    assert sync.read_embeddings(full)[1].tobytes() == vectors.tobytes()


def test_a_vector_of_nobody_writes_nothing(full: GraphStore) -> None:
    with pytest.raises(NotInGraph, match="SLIM\\[HP1=9\\]"):
        sync.write_embeddings(
            full, [sync.strategy_ids(full)[0], "SLIM[HP1=9]"], np.ones((2, 32), np.float32), {"id": "x"}
        )
    assert sync.latest_run(full) is None
    assert sync.read_embeddings(full)[0] == ()


@pytest.fixture(params=["embedded", pytest.param("neo4j", marks=pytest.mark.neo4j)])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GraphStore]:
    """A store with all cards and experience: embedded that of the home which many tests copy, a server's made here."""
    if request.param == "embedded":
        home = request.getfixturevalue("prepared_home")
        shutil.copytree(home / "graph", tmp_path / "graph")
        with connect(tmp_path) as store:
            yield store
        return
    with connect(tmp_path, request.getfixturevalue("real_neo4j")) as store:
        migrate(store, migrations_dir())
        sync.sync(store, read_cards(), *read_experience())
        yield store


def test_the_whole_graph(whole: GraphStore) -> None:
    """The five relations of the AutoMC paper, section 3.2, on its grid of 4,525 strategies, asked of the store."""
    graph, methods = whole, read_cards()
    experience, papers = read_experience()
    on, papers_own = "(s:Strategy {searchable: true})", "(m:Method {searchable: true}) WHERE m.label <> '' "
    ask = {
        "R1": f"MATCH {on}-[r:OF_METHOD]->{papers_own} RETURN count(r) AS n",
        "R2": f"MATCH (v:Setting)<-[r:HAS_SETTING]-{on}-[:OF_METHOD]->{papers_own} RETURN count(r) AS n",
        "R3": f"MATCH (:Hyperparameter)<-[r:HAS_HYPERPARAMETER]-{papers_own} RETURN count(r) AS n",
        "R4": f"MATCH (:Technique)<-[r:USES_TECHNIQUE]-{papers_own} RETURN count(r) AS n",
        "R5": "MATCH (v:Setting {searchable: true})<-[:HAS_VALUE]-(:Hyperparameter)<-[:HAS_HYPERPARAMETER]-"
        f"{papers_own} RETURN count(DISTINCT v) AS n",
    }
    assert {name: graph.read(text).rows[0][0] for name, text in ask.items()} == {
        "R1": 4525, "R2": 24025, "R3": 26, "R4": 10, "R5": 59,
    }  # fmt: skip
    per_method = graph.read(f"MATCH {on}-[:OF_METHOD]->(m) RETURN m.id AS id, count(s) AS n").rows
    assert dict(per_method) == {"LMA": 1200, "LeGR": 800, "NS": 50, "SFP": 75, "HOS": 2025, "LFB": 375, "TRP": 225}
    assert counts(graph)["Experience"] > 292
    assert sync.read_methods(graph) == methods
    assert sync.read_experience(graph) == tuple(sorted(experience, key=lambda e: e.id))
    assert not sync.sync(graph, methods, experience, papers).changed
