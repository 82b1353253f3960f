"""TransR over the graph's triples, by PyKEEN (Lin et al., AAAI 2015; AutoMC paper, Eq. 1 and 2).

score(h, r, t) = −‖c(h M_r) + r − c(t M_r)‖₂ with h, t, r in the unit ball and c clamping to it; margin ranking
loss against triples with a random head or tail. Entities and relations have 32 dimensions.
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
from kg.embedding.vectors import Vectors

Triple = tuple[str, str, str]

BATCH = 4096
LEARNING_RATE = 0.02
MARGIN = 1.0


class GraphModel:
    """PyKEEN's TransR with its tensors at hand.

    `entities` is the model's own parameter: whoever changes it changes what the next epoch starts from, so
    nothing has to be copied back. PyKEEN clamps entities and relations to the unit ball after each of its steps;
    `constrain` does the same for others.

    Randomness is torch's global generator: seed it before.
    """

    def __init__(self, factory: CoreTriplesFactory, tensors: Mapping[str, Tensor]) -> None:
        self.factory = factory
        self.model = TransR(
            triples_factory=factory,
            embedding_dim=DIMENSION,
            relation_dim=DIMENSION,
            scoring_fct_norm=2,
            entity_initializer=PretrainedInitializer(tensors["entities"]),
            relation_initializer=PretrainedInitializer(tensors["relations"]),
            relation_projection_initializer=PretrainedInitializer(tensors["projections"]),
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
        relation, projection = self.model.relation_representations
        parts = {"entities": self.model.entity_representations[0], "relations": relation, "projections": projection}
        return {name: part(indices=None).detach().clone() for name, part in parts.items()}

    def train(self, epochs: int, after: Callable[[int, float], None]) -> None:
        """Train; `after(epoch from 1, mean loss)` is called when an epoch's steps are done."""
        if epochs < 1:
            return
        loop = SLCWATrainingLoop(
            model=self.model,
            triples_factory=self.factory,
            optimizer="adam",
            optimizer_kwargs={"lr": LEARNING_RATE},
            negative_sampler="basic",
            automatic_memory_optimization=False,
        )
        # PyKEEN makes a folder for checkpoints even when none are asked for: not in the user's home.
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _light_collections():
            warnings.simplefilter("ignore", DeprecationWarning)
            loop.train(
                self.factory,
                num_epochs=epochs,
                batch_size=BATCH,
                use_tqdm=False,
                pin_memory=False,
                checkpoint_directory=folder,
                callbacks=_AfterEpoch(after),
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


class _AfterEpoch(TrainingCallback):  # type: ignore[misc]
    """Call a function between two epochs."""

    def __init__(self, after: Callable[[int, float], None]) -> None:
        super().__init__()
        self.after = after

    def post_epoch(self, epoch: int, epoch_loss: float, **kwargs: Any) -> None:
        self.after(epoch, float(epoch_loss))


def make_factory(triples: Sequence[Triple], entities: Sequence[str], relations: Sequence[str]) -> CoreTriplesFactory:
    """Number the triples by the places of their names in `entities` and `relations`."""
    row = {name: place for place, name in enumerate(entities)}
    kind = {name: place for place, name in enumerate(relations)}
    mapped = np.array([(row[head], kind[relation], row[tail]) for head, relation, tail in triples], dtype=np.int64)
    return CoreTriplesFactory(
        torch.from_numpy(mapped.reshape(-1, 3)), num_entities=len(entities), num_relations=len(relations)
    )


def first_tensors(
    triples: Sequence[Triple], entities: Sequence[str], relations: Sequence[str], start: Vectors | None
) -> dict[str, Tensor]:
    """Make the tensors that training starts from.

    Without `start` they are drawn from torch's global generator as PyKEEN draws them. With it, whatever it knows
    keeps its values, and a new entity gets the mean of the entities it shares triples with, the nearest first:
    those beside known ones, then those beside these. What touches nothing known stays drawn.
    """
    tensors = {
        "entities": xavier_uniform_(torch.empty(len(entities), DIMENSION)),
        "relations": xavier_uniform_norm_(torch.empty(len(relations), DIMENSION)),
        "projections": nn.init.xavier_uniform_(torch.empty(len(relations), DIMENSION, DIMENSION)),
    }
    if start is None:
        return tensors
    old = {name: row for row, name in enumerate(start.entities)}
    known = np.array([name in old for name in entities])
    tensors["entities"][torch.from_numpy(known)] = torch.from_numpy(
        start.entity_vectors[[old[name] for name in entities if name in old]]
    )
    for place, name in enumerate(relations):
        if name in start.relations:
            row = start.relations.index(name)
            tensors["relations"][place] = torch.from_numpy(start.relation_vectors[row])
            tensors["projections"][place] = torch.from_numpy(start.projections[row])
    _fill_new(tensors["entities"], known, make_factory(triples, entities, relations).mapped_triples)
    return tensors


def _fill_new(vectors: Tensor, known: np.ndarray[Any, np.dtype[np.bool_]], mapped: Tensor) -> None:
    """Give unknown rows the mean of their known neighbours, wave by wave."""
    ends = torch.cat([mapped[:, [0, 2]], mapped[:, [2, 0]]])
    have = torch.from_numpy(known)
    while True:
        links = ends[~have[ends[:, 0]] & have[ends[:, 1]]]
        if not len(links):
            return
        sums = torch.zeros_like(vectors).index_add_(0, links[:, 0], vectors[links[:, 1]])
        counts = torch.bincount(links[:, 0], minlength=len(vectors))
        fresh = counts > 0
        vectors[fresh] = sums[fresh] / counts[fresh, None]
        have = have | fresh
