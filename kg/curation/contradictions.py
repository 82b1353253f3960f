"""Records that cannot both be right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kg.schema import Experience, Method

Place = tuple[str, str, str, str]
"""Strategy, task, source and table of a record."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two records of one strategy with all settings known, on one task and in one table, with other figures."""

    record: Experience
    other: Experience

    def __str__(self) -> str:
        return (
            f"{self.record.id}: contradicts {self.other.id}: same strategy, task and table, other figures "
            f"({figures(self.record)} against {figures(self.other)}). Say why in differs_because."
        )


def contradictions(
    records: Iterable[Experience], known: Iterable[Experience], methods: Mapping[str, Method]
) -> list[Contradiction]:
    """Return which of `records` contradict one that is known.

    A method without a grid never has all settings known. A record that says why it differs contradicts nothing.

    Args:
        records: the ones that are asked about.
        known: what they are compared with, the first of each place; may be the same.
        methods: the cards by id, of all methods that the records name.
    """
    first: dict[Place, Experience] = {}
    for one in known:
        place = _place(one, methods)
        if place is not None:
            first.setdefault(place, one)
    found = []
    for one in records:
        place = _place(one, methods)
        other = first.get(place) if place is not None else None
        if other is not None and (one.ar, one.pr, one.fr, one.sr) != (other.ar, other.pr, other.fr, other.sr):
            found.append(Contradiction(one, other))
    return found


def figures(record: Experience) -> str:
    """Print what a record says, such as "AR -1.20%, PR 40.00%"."""
    given = {"AR": record.ar, "PR": record.pr, "FR": record.fr, "SR": record.sr if record.quantised else None}
    return ", ".join(f"{name} {value:.2%}" for name, value in given.items() if value is not None) or "no figures"


def _place(record: Experience, methods: Mapping[str, Method]) -> Place | None:
    """Where a record stands, None where it cannot be contradicted."""
    knobs = methods[record.strategy.method].hyperparameters
    if not knobs or len(record.strategy.settings) < len(knobs) or record.details.get("differs_because"):
        return None
    return record.strategy.id, record.task.id, record.source, record.table
