"""Method cards: the YAML files that say what a compression method is, and the strategies they span.

A card holds citation, techniques and hyperparameters with meaning, unit and grid; without hyperparameters it
is knowledge only. A card with `default_grid: false` has a grid that is searched only where its method is named.
Hyperparameters and techniques are shared between cards by their id, so their meaning, unit and title must be the same
everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise, product
from math import prod
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from kg.curation.documents import Document, Readable, read_document
from kg.errors import CardInvalid
from kg.resources import methods_dir
from kg.schema import (
    MAX_VALUE,
    Family,
    Hyperparameter,
    Method,
    Strategy,
    Technique,
    Value,
    format_value,
    hyperparameter_order,
)
from kg.words import PLACE

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=100)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000)]

MAX_STRATEGIES = 100_000
"""What a grid may span: every one of them becomes a node of the graph and is embedded."""
SIZE = "HP2"
"""The share of the original parameters a step removes: what makes its model smaller."""
BITS = "HP22"
"""The stored bits of a weight: what makes a model smaller where its parameters stay. A grid has one of the two."""


def _repeated(names: Iterable[object]) -> list[str]:
    """What occurs more than once, in order."""
    seen: set[object] = set()
    return [str(name) for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]


class TechniqueCard(Document):
    """A technique; the title may be left to another card that has it."""

    id: Identifier
    title: Text | None = None


class HyperparameterCard(Document):
    """A hyperparameter and its grid: ascending numbers, or categories. Its words may be left to another card."""

    id: Identifier
    meaning: Text
    unit: Text
    words: Name | None = None
    values: tuple[int | float | str, ...] = Field(strict=False)

    @field_validator("words")
    @classmethod
    def _place(cls, words: str | None) -> str | None:
        if words is not None and words.count(PLACE) != 1:
            raise ValueError(f"'{words}' must have {PLACE} once, where the value stands, as in 'fine-tune {PLACE}'")
        return words

    @field_validator("values")
    @classmethod
    def _grid(cls, values: tuple[Value, ...]) -> tuple[Value, ...]:
        if not values:
            raise ValueError("the grid is empty; give at least one value, or leave the hyperparameter out")
        repeated = _repeated(format_value(value) for value in values)
        if repeated:
            raise ValueError(f"duplicate setting {', '.join(repeated)}; name each value once")
        numbers = [value for value in values if not isinstance(value, str)]
        if numbers and len(numbers) < len(values):
            raise ValueError("numbers and categories are mixed; use one kind")
        if any(not before < after for before, after in pairwise(numbers)):
            raise ValueError("numbers must ascend; their order says which settings are neighbours")
        if any(abs(number) > MAX_VALUE for number in numbers):
            raise ValueError(f"numbers must lie between -{MAX_VALUE:g} and {MAX_VALUE:g}")
        for value in values:
            if isinstance(value, str) and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", value):
                raise ValueError(f"'{value}' is not a category; use letters, digits, - and _")
        return values


class Card(Document):
    """One method card as written."""

    format: Literal[1]
    method: Identifier
    label: str = ""
    title: Text
    citation: Text
    url: str = ""
    family: Family | None = None
    techniques: tuple[TechniqueCard, ...] = Field(strict=False, min_length=1)
    hyperparameters: tuple[HyperparameterCard, ...] = Field(default=(), strict=False)
    default_grid: bool = True

    @model_validator(mode="after")
    def _whole(self) -> Card:
        for what, ids in (
            ("technique", [technique.id for technique in self.techniques]),
            ("hyperparameter", [hyperparameter.id for hyperparameter in self.hyperparameters]),
        ):
            if repeated := _repeated(ids):
                raise ValueError(f"{what} {', '.join(repeated)} is listed twice")
        size = next((h for h in self.hyperparameters if h.id == SIZE), None)
        bits = next((h for h in self.hyperparameters if h.id == BITS), None)
        if self.hyperparameters and (size is None) == (bits is None):
            raise ValueError(
                f"a method with a grid needs {SIZE}, the share of the original parameters a step removes, or {BITS}, "
                "the stored bits of a weight, and not both"
            )
        if not self.hyperparameters and not self.default_grid:
            raise ValueError("a method without a grid is in no search anyway; leave default_grid out")
        strategies = prod(len(h.values) for h in self.hyperparameters)
        if strategies > MAX_STRATEGIES:
            raise ValueError(f"the grid spans {strategies:,} strategies; at most {MAX_STRATEGIES:,} are searched")
        if size and any(isinstance(value, str) or not 0 < value < 1 for value in size.values):
            raise ValueError(f"{SIZE} is a share: its values lie between 0 and 1")
        if bits and any(isinstance(value, str) or not 2 <= value <= 8 for value in bits.values):
            raise ValueError(f"{BITS} are bits: its values lie between 2 and 8")
        return self


def packaged_cards() -> list[Path]:
    """Return the paths of the cards that come with this package, sorted."""
    return sorted(methods_dir().glob("*.yaml"))


def read_cards(paths: Iterable[Readable] | None = None) -> tuple[Method, ...]:
    """Read method cards and check them one by one and against each other.

    A later card with a grid replaces one of the same method that is knowledge only: so a package can bring the code
    of a method whose citation and results are known already.

    Args:
        paths: the cards; None for the packaged ones. To add some, pass `[*packaged_cards(), extra]`.

    Returns:
        The methods: those with a label first, by label, then those with a grid, then the others, both by id.
        Hyperparameters in their order.

    Raises:
        CardInvalid: names the file, the field and the reason.
    """
    places: Iterable[Readable] = packaged_cards() if paths is None else paths
    found = [(path, read_document(path, Card, CardInvalid)) for path in places]
    cards = [
        (path, card)
        for place, (path, card) in enumerate(found)
        if card.hyperparameters
        or not any(later.method == card.method and later.hyperparameters for _, later in found[place + 1 :])
    ]
    titles, words = _agree(cards)
    methods = [_method(card, titles, words) for _, card in cards]
    return tuple(sorted(methods, key=lambda m: (not m.label, m.label, not m.hyperparameters, m.id)))


def enumerate_strategies(method: Method) -> Iterator[Strategy]:
    """Yield every strategy of a method's grid: the product of its values in hyperparameter order.

    A method without hyperparameters has none.
    """
    return iter(_grid(method))


@lru_cache(maxsize=256)
def _grid(method: Method) -> tuple[Strategy, ...]:
    if not method.hyperparameters:
        return ()
    ordered = sorted(method.hyperparameters, key=lambda hyperparameter: hyperparameter_order(hyperparameter.id))
    names = [hyperparameter.id for hyperparameter in ordered]
    combinations = product(*(hyperparameter.values for hyperparameter in ordered))
    return tuple(Strategy(method.id, tuple(zip(names, values, strict=True))) for values in combinations)


def on_grid(methods: Iterable[Method], named: Collection[str] = ()) -> tuple[Method, ...]:
    """Return methods as a search has them: one off the default grid is knowledge only, unless it is named."""
    return tuple(m if m.default_grid or m.id in named else replace(m, hyperparameters=()) for m in methods)


def _agree(cards: list[tuple[Readable, Card]]) -> tuple[dict[str, str], dict[str, str]]:
    """Check what cards share; return the title of every technique, and the words of hyperparameters that have some."""
    methods: dict[str, tuple[Readable, str]] = {}
    knobs: dict[str, tuple[Readable, HyperparameterCard]] = {}
    titles: dict[str, tuple[Readable, str]] = {}
    for path, card in cards:
        first, name = methods.setdefault(card.method.casefold(), (path, card.method))
        if name != card.method:
            raise CardInvalid(
                f"{path}: method: {card.method} differs from {name} in {first} by capitals alone. Rename it."
            )
        if first != path:
            raise CardInvalid(f"{path}: method: {card.method} has a card already, {first}. Rename one of them.")
        for knob in card.hyperparameters:
            where, other = knobs.setdefault(knob.id, (path, knob))
            for part in ("meaning", "unit"):
                if getattr(other, part) != getattr(knob, part):
                    raise CardInvalid(
                        f"{path}: {knob.id}.{part}: '{getattr(knob, part)}' differs from '{getattr(other, part)}' in "
                        f"{where}. One id means one thing: use another id."
                    )
        for technique in card.techniques:
            if technique.title is not None:
                where, title = titles.setdefault(technique.id, (path, technique.title))
                if title != technique.title:
                    raise CardInvalid(f"{path}: {technique.id}.title: '{technique.title}' is '{title}' in {where}.")
    for path, card in cards:
        for technique in card.techniques:
            if technique.id not in titles:
                raise CardInvalid(
                    f"{path}: {technique.id}.title: unknown technique {technique.id}; give it a title here."
                )
    words: dict[str, str] = {}
    for _, card in cards:
        for knob in card.hyperparameters:
            words[knob.id] = words.get(knob.id) or knob.words or ""
    return {id: title for id, (_, title) in titles.items()}, words


def _method(card: Card, titles: dict[str, str], words: dict[str, str]) -> Method:
    ordered = sorted(card.hyperparameters, key=lambda hyperparameter: hyperparameter_order(hyperparameter.id))
    return Method(
        id=card.method,
        title=card.title,
        citation=card.citation,
        techniques=tuple(Technique(technique.id, titles[technique.id]) for technique in card.techniques),
        hyperparameters=tuple(Hyperparameter(h.id, h.meaning, h.unit, h.values, words[h.id]) for h in ordered),
        label=card.label,
        url=card.url,
        default_grid=card.default_grid,
        family=card.family,
    )
