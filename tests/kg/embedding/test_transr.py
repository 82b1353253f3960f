"""TransR against an independent formula, and how new entities begin."""

from __future__ import annotations

import numpy as np
import torch

from kg.embedding.learn import clamp_rows, learn, name_entities
from kg.embedding.transr import GraphModel, first_tensors, make_factory
from kg.schema import Method

Triple = tuple[str, str, str]


def build(methods: tuple[Method, ...], triples: list[Triple]) -> tuple[GraphModel, list[str], list[str]]:
    entities = name_entities([], methods, triples)
    relations = sorted({relation for _, relation, _ in triples})
    torch.manual_seed(3)
    model = GraphModel(make_factory(triples, entities, relations), first_tensors(triples, entities, relations, None))
    return model, entities, relations


def clamp(vector: np.ndarray) -> np.ndarray:
    return vector / max(1.0, float(np.linalg.norm(vector)))


def test_score_is_the_formula(methods: tuple[Method, ...], triples: list[Triple]) -> None:
    model, _, _ = build(methods, triples)
    with torch.no_grad():
        model.entities.mul_(5)  # so that both clamps are at work
    model.constrain()
    tensors = {name: tensor.double().numpy() for name, tensor in model.tensors().items()}
    assert np.linalg.norm(tensors["entities"], axis=1).max() <= 1 + 1e-6
    mapped = model.factory.mapped_triples
    expected = []
    for head, relation, tail in mapped.tolist():
        projection = tensors["projections"][relation]
        moved = clamp(tensors["entities"][head] @ projection) + tensors["relations"][relation]
        expected.append(-np.linalg.norm(moved - clamp(tensors["entities"][tail] @ projection)))
    model.model.eval()
    with torch.no_grad():
        scores = model.model.score_hrt(mapped).flatten()
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_both_ways_of_clamping_agree(methods: tuple[Method, ...], triples: list[Triple]) -> None:
    model, _, _ = build(methods, triples)
    with torch.no_grad():
        model.entities.mul_(torch.linspace(0.1, 8, len(model.entities))[:, None])
    mine = model.entities.detach().clone()
    model.constrain()
    clamp_rows(mine)
    torch.testing.assert_close(mine, model.entities.detach())


def test_entities_are_live(methods: tuple[Method, ...], triples: list[Triple]) -> None:
    model, _, _ = build(methods, triples)
    seen = []

    def after(epoch: int, loss: float) -> None:
        seen.append(model.entities.detach().clone())
        with torch.no_grad():
            model.entities.zero_()

    model.train(2, after)
    assert len(seen) == 2
    # The second epoch began at the zeros that were written: one step of Adam from there is about 0.02 long.
    assert float(seen[1].abs().max()) <= 0.021


def test_new_entities_begin_at_the_mean_of_neighbours(methods: tuple[Method, ...], triples: list[Triple]) -> None:
    start = learn(methods[:1], [t for t in triples if t[0].startswith(("A", "HP"))], (), epochs=2, seed=1)
    old = {name: start.entity_vectors[row] for row, name in enumerate(start.entities)}
    now = learn(methods, triples, (), epochs=0, seed=2, start=start)
    new = {name: now.entity_vectors[row] for row, name in enumerate(now.entities)}
    for name, vector in old.items():
        np.testing.assert_allclose(new[name], vector, atol=1e-6, err_msg=name)
    # K shares T1 with A, and T3 with nobody known. B's strategies share their setting; B itself shares HP2.
    np.testing.assert_allclose(new["K"], old["T1"], atol=1e-6)
    np.testing.assert_allclose(new["B"], old["HP2"], atol=1e-6)
    np.testing.assert_allclose(new["B[HP2=0.1]"], old["HP2=0.1"], atol=1e-6)
    # T3 is a wave further: beside B and K, which have just got theirs.
    np.testing.assert_allclose(new["T3"], (new["B"] + new["K"]) / 2, atol=1e-6)
    kept = start.relations.index("OF_METHOD"), now.relations.index("OF_METHOD")
    np.testing.assert_allclose(now.relation_vectors[kept[1]], start.relation_vectors[kept[0]], atol=1e-6)
    assert now.epochs == 2
