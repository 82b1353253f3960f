"""Algorithm 1 as a whole: what it learns, repeats, leaves out and continues."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kg.cards import enumerate_strategies, on_grid, read_cards
from kg.embedding.learn import fingerprint, learn
from kg.embedding.vectors import Vectors
from kg.errors import NotInGraph, VectorsInvalid
from kg.experience import read_experience
from kg.schema import Experience, Method, Strategy, Task

Triple = tuple[str, str, str]
World = dict[str, Any]


@pytest.fixture(scope="session")
def world(methods: tuple[Method, ...], triples: list[Triple], experience: tuple[Experience, ...]) -> World:
    return {"methods": methods, "triples": triples, "experience": experience}


@pytest.fixture(scope="session")
def learnt(world: World) -> Vectors:
    return learn(**world, epochs=60, seed=5)


def test_both_losses_fall(world: World, learnt: Vectors) -> None:
    assert len(learnt.losses["graph"]) == len(learnt.losses["experience"]) == 60
    for name in ("graph", "experience"):
        assert np.mean(learnt.losses[name][-5:]) < 0.9 * np.mean(learnt.losses[name][:5]), name


def test_shapes_order_and_ball(world: World, learnt: Vectors) -> None:
    expected = [s.id for method in world["methods"] for s in enumerate_strategies(method)]
    assert list(learnt.strategies) == expected == list(learnt.entities[: len(expected)])
    assert learnt.vectors.shape == (14, 32)
    assert learnt.vectors.dtype == np.float32
    assert {"K", "T1", "HP1=0.4"} <= set(learnt.entities)
    assert np.linalg.norm(learnt.entity_vectors, axis=1).max() <= 1 + 1e-5


def test_predictions(learnt: Vectors, experience: tuple[Experience, ...]) -> None:
    for task in (experience[0].task, Task("nothing", "?", "?")):
        predicted = learnt.predict(task)
        assert predicted.shape == (14, 2)
        assert np.isfinite(predicted).all()
        assert (predicted[:, 0] >= -1).all()
        assert ((predicted[:, 1] >= 0) & (predicted[:, 1] <= 1)).all()
        assert learnt.scale(task).shape == (7,)
    assert learnt.scale(Task("nothing", "?", "?")).tolist() == [0] * 7


def test_seed_decides_and_global_state_is_left_alone(world: World) -> None:
    torch.manual_seed(1)
    random.seed(1)
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = learn(**world, epochs=4, seed=7)
    after = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    shuffled = {**world, "triples": world["triples"][::-1] + world["triples"][:3]}
    again = learn(**shuffled, epochs=4, seed=7)
    np.testing.assert_array_equal(first.entity_vectors, again.entity_vectors)
    assert first.losses == again.losses
    assert all(np.array_equal(first.net[name], again.net[name]) for name in first.net)
    assert not np.array_equal(first.vectors, learn(**world, epochs=4, seed=8).vectors)


@pytest.mark.parametrize("graph_too", [False, True])
def test_continuing_keeps_what_was_learnt(world: World, learnt: Vectors, graph_too: bool) -> None:
    # A relation that is new is learnt, and from where its entities were.
    renamed = tuple("unheard of" if name == "OF_METHOD" else name for name in learnt.relations)
    start = replace(learnt, relations=renamed) if graph_too else learnt
    kinds = {"graph", "experience"} if graph_too else {"experience"}
    calls: list[tuple[int, int, set[str]]] = []
    more = learn(
        **world, epochs=3, seed=6, start=start, progress=lambda e, n, losses: calls.append((e, n, set(losses)))
    )
    assert calls == [(epoch, 3, kinds) for epoch in (1, 2, 3)]
    assert (more.epochs, more.continued_from, more.new_strategies) == (63, learnt.id, 0)
    # Nearer to the old vectors than another start would be, and no loss starts from scratch.
    fresh = learn(**world, epochs=3, seed=6)
    assert np.abs(more.vectors - learnt.vectors).mean() < 0.5 * np.abs(fresh.vectors - learnt.vectors).mean()
    for kind in kinds:
        assert more.losses[kind][0] < fresh.losses[kind][0], kind
    assert np.array_equal(more.net["centre"], learnt.net["centre"]), (
        "the scales stay, or the weights would mean nothing"
    )


def test_ablations(world: World, learnt: Vectors) -> None:
    task = world["experience"][0].task
    no_graph = learn(**world, epochs=3, use_graph=False)
    assert set(no_graph.losses) == {"experience"}
    no_experience = learn(**world, epochs=3, use_experience=False)
    assert set(no_experience.losses) == {"graph"}
    assert not no_experience.predict(task).any()
    assert no_experience.scale(task).any()
    neither = learn(**world, epochs=3, use_graph=False, use_experience=False)
    assert neither.losses == {}
    assert np.isfinite(neither.vectors).all()
    assert neither.vectors.any()
    assert no_graph.options == {"use_graph": False, "use_experience": True, "only_methods": None}


def test_one_method_only(world: World) -> None:
    only = learn(**world, epochs=2, only_methods=["B"])
    assert only.strategies == ("B[HP2=0.1]", "B[HP2=0.3]")
    assert set(only.entities) == {*only.strategies, "B", "T3", "HP2", "HP2=0.1", "HP2=0.3"}
    assert set(only.coverage) == {"B"}
    with pytest.raises(NotInGraph, match="Nowhere"):
        learn(**world, epochs=1, only_methods=["Nowhere"])


def test_a_strategy_without_triple_is_refused(world: World) -> None:
    kept = [triple for triple in world["triples"] if triple[0] != "B[HP2=0.3]"]
    with pytest.raises(NotInGraph, match=r"B\[HP2=0.3\]"):
        learn(**{**world, "triples": kept}, epochs=1)


def test_fingerprint(world: World, learnt: Vectors) -> None:
    triples, marks = world["triples"], [item.mark for item in world["experience"]]
    assert learnt.fingerprint == fingerprint(triples[::-1], marks[::-1])
    assert learnt.fingerprint != fingerprint(triples[1:], marks)
    assert learnt.fingerprint != fingerprint(triples, marks[1:])


def test_save_and_load(learnt: Vectors, tmp_path: Any) -> None:
    path = tmp_path / "new" / "v.safetensors"
    learnt.save(path)
    learnt.save(path)
    again = Vectors.load(path)
    task = Task("t", "d", "m", 10, 8, 1, 1400, 70_000, 1_000_000, 0.97)
    np.testing.assert_array_equal(again.predict(task), learnt.predict(task))
    np.testing.assert_array_equal(again.entity_vectors, learnt.entity_vectors)
    for name in (
        "strategies",
        "entities",
        "relations",
        "fingerprint",
        "seed",
        "epochs",
        "losses",
        "law",
        "verdict",
        "coverage",
        "options",
    ):
        assert getattr(again, name) == getattr(learnt, name), name
    assert [file.name for file in path.parent.iterdir()] == ["v.safetensors"]


def test_what_cannot_be_read_is_named(tmp_path: Any) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"nonsense")
    for path in (tmp_path / "absent", broken):
        with pytest.raises(VectorsInvalid, match=path.name):
            Vectors.load(path)


@pytest.mark.slow
def test_the_real_cards(triples_of: Callable[[Sequence[Method]], list[Triple]]) -> None:
    methods = on_grid(read_cards())
    experience, _ = read_experience()
    vectors = learn(methods, triples_of(methods), experience, epochs=2)
    assert vectors.vectors.shape == (4750, 32)
    assert vectors.losses["graph"][-1] < vectors.losses["graph"][0]
    assert vectors.losses["experience"][-1] < vectors.losses["experience"][0]
    assert sum(row["records"] for row in vectors.coverage.values()) == sum(not one.idle for one in experience)
    without = sum(one.pr is None for one in experience if not one.idle)
    assert sum(row["without_pr"] for row in vectors.coverage.values()) == without > 84
    predicted = vectors.predict(experience[0].task)
    first = Strategy.parse(vectors.strategies[0])
    alone = vectors.predict_step(first, experience[0].task, next(m for m in methods if m.id == first.method))
    assert alone == pytest.approx(predicted[0].tolist(), abs=1e-5)
    assert vectors.guess is vectors.law is not None
    assert np.isfinite(predicted).all()
    assert predicted.std(axis=0).min() > 0, "strategies differ"
