"""Steps in plain words, by the cards of this installation."""

from __future__ import annotations

from functools import cache

from automc.knowledge.cards import methods
from kg.schema import Hyperparameter, Scheme, Strategy
from kg.words import scheme_words, strategy_words, vocabulary


def in_words(what: Scheme | Strategy) -> str:
    """Return a scheme or a strategy in plain words; imports no torch.

    Raises:
        CardInvalid: a card of an installed package breaks a rule.
    """
    return scheme_words(what, _knobs()) if isinstance(what, Scheme) else strategy_words(what, _knobs())


@cache
def _knobs() -> dict[str, Hyperparameter]:
    return vocabulary(methods())
