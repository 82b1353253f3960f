"""What a person with the FPGM package gets, in a process of its own: prints facts as JSON. See test_plugin.py."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from automc import knowledge
from automc.datasets import DataRef
from automc.home import home
from automc.search.base import Limits
from automc.search.random_search import RandomSearch
from automc.study import Budget, Listener, Study
from automc.study.space import StrategySpace
from automc.training.recipe import Recipe
from kg.embedding.vectors import Vectors


def main() -> None:
    facts: dict[str, Any] = {}
    (file,) = (home() / "vectors").glob("*.safetensors")
    old = Vectors.load(file)
    facts["cards"] = [(m.id, knowledge.grid_size(m), knowledge.executable(m.id)) for m in knowledge.methods()]
    facts["created"] = knowledge.prepare().sync.changes["Strategy"].created
    facts["stale"] = knowledge.status()["embedding"]
    said: list[str] = []
    new = knowledge.vectors(epochs=2, say=said.append)
    facts["said"], facts["old"] = said, old.id
    facts["run"] = knowledge.status()["embedding_run"]
    facts["vectors"] = len(new.strategies)
    kept = np.array([new.strategies.index(name) for name in old.strategies])
    facts["moved"] = float(np.linalg.norm(new.vectors[kept] - old.vectors, axis=1).mean())

    study = create()
    space = StrategySpace(new, study.subject.task(), {}, study.spec.recipe, study.subject.splits.train.n).space
    limits = Limits(study.spec.gamma, study.subject.accuracy, study.spec.max_length)
    ours = {i for i, name in enumerate(space.strategies) if name.startswith("FPGM")}
    facts["searchable"] = int(space.mask[sorted(ours)].sum())
    # Random search with the first seed that proposes FPGM in its first round: the study's own first round.
    seed = next(
        s for s in range(1000) if ours & {i for scheme in RandomSearch(space, limits, s).ask(4) for i in scheme}
    )
    study.spec = replace(study.spec, seed=seed)
    facts["trials"] = [(t.scheme.id, t.status, t.pr) for t in study.run(Listener()).trials]
    print(json.dumps(facts))


def create() -> Study:
    """A study of the home's small network: one round of short steps."""
    return Study.create(
        str(home() / "digits.am"), DataRef("digits"), gamma=0.3, budget=Budget.parse("4steps"), max_length=1,
        recipe=Recipe(unit_epochs=0.05, fraction=0.2), precision="float32", device="cpu", workers=1, final=False,
        searcher="random",
    )  # fmt: skip


if __name__ == "__main__":
    main()
