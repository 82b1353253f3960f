"""A tiny world: two methods with a grid, one without, their triples, and experience of two papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from kg.cards import enumerate_strategies
from kg.schema import Experience, Hyperparameter, Method, Strategy, Task, Technique, setting_id

Triple = tuple[str, str, str]
HP1 = Hyperparameter("HP1", "epochs", "multiple", (0.1, 0.2, 0.4))
HP2 = Hyperparameter("HP2", "to remove", "share", (0.1, 0.3))
HP8 = Hyperparameter("HP8", "criterion", "category", ("l1", "l2"))
TASK = Task("t", "cifar10", "resnet", 10, 32, 3, 50_000, 900_000, 250_000_000, 0.93)
UNKNOWN = Task("u", "other", "net", 100, 32, 3, 50_000)


def links(methods: Sequence[Method]) -> list[Triple]:
    """The five relations of cards, derived here once more."""
    found: set[Triple] = set()
    for method in methods:
        found |= {(method.id, "USES_TECHNIQUE", technique.id) for technique in method.techniques}
        for knob in method.hyperparameters:
            found.add((method.id, "HAS_HYPERPARAMETER", knob.id))
            found |= {(knob.id, "HAS_VALUE", setting_id(knob.id, value)) for value in knob.values}
        for strategy in enumerate_strategies(method):
            found.add((strategy.id, "OF_METHOD", method.id))
            found |= {(strategy.id, "HAS_SETTING", setting_id(*setting)) for setting in strategy.settings}
    return sorted(found)


@pytest.fixture(scope="session")
def triples_of() -> Callable[[Sequence[Method]], list[Triple]]:
    return links


@pytest.fixture(scope="session")
def methods() -> tuple[Method, ...]:
    tune, prune, other = Technique("T1", "tune"), Technique("T2", "prune"), Technique("T3", "factor")
    return (
        Method("A", "a", "", (tune, prune), (HP1, HP2, HP8)),
        Method("B", "b", "", (other,), (HP2,)),
        Method("K", "k", "", (tune, other)),
    )


@pytest.fixture(scope="session")
def triples(methods: tuple[Method, ...]) -> list[Triple]:
    return links(methods)


@pytest.fixture(scope="session")
def record() -> Callable[..., Experience]:
    """Make a record: method, settings, then fields of Experience."""

    def make(id: str, method: str, settings: dict[str, Any], **fields: Any) -> Experience:
        strategy = Strategy(method, tuple(settings.items()))
        return Experience(id, strategy, **{"task": TASK, "source": "p1", **fields})

    return make


@pytest.fixture(scope="session")
def experience(record: Callable[..., Experience]) -> tuple[Experience, ...]:
    return (
        record("r1", "A", {"HP1": 0.3, "HP8": "l1"}, ar=-0.01, pr=0.2),
        record("r2", "A", {"HP1": 1.0}, ar=-0.2, pr=0.8),
        record("r3", "B", {"HP2": 0.3}, ar=None, pr=0.29, source="p2"),
        record("r4", "K", {}, ar=-0.03, pr=0.5, source="p2", task=UNKNOWN),
        record("r5", "B", {}, ar=-0.02, pr=None, source="p2"),
        record("r6", "B", {}, ar=-0.005, pr=0.1, source="p3"),
    )
