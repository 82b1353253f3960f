"""`automc show --why`, `automc kg explain` and `automc kg query`: answers with their reasons and sources."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_tools import copied, create, run
from typer.testing import CliRunner, Result

from automc import knowledge
from automc.cli.main import app
from automc.knowledge.explain import agreement
from automc.knowledge.known import known_method
from automc.report.why import text, why
from automc.study import Study
from automc.study.study import Result as StudyResult
from automc.study.study import load_trials
from automc.study.trial import Trial
from kg.cypher import packaged_queries
from kg.schema import Experience, Strategy, Task
from kg.sync import read_embeddings

KNOWN = "NS[HP1=0.2,HP2=0.12,HP6=0.9]"


def automc(*words: object, input: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=input, catch_exceptions=False)


def done(*words: object) -> Any:
    result = automc(*words, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def home(searched_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of all tests here, in which a study was run; what they write stays."""
    with copied(searched_once, tmp_path_factory.mktemp("explained") / "home") as folder:
        yield folder


@pytest.fixture(scope="module")
def searched(home: Path) -> StudyResult:
    """That study."""
    return run(Study.open("digits-digits-1"))


# Why a scheme


def test_predictions_are_stored_with_the_trials(searched):
    stored = load_trials(searched.spec.id)
    assert [t.predicted_step_ar for t in stored] == [t.predicted_step_ar for t in searched.trials]
    assert [t.rivals for t in stored] == [t.rivals for t in searched.trials]
    # A study begins with each method straight to its target: nothing is predicted of those.
    assert {t.ordinal for t in stored if t.predicted_step_ar is None} == {1, 2}
    for trial in (t for t in stored if t.predicted_step_ar is not None):
        assert -1 <= trial.predicted_step_ar <= 1
        # What is planned of the original parameters, relative to what the steps before have left.
        before = next((t.pr for t in stored if t.scheme == trial.scheme.parent), 0.0)
        planned = trial.scheme.steps[-1].number("HP2") / (1 - before)
        assert trial.predicted_step_pr == pytest.approx(planned, abs=0.1)
        assert len(trial.rivals) <= 3
        assert trial.scheme.steps[-1].id not in [strategy for strategy, _, _ in trial.rivals]
    assert any(trial.rivals for trial in stored)
    (row,) = done("kg", "query", "MATCH (t:Trial) WHERE t.predicted_step_ar IS NOT NULL RETURN count(t) AS n")
    assert row["n"] == len(stored) - 2


def longest(trials: tuple[Trial, ...]) -> Trial:
    able = (t for t in trials if t.status == "ok" and t.predicted_step_ar is not None)
    return max(able, key=lambda t: (len(t.scheme), -t.ordinal))


def test_why_accounts_for_every_step(searched):
    target = longest(searched.trials)
    account = done("show", searched.spec.id, "--why", target.ordinal)
    assert (account["scheme"], account["trial"]) == (target.scheme.id, target.ordinal)
    assert account == json.loads(json.dumps(why(searched.spec.id, target.scheme.id)))
    assert len(account["steps"]) == len(target.scheme)
    by_scheme = {t.scheme: t for t in searched.trials}
    for length, step in enumerate(account["steps"], 1):
        prefix = type(target.scheme)(target.scheme.steps[:length])
        trial = by_scheme[prefix]
        assert step["strategy"] == prefix.steps[-1].id
        assert step["measured"]["step_ar"] == pytest.approx(trial.step_ar)
        assert step["measured"]["step_pr"] == pytest.approx(trial.step_pr)
        if trial.predicted_step_ar is None:
            assert step["predicted"] is None
        else:
            assert step["predicted"]["step_ar"] == pytest.approx(trial.predicted_step_ar)
        others = [t for t in searched.trials if t.scheme.parent == prefix.parent and t.scheme != prefix]
        assert {one["trial"] for one in step["siblings"]} <= {t.ordinal for t in others}
        assert len(step["siblings"]) == min(8, len(others))
        for one in step["siblings"]:
            sibling = next(t for t in others if t.ordinal == one["trial"])
            if sibling.status == "ok":
                assert ("less accurate" in one["why_not"]) == (sibling.accuracy < trial.accuracy)
            else:
                assert one["why_not"].startswith(sibling.status)
        assert step["known"]["records"]
        assert all(record["source"] for record in step["known"]["records"])


def test_why_in_words(searched):
    target = longest(searched.trials)
    said = automc("show", searched.spec.id, "--why", f"{searched.spec.id}:{target.ordinal}").stdout
    assert said.startswith(f"Trial {target.ordinal} of {searched.spec.id}: {target.scheme.id}\n")
    assert f"measured   AR {target.step_ar:+.2%}, PR {target.step_pr:.2%}" in said
    assert f"predicted  AR {target.predicted_step_ar:+.2%}" in said
    assert "Also executed after the same steps" in said
    assert "[" in said
    for step in target.scheme.steps:
        assert known_method(step.method).citation in said


