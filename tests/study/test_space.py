"""What a study may ask for: of strategies that are one and the same step under its recipe, one."""

from __future__ import annotations

import pytest

from automc import methods
from automc.study.space import first_of_twins
from automc.training.recipe import Recipe
from kg.cards import enumerate_strategies, on_grid, read_cards
from kg.schema import Strategy

GRID = [strategy for method in on_grid(read_cards()) for strategy in enumerate_strategies(method)]
DIGITS = 1149
"""Training images of digits, less validation."""


@pytest.mark.parametrize("unit_epochs", [10.0, 1.0])
def test_of_twins_the_first_may_be_asked_for(unit_epochs: float) -> None:
    recipe = Recipe(unit_epochs=unit_epochs)
    first = first_of_twins(GRID, recipe, DIGITS)
    able = [s for s in GRID if s.method in methods.registered()]
    kept = [methods.get(s.method).signature(s, recipe, DIGITS) for s, asked in zip(GRID, first, strict=True) if asked]
    assert len(set(kept)) == len(kept)
    assert set(kept) == {methods.get(s.method).signature(s, recipe, DIGITS) for s in able}
    assert len(kept) < len(able), "this recipe has twins"


def test_what_lasts_differently_long_is_no_twin() -> None:
    # LeGR's two lengths round alike one by one, but not in sum: 0.6 + 0.7 iterations are 1, 0.9 + 0.8 are 2.
    rest = (("HP2", 0.2), ("HP6", 0.9), ("HP8", "l2_bn"))
    pairs = [(a * 128 / DIGITS, b * 128 / DIGITS) for a, b in ((0.6, 0.7), (0.9, 0.8))]
    one, other = (Strategy("LeGR", (("HP1", a), ("HP7", b), *rest)) for a, b in pairs)
    recipe = Recipe(unit_epochs=1.0)
    lengths = [methods.get("LeGR").iterations(s, recipe, DIGITS) for s in (one, other)]
    assert lengths == [1, 2]
    assert first_of_twins([one, other], recipe, DIGITS).all()


def test_periods_beyond_the_masked_phase_are_one() -> None:
    def sfp(period: float) -> Strategy:
        return Strategy("SFP", (("HP2", 0.2), ("HP9", 0.1), ("HP10", period)))

    # 0.1 of ten epochs of nine batches are nine iterations, five of them with masks.
    found = first_of_twins([sfp(1.0), sfp(10.0), sfp(40.0), sfp(100.0)], Recipe(), DIGITS)
    assert found.tolist() == [True, True, True, False]
    assert [methods.get("SFP").period(sfp(p), Recipe(), DIGITS) for p in (1.0, 10.0, 40.0, 100.0)] == [1, 4, 18, 45]


def test_what_has_no_code_is_no_twin() -> None:
    assert not first_of_twins([Strategy("Nobody")], Recipe(), DIGITS).any()
