#!/usr/bin/env bash
# PyKEEN 1.11.1: a triples factory with create_inverse_triples=True keeps its relation ids (0, 1, 2 and in mapped_triples), but the model
# has relation r in row 2r and its inverse in row 2r + 1. predict_hrt translates ids, score_hrt does not, and neither does who reads
# relation_representations: vectors looked up by relation_to_id are those of other relations, and nothing is raised.
# Seen: "factory: 6 relations, ids 0 to 2; triple (a, owns, c), id 1: score_hrt reads row 1, predict_hrt row 2"
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check pykeen==1.11.1 torch==2.15.0 numpy==2.4.6
cd "$dir"
venv/bin/python - 2>&1 <<'PY' | tee seen | grep '^factory'
import numpy as np
import torch
from pykeen.models import TransE
from pykeen.triples import TriplesFactory

links = np.array([["a", "likes", "b"], ["b", "owns", "c"], ["c", "sees", "a"]])
factory = TriplesFactory.from_labeled_triples(links, create_inverse_triples=True)
assert factory.relation_to_id == {"likes": 0, "owns": 1, "sees": 2}, factory.relation_to_id
ids = sorted(set(factory.mapped_triples[:, 1].tolist()))
model = TransE(triples_factory=factory, random_seed=0).eval()
entities, relations = (r[0]().detach() for r in (model.entity_representations, model.relation_representations))
entity = factory.entity_to_id


def row(score: float) -> int:
    """The row of the table of relations that gives this score of (a, ?, c): TransE's is a distance, negated."""
    scores = -(entities[entity["a"]] + relations - entities[entity["c"]]).norm(p=1, dim=1)
    found = (scores - score).abs().argsort()
    assert abs(scores[found[0]] - score) < 1e-4 < abs(scores[found[1]] - score), scores
    return int(found[0])


triple = torch.tensor([[entity["a"], factory.relation_to_id["owns"], entity["c"]]])
plain, predicted = row(model.score_hrt(triple).item()), row(model.predict_hrt(triple).item())
print(
    f"factory: {factory.num_relations} relations, ids {ids[0]} to {ids[-1]}; triple (a, owns, c), id 1: "
    f"score_hrt reads row {plain}, predict_hrt row {predicted}"
)
PY
grep -qx "factory: 6 relations, ids 0 to 2; triple (a, owns, c), id 1: score_hrt reads row 1, predict_hrt row 2" seen