def test_why_says_what_became_of_each(searched):
    front = {t.ordinal for t in searched.front}
    for trial in searched.trials[::3]:
        standing = why(searched.spec.id, str(trial.ordinal))["standing"]
        if trial.status != "ok":
            assert trial.status in standing
        elif searched.recommendation and trial is searched.recommendation.trial:
            assert searched.recommendation.why in standing
        else:
            assert ("It is on the front" in standing) == (trial.ordinal in front)
    if searched.recommendation:
        account = why(searched.spec.id, "recommended")
        assert account["trial"] == searched.recommendation.trial.ordinal
        assert text(account)


def test_why_not(searched):
    for wanted, said in (
        ("99", "has not executed 99"),
        ("NS[HP1=0.5,HP2=0.04,HP6=0.7] -> LFB[HP2=0.04]", "has not executed"),
        ("the best", "give a trial's number"),
    ):
        result = automc("show", searched.spec.id, "--why", wanted)
        assert (result.exit_code, said in result.stderr) == (2, True)
    assert automc("show", "nothing-1", "--why", "1").exit_code == 2


def test_a_searcher_that_predicts_nothing_says_so(home):
    done_study = run(create(home, "2steps", searcher="random"))
    trial = done_study.trials[0]
    assert (trial.predicted_step_ar, trial.rivals) == (None, ())
    account = why(done_study.spec.id, "1")
    assert account["steps"][0]["predicted"] is None
    assert "predicted nothing" in account["steps"][0]["how"]
    assert "predicted  AR" not in text(account)


# What is known of a strategy


def test_explain_finds_the_nearest_and_their_records(home):
    explained = done("kg", "explain", KNOWN)
    assert (explained["strategy"], explained["searchable"], explained["executable"]) == (KNOWN, True, True)
    assert explained["method"]["citation"].startswith("Z. Liu")
    assert [s["id"] for s in explained["settings"]] == ["HP1", "HP2", "HP6"]
    nearest = done("kg", "similar", KNOWN, "-k", "5")
    assert [one["strategy"] for one in explained["nearest"]] == [one["strategy"] for one in nearest]
    cosines = [[one["cosine"] for one in side] for side in (explained["nearest"], nearest)]
    assert cosines[0] == pytest.approx(cosines[1], abs=1e-6)
    assert all(len(one["records"]) == 2 for one in explained["nearest"])
    agrees = [record["agreement"] for record in explained["records"]]
    assert agrees == sorted(agrees, reverse=True)
    assert len(agrees) == 5


def test_how_much_a_record_agrees():
    method = known_method("LFB")
    strategy = Strategy.parse("LFB[HP1=0.1,HP2=0.2,HP15=1,HP16=MSE]")

    def record(settings: str, pr: float | None = None) -> Experience:
        return Experience("r", Strategy.parse(f"LFB[{settings}]"), Task("t", "d", "m"), "p", pr=pr)

    assert agreement(strategy, record("HP1=0.1,HP2=0.2,HP15=1,HP16=MSE"), method) == 1
    assert agreement(strategy, record(""), method) == 0.5
    assert agreement(strategy, record("", pr=0.2), method) == (0.5 + 1 + 0.5 + 0.5) / 4
    # HP1 at the other end of its grid; HP2 two places of four away; HP15 unknown; another category.
    far = record("HP1=0.5,HP2=0.9,HP16=CE")
    assert agreement(strategy, far, method) == pytest.approx((0 + 0.5 + 0.5 + 0) / 4)
    assert agreement(Strategy("GReg"), replace(far, strategy=Strategy("GReg")), known_method("GReg")) == 1


def test_explain_in_words_with_citations(home):
    said = automc("kg", "explain", KNOWN).stdout
    assert "Network Slimming" in said
    assert "ICCV 2017" in said
    assert "HP2 = 0.12: parameters to remove in this step (share of the original parameters)." in said
    assert "Nearest strategies" in said
    assert said.count("[") > 10
    assert ".csv, line " in said, "a measurement of ours by its file and line"
    assert ", README Results" in automc("kg", "explain", "TRP").stdout, "a source's by the table that it has them in"
    rows = automc("kg", "explain", KNOWN, "--format", "csv").stdout.splitlines()
    assert (len(rows), rows[0].split(",")[0]) == (6, "id")


