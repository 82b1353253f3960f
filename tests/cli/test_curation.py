"""Adding, correcting, retiring and sharing knowledge on the command line, on a real graph."""

from __future__ import annotations

import getpass
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from study_tools import create, run
from typer.testing import CliRunner, Result

from automc import knowledge
from automc.cli.main import app
from automc.knowledge import curation
from automc.search import get
from automc.search.base import Limits
from automc.study import Study
from automc.study.space import StrategySpace
from kg.resources import experience_dir
from kg.sync import read_experience

pytestmark = pytest.mark.usefixtures("small_cards")

CARD = """
format: 1
method: Mine
title: My own method
citation: Me, 2026.
techniques:
  - {id: TE3}
  - {id: mine, title: a technique of mine}
"""
GRID = """
hyperparameters:
  - {id: HP1, meaning: epochs of the fine-tuning phase, unit: multiple of the pre-training epochs, values: [0.1, 0.2]}
  - {id: HP2, meaning: parameters to remove in this step, unit: share of the original parameters, values: [0.2, 0.4]}
"""
FILE = """
format: 1
paper: {id: me2026_mine, title: Mine, year: 2026}
entered_by: me
tasks:
- id: mine_task
  dataset: {name: cifar10, classes: 10, image_size: 32, channels: 3, images: 50000}
  model: ResNet-20
  architecture: {name: resnet20, classes: 10}
  params: {value: 269722, unit: '1'}
  top1_percent: 90.0
  source: Table 1
records:
# the only one so far
- id: mine_001
  method: NS
  settings: {HP1: 0.5, HP2: 0.4, HP6: 0.9}
  task: mine_task
  top1_percent: 88.2
  table: Table 1
  source: the paper
  confidence: verified-one-source
"""


def automc(*words: object, input: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=input, catch_exceptions=False)


