"""What a trial says: rates by hand, failures, rows."""

from __future__ import annotations

import json

import pytest

from automc.execution.outcome import StepOutcome
from automc.study.trial import Figures, Trial
from kg.schema import Scheme

BASE = Figures(accuracy=0.8, params=1000, flops=5000)
PARENT = Figures(accuracy=0.72, params=800, flops=3000)
TWO_STEPS = Scheme.parse("NS[HP1=0.1,HP2=0.2] -> SFP[HP2=0.2,HP9=0.2]")


def trial(ordinal: int, accuracy: float, params: int, status: str = "ok") -> Trial:
    outcome = StepOutcome(status, accuracy=accuracy, params=params, flops=5 * params, reached=True, seconds=1.0)
    if status != "ok":
        outcome = StepOutcome(status, "no")
    return Trial.of(ordinal, 1, Scheme.parse(f"NS[HP2=0.{ordinal}]"), outcome, BASE, BASE)


def test_rates_by_hand():
    outcome = StepOutcome("ok", accuracy=0.76, params=600, flops=1500, reached=True, seconds=2.5, iterations=7)
    one = Trial.of(5, 2, TWO_STEPS, outcome, BASE, PARENT)
    assert one.ar == pytest.approx(-0.05)
    assert one.pr == pytest.approx(0.4)
    assert one.fr == pytest.approx(0.7)
    assert one.step_ar == pytest.approx(0.04 / 0.72)
    assert one.step_pr == pytest.approx(0.25)
    assert one.step_fr == pytest.approx(0.5)
    assert (one.ordinal, one.round, one.seconds, one.iterations) == (5, 2, 2.5, 7)
    assert one.figures == Figures(0.76, 600, 1500, 32 * 600)
    # Of floats, bits go as parameters do.
    assert (one.sr, one.step_sr, one.quantised) == (one.pr, one.step_pr, False)


def test_bits_that_go_are_those_of_32_for_each_original_parameter():
    outcome = StepOutcome("ok", accuracy=0.76, params=800, flops=3000, bits=6400)
    one = Trial.of(1, 1, TWO_STEPS, outcome, BASE, PARENT)
    assert one.sr == pytest.approx(1 - 6400 / 32_000)
    assert one.step_sr == pytest.approx(1 - 6400 / (32 * 800))
    assert (one.step_pr, one.quantised) == (0.0, True)
    after = Trial.of(
        2, 1, TWO_STEPS, StepOutcome("ok", accuracy=0.7, params=400, flops=1, bits=3200), BASE, one.figures
    )
    assert after.step_sr == pytest.approx(0.5)


def test_trials_of_before_there_was_a_size_ratio_were_of_floats():
    outcome = StepOutcome("ok", accuracy=0.76, params=600, flops=1500)
    one = Trial.of(5, 2, TWO_STEPS, outcome, BASE, PARENT)
    old = {name: value for name, value in one.as_row().items() if name not in ("bits", "sr", "step_sr")}
    assert Trial.from_row(old) == one


def test_a_model_that_gets_nothing_right_has_no_increase_rate():
    outcome = StepOutcome("ok", accuracy=0.1, params=600, flops=1500)
    one = Trial.of(1, 1, TWO_STEPS, outcome, BASE, Figures(0.0, 800, 3000))
    assert one.step_ar is None
    assert one.ar == pytest.approx(-0.875)
    assert one.step_pr == pytest.approx(0.25)


@pytest.mark.parametrize("status", ["infeasible", "diverged", "crashed", "timeout", "out_of_memory"])
def test_failures_carry_no_figures(status):
    one = Trial.of(1, 1, TWO_STEPS, StepOutcome(status, "why"), BASE, PARENT)
    assert one.figures is None
    assert {one.ar, one.pr, one.fr, one.step_ar, one.step_pr, one.step_fr, one.accuracy} == {None}
    told = one.outcome((3, 4))
    assert (told.scheme, told.status, told.accuracy, told.pr, told.reason) == ((3, 4), status, None, None, "why")


def test_rows_are_read_back_also_without_what_is_none():
    outcome = StepOutcome("ok", accuracy=0.76, params=600, flops=1500, reached=False, reason="short", cached=True)
    for one in (Trial.of(5, 2, TWO_STEPS, outcome, BASE, PARENT), trial(2, 0, 0, "timeout")):
        row = json.loads(json.dumps(one.as_row()))
        assert Trial.from_row(row) == one
        assert Trial.from_row({k: v for k, v in row.items() if v is not None} | {"id": "study/5"}) == one