@pytest.mark.parametrize("name", ["GReg", "greg", "GReg[]"])
def test_a_method_that_is_only_a_card_is_explained(home, name):
    explained = done("kg", "explain", name)
    assert (explained["strategy"], explained["searchable"], explained["executable"]) == ("GReg[]", False, False)
    assert all(record["strategy"] == "GReg[]" for record in explained["records"])
    assert explained["records"]
    assert explained["nearest"] == []
    assert explained["related"]
    assert "cannot be executed here" in automc("kg", "explain", name).stdout


def test_a_strategy_off_the_grid_is_explained(home):
    explained = done("kg", "explain", "NS[HP2=0.3]")
    assert explained["searchable"] is False
    grid = [one["strategy"] for one in explained["nearest"]]
    assert len(grid) == 5
    # Its vector is the mean of the grid's, HP2 between its two neighbours.
    with knowledge.graph() as store:
        ids, vectors = read_embeddings(store)
    rows = dict(zip(ids, vectors.astype(float), strict=True))
    share = {0.2: (0.36 - 0.3) / 0.16, 0.36: (0.3 - 0.2) / 0.16}
    mine = sum(
        rows[f"NS[HP1={a},HP2={b},HP6={c}]"] * weight / 10
        for b, weight in share.items() for a in (0.1, 0.2, 0.3, 0.4, 0.5) for c in (0.7, 0.9)
    )  # fmt: skip
    length = np.linalg.norm(mine)
    cosine = {id: float(row @ mine / length / np.linalg.norm(row)) for id, row in rows.items()}
    assert explained["nearest"][0]["cosine"] == pytest.approx(max(cosine.values()), abs=1e-6)
    assert grid[0] == max(cosine, key=lambda id: cosine[id])


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("Magic[HP1=1]", "no method Magic"),
        ("NS[HP3=1]", "NS has no hyperparameter HP3"),
        ("NS(1)", "is not a strategy"),
    ],
)
def test_what_cannot_be_explained(home, strategy, said):
    result = automc("kg", "explain", strategy)
    assert (result.exit_code, said in result.stderr) == (2, True)


# Cypher


def test_a_query_from_anywhere(home, tmp_path):
    statement = "MATCH (m:Method {id: 'NS'}) RETURN m.id AS id;"
    path = tmp_path / "one.cypher"
    path.write_text(f"// One\n{statement}\n")
    answers = [
        automc("kg", "query", statement, "--format", "csv"),
        automc("kg", "query", "--file", path, "--format", "csv"),
        automc("kg", "query", "-", "--format", "csv", input=statement),
        automc("kg", "query", "--format", "csv", input=statement),
    ]
    assert {answer.stdout for answer in answers} == {"id\nNS\n"}
    for answer in answers:
        assert answer.stderr.startswith("rows 1, 0.")
    assert automc("kg", "query", statement, "--file", path).exit_code == 2
    assert automc("kg", "query", "--file", tmp_path / "none.cypher").exit_code == 2
    assert automc("kg", "query", "-", input="").exit_code == 2


def test_saved_queries(home):
    listed = done("kg", "query", "--list")
    assert {row["name"] for row in listed} == {path.stem for path in packaged_queries().glob("*.cypher")}
    assert done("kg", "query", "--saved", "grid", "--param", "method=SFP")[0]["hyperparameter"] == "HP10"
    assert len(done("kg", "query", "--saved", "grid")) == 4
    missing = automc("kg", "query", "--saved", "grids")
    assert (missing.exit_code, "Did you mean grid?" in missing.stderr) == (2, True)
    (home / "queries").mkdir()
    (home / "queries" / "mine.cypher").write_text("// Mine\nRETURN 'mine' AS whose\n")
    assert done("kg", "query", "--saved", "mine") == [{"whose": "mine"}]
    assert "Hint" not in automc("kg", "query", "--saved", "retired").stderr


def test_a_misspelt_name_is_hinted_and_no_error(home):
    result = automc("kg", "query", "MATCH (m:Methd) WHERE m.titel = 'x' RETURN m.id AS id", "--format", "json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])
    assert "Hint: No node has the label Methd. Did you mean Method?" in result.stderr
    assert "Did you mean title?" in result.stderr
    right = automc("kg", "query", "MATCH (m:Method)-[r:USES_TECHNIQUE]->(t) RETURN m.title AS title, r.ordinal AS n")
    assert "Hint" not in right.stderr


def test_a_write_says_what_it_changed(home):
    made = automc("kg", "query", "CREATE (:Paper {id: 'written', title: 'x'})", "--write")
    assert made.stdout == ""
    assert made.stderr.startswith("nodes created 1, properties set 2, ")
    gone = automc("kg", "query", "MATCH (p:Paper {id: 'written'}) DELETE p", "--write")
    assert gone.stderr.startswith("nodes deleted 1, ")