def done(*words: object) -> Any:
    """Run a command that must end well; its JSON."""
    result = automc(*words, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if result.stdout else []


def query(text: str) -> list[dict[str, Any]]:
    return done("kg", "query", text)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Write a text, changed, to a file."""

    def write(text: str, *changes: tuple[str, str], name: str = "mine.yaml") -> Path:
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_method_from_its_card_to_its_retirement(filled, written):
    card = written(CARD)
    assert [row["change"] for row in done("method", "check", card)] == ["+"]
    assert query("MATCH (m:Method {id: 'Mine'}) RETURN m.id AS id") == []

    result = automc("method", "add", card, "--by", "A. Author")
    assert result.exit_code == 0, result.output
    assert "My own method; TE3, mine; no grid" in result.stdout
    assert "Written to the graph: 1 new method." in result.stderr
    (row,) = query("MATCH (m:Method {id: 'Mine'}) RETURN m.added_by AS who, m.added_from AS source, m.document AS text")
    assert (row["who"], row["source"], row["text"]) == ("A. Author", "mine.yaml", CARD)

    # A citizen: listed, asked, explained, embedded, and kept by a sync.
    listed = {row["method"]: row for row in done("method", "list")}
    assert listed["Mine"]["origin"].startswith("A. Author, 20")
    assert (listed["NS"]["origin"], listed["Mine"]["strategies"]) == ("AutoMC", 0)
    assert done("method", "show", "mine")["citation"] == "Me, 2026."
    assert not any(row["created"] + row["updated"] + row["removed"] for row in done("kg", "sync"))
    explained = done("kg", "explain", "Mine")
    assert explained["method"]["techniques"] == ["fine tune", "a technique of mine"]
    assert "NS" in [other["method"] for other in explained["related"]] or len(explained["related"]) == 5
    status = automc("kg", "status", "--format", "json")
    said = json.loads(status.stdout)
    assert (said["embedding"], said["added"]) == ("stale", {"Method": 1, "Experience": 0})
    assert said["changed_since_embedding"] == ["2 new links of methods and settings: Mine (2)"]
    assert "since then: 2 new links" in status.stderr
    assert "Mine" in knowledge.vectors(epochs=1).entities
    assert json.loads(automc("kg", "status", "--format", "json").stdout)["changed_since_embedding"] == []

    again = automc("method", "add", card)
    assert (again.exit_code, again.stdout, again.stderr) == (0, "", "Nothing changed.\n")

    # With a grid it is searched: 2 × 2 strategies more.
    changed = done("method", "edit", "Mine", "--file", written(CARD + GRID))
    assert {(row["change"], row["field"]) for row in changed} == {("~", "values of HP1"), ("~", "values of HP2")}
    assert query("MATCH (s:Strategy {searchable: true})-[:OF_METHOD]->(:Method {id: 'Mine'}) RETURN count(s) AS n") == [
        {"n": 4}
    ]
    assert automc("method", "retire", "Mine").exit_code == 2
    gone = automc("method", "retire", "mine", "--because", "superseded")
    assert (gone.exit_code, gone.stderr) == (0, "Mine is kept, and no longer used.\n")
    assert query("MATCH (s:Strategy)-[:OF_METHOD]->(:Method {id: 'Mine'}) RETURN count(s) AS n") == [{"n": 0}]
    assert "retired: superseded" in {row["method"]: row for row in done("method", "list")}["Mine"]["origin"]
    assert automc("kg", "explain", "Mine").exit_code == 2
    again = automc("method", "retire", "Mine", "--because", "another reason")
    assert (again.exit_code, "retired already, with the reason 'superseded'" in again.stderr) == (2, True)
    assert automc("method", "retire", "Mine", "--undo").exit_code == 0
    assert "is not retired" in automc("method", "retire", "Mine", "--undo").stderr
    assert query("MATCH (s:Strategy)-[:OF_METHOD]->(:Method {id: 'Mine'}) RETURN count(s) AS n") == [{"n": 4}]
    automc("method", "retire", "Mine", "--because", "the test is over")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("method: Mine", "method: NS", "NS has a card already"),
        ("format: 1", "format: 2", "format"),
        ("{id: TE3}", "{id: TE99}", "unknown technique TE99"),
        ("title: My own method", "", "title"),
    ],
)
def test_a_bad_card_changes_nothing(filled, written, old, new, said):
    before = query("MATCH (m:Method) RETURN m.id AS id ORDER BY id")
    result = automc("method", "add", written(CARD, (old, new)))
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""
    assert query("MATCH (m:Method) RETURN m.id AS id ORDER BY id") == before


def test_experience_from_its_file_to_its_retirement(filled, written, monkeypatch):
    first = written(FILE)
    checked = automc("experience", "check", first)
    assert checked.exit_code == 0, checked.output
    assert "Nothing was written." in checked.stderr
    added = done("experience", "add", first)
    assert [(row["change"], row["kind"], row["id"]) for row in added] == [
        ("+", "paper", "me2026_mine"), ("+", "task", "mine_task"), ("+", "record", "mine_001"),
    ]  # fmt: skip
    again = automc("experience", "add", first)
    assert (again.stdout, again.stderr) == ("", "Nothing changed.\n")
    (row,) = query("MATCH (e:Experience {id: 'mine_001'}) RETURN e.added_by AS who, e.added_from AS source, e.ar AS ar")
    assert (row["who"], row["source"], row["ar"]) == (getpass.getuser(), "mine.yaml", pytest.approx(-0.02))
    assert "the only one so far" in curation.document("Paper", "me2026_mine")
    assert json.loads(automc("kg", "status", "--format", "json").stdout)["embedding"] == "stale"
    assert not any(row["created"] + row["updated"] + row["removed"] for row in done("kg", "sync"))

    # Another figure of the same strategy, task and table, under a new id and under the same.
    for change in (("mine_001", "mine_002"), ("Table 1", "Table 1")):
        other = written(FILE, change, ("88.2", "80.1"))
        refused = automc("experience", "add", other)
        assert refused.exit_code == 2
        assert "contradicts mine_001" in refused.stderr
        assert "AR -11.00%" in refused.stderr
        assert "--differs-because" in refused.stderr
    assert query("MATCH (e:Experience {id: 'mine_002'}) RETURN e.id AS id") == []
    other = written(FILE, ("mine_001", "mine_002"), ("88.2", "80.1"))
    explained = done("experience", "add", other, "--differs-because", "without fine-tuning")
    assert [(row["change"], row["id"]) for row in explained] == [("+", "mine_002")]
    (row,) = query("MATCH (e:Experience {id: 'mine_002'}) RETURN e.details AS text")
    assert "without fine-tuning" in row["text"]
    assert automc("experience", "add", other).stderr == "Nothing changed.\n"
    # Unknown settings contradict nothing.
    assert done("experience", "add", written(FILE, ("mine_001", "mine_003"), ("HP1: 0.5, ", ""), ("88.2", "70")))

    # Corrections: by a file, and in an editor whose text is kept where it is refused.
    corrected = written(curation.document("Paper", "me2026_mine"), ("88.2", "88.3"))
    rows = done("experience", "edit", "me2026_mine", "--file", corrected)
    assert [(row["change"], row["id"], row["field"]) for row in rows] == [("~", "mine_001", "ar")]
    editor = written("import sys; p = sys.argv[1]; t = open(p).read(); open(p, 'w').write(t.replace('88.3', '188.3'))",
                     name="editor.py")  # fmt: skip
    monkeypatch.setenv("EDITOR", f"{sys.executable} {editor}")
    refused = automc("experience", "edit", "me2026_mine")
    assert refused.exit_code == 2
    kept = Path(refused.stderr.split("What you wrote is in ")[1].split(": correct")[0])
    assert "188.3" in kept.read_text()
    kept.unlink()
    written(editor.read_text(), ("188.3", "88.4"), name="editor.py")
    assert [row["field"] for row in done("experience", "edit", "me2026_mine")] == ["ar"]
    assert automc("experience", "edit", "me2026_mine").stderr.startswith("Error: Nothing was changed")
    monkeypatch.setenv("EDITOR", "no-such-editor-here")
    assert automc("experience", "edit", "me2026_mine").exit_code == 2
    assert "comes with AutoMC" in automc("experience", "edit", "he2018_sfp").stderr
    assert "No file was added for 'nobody'" in automc("experience", "edit", "nobody").stderr

    # Retired: one of ours, and a whole paper; listed as such, not learned from.
    assert automc("experience", "retire", "mine_001", "--because", "misread").exit_code == 0
    paper = automc("experience", "retire", "he2018_sfp", "--because", "a test", "--by", "B. Author")
    assert "records of he2018_sfp: kept" in paper.stderr
    with knowledge.graph() as store:
        used = {one.id: one.source for one in read_experience(store)}
    assert "mine_001" not in used
    assert "mine_002" in used
    assert "he2018_sfp" not in used.values()
    marks = {row["id"]: row["origin"] for row in done("experience", "list")}
    assert marks["mine_001"].endswith("retired: misread")
    assert marks["sfp_001"] == "AutoMC; retired: a test"
    assert marks["ns_001"] == "AutoMC"
    assert automc("experience", "retire", "he2018_sfp", "--undo").exit_code == 0
    assert automc("experience", "retire", "me2026_mine", "--because", "the test is over").exit_code == 0
    assert "There is no Experience 'nobody'" in automc("experience", "retire", "nobody", "--because", "x").stderr


@pytest.mark.slow
def test_csv_brings_many_rows(filled, written):
    own = FILE.split("records:")[0].replace("me2026_mine", "me2026_rows").replace("mine_task", "rows_task")
    head = written(own + "records: []\n", name="rows.yaml")
    lines = ["id,method,settings.HP1,task,top1_percent,table,source,confidence"]
    lines += [f"row_{i:03d},NS,0.5,rows_task,{85 + i / 100},Table 9,the paper,verified-one-source" for i in range(200)]
    rows = written("\n".join(lines), name="rows.csv")
    result = automc("experience", "add", head, "--rows", rows, "--format", "csv")
    assert result.exit_code == 0, result.output
    assert "Written to the graph: 1 new paper, 1 new task, 200 new records." in result.stderr
    assert len(done("experience", "list", "--source", "me2026_rows")) == 200
    assert automc("experience", "add", head, "--rows", rows).stderr == "Nothing changed.\n"
    bad = written("\n".join([*lines, "row_999,NS,0.5,elsewhere,80,T,s,measured"]), name="bad.csv")
    refused = automc("experience", "add", head, "--rows", bad)
    assert refused.exit_code == 2
    assert "row_999: task: elsewhere is not among the tasks" in refused.stderr
    automc("experience", "retire", "me2026_rows", "--because", "the test is over")


@pytest.mark.slow
def test_more_records_of_a_known_paper(filled, written):
    """A user's row of a paper that comes with AutoMC is told apart; its own rows are never replaced."""
    content = yaml.safe_load((experience_dir() / "he2018_sfp.yaml").read_text())
    shipped = len(content["records"])
    path = written(yaml.safe_dump(content), name="sfp.yaml")
    assert "Nothing changed." in automc("experience", "add", path, "--no-count").stderr
    content["records"].append({**content["records"][0], "id": "mine_sfp", "table": "Table 7"})
    path = written(yaml.safe_dump(content), name="sfp.yaml")
    result = automc("experience", "add", path, "--no-count", "--format", "json")
    assert [row["id"] for row in json.loads(result.stdout)] == ["mine_sfp"]
    assert f"{shipped} of its records are known already" in result.stderr
    assert [row["id"] for row in query("MATCH (e:Experience)-[:REPORTED_IN]->(:Paper {id: 'he2018_sfp'}) "
                                       "WHERE e.added_at IS NOT NULL RETURN e.id AS id")] == ["mine_sfp"]  # fmt: skip
    content["records"][0]["top1_percent"] = 50.0
    refused = automc("experience", "add", written(yaml.safe_dump(content), name="sfp.yaml"), "--no-count")
    assert refused.exit_code == 2
    assert "the id is taken" in refused.stderr
    checked = automc("experience", "check", written(yaml.safe_dump(content), name="sfp.yaml"), "--no-count")
    assert checked.exit_code == 0, checked.output
    automc("experience", "retire", "mine_sfp", "--because", "the test is over")


@pytest.mark.slow
def test_a_broken_document_can_still_be_edited(filled, written):
    good = written(FILE, ("me2026_mine", "me2026_broken"), ("mine_", "broken_"))
    assert automc("experience", "add", good).exit_code == 0
    with knowledge.graph() as store:
        store.write("MATCH (p:Paper {id: 'me2026_broken'}) SET p.document = replace(p.document, 'NS', 'NOWHERE')")
    refused = automc("kg", "sync")
    assert refused.exit_code == 2
    assert "me2026_broken (added to the graph): broken_001: method: NOWHERE has no method card" in refused.stderr
    assert automc("experience", "edit", "me2026_broken", "--file", good).exit_code == 0
    assert automc("kg", "sync").exit_code == 0
    automc("experience", "retire", "me2026_broken", "--because", "the test is over")


def test_a_new_file_is_asked_for_and_can_be_added(filled, tmp_path):
    out = tmp_path / "new.yaml"
    answers = (
        "A title\nme2026_new\n\nsoon\n2026\nme\ncifar10\n10\n32\n3\n50000\nResNet-20\n0.27M\n\n91.7\nTable 1\n"
        "NS\nHP1=0.5\n90.1\n135k\n\nTable 2\nthe PDF\nverified-one-source\n"
    )
    result = automc("experience", "new", "--out", out, "--ask", input=answers)
    assert result.exit_code == 0, result.output
    assert "'soon' is not a whole number." in result.stderr
    assert "This one is needed." in result.stderr
    assert result.stdout == ""
    assert automc("experience", "check", out).exit_code == 0
    assert automc("experience", "new", "--out", out).exit_code == 2
    cut = automc("experience", "new", "--ask", input="A title\n")
    assert (cut.exit_code, cut.stdout) == (2, "")
    template = automc("experience", "new")
    assert template.stdout.startswith("# An experience file")
    out.write_text(template.stdout)
    assert "paper.id" in automc("experience", "check", out).stderr


def first_steps(study: Study) -> tuple[list[Any], np.ndarray]:
    """What a new search asks first with the vectors of this home, and what experience says that size costs there."""
    vectors = knowledge.vectors(epochs=5)
    space = StrategySpace(vectors, study.subject.task(), {}, study.spec.recipe, study.subject.splits.train.n).space
    limits = Limits(study.spec.gamma, study.subject.accuracy, study.spec.max_length)
    asked = get("progressive")(space, limits, seed=0).ask(4)
    return [[space.strategies[i] for i in scheme] for scheme in asked], np.asarray(space.slope)


@pytest.mark.slow
def test_shared_experience_changes_what_another_search_does_first(filled, prepared_home, tmp_path, monkeypatch):
    homes = [tmp_path / name for name in ("mine", "theirs")]
    for home in homes:
        shutil.copytree(filled, home)
        shutil.copy(prepared_home / "digits.am", home)
        monkeypatch.setenv("AUTOMC_HOME", str(home))
        knowledge.vectors(epochs=2)
        # The study's helper takes the one file of vectors that a home has.
        for old in sorted((home / "vectors").glob("*"), key=lambda path: path.stat().st_mtime_ns)[:-1]:
            old.unlink()
    mine, theirs = homes

    monkeypatch.setenv("AUTOMC_HOME", str(mine))
    study = create(mine, "4steps")
    measured = sum(trial.status == "ok" for trial in run(study).trials)
    assert measured
    shared = tmp_path / "ours.yaml"
    exported = automc("experience", "export", study.spec.id, "--out", shared)
    assert exported.exit_code == 0, exported.output
    assert f"{measured} records." in exported.stderr
    assert str(tmp_path) not in shared.read_text()
    own = automc("experience", "add", shared)
    assert f"{measured} of its records are known already" in own.stderr
    assert "Nothing changed." in own.stderr

    monkeypatch.setenv("AUTOMC_HOME", str(theirs))
    before, expected = first_steps(study)
    assert first_steps(study)[0] == before
    added = automc("experience", "add", shared)
    assert added.exit_code == 0, added.output
    with knowledge.graph() as store:
        assert sum(one.source.startswith("study-") for one in read_experience(store)) == measured
    after, now = first_steps(study)
    assert not np.array_equal(expected, now)
    assert after != before
    paper = yaml.safe_load(shared.read_text())["paper"]["id"]
    assert automc("experience", "retire", paper, "--because", "not comparable").exit_code == 0
    assert json.loads(automc("kg", "status", "--format", "json").stdout)["embedding"] == "stale"
