"""Algorithm 1 of the AutoMC paper: TransR and NN_exp by turns on one set of embeddings.

Each epoch is one epoch of TransR over the triples, then one of NN_exp over the experience (Eq. 3), which moves
the same embeddings through the records' means; the next epoch of TransR starts from there. The unit ball that
TransR keeps its entities in holds for both: vectors are clamped after every step of either, never in between.

What NN_exp learns of AR is what the law by size (`kg.embedding.law`) leaves: its part is what the strategies' own
settings do. A search is guided by the law alone, because on unread papers NN_exp adds nothing to it.

A run that continues from vectors leaves what they know where it was: TransR is trained on the links of what is new
and as many others (`transr.rehearsed`), and hardly moves what is known (`transr.paces`); a new entity begins at the
mean of its peers (`transr.first_tensors`); NN_exp keeps its weights and scales and goes on as ever. So links that
changed between old nodes alone are not learnt: that takes a run from nothing. Where the vectors know all that is
linked, NN_exp goes on alone, with the same moves of the embeddings, and TransR with its libraries is not even imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from kg.cards import enumerate_strategies
from kg.embedding.experience_net import ExperienceNet, ExperienceTraining
from kg.embedding.finer import finer
from kg.embedding.fingerprint import Triple, fingerprint
from kg.embedding.law import fit, judge, lessons
from kg.embedding.records import Records, coverage, map_records
from kg.embedding.threads import one_thread
from kg.embedding.vectors import Vectors
from kg.errors import NotInGraph
from kg.schema import Experience, Method

if TYPE_CHECKING:
    from kg.embedding.transr import GraphModel

__all__ = ["Progress", "fingerprint", "learn"]

EPOCHS = 40
"""Epochs from nothing: most of a minute of one core, after which settings are read (docs/results/embedding.md)."""

Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each epoch: epoch from 1, number of epochs, the losses "graph" and "experience" of that epoch."""


