"""What is said first of a study: the test, with its interval, and how kind validation was."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest
from test_protocol import trial

from automc.study.headline import Headline, Share, headline, wilson


@pytest.mark.parametrize(("right", "n"), [(0, 10), (350, 360), (360, 360), (7_213, 10_000), (1, 1)])
def test_the_interval_is_wilsons(right, n):
    known = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson(right / n, n) == pytest.approx((known.low, known.high))


def final(scheme: str, test: float | None, **more: object) -> dict[str, object]:
    return {"scheme": scheme, "test_accuracy": test, "base_test_accuracy": test and 0.98, "test_images": 360, **more}


def test_the_saved_models_test_comes_first_and_validation_is_judged_by_it():
    chosen = trial(1, 0.9889, 700)
    found = headline([chosen], chosen, final(chosen.scheme.id, 350 / 360), 0.99, 359)
    first, second = found.lines()
    assert first == "Test accuracy 97.22% (95% interval 95.0% to 98.5%, n = 360); 98.00% before."
    assert second.startswith("Validation said 98.89%, the test says 97.22%: 1.7 points too kind")
    assert second.endswith("Of the original model it said 1.0 points more.")
    fields = found.fields()
    assert fields["test_low"] < fields["test_accuracy"] < fields["test_high"]
    assert fields["validation_too_kind"] == pytest.approx(0.9889 - 350 / 360)


def test_a_validation_that_was_not_too_kind_is_not_accused():
    chosen = trial(1, 0.97, 700)
    text = headline([chosen], chosen, final(chosen.scheme.id, 0.975), 0.97, 359).lines()[1]
    assert "not too kind" in text
    assert "it said 1.0 points less" in text


@pytest.mark.parametrize("saved", [None, final("NS[HP2=0.1]", None)])
def test_without_a_tested_model_the_figure_is_called_what_it_is(saved):
    chosen = trial(1, 0.9, 700)
    (line,) = headline([chosen], chosen, saved, 0.8, 400).lines()
    assert line.startswith("Validation accuracy 90.00% (95% interval 86.7% to 92.6%, n = 400), 80.00% before.")
    assert "chose the scheme" in line
    assert headline([chosen], None, None, 0.8, 400) is None


def test_what_was_saved_before_the_study_went_on_is_judged_by_its_own_trial():
    earlier, chosen = trial(1, 0.95, 800), trial(2, 0.99, 700)
    found = headline([earlier, chosen], chosen, final(earlier.scheme.id, 0.94), 0.99, 400)
    assert found.validation.value == 0.95


def test_a_study_of_before_the_images_were_counted_has_no_interval():
    assert str(Share.of(0.5, None)) == "50.00%"
    old = Headline(Share.of(0.9, None), Share.of(0.95, 400), None, 0.95)
    assert old.lines()[0] == "Test accuracy 90.00%."
    assert old.fields()["test_low"] is None
