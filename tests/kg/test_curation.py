"""Added knowledge: contradictions, merging, CSV rows, the template, differences, and documents kept in the graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kg import studies, sync
from kg.cards import Card, read_cards
from kg.curation import additions
from kg.curation.changes import Change, compare, facts, since, snapshot
from kg.curation.contradictions import contradictions
from kg.curation.documents import Source, read_document, write_document
from kg.curation.sharing import study_document
from kg.curation.template import QUESTIONS, fill
from kg.errors import CardInvalid, ExperienceInvalid, NothingChanges, NotInGraph
from kg.experience import packaged_experience, read_experience
from kg.experience_file import ExperienceFile
from kg.rows import read_rows
from kg.schema import Experience, Hyperparameter, Method, Paper, Scheme, Strategy, Task, Technique
from kg.store import GraphStore

TASK = Task("t", "cifar10", "resnet20", 10, 32, 3, 50000, 270_000, 81_000_000, 0.9)
GRID = Method(
    "GRID", "With a grid", "A. Author", (Technique("TE1", "pruning"),),
    (Hyperparameter("HP1", "epochs", "multiple", (0.1, 0.5)), Hyperparameter("HP2", "removed", "share", (0.1, 0.3))),
)  # fmt: skip
CARD = Method("CARD", "Only a card", "B. Author", (Technique("TE1", "pruning"),))
METHODS = {"GRID": GRID, "CARD": CARD}
WHO = additions.Provenance("me", "mine.yaml", "2026-01-02T03:04:05+00:00")

TEXT = """
format: 1
paper: {id: me2026_mine, title: Mine, url: https://example.org, year: 2026}
entered_by: me
tasks:
- id: mine_task
  dataset: {name: cifar10, classes: 10, image_size: 32, channels: 3, images: 50000}
  model: ResNet-20
  params: {value: 270, unit: k}
  top1_percent: 90.0
  source: Table 1
records:  # a comment that must survive
- {id: mine_001, method: NS, settings: {HP1: 0.5}, task: mine_task, top1_percent: 88.2,
   params: {value: 135, unit: k}, table: Table 1, source: the paper, confidence: verified-one-source}
"""


def record(id: str, method: str = "GRID", ar: float = -0.01, **fields: Any) -> Experience:
    settings = fields.pop("settings", (("HP1", 0.1), ("HP2", 0.3)) if method == "GRID" else ())
    return Experience(id, Strategy(method, settings), TASK, "p", **{"ar": ar, "pr": 0.3, "table": "Table 1", **fields})


def file(text: str = TEXT) -> ExperienceFile:
    return read_document(Source("mine", text), ExperienceFile, ExperienceInvalid)


def edited(change: Any) -> ExperienceFile:
    content = yaml.safe_load(TEXT)
    change(content)
    return file(yaml.safe_dump(content))


# Contradictions


@pytest.mark.parametrize(
    ("other", "contradicts"),
    [
        (record("b", ar=-0.02), True),
        (record("b", pr=0.31), True),
        (record("b", fr=0.5), True),
        (record("b"), False),
        (record("b", ar=-0.02, settings=(("HP2", 0.3),)), False),
        (record("b", ar=-0.02, settings=(("HP1", 0.5), ("HP2", 0.3))), False),
        (record("b", ar=-0.02, table="Table 2"), False),
        (replace(record("b", ar=-0.02), task=replace(TASK, id="u")), False),
        (replace(record("b", ar=-0.02), source="q"), False),
        (record("b", ar=-0.02, details={"differs_because": "another seed"}), False),
    ],
)
def test_what_contradicts(other: Experience, contradicts: bool) -> None:
    assert bool(contradictions([other], [record("a")], METHODS)) == contradicts
    assert bool(contradictions([other], [record("a"), other], METHODS)) == contradicts


def test_a_method_without_a_grid_never_contradicts() -> None:
    assert not contradictions([record("b", "CARD", ar=-0.5)], [record("a", "CARD")], METHODS)


def test_a_contradiction_says_both_figures() -> None:
    (one,) = contradictions([record("b", ar=-0.02)], [record("a")], METHODS)
    assert "b: contradicts a" in str(one)
    assert "AR -2.00%, PR 30.00% against AR -1.00%, PR 30.00%" in str(one)


# Documents


@pytest.mark.parametrize("rest", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_a_document_reads_back_as_it_was_written(rest: int) -> None:
    for path in packaged_experience()[rest::4]:
        one = read_document(path, ExperienceFile, ExperienceInvalid)
        assert additions.same(file(write_document(one)), one)
    card = Source("card", "{format: 1, method: X, title: x, citation: y, techniques: [{id: TE3}]}")
    one = read_document(card, Card, CardInvalid)
    assert read_document(Source("again", write_document(one)), Card, CardInvalid) == one


def test_merging_adds_and_replaces_by_id() -> None:
    def more(content: dict[str, Any]) -> None:
        content["entered_by"] = "you"
        content["records"].append({**content["records"][0], "id": "mine_002", "top1_percent": 80.0})

    merged = additions.merge(file(), edited(more))
    assert [entry.id for entry in merged.records] == ["mine_001", "mine_002"]
    assert merged.entered_by == "me; you"
    assert additions.same(additions.merge(merged, file()), merged)
    assert [entry.id for entry in additions.changed_records(file(), merged)] == ["mine_002"]
    assert [entry.id for entry in additions.changed_records(None, merged)] == ["mine_001", "mine_002"]
    corrected = additions.merge(merged, edited(lambda c: c["records"][0].update(top1_percent=89.0)))
    assert [entry.top1_percent for entry in corrected.records] == [89.0, 80.0]
    with pytest.raises(ExperienceInvalid, match="title, url or year differ"):
        additions.merge(file(), edited(lambda c: c["paper"].update(title="Other")))


def test_a_record_that_comes_again_keeps_why_it_differs() -> None:
    explained = additions.explain(file(), {"mine_001": "another seed"})
    assert additions.same(additions.merge(explained, file()), explained)


def test_leaving_records_out_leaves_their_tasks_out() -> None:
    assert additions.without(file(), ["mine_001"]).tasks == ()


# CSV


ROWS = "id,method,settings.HP1,task,top1_percent,params.value,params.unit,published_ratio.fr,table,source,confidence\n"


def test_rows_become_records(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "\ufeff" + ROWS + "r1,NS,0.5,mine_task,88.2,135,k,,Table 1,paper,measured\n"
        'r2,SFP,,mine_task,88,,,0.4,"Table 1, left",paper,measured\n'
    )
    first, second = read_rows(path)
    assert (first.settings, first.top1_percent, first.params.count) == ({"HP1": 0.5}, 88.2, 135_000)
    assert (second.settings, second.params, second.published_ratio.fr) == ({}, None, 0.4)
    assert second.table == "Table 1, left"
    path.write_text(
        "id,method,task,table,source,confidence,family,quoted,weight_bits,teacher\nr,UQ,t,T,s,measured,other,true,4,56\n"
    )
    (third,) = read_rows(path)
    assert (third.family, third.quoted, third.weight_bits, third.teacher) == ("other", True, 4, "56")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("r1,NS,0.5,t,high,,,,T,s,measured", "rows.csv:2: top1_percent"),
        ("r1,NS,0.5,t,88%,,,,T,s,measured", "rows.csv:2: top1_percent"),
        ("r1,NS,0.5,t,88,1,MB,,T,s,measured", "rows.csv:2: params.unit"),
        ("r1,NS,0.5,t,88,,,,T,s,sure", "rows.csv:2: confidence"),
        ("r1,NS,0.5,t,88,,,,T,s,measured,more", "rows.csv:2: more cells than columns"),
        ("r1,,0.5,t,88,,,,T,s,measured", "rows.csv:2: method"),
        ("", "has no rows"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, said: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(ROWS + row + "\n")
    with pytest.raises(ExperienceInvalid) as caught:
        read_rows(path)
    assert said in str(caught.value)


def test_an_unknown_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,colour\nr1,red\n")
    with pytest.raises(ExperienceInvalid, match="colour"):
        read_rows(path)


# The template


ANSWERS = {
    "title": "Mine: a study", "paper_id": "me2026_mine", "year": "2026", "entered_by": "me", "dataset": "cifar10",
    "classes": "10", "image_size": "32", "channels": "3", "images": "50,000", "model": "ResNet-20", "params": "0.27M",
    "macs": "40.6M", "baseline": "91.7", "task_source": "Table 1", "method": "NS", "settings": "HP1=0.5, HP6=0.9",
    "top1": "90.1%", "after": "135k", "table": "Table 2", "record_source": "the PDF",
    "confidence": "verified-one-source",
}  # fmt: skip


def test_a_filled_template_is_an_experience_file() -> None:
    (one,), (paper,) = read_experience([Source("new", fill(ANSWERS))])
    assert paper == Paper("me2026_mine", "Mine: a study", "", 2026)
    assert (one.id, one.strategy.id, one.table) == ("me2026_mine_001", "NS[HP1=0.5,HP6=0.9]", "Table 2")
    assert one.ar == pytest.approx((90.1 - 91.7) / 91.7)
    assert one.pr == pytest.approx(0.5)
    assert one.task.features == (10, 32, 3, 50000, 270_000, 81_200_000, pytest.approx(0.917))
    assert one.task.id == "me2026_mine_resnet-20_cifar10"
    assert {question.name for question in QUESTIONS} == ANSWERS.keys() | {"url"}


def test_an_empty_template_names_what_is_missing() -> None:
    text = fill({})
    assert text.count("#") > 15
    with pytest.raises(ExperienceInvalid) as caught:
        read_experience([Source("new", text)])
    for field in ("paper.id", "paper.title", "entered_by", "dataset.classes", "records.0.method", "records.0.table"):
        assert field in str(caught.value)


@pytest.mark.parametrize(
    ("name", "answer"),
    [("year", "soon"), ("top1", "101"), ("top1", "high"), ("after", "135 kB"), ("after", "0"), ("settings", "HP1:2"),
     ("method", "two words")],
)  # fmt: skip
def test_an_answer_that_is_none_is_refused(name: str, answer: str) -> None:
    with pytest.raises(ExperienceInvalid, match=answer):
        fill({**ANSWERS, name: answer})


# Differences


def test_a_difference_names_every_field() -> None:
    before = facts([CARD], [record("a")], [Paper("p", "P")])
    more = replace(CARD, title="Another title", techniques=(*CARD.techniques, Technique("TE3", "fine tune")))
    after = facts([more, GRID], [record("a", ar=-0.02), record("b")], [Paper("p", "P")])
    assert compare(before, after) == (
        Change("~", "method", "CARD", "title", "Only a card", "Another title"),
        Change("~", "method", "CARD", "techniques", ["TE1"], ["TE1", "TE3"]),
        Change("+", "method", "GRID", after="With a grid; TE1; HP1, HP2"),
        Change("~", "record", "a", "ar", -0.01, -0.02),
        Change("+", "record", "b", after="GRID[HP1=0.1,HP2=0.3] on t: AR -1.00%, PR 30.00%"),
    )
    assert [change.sign for change in compare(after, before)] == ["~", "~", "~", "-", "-"]
    assert compare(after, after) == ()


def test_what_changed_between_two_snapshots() -> None:
    triples = [("GRID[HP2=0.1]", "OF_METHOD", "GRID"), ("CARD", "USES_TECHNIQUE", "TE1")]
    then = snapshot(triples, [record("a"), record("b")])
    more = [*triples, ("GRID[HP2=0.3]", "OF_METHOD", "GRID"), ("CARD", "USES_TECHNIQUE", "TE3")]
    now = snapshot(more, [record("a", ar=-0.5), record("c"), record("d")])
    assert since(then, then) == []
    assert since(then, now) == [
        "GRID: 1 -> 2 strategies",
        "1 new links of methods and settings: CARD (1)",
        "2 new records: p (2)",
        "1 gone record: p (1)",
        "1 changed record: p (1)",
    ]


def test_records_of_own_trials_may_be_counted() -> None:
    mine = [replace(record(f"trial:{n}"), source="short" if n < 3 else "long", origin="trial") for n in range(9)]
    then, now = snapshot([], [record("a"), *mine]), snapshot([], [record("a", ar=-0.5), record("b")])
    assert since(then, snapshot([], [record("a")]), {"short": 3, "long": 6}) == []
    assert since(then, now, {"short": 1, "long": 9, "new": 100}) == [
        "104 new records: new (100), long (3), p (1)",
        "2 gone records: short (2)",
        "1 changed record: p (1)",
    ]


# In the graph


def knowledge(text: str = TEXT) -> tuple[Any, ...]:
    cards = tuple(m for m in read_cards() if m.id in ("NS", "PCO"))
    experience, papers = read_experience([Source("mine", text)], None, cards)
    return cards, experience, papers


@pytest.fixture
def filled(graph: GraphStore) -> GraphStore:
    """A graph with two methods and an added paper."""
    additions.write(graph, "Paper", "me2026_mine", TEXT, WHO, knowledge(), ["mine_001"])
    return graph


def test_an_added_document_is_kept_with_its_provenance(filled: GraphStore) -> None:
    assert {id: source.text for id, source in additions.added(filled, "Paper").items()} == {"me2026_mine": TEXT}
    assert additions.added(filled, "Method") == {}
    mark = {"added_by": "me", "added_at": WHO.at, "added_from": "mine.yaml"}
    assert additions.origins(filled, "Experience") == {"mine_001": mark}
    assert additions.origins(filled, "Paper") == {"me2026_mine": mark}
    assert [one.id for one in sync.read_experience(filled)] == ["mine_001"]
    again = additions.write(filled, "Paper", "me2026_mine", TEXT, WHO, knowledge(), ["mine_001"])
    assert not again.changed
    # A sync of the same knowledge touches nothing, and one that does not know the document keeps it.
    assert not sync.sync(filled, *knowledge()).changed
    sync.sync(filled, knowledge()[0], [], [])
    assert additions.added(filled, "Paper")["me2026_mine"].text == TEXT
    sync.sync(filled, *knowledge())
    assert [one.id for one in sync.read_experience(filled)] == ["mine_001"]


def test_nothing_is_written_where_a_record_is_unknown(filled: GraphStore) -> None:
    methods, experience, papers = knowledge()
    lost = replace(experience[0], id="lost", source="nowhere")
    with pytest.raises(NotInGraph, match="nowhere"):
        additions.write(filled, "Paper", "me2026_mine", "new text", WHO, (methods, [lost], papers), ["lost"])
    assert additions.added(filled, "Paper")["me2026_mine"].text == TEXT
    with pytest.raises(NotInGraph, match="There is no Experience 'mine_999'"):
        additions.retire(filled, "Experience", ["mine_001", "mine_999"], "me", "why not")
    assert "retired_at" not in additions.origins(filled, "Experience")["mine_001"]
    with pytest.raises(NothingChanges, match="mine_001 is not retired"):
        additions.restore(filled, "Experience", ["mine_001"])


def test_a_retired_record_is_kept_and_not_used(filled: GraphStore) -> None:
    additions.retire(filled, "Experience", ["mine_001"], "me", "a typo")
    with pytest.raises(NothingChanges, match="mine_001 is retired already, with the reason 'a typo'"):
        additions.retire(filled, "Experience", ["mine_001"], "you", "another reason")
    assert sync.read_experience(filled) == ()
    kept = additions.origins(filled, "Experience")["mine_001"]
    assert (kept["retired_by"], kept["retired_because"], kept["added_by"]) == ("me", "a typo", "me")
    assert not sync.sync(filled, *knowledge()).changed
    additions.restore(filled, "Experience", ["mine_001"])
    assert [one.id for one in sync.read_experience(filled)] == ["mine_001"]
    assert "retired_at" not in additions.origins(filled, "Experience")["mine_001"]


def test_a_retired_method_is_kept_and_neither_embedded_nor_searched(filled: GraphStore) -> None:
    before = sync.triples(filled)
    used = Strategy("NS", (("HP1", 0.1), ("HP2", 0.2), ("HP6", 0.7)))
    studies.save_study(filled, {"id": "s"}, task=TASK)
    studies.save_trial(filled, "s", {"ordinal": 1, "scheme": Scheme((used,)), "status": "ok"})
    additions.retire(filled, "Method", ["NS"], "me", "superseded")
    sync.sync(filled, *knowledge())
    assert sync.strategy_ids(filled) == []
    assert {head for head, _, _ in sync.triples(filled)} == {"PCO"}
    assert [method.id for method in sync.read_methods(filled)] == ["PCO"]
    assert sync.read_experience(filled) == ()
    kept = filled.read("MATCH (m:Method {id: 'NS'})-[r:HAS_HYPERPARAMETER]->(h) RETURN h.id AS id, r.values AS v")
    assert len(kept) == 3
    assert studies.load_trials(filled, "s")[0]["scheme"] == used.id
    assert not sync.sync(filled, *knowledge()).changed
    additions.restore(filled, "Method", ["NS"])
    sync.sync(filled, *knowledge())
    assert sync.triples(filled) == before
    assert [one.id for one in sync.read_experience(filled)] == ["mine_001"]


def test_a_correction_changes_what_embeddings_are_learned_from(filled: GraphStore) -> None:
    (old,) = sync.read_experience(filled)
    text = TEXT.replace("88.2", "87.0")
    additions.write(filled, "Paper", "me2026_mine", text, WHO, knowledge(text), ["mine_001"])
    (new,) = sync.read_experience(filled)
    assert (old.id, old.mark != new.mark) == (new.id, True)
    assert new.ar == pytest.approx((87.0 - 90) / 90)


def own(id: str, ar: float | None, pr: float, fr: float) -> Experience:
    strategy = Strategy("NS", (("HP1", 0.1), ("HP2", 0.2437), ("HP6", 0.7)))
    task = Task(f"cifar10:{id}", "cifar10", "net", 10.0, 32.0, 3.0, 50000.0, 1000.0, 5000.0, 0.81234567)
    return Experience(id, strategy, task, "s", "trial", ar, pr, fr, confidence="measured", details={"unit_epochs": "2"})


def test_a_study_is_shared_as_an_experience_file(filled: GraphStore) -> None:
    about = {"started": "2026-05-01T00:00:00+00:00", "base_accuracy": 0.8, "spec": {"versions": {"automc": "1.2"}}}
    studies.save_study(filled, {"id": "s", "searcher": "random", "data": "cifar10", **about}, task=TASK)
    with pytest.raises(NotInGraph, match="measured nothing"):
        study_document(filled, "s")
    measured = [own("trial:a", -0.02, 0.244, 0.3), own("trial:b", None, 0.1, -0.4), own("trial:c", 0.01, -0.1, 0.0)]
    studies.save_trial_experience(filled, "s", measured)
    text, count = study_document(filled, "s")
    # The one that grew the model is no removal; a negative FR is left out.
    assert count == 2
    shared, (paper,) = read_experience([Source("shared", text)])
    assert (paper.year, paper.id.startswith("study-s-")) == (2026, True)
    assert study_document(filled, "s") == (text, count)
    assert [one.id for one in shared] == ["trial:a", "trial:b"]
    assert [one.strategy for one in shared] == [one.strategy for one in measured[:2]]
    assert shared[0].ar == pytest.approx(-0.02, abs=1e-7)
    assert shared[0].pr == pytest.approx(0.244)
    assert (shared[1].ar, shared[1].fr, shared[0].fr) == (None, None, 0.3)
    assert shared[0].task.features == pytest.approx(measured[0].task.features)
    assert shared[0].details["unit_epochs"] == "2"
    assert not {"weights", "data", "path"} & set(yaml.safe_load(text))


def test_a_shared_step_counts_once(filled: GraphStore) -> None:
    """What was added from a file keeps its source when a study of this graph measures the same step."""
    studies.save_study(filled, {"id": "s"}, task=TASK)
    studies.save_trial_experience(filled, "s", [own("mine_001", -0.9, 0.1, 0.1)])
    (one,) = sync.read_experience(filled)
    assert (one.origin, one.source) == ("paper", "me2026_mine")
    assert one.ar == pytest.approx(-0.02)
    studies.delete_study(filled, "s")
    assert [one.id for one in sync.read_experience(filled)] == ["mine_001"]