@one_thread()
def learn(
    methods: Sequence[Method],
    triples: Sequence[Triple],
    experience: Sequence[Experience],
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    start: Vectors | None = None,
    use_graph: bool = True,
    use_experience: bool = True,
    only_methods: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Vectors:
    """Learn an embedding of every strategy (AutoMC paper, Algorithm 1).

    Deterministic in its arguments on one machine; one thread; global random state is left alone.

    Args:
        methods: the cards; their grids are the strategies.
        triples: (head, relation, tail) of the graph, heads and tails by node id; their order is of no account.
        experience: the records. Those without PR and those of other methods are left out of Eq. 3.
        epochs: of this run; 0 only places new entities among those of `start`.
        seed: of the first vectors, negative triples and the order of the records.
        start: continue from these, as told above; None begins from nothing.
        use_graph: False leaves TransR out; vectors start random and are moved by Eq. 3 only.
        use_experience: False leaves Eq. 3 out; then `predict` gives zeros, unless `start` had learnt some.
        only_methods: leave out all other methods, their strategies, triples and experience.
        progress: called after each epoch.

    Raises:
        NotInGraph: `only_methods` names a method without card, or a strategy of a grid has no triple.
        ExperienceInvalid: a record's value has the wrong kind.
    """
    experience = [item for item in experience if not item.idle]
    ground = _Ground.of(methods, triples, only_methods)
    if use_graph:
        ground.check()
    named = {method.id for method in ground.methods}
    taught = [item for item in experience if use_experience and item.strategy.method in named]
    law = fit(lessons(taught))
    rows = map_records(experience, ground.methods, {name: row for row, name in enumerate(ground.entities)})
    records = rows.beyond(law)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        known = start is not None and ground.known_to(start)
        tensors = ground.known(start) if known and start else ground.first(start)
        turns = _Alternation(_first_net(start, records), records if use_experience else None, seed, progress)
        model = ground.model(start, tensors) if use_graph and ground.triples and not known else None
        tensors = turns.run(model, tensors, epochs)
    only = None if only_methods is None else sorted(only_methods)
    about = {
        "fingerprint": fingerprint(triples, (item.mark for item in experience)), "seed": seed,
        "epochs": epochs, "losses": turns.losses, "coverage": coverage(experience, ground.methods),
        "law": law, "verdict": judge(taught) if law else None,
        "options": {"use_graph": use_graph, "use_experience": use_experience, "only_methods": only},
    }  # fmt: skip
    return _vectors(ground, tensors, turns.net, start, about)


@dataclass(frozen=True)
class _Ground:
    """What a run learns: the methods, the triples that are theirs, and the names of all that gets a vector."""

    methods: list[Method]
    triples: list[Triple]
    strategies: list[str]
    entities: list[str]
    relations: list[str]

    @classmethod
    def of(cls, methods: Sequence[Method], triples: Sequence[Triple], only: Sequence[str] | None) -> _Ground:
        # Order and repetition must not change the result, and a graph promises neither.
        chosen, kept = _select(methods, sorted(set(triples)), only)
        kept = finer(kept)
        strategies = [strategy.id for method in chosen for strategy in enumerate_strategies(method)]
        relations = sorted({relation for _, relation, _ in kept})
        return cls(chosen, kept, strategies, name_entities(strategies, chosen, kept), relations)

    def check(self) -> None:
        """Raise NotInGraph where a strategy has no triple."""
        heads = {head for head, _, _ in self.triples}
        absent = [name for name in self.strategies if name not in heads]
        if absent:
            raise NotInGraph(
                f"{len(absent)} strategies of the cards have no triple in the graph, {absent[0]} first. "
                "Bring the graph up to date: automc kg sync."
            )

    def known_to(self, start: Vectors) -> bool:
        """Tell whether vectors know all these names."""
        return set(self.entities) <= set(start.entities) and set(self.relations) <= set(start.relations)

    def first(self, start: Vectors | None) -> dict[str, Tensor]:
        """What TransR begins with, see `transr.first_tensors`; its libraries are imported only where needed."""
        from kg.embedding.transr import first_tensors

        return first_tensors(self.triples, self.entities, self.relations, start)

    def known(self, start: Vectors) -> dict[str, Tensor]:
        """The tensors of vectors that know all these names, in their order."""
        row = {name: place for place, name in enumerate(start.entities)}
        kind = [start.relations.index(name) for name in self.relations]
        vectors = start.entity_vectors[[row[name] for name in self.entities]]
        return {
            "entities": torch.from_numpy(np.ascontiguousarray(vectors)),
            "relations": torch.from_numpy(start.relation_vectors[kind].copy()),
            "projections": torch.from_numpy(start.projections[kind].copy()),
        }

    def model(self, start: Vectors | None, tensors: dict[str, Tensor]) -> GraphModel | None:
        """TransR over the triples, at these tensors; what `start` knows is rehearsed a little, and moved slowly.

        None where no link is new.
        """
        from kg.embedding.transr import GraphModel, make_factory, paces, rehearsed

        names = (self.triples, self.entities, self.relations)
        if start is None:
            return GraphModel(make_factory(*names), tensors)
        rows = rehearsed(*names, start)
        return GraphModel(make_factory(*names), tensors, paces(*names, start), rows) if len(rows) else None


def _vectors(
    ground: _Ground, tensors: dict[str, Tensor], net: ExperienceNet, start: Vectors | None, about: dict[str, Any]
) -> Vectors:
    if not net.taught:
        net.target_centre.zero_()
        net.target_spread.fill_(1.0)
    about["epochs"] += start.epochs if start else 0
    return Vectors(
        strategies=tuple(ground.strategies),
        entities=tuple(ground.entities),
        entity_vectors=tensors["entities"].numpy(),
        relations=tuple(ground.relations),
        relation_vectors=tensors["relations"].numpy(),
        projections=tensors["projections"].numpy(),
        net={name: value.detach().numpy().copy() for name, value in net.state_dict().items()},
        continued_from=start.id if start else "",
        new_strategies=len(set(ground.strategies) - set(start.strategies if start else ())),
        **about,
    )


def _first_net(start: Vectors | None, records: Records) -> ExperienceNet:
    net = ExperienceNet() if start is None else start.experience_net().train()
    if not net.taught:
        # Task features are scaled also where Eq. 3 is left out: the search's own model needs them.
        net.fit_scales(records)
    return net


class _Alternation:
    """The two kinds of epochs, in turn."""

    def __init__(self, net: ExperienceNet, records: Records | None, seed: int, progress: Progress | None) -> None:
        self.net, self.records, self.seed, self.progress = net, records, seed, progress
        self.losses: dict[str, list[float]] = {}

    def run(self, model: GraphModel | None, tensors: dict[str, Tensor], epochs: int) -> dict[str, Tensor]:
        """Both in turn, or NN_exp alone where there is no model; the tensors afterwards."""
        if model is None:
            return {**tensors, "entities": self._without_graph(tensors["entities"], epochs)}
        return self._with_graph(model, epochs)

    def _with_graph(self, model: GraphModel, epochs: int) -> dict[str, Tensor]:
        """TransR's own loop, with an epoch of NN_exp after each of its epochs."""
        model.constrain()
        lesson = self._lesson(model.entities, model.constrain)

        def after(epoch: int, loss: float) -> None:
            self._tell(epoch, epochs, {"graph": loss, **self._teach(lesson)})

        model.train(epochs, after)
        return model.tensors()

    def _without_graph(self, vectors: Tensor, epochs: int) -> Tensor:
        """Epochs of NN_exp alone."""
        entities = nn.Parameter(vectors)
        clamp_rows(entities)
        lesson = self._lesson(entities, lambda: clamp_rows(entities))
        for epoch in range(1, epochs + 1):
            self._tell(epoch, epochs, self._teach(lesson))
        return entities.detach()

    def _lesson(self, entities: nn.Parameter, constrain: Callable[[], None]) -> ExperienceTraining | None:
        if self.records is None or not len(self.records):
            return None
        return ExperienceTraining(self.net, entities, self.records, seed=self.seed, constrain=constrain)

    def _teach(self, lesson: ExperienceTraining | None) -> dict[str, float]:
        return {"experience": lesson.epoch()} if lesson else {}

    def _tell(self, epoch: int, epochs: int, losses: dict[str, float]) -> None:
        for name, loss in losses.items():
            self.losses.setdefault(name, []).append(loss)
        if self.progress:
            self.progress(epoch, epochs, losses)


@torch.no_grad()
def clamp_rows(vectors: Tensor) -> None:
    """Bring rows that are longer than 1 back to length 1, in place."""
    torch.renorm(vectors, p=2, dim=0, maxnorm=1.0, out=vectors)


def _select(
    methods: Sequence[Method], triples: list[Triple], only: Sequence[str] | None
) -> tuple[list[Method], list[Triple]]:
    """The methods to learn, and the triples that can be reached from them."""
    if only is None:
        return list(methods), triples
    cards = {method.id: method for method in methods}
    missing = sorted(set(only) - cards.keys())
    if missing:
        grids = ", ".join(method.id for method in methods if method.hyperparameters)
        raise NotInGraph(f"No method card for {', '.join(missing)}. Methods with a grid: {grids}.")
    chosen = [method for method in methods if method.id in set(only)]
    strategies = {strategy.id for method in chosen for strategy in enumerate_strategies(method)}
    reached, wave = set[str](), strategies | {method.id for method in chosen}
    while wave:
        reached |= wave
        wave = {tail for head, _, tail in triples if head in wave} - reached
    return chosen, [triple for triple in triples if triple[0] in reached]


def name_entities(strategies: list[str], methods: Sequence[Method], triples: list[Triple]) -> list[str]:
    """Return the names of all nodes that get a vector: the strategies, then the others, sorted."""
    names = {name for head, _, tail in triples for name in (head, tail)} | {method.id for method in methods}
    return strategies + sorted(names - set(strategies))
