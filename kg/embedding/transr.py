"""TransR over the graph's triples, by PyKEEN (Lin et al., AAAI 2015; AutoMC paper, Eq. 1 and 2).

score(h, r, t) = −‖c(h M_r) + r − c(t M_r)‖₂ with h, t, r in the unit ball and c clamping to it; margin ranking
loss against triples with another head or tail of the same kind (`negatives`). Entities and relations have 32
dimensions.
"""

from __future__ import annotations

import gc
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pykeen.models import TransR
from pykeen.nn.init import PretrainedInitializer, xavier_uniform_, xavier_uniform_norm_
from pykeen.training import SLCWATrainingLoop, TrainingCallback
from pykeen.triples import CoreTriplesFactory
from pykeen.utils import NoRandomSeedNecessary
from torch import Tensor, nn

from kg.embedding.experience_net import DIMENSION
from kg.embedding.fingerprint import Triple
from kg.embedding.negatives import TypedNegatives
from kg.embedding.vectors import Vectors

BATCH = 4096
LEARNING_RATE = 0.02
MARGIN = 1.0
FRESH_BATCH = 128
"""Where a run goes on there are few triples, and what is new needs some hundred steps."""
PACE = 0.05
"""Length of a known row's step beside a new one's: with it, TransR moves what is known at NN_exp's learning rate."""

Paces = Mapping[str, Tensor]
"""For each tensor, the length of its rows' steps as a share of the usual one: (n,) and (r,), in (0, 1]."""


class _Copied(PretrainedInitializer):  # type: ignore[misc]
    """PyKEEN makes a parameter of the very tensor it is given, and draws over it at the next reset: give it a copy."""

    def __call__(self, x: Tensor) -> Tensor:
        copied: Tensor = super().__call__(x).clone()
        return copied


class GraphModel:
    """PyKEEN's TransR with its tensors at hand.

    `entities` is the model's own parameter: whoever changes it changes what the next epoch starts from, so
    nothing has to be copied back. PyKEEN clamps entities and relations to the unit ball after each of its steps;
    `constrain` does the same for others.

    Randomness is torch's global generator: seed it before.

    Args:
        factory: the numbered triples.
        tensors: what training starts from, as `first_tensors` makes them.
        paces: as `paces` makes them; None where all is new.
        rows: of the triples that are trained on, as `rehearsed` draws them; None for all.
    """

    def __init__(
        self,
        factory: CoreTriplesFactory,
        tensors: Mapping[str, Tensor],
        paces: Paces | None = None,
        rows: Tensor | None = None,
    ) -> None:
        self.factory = factory
        self.paces = paces
        self.rows = rows
        self.model = TransR(
            triples_factory=factory,
            embedding_dim=DIMENSION,
            relation_dim=DIMENSION,
            scoring_fct_norm=2,
            entity_initializer=_Copied(tensors["entities"]),
            relation_initializer=_Copied(tensors["relations"]),
            relation_projection_initializer=_Copied(tensors["projections"]),
            loss="marginranking",
            loss_kwargs={"margin": MARGIN},
            random_seed=NoRandomSeedNecessary,
        )
        self.model.reset_parameters_()

    @property
    def entities(self) -> nn.Parameter:
        """The entities' embeddings (n × 32), live."""
        (weight,) = self.model.entity_representations[0].parameters()
        assert isinstance(weight, nn.Parameter)
        return weight

    def constrain(self) -> None:
        """Bring the entities back into the unit ball."""
        self.model.entity_representations[0].post_parameter_update()

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the entities (n × 32), relations (r × 32) and projections (r × 32 × 32)."""
        return {name: part(indices=None).detach().clone() for name, part in self._parts().items()}

    def _parts(self) -> dict[str, nn.Module]:
        relation, projection = self.model.relation_representations
        return {"entities": self.model.entity_representations[0], "relations": relation, "projections": projection}

    def _paced(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Every parameter with the paces of its rows; nothing where all is new."""
        if self.paces is None:
            return []
        paced = []
        for name, part in self._parts().items():
            (weight,) = part.parameters()
            paced.append((weight, self.paces[name].view(-1, *[1] * (weight.dim() - 1))))
        return paced

    def train(self, epochs: int, after: Callable[[int, float], None]) -> None:
        """Train; `after(epoch from 1, mean loss)` is called when an epoch's steps are done."""
        if epochs < 1:
            return
        size = {"num_entities": self.factory.num_entities, "num_relations": self.factory.num_relations}
        mapped = self.factory.mapped_triples
        taught = self.factory if self.rows is None else CoreTriplesFactory(mapped[self.rows], **size)
        loop = SLCWATrainingLoop(
            model=self.model,
            triples_factory=taught,
            optimizer="adam",
            optimizer_kwargs={"lr": LEARNING_RATE},
            # What a relation links, and what is true, all triples say, also those that are not trained on.
            negative_sampler=TypedNegatives(mapped_triples=mapped, **size),
            automatic_memory_optimization=False,
        )
        # PyKEEN makes a folder for checkpoints even when none are asked for: not in the user's home.
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _light_collections():
            warnings.simplefilter("ignore", DeprecationWarning)
            loop.train(
                taught,
                num_epochs=epochs,
                batch_size=BATCH if self.rows is None else FRESH_BATCH,
                use_tqdm=False,
                pin_memory=False,
                checkpoint_directory=folder,
                callbacks=_Turns(self._paced(), after),
            )


