"""A method comes to a graph that has been learnt: its strategies find their place, and the others keep theirs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from kg.cards import enumerate_strategies, on_grid, packaged_cards, read_cards
from kg.embedding.finer import finer, finer_relation
from kg.embedding.learn import learn
from kg.embedding.vectors import Vectors
from kg.experience import read_experience
from kg.schema import Method, Strategy, setting_id

Triple = tuple[str, str, str]
FPGM = Path(__file__).parents[3] / "docs/examples/automc-fpgm/src/automc_fpgm/fpgm.yaml"
OLD = ("NS", "SFP")


@pytest.fixture(scope="module")
def cards() -> tuple[Method, ...]:
    """NS and SFP, what is knowledge only, and FPGM with a grid."""
    known = on_grid(read_cards([*packaged_cards(), FPGM]))
    return tuple(m for m in known if m.id in (*OLD, "FPGM") or not m.hyperparameters)


@pytest.fixture(scope="module")
def old(cards: tuple[Method, ...], triples_of: Callable[[Sequence[Method]], list[Triple]]) -> Vectors:
    """Vectors from before FPGM had a grid."""
    before = [m for m in on_grid(read_cards()) if m.id in OLD or not m.hyperparameters]
    return learn(before, triples_of(before), read_experience()[0], seed=0)


@pytest.fixture(scope="module")
def split(
    cards: tuple[Method, ...], triples_of: Callable[[Sequence[Method]], list[Triple]]
) -> tuple[list[Triple], list[Triple]]:
    """The triples without, and only, one link of every third new strategy: its HP1, its HP2 or its method in turn."""
    triples = triples_of(cards)
    strategies = [s for m in cards if m.id == "FPGM" for s in enumerate_strategies(m)]
    held = set()
    for n, strategy in enumerate(strategies[::3]):
        links = [("HAS_SETTING", setting_id(*s)) for s in strategy.settings if s[0] in ("HP1", "HP2")]
        held.add((strategy.id, *[*links, ("OF_METHOD", "FPGM")][n % 3]))
    return [t for t in triples if t not in held], sorted(held)


@pytest.fixture(scope="module")
def grown(cards: tuple[Method, ...], old: Vectors, split: tuple[list[Triple], list[Triple]]) -> Vectors:
    """Vectors that go on from the old ones, without the links that are held out."""
    return learn(cards, split[0], read_experience()[0], epochs=20, seed=0, start=old)


def clamp(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(1.0, np.linalg.norm(vectors, axis=-1, keepdims=True))


def ranks(vectors: Vectors, held: Sequence[Triple], known: Sequence[Triple]) -> dict[str, list[tuple[int, int]]]:
    """Per relation, the rank of each held-out tail among all tails of that relation, and how many these are.

    Filtered: other true tails are no rivals. TransR's formula, written out here once more.
    """
    row = {name: place for place, name in enumerate(vectors.entities)}
    found: dict[str, list[tuple[int, int]]] = {}
    known, held = finer(known), [(head, finer_relation(relation, tail), tail) for head, relation, tail in held]
    for head, relation, tail in held:
        true = {t for h, r, t in [*known, *held] if (h, r) == (head, relation)}
        rivals = sorted({t for _, r, t in known if r == relation} - true)
        place = vectors.relations.index(relation)
        projection, shift = vectors.projections[place], vectors.relation_vectors[place]
        moved = clamp(vectors.entity_vectors[row[head]] @ projection) + shift
        tails = vectors.entity_vectors[[row[tail], *(row[name] for name in rivals)]]
        distance = np.linalg.norm(moved - clamp(tails @ projection), axis=1)
        found.setdefault(relation, []).append((1 + int((distance[1:] < distance[0]).sum()), len(tails)))
    return found


def reciprocal(found: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Mean reciprocal rank, and that of ranks drawn at random."""
    chance = [np.mean(1 / np.arange(1, size + 1)) for _, size in found]
    return float(np.mean([1 / rank for rank, _ in found])), float(np.mean(chance))


def test_the_method_of_new_strategies_is_predicted(grown: Vectors, split: tuple[list[Triple], list[Triple]]) -> None:
    # Their settings are not: TransR tells those apart no better when it learns everything anew.
    mrr, chance = reciprocal(ranks(grown, split[1], split[0])["OF_METHOD"])
    assert mrr > chance, (mrr, chance)


def test_new_strategies_are_nearest_to_their_own_method_and_old_ones_still_are(
    grown: Vectors, split: tuple[list[Triple], list[Triple]]
) -> None:
    links = [triple for triple in split[0] if triple[1] == "OF_METHOD"]
    for ours in (True, False):
        asked = [triple for triple in links if (triple[2] == "FPGM") == ours]
        found = ranks(grown, asked, [triple for triple in split[0] if triple not in set(asked)] + asked[:1])
        first = np.mean([rank == 1 for rank, _ in found["OF_METHOD"]])
        assert first > 0.8, (ours, first)


