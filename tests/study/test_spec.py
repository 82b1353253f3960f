"""Budgets and the plain values of a study."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automc.datasets import DataRef
from automc.errors import StudyError
from automc.study import Budget, StudySpec
from automc.study.limits import Limit
from automc.training.recipe import Recipe

SPEC = StudySpec(
    id="net-digits-1",
    model="net.py:build",
    data=DataRef("photos/", mean=(0.5, 0.25, 0.125), std=(1.0, 0.5, 0.25), size=32, classes=("a", "b"), val="held/"),
    gamma=0.3,
    budget=Budget(seconds=90.5),
    recipe=Recipe(unit_epochs=0.5, fraction=0.1, precision="bfloat16"),
    searcher="random",
    seed=3,
    keep=("fc", "layer1.*"),
    step_timeout=12.5,
    versions={"torch": "2"},
)


@pytest.mark.parametrize(
    ("text", "steps", "seconds"),
    [
        ("40steps", 40, None),
        ("1step", 1, None),
        (" 7 Steps ", 7, None),
        ("30m", None, 1800.0),
        ("2h", None, 7200.0),
        ("90s", None, 90.0),
        ("1h30m", None, 5400.0),
        ("1.5h", None, 5400.0),
        ("2min 5sec", None, 125.0),
        ("1d", None, 86400.0),
    ],
)
def test_budgets_are_read(text, steps, seconds):
    assert Budget.parse(text) == Budget(steps, seconds)


@pytest.mark.parametrize(
    "text", ["", "30", "m", "steps", "-3steps", "-5m", "1.5steps", "30 parsecs", "3h or so", "1h,30m", "5msteps", "nan"]
)
def test_unreadable_budgets_are_refused_with_an_example(text):
    with pytest.raises(StudyError, match="30m, 2h, 90s, 1h30m or 40steps"):
        Budget.parse(text)


def test_the_window_follows_the_workers_and_stays_when_they_change():
    windows = [replace(SPEC, window=0, workers=workers).window for workers in (1, 2, 3, 8)]
    assert windows == [6, 6, 6, 16]
    eight = replace(SPEC, window=0, workers=8)
    assert [eight.with_workers(n).window for n in (None, 1, 8, 16)] == [16, 16, 16, 16]
    assert eight.with_workers(17).window == 34, "more workers than asks under way: some would never work"
    assert StudySpec.from_dict(eight.with_workers(2).as_dict()).window == 16


def test_studies_that_asked_in_rounds_are_read():
    old = json.loads(json.dumps(SPEC.as_dict()))
    del old["window"]
    assert StudySpec.from_dict({**old, "round_size": 4, "workers": 3}).window == 6


@pytest.mark.parametrize("text", ["0steps", "0s", "0h0m"])
def test_a_budget_leaves_something_to_spend(text):
    with pytest.raises(StudyError, match="nothing to spend"):
        Budget.parse(text)


@given(
    st.one_of(st.builds(Budget, steps=st.integers(1, 10**6)), st.builds(Budget, seconds=st.integers(1, 999).map(float)))
)
def test_what_is_printed_is_read_again(budget):
    read = Budget.parse(str(budget))
    assert read.steps == budget.steps
    # Three digits are printed.
    assert (read.seconds or 0) == pytest.approx(budget.seconds or 0, rel=0.006)


def test_spec_survives_json():
    assert StudySpec.from_dict(json.loads(json.dumps(SPEC.as_dict()))) == SPEC
    assert StudySpec.from_dict(SPEC.as_dict()) == SPEC


def test_specs_from_before_there_were_limits_are_read():
    old = {name: value for name, value in SPEC.as_dict().items() if name not in ("limits", "max_drop")}
    assert StudySpec.from_dict(old) == SPEC


def test_limits_survive_json():
    limited = replace(SPEC, gamma=None, limits=(Limit("flops", 0.4, True), Limit("latency_ms", 3.0)), max_drop=0.005)
    assert StudySpec.from_dict(json.loads(json.dumps(limited.as_dict()))) == limited
    with pytest.raises(StudyError, match="needs a target"):
        replace(SPEC, gamma=None)


def test_specs_of_another_version_are_said():
    for broken in ({**SPEC.as_dict(), "tomorrow": 1}, {k: v for k, v in SPEC.as_dict().items() if k != "budget"}):
        with pytest.raises(StudyError, match="another version of AutoMC"):
            StudySpec.from_dict(broken)


@pytest.mark.parametrize("gamma", [0.0, -0.1, 0.841, 1.0, float("nan")])
def test_gamma_outside_its_range(gamma):
    with pytest.raises(StudyError, match=r"--gamma must lie in \(0, 0.84\]"):
        replace(SPEC, gamma=gamma)


@pytest.mark.parametrize("field", ["max_length", "workers"])
def test_counts_below_one(field):
    with pytest.raises(StudyError, match=f"--{field.replace('_', '-')} must be a whole number in"):
        replace(SPEC, **{field: 0})


def test_another_budget_changes_nothing_else():
    assert SPEC.with_budget(None) is SPEC
    other = SPEC.with_budget(Budget(steps=3))
    assert other.budget == Budget(steps=3)
    assert replace(other, budget=SPEC.budget) == SPEC
