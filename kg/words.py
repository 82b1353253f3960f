"""Strategies and schemes in plain words, made of what the cards say of each hyperparameter.

For people alone: ids are what is stored, copied and compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kg.schema import ARROW, LEVELS, START, Hyperparameter, Method, Scheme, Strategy, Value, format_value

PLACE = "{}"
"""Where the value stands in the words of a hyperparameter."""
_FIRST = ("HP2", "HP22")
"""What makes a model smaller is said first."""


def vocabulary(methods: Iterable[Method]) -> dict[str, Hyperparameter]:
    """Return the hyperparameters of all methods by their id; what one card says of one holds for all."""
    return {knob.id: knob for method in methods for knob in method.hyperparameters}


def strategy_words(strategy: Strategy, knobs: Mapping[str, Hyperparameter]) -> str:
    """Return a strategy in words, such as "NS: remove 12%, fine-tune 0.2·E0, at most 90% of a group".

    A hyperparameter without words is told by its meaning, an unknown one by its id.
    """
    ordered = sorted(strategy.settings, key=lambda setting: setting[0] not in _FIRST)
    text, bare = "", False
    for name, value in ordered:
        knob = knobs.get(name)
        words = knob.words or f"{knob.meaning} {PLACE}" if knob else f"{name} {PLACE}"
        # Values that speak for themselves stand together: P2/skew_kur.
        between = "" if not text else "/" if bare and words == PLACE else ", "
        text += between + words.replace(PLACE, value_words(value, knob.unit if knob else ""))
        bare = words == PLACE
    return f"{strategy.method}: {text}" if text else strategy.method


def scheme_words(scheme: Scheme, knobs: Mapping[str, Hyperparameter]) -> str:
    """Return the steps of a scheme in words, joined like those of its id, and its level where it has one."""
    level = f" (trained {scheme.level}/{LEVELS} of its length)" if scheme.level else ""
    return (ARROW.join(strategy_words(step, knobs) for step in scheme.steps) or START) + level


def value_words(value: Value, unit: str) -> str:
    """Return a value with its unit, as short as it can be: 40%, 0.2·E0, 3."""
    if isinstance(value, str):
        return value
    if unit.startswith("share of"):
        return f"{100 * value:.4g}%"
    if unit == "multiple of the pre-training epochs":
        return f"{format_value(value)}·E0"
    return format_value(value) if isinstance(value, int) else f"{value:.4g}"