def test_settings_of_new_strategies_are_read_as_those_of_old_ones(grown: Vectors) -> None:
    strategies = [Strategy.parse(name) for name in grown.strategies]
    new = np.array([strategy.method == "FPGM" for strategy in strategies])
    for knob in ("HP1", "HP2"):
        values = np.array([str(strategy.get(knob)) for strategy in strategies])
        reader = LogisticRegression(C=100, max_iter=500).fit(grown.vectors[~new], values[~new])
        # Of five values; the reader has 125 strategies to learn from.
        assert reader.score(grown.vectors[new], values[new]) > 0.5, knob


def test_the_nearest_strategies_share_settings(grown: Vectors) -> None:
    directions = unit(grown.vectors)
    settings = [set(Strategy.parse(name).settings) for name in grown.strategies]
    ours = np.array([name.startswith("FPGM") for name in grown.strategies])
    others = np.flatnonzero(~ours)
    near, every = [], []
    for i in np.flatnonzero(ours):
        shared = np.array([len(settings[i] & settings[j]) for j in others])
        closest = np.argsort(-(directions[others] @ directions[i]), kind="stable")[:10]
        near.append(shared[closest].mean())
        every.append(shared.mean())
    assert np.mean(near) > 1.5 * np.mean(every), (np.mean(near), np.mean(every))


def test_old_vectors_hardly_move_and_new_ones_do(
    grown: Vectors, old: Vectors, cards: tuple[Method, ...], split: tuple[list[Triple], list[Triple]]
) -> None:
    placed = learn(cards, split[0], read_experience()[0], epochs=0, seed=0, start=old)
    row = {name: place for place, name in enumerate(grown.entities)}
    kept = [row[name] for name in old.entities]
    cosine = (unit(grown.entity_vectors[kept]) * unit(old.entity_vectors)).sum(axis=1)
    new = [i for name, i in row.items() if name not in set(old.entities)]
    turned = (unit(grown.entity_vectors[new]) * unit(placed.entity_vectors[new])).sum(axis=1)
    assert len(new) == 100 + 2 + 4
    assert np.mean(cosine) > 0.95, np.mean(cosine)
    assert np.mean(turned) < 0.95, np.mean(turned)
    assert (grown.continued_from, grown.new_strategies, grown.epochs) == (old.id, 100, 60)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_what_left_the_graph_leaves_the_vectors(
    grown: Vectors, old: Vectors, triples_of: Callable[[Sequence[Method]], list[Triple]]
) -> None:
    before = [m for m in on_grid(read_cards()) if m.id in OLD or not m.hyperparameters]
    back = learn(before, triples_of(before), read_experience()[0], epochs=1, start=grown)
    assert (back.entities, back.strategies) == (old.entities, old.strategies)
    assert back.new_strategies == 0
    row = {name: place for place, name in enumerate(grown.entities)}
    assert np.abs(back.entity_vectors - grown.entity_vectors[[row[name] for name in back.entities]]).mean() < 0.005


def test_new_experience_alone_is_learnt_without_transr(
    old: Vectors, cards: tuple[Method, ...], triples_of: Callable[[Sequence[Method]], list[Triple]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = [m for m in on_grid(read_cards()) if m.id in OLD or not m.hyperparameters]
    # Whoever imports TransR's module now fails.
    monkeypatch.setitem(sys.modules, "kg.embedding.transr", None)
    records = read_experience()[0]
    fresh = replace(next(r for r in records if r.strategy.method == "SFP" and r.ar is not None), id="fresh", ar=-0.9)
    found = learn(before, triples_of(before), [*records, fresh], epochs=20, start=old)
    assert (found.entities, found.relations) == (old.entities, old.relations)
    assert (found.new_strategies, found.epochs, found.continued_from) == (0, 60, old.id)
    assert list(found.losses) == ["experience"]
    assert found.fingerprint != old.fingerprint
    assert np.array_equal(found.relation_vectors, old.relation_vectors)
    assert np.array_equal(found.projections, old.projections)
    # Eq. 3 moves the strategies that the records are about, and stays in the unit ball.
    moved = np.abs(found.vectors - old.vectors).max(axis=1)
    sfp = np.array([name.startswith("SFP[") for name in found.strategies])
    assert moved[sfp].max() > 1e-4
    assert np.linalg.norm(found.entity_vectors, axis=1).max() <= 1 + 1e-5
    assert found.predict(fresh.task)[sfp, 0].mean() < old.predict(fresh.task)[sfp, 0].mean()
    with pytest.raises(ImportError, match="transr"):
        learn(before, [*triples_of(before), ("NS", "USES_TECHNIQUE", "TE99")], records, epochs=1, start=old)
