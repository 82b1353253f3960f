"""TransR against an independent formula, and how new entities begin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kg.embedding.finer import finer
from kg.embedding.learn import clamp_rows, learn, name_entities
from kg.embedding.negatives import TypedNegatives
from kg.embedding.transr import LEARNING_RATE, PACE, GraphModel, first_tensors, make_factory, paces, rehearsed
from kg.schema import Method, Technique

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


def test_new_entities_begin_at_the_mean_of_their_peers(methods: tuple[Method, ...], triples: list[Triple]) -> None:
    start = learn(methods[:1], [t for t in triples if t[0].startswith(("A", "HP"))], (), epochs=2, seed=1)
    old = {name: start.entity_vectors[row] for row, name in enumerate(start.entities)}
    strange = Method("N", "n", "", (Technique("T9", "new"),))
    now = learn([*methods, strange], [*triples, ("N", "USES_TECHNIQUE", "T9")], (), epochs=0, seed=2, start=start)
    new = {name: now.entity_vectors[row] for row, name in enumerate(now.entities)}
    for name, vector in old.items():
        np.testing.assert_allclose(new[name], vector, atol=1e-6, err_msg=name)
    peers = {
        "B[HP2=0.1]": np.mean([old[s] for s in start.strategies if "HP2=0.1" in s], axis=0),
        "B": old["A"],  # both have HP2
        "K": old["A"],  # both use T1
        "T3": old["T1"],  # K uses both
        # Nobody uses T9 beside N: the mean over all links of that kind, three of them to known techniques.
        "N": old["A"],
        "T9": (2 * old["T1"] + old["T2"]) / 3,
    }
    for name, vector in peers.items():
        np.testing.assert_allclose(new[name], vector, atol=1e-6, err_msg=name)
    kept = start.relations.index("OF_METHOD"), now.relations.index("OF_METHOD")
    np.testing.assert_allclose(now.relation_vectors[kept[1]], start.relation_vectors[kept[0]], atol=1e-6)
    np.testing.assert_allclose(now.projections[kept[1]], start.projections[kept[0]], atol=1e-6)
    assert now.epochs == 2
    assert (now.continued_from, now.new_strategies) == (start.id, 2)


def test_training_starts_from_the_tensors_and_leaves_them_alone(
    methods: tuple[Method, ...], triples: list[Triple]
) -> None:
    model, _, _ = build(methods, triples)
    first = model.tensors()
    kept = {name: tensor.clone() for name, tensor in first.items()}
    again = GraphModel(model.factory, first)
    again.train(1, lambda epoch, loss: None)
    for name, tensor in again.tensors().items():
        torch.testing.assert_close(first[name], kept[name])
        # Adam's first step is 0.02 long, the clamp may add to it; drawing anew moves the projections by units.
        assert 0 < float((tensor - kept[name]).abs().max()) <= 2 * LEARNING_RATE, name


def test_paces_follow_what_is_new_around(methods: tuple[Method, ...], triples: list[Triple]) -> None:
    start = learn(methods[:1], [t for t in triples if t[0].startswith(("A", "HP"))], (), epochs=1, seed=1)
    links = finer(triples)
    entities = name_entities([], methods, links)
    relations = sorted({relation for _, relation, _ in links})
    found = dict(zip(entities, paces(links, entities, relations, start)["entities"].tolist(), strict=True))
    # HP2 has two values and belongs to A, and now to B; T1 is A's, of its 12 strategies, and K's; HP2=0.1 belongs to
    # HP2, six and one.
    shares = {"B": 1, "B[HP2=0.1]": 1, "T3": 1, "A": 0, "HP2": 1 / 4, "T1": 1 / 14, "HP2=0.1": 1 / 8}
    for name, share in shares.items():
        assert abs(found[name] - (PACE + (1 - PACE) * share)) < 1e-6, name
    kinds = paces(links, entities, relations, start)["relations"]
    assert torch.equal(kinds, torch.full((len(relations),), PACE))


def test_rows_step_at_their_pace(methods: tuple[Method, ...], triples: list[Triple]) -> None:
    model, entities, relations = build(methods, triples)
    slow = torch.tensor([not name.startswith("B") for name in entities])
    steps = {"entities": torch.where(slow, PACE, 1.0), "relations": torch.full((len(relations),), PACE)}
    steps["projections"] = steps["relations"]
    before = model.tensors()
    held = GraphModel(model.factory, before, steps)
    held.train(1, lambda epoch, loss: None)
    moved = {name: (tensor - before[name]).abs() for name, tensor in held.tensors().items()}
    # All triples are one batch, and Adam's first step is as long as its rate; the clamp may add to it.
    assert 0 < moved["entities"][slow].max() <= 2 * LEARNING_RATE * PACE
    assert moved["entities"][~slow].max() > 0.9 * LEARNING_RATE
    assert 0 < moved["relations"].max() <= 2 * LEARNING_RATE * PACE
    assert 0 < moved["projections"].max() <= 2 * LEARNING_RATE * PACE


def test_what_is_new_is_rehearsed_with_as_many_others(methods: tuple[Method, ...], triples: list[Triple]) -> None:
    start = learn(methods[:1], [t for t in triples if t[0].startswith(("A", "HP"))], (), epochs=1, seed=1)
    links = finer(triples)
    entities = name_entities([], methods, links)
    relations = sorted({relation for _, relation, _ in links})
    known = set(start.entities)
    fresh = {triple for triple in links if not {triple[0], triple[2]} <= known}
    rows = rehearsed(links, entities, relations, start).tolist()
    assert len(rows) == len(set(rows)) == 2 * len(fresh)
    assert fresh < {links[row] for row in rows}


def test_negatives_are_of_the_same_kind_and_not_true(methods: tuple[Method, ...], triples: list[Triple]) -> None:
    links = finer(triples)
    entities, relations = name_entities([], methods, links), sorted({relation for _, relation, _ in links})
    mapped = make_factory(links, entities, relations).mapped_triples
    torch.manual_seed(0)
    size = {"num_entities": len(entities), "num_relations": len(relations)}
    sampler = TypedNegatives(mapped_triples=mapped, **size)
    wrong, kept = [], []
    for _ in range(20):
        drawn, mask = sampler.sample(mapped)
        assert mask is None
        assert drawn.shape == (len(mapped), 1, 3)
        # One end stays, and so does the relation.
        assert ((drawn[:, 0] == mapped).sum(dim=1) >= 2).all()
        wrong += [tuple(row) for row in drawn[:, 0].tolist()]
        kept += (drawn[:, 0, 0] == mapped[:, 0]).tolist()
    true = {tuple(row) for row in mapped.tolist()}
    assert np.mean([row in true for row in wrong]) < 0.1
    assert 0.4 < np.mean(kept) < 0.6, "heads and tails alike"
    setting = relations.index("HAS_SETTING/HP1")
    tails = {entities[tail] for _, relation, tail in wrong if relation == setting}
    assert {"HP1=0.1", "HP1=0.2", "HP1=0.4"} < tails, "and, where all of these are true of a head, anything"


def test_a_relation_of_one_triple_has_negatives_too_and_nobody_hears_of_it(caplog: pytest.LogCaptureFixture) -> None:
    mapped = torch.tensor([[0, 0, 3], [1, 0, 4], [2, 0, 4], [0, 1, 5]])
    sampler = TypedNegatives(mapped_triples=mapped, num_entities=6, num_relations=2)
    drawn = torch.cat([sampler.sample(mapped)[0][:, 0] for _ in range(50)])
    assert len({tuple(row) for row in drawn[drawn[:, 1] == 1].tolist()}) > 5
    assert not caplog.records
