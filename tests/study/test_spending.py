"""One budget for the search and what follows it."""

from __future__ import annotations

from typing import Any

import pytest

from automc.datasets import DataRef
from automc.errors import AutoMCError
from automc.study import Budget
from automc.study.spec import StudySpec
from automc.study.spending import Spending, extent
from automc.training.recipe import Recipe
from automc.training.recover import Extent


def spending(budget: str, **more: Any) -> Spending:
    return Spending.of(StudySpec("s", "m", DataRef("digits"), 0.3, Budget.parse(budget), Recipe(), **more))


@pytest.mark.parametrize(
    ("text", "found"),
    [("30m", Extent(1800)), ("1h30m", Extent(5400)), ("20epochs", Extent(epochs=20)), ("0.5 epoch", Extent(epochs=0.5)),
     ("none", None), ("None", None)],
)  # fmt: skip
def test_an_extent_is_read(text, found):
    assert extent(text) == found


WRONG = ("", "auto", "epochs", "20", "-1m", "1e9epochs", "nanepochs", "0s", "0epochs", "9" * 30 + "h")


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_extent_is_refused(text):
    with pytest.raises(AutoMCError, match="--recover"):
        extent(text)


@pytest.mark.parametrize(
    ("options", "search", "recovery"),
    [
        ({}, 180, 250), ({"final": False}, 600, None), ({"recover": "none"}, 400, None),
        ({"recover": "1m"}, 360, 60), ({"recover": "1m", "final": False}, 540, 60),
    ],
)  # fmt: skip
def test_a_budget_of_seconds_is_divided(options, search, recovery):
    found = spending("10m", **options)
    assert found.search.seconds == pytest.approx(search)
    assert found.end_seconds == pytest.approx(600 - search)
    last = found.recovering(250.0)
    assert (last and last.seconds) == recovery


def test_what_opening_takes_is_part_of_the_budget_and_is_not_shared():
    spec = StudySpec("s", "m", DataRef("digits"), 0.3, Budget.parse("10m"), Recipe())
    found = Spending.of(spec, opening=100.0)
    assert found.search.seconds == pytest.approx(100 + 0.3 * 500)
    assert found.end_seconds == pytest.approx(350)
    # Nothing is left where opening took longer than the whole.
    late = Spending.of(spec, opening=700.0)
    assert (late.search.seconds, late.end_seconds) == (700, 0)


def test_steps_are_steps_of_the_search_and_nothing_trains_on_unasked():
    found = spending("40steps")
    assert found.search == Budget(steps=40)
    assert found.end_seconds is None
    assert found.recovering(None) is None
    assert found.runs(None, 40) == 20
    assert spending("40steps", recover="3epochs").recovering(None) == Extent(epochs=3)


def test_runs_share_the_end_with_a_recovery():
    assert spending("10m", recover="3epochs").runs(300.0, 9) == 75
    assert spending("10m", recover="none").runs(200.0, 9) == 200
    assert spending("10m", recover="1m").runs(240.0, 9) == 180
    assert spending("10m").runs(-5.0, 9) == 0
    assert spending("10m").recovering(0.5) is None


def test_a_recovery_that_leaves_nothing_is_refused():
    with pytest.raises(AutoMCError, match="leaves nothing"):
        spending("10m", recover="10m")