@contextmanager
def _light_collections() -> Iterator[None]:
    """Keep what exists already out of the collection that PyKEEN forces after every epoch.

    With its libraries loaded, that costs more than an epoch over a small graph.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Turns(TrainingCallback):  # type: ignore[misc]
    """Shorten the steps of rows that have a pace, and call a function between two epochs.

    PyKEEN calls back before an update, not after it: the last one is shortened when the next batch begins, or
    the epoch ends, and nothing reads the parameters in between.
    """

    def __init__(self, paced: list[tuple[nn.Parameter, Tensor]], after: Callable[[int, float], None]) -> None:
        super().__init__()
        self.paced, self.after = paced, after
        self.before: list[Tensor] = []

    def pre_batch(self, **kwargs: Any) -> None:
        self._shorten()
        self.before = [weight.detach().clone() for weight, _ in self.paced]

    def post_epoch(self, epoch: int, epoch_loss: float, **kwargs: Any) -> None:
        self._shorten()
        self.before = []
        self.after(epoch, float(epoch_loss))

    @torch.no_grad()
    def _shorten(self) -> None:
        if self.before:
            for (weight, pace), before in zip(self.paced, self.before, strict=True):
                weight.copy_(torch.lerp(before, weight, pace))


def make_factory(triples: Sequence[Triple], entities: Sequence[str], relations: Sequence[str]) -> CoreTriplesFactory:
    """Number the triples by the places of their names in `entities` and `relations`."""
    row = {name: place for place, name in enumerate(entities)}
    kind = {name: place for place, name in enumerate(relations)}
    mapped = np.array([(row[head], kind[relation], row[tail]) for head, relation, tail in triples], dtype=np.int64)
    return CoreTriplesFactory(
        torch.from_numpy(mapped.reshape(-1, 3)), num_entities=len(entities), num_relations=len(relations)
    )


def paces(triples: Sequence[Triple], entities: Sequence[str], relations: Sequence[str], start: Vectors) -> Paces:
    """Tell how far each row may move in a run that goes on from `start`.

    What is new moves at full length, a relation that is known at `PACE`, and a known entity in between, by the
    share of its links that are fresh: a setting that a few of hundreds of strategies share hardly moves, and a method
    whose first strategies have come goes where they belong.
    """
    old = _known(entities, start.entities)
    mapped = make_factory(triples, entities, relations).mapped_triples
    fresh = _fresh(mapped, old, _known(relations, start.relations))
    links = torch.bincount(mapped[:, [0, 2]].flatten(), minlength=len(entities))
    new = torch.bincount(mapped[fresh][:, [0, 2]].flatten(), minlength=len(entities))
    share = torch.where(old, new / links.clamp(min=1), 1.0)
    kind = torch.where(_known(relations, start.relations), PACE, 1.0)
    return {"entities": PACE + (1 - PACE) * share, "relations": kind, "projections": kind}


def rehearsed(triples: Sequence[Triple], entities: Sequence[str], relations: Sequence[str], start: Vectors) -> Tensor:
    """Return the rows of the fresh triples, and of as many others, drawn from torch's global generator.

    Fresh triples alone would pull the relations away from all that was learnt of the others.
    """
    mapped = make_factory(triples, entities, relations).mapped_triples
    fresh = _fresh(mapped, _known(entities, start.entities), _known(relations, start.relations))
    new, old = torch.nonzero(fresh).flatten(), torch.nonzero(~fresh).flatten()
    return torch.cat([new, old[torch.randperm(len(old))[: len(new)]]])


def _fresh(mapped: Tensor, entities: Tensor, relations: Tensor) -> Tensor:
    """Tell which triples have an end or a relation that is not among the known ones, (n,)."""
    return ~(entities[mapped[:, 0]] & relations[mapped[:, 1]] & entities[mapped[:, 2]])


def _known(names: Sequence[str], learnt: Sequence[str]) -> Tensor:
    """Tell which names were learnt before, (n,)."""
    old = set(learnt)
    return torch.tensor([name in old for name in names], dtype=torch.bool)


def first_tensors(
    triples: Sequence[Triple], entities: Sequence[str], relations: Sequence[str], start: Vectors | None
) -> dict[str, Tensor]:
    """Make the tensors that training starts from.

    Without `start` they are drawn from torch's global generator as PyKEEN draws them. With it, whatever it knows
    keeps its values, and a new entity gets the mean of its peers, see `_place_new`; what `start` knows and the
    graph no longer has is left behind.
    """
    tensors = {
        "entities": xavier_uniform_(torch.empty(len(entities), DIMENSION)),
        "relations": xavier_uniform_norm_(torch.empty(len(relations), DIMENSION)),
        "projections": nn.init.xavier_uniform_(torch.empty(len(relations), DIMENSION, DIMENSION)),
    }
    if start is None:
        return tensors
    for name, values, names, learnt in (
        ("entities", start.entity_vectors, entities, start.entities),
        ("relations", start.relation_vectors, relations, start.relations),
        ("projections", start.projections, relations, start.relations),
    ):
        place = {id: row for row, id in enumerate(learnt)}
        tensors[name][_known(names, learnt)] = torch.from_numpy(values[[place[id] for id in names if id in place]])
    mapped = make_factory(triples, entities, relations).mapped_triples
    _place_new(tensors["entities"], _known(entities, start.entities), mapped)
    return tensors


def _place_new(vectors: Tensor, known: Tensor, mapped: Tensor) -> None:
    """Give new rows the mean of their known peers, over their links.

    The peers of an entity in a link are the entities that hold the same end of the same relation with the same
    partner: for a strategy with HP2 = 0.2, all strategies with HP2 = 0.2. An entity whose partners are all new, or
    had no such link, gets the mean of all that hold that end of its relations, such as all settings. What has no
    peers at all stays as it was drawn.
    """
    ends = torch.cat([mapped, mapped[:, [2, 1, 0]]])
    side = torch.arange(len(ends)) >= len(mapped)
    role = ends[:, 1] * 2 + side
    partner = torch.unique(torch.stack([role, ends[:, 2]], dim=1), dim=0, return_inverse=True)[1]
    placed = known.clone()
    for key in (partner, role):
        sums, counts = _sums(vectors, ends[:, 0], key, known[ends[:, 0]], int(key.max()) + 1)
        links = ~placed[ends[:, 0]] & (counts[key] > 0)
        means = sums[key[links]] / counts[key[links], None]
        rows = ends[links, 0]
        total = torch.zeros_like(vectors).index_add_(0, rows, means)
        n = torch.bincount(rows, minlength=len(vectors))
        fresh = n > 0
        vectors[fresh] = total[fresh] / n[fresh, None]
        placed |= fresh


def _sums(vectors: Tensor, rows: Tensor, key: Tensor, use: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sum the vectors of the used rows, and count these, by key."""
    sums = torch.zeros(size, vectors.shape[1]).index_add_(0, key[use], vectors[rows[use]])
    return sums, torch.bincount(key[use], minlength=size)
