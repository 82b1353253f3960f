from __future__ import annotations

import re
from pathlib import Path

import pytest

from kg.cards import enumerate_strategies, packaged_cards, read_cards
from kg.errors import CardInvalid
from kg.schema import Scheme, Strategy
from kg.words import scheme_words, strategy_words, vocabulary

KNOBS = vocabulary(read_cards())


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("HOS[HP1=0.2,HP2=0.4,HP11=P2,HP12=skew_kur,HP13=0.3,HP14=5]",
         "HOS: remove 40%, fine-tune 0.2·E0, P2/skew_kur, optimise 0.3·E0, MSE weight 5"),
        ("NS[HP1=0.1,HP2=0.0733,HP6=0.9]", "NS: remove 7.33%, fine-tune 0.1·E0, at most 90% of a group"),
        ("UQ[HP1=0.2,HP22=4]", "UQ: 4 bits, fine-tune 0.2·E0"),
        ("SFP[HP2=0.2,HP9=0.2,HP10=1]", "SFP: remove 20%, train 0.2·E0, new mask every 1 of 200 epochs"),
        ("TRP[HP20=0.0003]", "TRP: nuclear norm 0.0003"),
        ("FPGM[HP77=3]", "FPGM: HP77 3"),
        ("KM[]", "KM"),
    ],
)  # fmt: skip
def test_a_strategy_is_told_in_the_words_of_its_card(strategy: str, words: str) -> None:
    assert strategy_words(Strategy.parse(strategy), KNOBS) == words


def test_every_setting_of_every_grid_has_words() -> None:
    for method in read_cards():
        for strategy in list(enumerate_strategies(method))[:: 97 if method.id == "HOS" else 31]:
            words = strategy_words(strategy, KNOBS)
            assert not re.search(r"HP\d|\{|\}", words), words
            assert len(words) <= 110, words


def test_no_two_strategies_of_a_grid_are_told_alike() -> None:
    for method in read_cards():
        grid = list(enumerate_strategies(method))
        assert len({strategy_words(strategy, KNOBS) for strategy in grid}) == len(grid)


def test_a_scheme_is_its_steps() -> None:
    scheme = Scheme.parse("UQ[HP1=0.2,HP22=4] -> UQ[HP1=0.1,HP22=2]")
    assert scheme_words(scheme, KNOBS) == "UQ: 4 bits, fine-tune 0.2·E0 -> UQ: 2 bits, fine-tune 0.1·E0"
    assert scheme_words(Scheme(), KNOBS) == "START"


CARD = """format: 1
method: Mine
title: Mine
citation: Nobody.
techniques: [{id: mine, title: mine}]
hyperparameters:
  - {id: HP2, meaning: parameters to remove in this step, unit: share of the original parameters, values: [0.1]}
  - {id: MineRate, meaning: rate of mine, unit: factor, values: [0.1, 0.5]%s}
"""


def test_a_card_without_words_is_told_by_its_meanings_and_shares_those_of_others(tmp_path: Path) -> None:
    card = tmp_path / "mine.yaml"
    for extra, words in (("", "rate of mine 0.5"), (", words: 'mine at {}'", "mine at 0.5")):
        card.write_text(CARD % extra)
        knobs = vocabulary(read_cards([*packaged_cards(), card]))
        assert strategy_words(Strategy.parse("Mine[HP2=0.1,MineRate=0.5]"), knobs) == f"Mine: remove 10%, {words}"


def test_words_without_a_place_for_the_value_are_refused(tmp_path: Path) -> None:
    card = tmp_path / "mine.yaml"
    card.write_text(CARD % ", words: at some rate")
    with pytest.raises(CardInvalid, match=r"MineRate.*must have \{\} once|words.*must have \{\} once"):
        read_cards([*packaged_cards(), card])
