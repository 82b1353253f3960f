"""`automc search`, `resume`, `show`, `study` and `cache`, with real worker processes and a real graph."""

from __future__ import annotations

import csv
import json
import re
from io import StringIO
from pathlib import Path

import pytest
from study_tools import in_process

from automc import api, knowledge
from automc.errors import StudyError
from automc.study.limits import parse_bytes

QUICK = ("--unit-epochs", "0.05", "--fraction", "0.2", "--precision", "float32", "--device", "cpu", "--workers", "1")


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text)))


def test_a_search_from_its_plan_to_the_saved_model(automc, full_home, tmp_path):
    out = tmp_path / "new" / "small.am"
    began = automc(
        "search", full_home / "digits.am", "--data", "digits", "--gamma", "0.2", "--budget", "3steps", *QUICK,
        "--no-own-experience", "--out", out,
    )  # fmt: skip
    assert began.exit_code == 0, began.output
    said = began.stderr
    # Plan and estimate come before the first trial, then a line per trial.
    assert said.index("a step takes about") < said.index("\n[1 | ")
    without_code = {c.id: knowledge.grid_size(c) for c in knowledge.methods() if not knowledge.executable(c.id)}
    for method, count in without_code.items():
        assert (f"{method}: {count:,} masked, no implementation here" in said) == (count > 0)
    # Steps are told in the words of their cards; ids are below the table, for copying.
    assert len(re.findall(r"^\[\d \| \S+ \S+\] trial \d, \w+: remove .*accuracy .*removed", said, re.M)) == 3
    assert re.search(r"^  trial \d: \w+\[HP\d+=\S+\]$", began.stdout, re.M)
    assert "may have seen the validation" not in said
    assert "Front of digits-digits-1" in began.stdout

    # The query that was printed finds the recommended scheme, and its answer was printed.
    query = re.search(r"automc kg query '(.*?)' --param 'study=(.*?)' --param 'scheme=(.*?)'\n", said)
    found = automc(
        "kg", "query", query[1], "--param", f"study={query[2]}", "--param", f"scheme={query[3]}", "--format", "json"
    )
    (row,) = json.loads(found.stdout)
    assert row["scheme"] == query[3]
    assert row["trial"] in began.stdout

    shown = json.loads(automc("show", "digits-digits-1", "--format", "json").stdout)
    assert shown["status"] == "done"
    # The saved model's test accuracy is what is said first, with its interval, before the front and its choice.
    first = shown["headline"]
    assert first["test_accuracy"] == shown["final"]["test_accuracy"]
    assert first["test_low"] < first["test_accuracy"] < first["test_high"]
    assert first["validation_too_kind"] == shown["recommended"]["accuracy"] - first["test_accuracy"]
    lead = f"Test accuracy {first['test_accuracy']:.2%} (95% interval {first['test_low']:.1%} to "
    assert said.index(lead) < said.index("Recommended:")
    assert automc("show", "digits-digits-1").stderr.startswith(lead)
    assert shown["recommended"]["scheme"] == query[3]
    assert out.read_bytes() == Path(shown["final"]["path"]).read_bytes()
    measured = api.measure(str(out), "digits", device="cpu")
    assert measured.params == shown["final"]["params"]
    assert f"{measured.params:,} parameters" in said

    rows = table(automc("show", "digits-digits-1", "--trials", "--format", "csv").stdout)
    assert [row["ordinal"] for row in rows] == ["1", "2", "3"]
    assert {row["status"] for row in rows} == {"ok"}

    gone_on = automc("resume", "digits-digits-1", "--budget", "4steps", "--format", "json", "--workers", "1")
    assert gone_on.exit_code == 0, gone_on.output
    assert "3 trials are in the graph already" in gone_on.stderr
    rows += table(automc("show", "digits-digits-1", "--trials", "--format", "csv").stdout)[3:]
    front = {row["scheme"] for row in json.loads(gone_on.stdout)}
    tested = {row["recommended"]: row["test_accuracy"] for row in json.loads(gone_on.stdout)}
    assert tested.pop("*") is not None
    assert set(tested.values()) <= {None}
    assert front <= {row["scheme"] for row in rows}
    assert len(rows) == 4

    listed = table(automc("study", "list", "--format", "csv").stdout)
    assert [(row["id"], row["status"], row["gamma"]) for row in listed] == [("digits-digits-1", "done", "0.2")]
    assert json.loads(automc("cache", "show", "--format", "json").stdout)["models"] == 4
    freed = automc("cache", "prune", "--to", "0")
    assert "Freed " in freed.stderr
    left = json.loads(automc("cache", "show", "--format", "json").stdout)
    assert left["models"] == left["pinned"] == len(front)

    kept = automc("study", "delete", "digits-digits-1")
    assert kept.exit_code == 1
    assert automc("study", "delete", "digits-digits-1", "--yes").exit_code == 0
    assert table(automc("study", "list", "--format", "csv").stdout) == []
    gone = automc("show", "digits-digits-1")
    assert gone.exit_code == 2
    assert "no study 'digits-digits-1'" in gone.stderr


@pytest.mark.slow
def test_unmet_target_is_exit_3_and_the_trials_are_kept(automc, full_home):
    with in_process():
        done = automc(
            "search", full_home / "digits.am", "--data", "digits", "--gamma", "0.8", "--budget", "1step", *QUICK,
            "--no-own-experience", "--grid-only",
        )  # fmt: skip
    assert done.exit_code == 3, done.output
    assert "No scheme removed 80% of the parameters within the budget." in done.stderr
    assert "Nearest: trial 1 removed" in done.stderr
    assert "automc resume digits-digits-1" in done.stderr
    shown = json.loads(automc("show", "digits-digits-1", "--format", "json").stdout)
    assert (shown["status"], shown["front"], shown["recommended"]) == ("unmet", [], None)
    assert len(table(automc("show", "digits-digits-1", "--trials", "--format", "csv").stdout)) == 1


def test_a_budget_that_opening_takes_is_said_so(automc, full_home):
    with in_process():
        done = automc(
            "search", full_home / "digits.am", "--data", "digits", "--budget", "0.1s", *QUICK, "--no-own-experience"
        )
    assert done.exit_code == 3, done.output
    assert "No step began: opening the study and trying each method took the budget of 0.1 s." in done.stderr
    assert "within the budget" not in done.stderr
    assert "budget      0.1 s, all of which opening the study has used: " in done.stderr
    assert "until the model is saved" not in done.stderr
    assert "automc resume digits-digits-1" in done.stderr


def test_sizes_are_read():
    assert parse_bytes("20GiB") == 20 * 2**30
    assert parse_bytes("500MB") == 500_000_000
    assert parse_bytes("1.5 kib") == 1536
    assert parse_bytes("0") == 0
    for text in ("", "much", "-1", "3 parsecs", "1ti"):
        with pytest.raises(StudyError, match="is not a size"):
            parse_bytes(text)
