"""What trials say: rates by hand, fronts and recommendations by their definitions."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automc.execution.outcome import StepOutcome
from automc.study.trial import Figures, Trial, front, nearest_miss, recommended
from kg.schema import Scheme

BASE = Figures(accuracy=0.8, params=1000, flops=5000)
PARENT = Figures(accuracy=0.72, params=800, flops=3000)
TWO_STEPS = Scheme.parse("NS[HP1=0.1,HP2=0.2] -> SFP[HP2=0.2,HP9=0.2]")


def trial(ordinal: int, accuracy: float, params: int, status: str = "ok") -> Trial:
    outcome = StepOutcome(status, accuracy=accuracy, params=params, flops=5 * params, reached=True, seconds=1.0)
    if status != "ok":
        outcome = StepOutcome(status, "no")
    return Trial.of(ordinal, 1, 4, Scheme.parse(f"NS[HP2=0.{ordinal}]"), outcome, BASE, BASE)


def test_rates_by_hand():
    outcome = StepOutcome("ok", accuracy=0.76, params=600, flops=1500, reached=True, seconds=2.5, iterations=7)
    one = Trial.of(5, 2, 4, TWO_STEPS, outcome, BASE, PARENT)
    assert one.ar == pytest.approx(-0.05)
    assert one.pr == pytest.approx(0.4)
    assert one.fr == pytest.approx(0.7)
    assert one.step_ar == pytest.approx(0.04 / 0.72)
    assert one.step_pr == pytest.approx(0.25)
    assert one.step_fr == pytest.approx(0.5)
    assert (one.ordinal, one.round, one.asked, one.seconds, one.iterations) == (5, 2, 4, 2.5, 7)
    assert one.figures == Figures(0.76, 600, 1500)


def test_a_model_that_gets_nothing_right_has_no_increase_rate():
    outcome = StepOutcome("ok", accuracy=0.1, params=600, flops=1500)
    one = Trial.of(1, 1, 1, TWO_STEPS, outcome, BASE, Figures(0.0, 800, 3000))
    assert one.step_ar is None
    assert one.ar == pytest.approx(-0.875)
    assert one.step_pr == pytest.approx(0.25)


@pytest.mark.parametrize("status", ["infeasible", "diverged", "crashed", "timeout", "out_of_memory"])
def test_failures_carry_no_figures(status):
    one = Trial.of(1, 1, 1, TWO_STEPS, StepOutcome(status, "why"), BASE, PARENT)
    assert one.figures is None
    assert {one.ar, one.pr, one.fr, one.step_ar, one.step_pr, one.step_fr, one.accuracy} == {None}
    told = one.outcome((3, 4))
    assert (told.scheme, told.status, told.accuracy, told.pr, told.reason) == ((3, 4), status, None, None, "why")


def test_rows_are_read_back_also_without_what_is_none():
    outcome = StepOutcome("ok", accuracy=0.76, params=600, flops=1500, reached=False, reason="short", cached=True)
    for one in (Trial.of(5, 2, 4, TWO_STEPS, outcome, BASE, PARENT), trial(2, 0, 0, "timeout")):
        row = json.loads(json.dumps(one.as_row()))
        assert Trial.from_row(row) == one
        assert Trial.from_row({k: v for k, v in row.items() if v is not None} | {"id": "study/5"}) == one


trials = st.lists(
    st.tuples(st.integers(0, 8), st.integers(1, 9), st.sampled_from(["ok", "ok", "ok", "crashed"])), max_size=12
).map(lambda drawn: [trial(i, a / 8, 100 * p, status) for i, (a, p, status) in enumerate(drawn, 1)])


@given(trials, st.sampled_from([0.1, 0.3, 0.5, 0.84]))
def test_front_is_what_nothing_beats(made, gamma):
    able = [t for t in made if t.status == "ok" and t.params <= round(1000 * (1 - gamma))]

    def beaten(t: Trial) -> bool:
        return any(
            o.accuracy >= t.accuracy and o.params <= t.params and (o.accuracy, o.params) != (t.accuracy, t.params)
            for o in able
        )

    expected = {(t.accuracy, t.params) for t in able if not beaten(t)}
    found = front(made, gamma)
    assert [(t.accuracy, t.params) for t in found] == sorted(expected, key=lambda point: -point[1])
    # Of equal points, the first one measured.
    for t in found:
        assert t is min((o for o in able if o.figures == t.figures), key=lambda o: o.ordinal)


def test_target_forgives_the_rounding_to_whole_parameters():
    # 0.3 of 269,722 parameters is no whole number.
    base = Figures(0.9, 269_722, 1)
    outcome = StepOutcome("ok", accuracy=0.9, params=269_722 - 80_916, flops=1)
    assert len(front([Trial.of(1, 1, 1, TWO_STEPS, outcome, base, base)], 0.3)) == 1
    outcome = StepOutcome("ok", accuracy=0.9, params=269_722 - 80_000, flops=1)
    assert not front([Trial.of(1, 1, 1, TWO_STEPS, outcome, base, base)], 0.3)


def test_recommended_is_the_smallest_within_one_standard_error():
    made = [
        trial(1, 0.90, 700),
        trial(2, 0.89, 500),
        trial(3, 0.86, 300),
        trial(4, 0.99, 900),
        trial(5, 0.95, 650, "crashed"),
    ]
    # sqrt(0.9 · 0.1 / 400) = 0.015: trial 2 is within it, trial 3 is not.
    choice = recommended(made, 0.3, 400)
    assert choice.trial is made[1]
    assert "1.50%" in choice.why
    assert "n = 400" in choice.why
    # sqrt(0.9 · 0.1 / 40000) = 0.0015: nothing else is.
    choice = recommended(made, 0.3, 40_000)
    assert choice.trial is made[0]
    assert "most accurate" in choice.why


def test_nothing_to_recommend():
    assert recommended([], 0.3, 100) is None
    assert recommended([trial(1, 0.9, 800), trial(2, 0, 0, "crashed")], 0.3, 100) is None
    assert nearest_miss([trial(1, 0.9, 800), trial(2, 0.5, 750), trial(3, 0, 0, "crashed")]).ordinal == 2
    assert nearest_miss([trial(3, 0, 0, "crashed")]) is None
