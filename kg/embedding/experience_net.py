"""NN_exp: what a strategy does to a task, learnt from experience (AutoMC paper, section 3.3.1, Eq. 3).

An MLP maps [strategy vector (32), task features (7)] to (AR, PR), and its gradient moves the strategies' vectors
too. We differ from the paper in what the data ask for: a flag per missing task feature, the excess of HP2 over
the grid as one more input (0 for every strategy that can be searched), a mask for the AR that a source does not
give, a Huber loss because AR is heavy-tailed, and a total weight of 1 for every source.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kg.adam import Adam
from kg.embedding.records import Records

DIMENSION = 32
"""Length of an embedding."""
FEATURES = 7
BATCH, BATCHES = 32, 64
"""Records of a step; more of them where an epoch would have more steps than that."""
LEARNING_RATE = 1e-3

# Where nothing was learnt: the scale of small-image classification, features in logarithms but for the accuracy.
_CENTRE = (*np.log([10, 32, 3, 5e4, 1e6, 2e8]), 0.9)
_SPREAD = (1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 0.1)
_FAR = 3.0


class ExperienceNet(nn.Module):
    """NN_exp with the scales of its inputs and outputs.

    The last layer starts at zero and the outputs' scale at (0, 1): untaught, it predicts AR = PR = 0 for everything.
    """

    centre: Tensor
    spread: Tensor
    target_centre: Tensor
    target_spread: Tensor

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(DIMENSION + 2 * FEATURES + 1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.head = nn.Linear(hidden, 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("centre", torch.tensor(_CENTRE, dtype=torch.float32))
        self.register_buffer("spread", torch.tensor(_SPREAD, dtype=torch.float32))
        self.register_buffer("target_centre", torch.zeros(2))
        self.register_buffer("target_spread", torch.ones(2))

    @property
    def taught(self) -> bool:
        """Whether any experience was learnt."""
        return bool(self.head.weight.any())

    def fit_scales(self, records: Records) -> None:
        """Set the scales of features and targets from records; each task counts once, however many rows it has."""
        if not len(records):
            return
        tasks = logarithms(_distinct(records.features))
        for column in range(FEATURES):
            known = tasks[~np.isnan(tasks[:, column]), column]
            if len(known):
                self.centre[column] = float(known.mean())
                deviation = float(known.std())
                self.spread[column] = deviation if deviation > 1e-6 else 1.0
        for column in range(2):
            known = records.targets[~np.isnan(records.targets[:, column]), column]
            if len(known):
                low, middle, high = np.percentile(known, (25, 50, 75))
                self.target_centre[column] = float(middle)
                self.target_spread[column] = max(float(high - low) / 1.349, 0.02)

    def scale(self, features: NDArray[np.float64]) -> Tensor:
        """Standardise raw features (n × 7, NaN where unknown): (n × 7), in [−3, 3], 0 (the mean) where unknown.

        The first six in logarithms. Tasks far outside the experience are held at 3 deviations, because nothing
        learnt reaches further.
        """
        logs = torch.from_numpy(logarithms(features)).float()
        return torch.nan_to_num(((logs - self.centre) / self.spread).clamp(-_FAR, _FAR), nan=0.0)

    def inputs(self, features: NDArray[np.float64], excess: NDArray[np.float64]) -> Tensor:
        """Everything but the vector: (n × 15) features, missing flags, excess."""
        flags = torch.from_numpy(np.isnan(features)).float()
        return torch.cat([self.scale(features), flags, torch.from_numpy(excess).float()[:, None]], dim=1)

    def forward(self, vectors: Tensor, inputs: Tensor) -> Tensor:
        """Predict (n × 2) AR and PR on the scale of the targets from vectors (n × 32) and inputs (n × 15)."""
        out: Tensor = self.head(self.layers(torch.cat([vectors, inputs], dim=1)))
        return out

    @torch.no_grad()
    def predict(self, vectors: Tensor, inputs: Tensor) -> NDArray[np.float32]:
        """Predict (n × 2) AR and PR as ratios, held to what is possible: AR ≥ −1, PR in [0, 1]."""
        out = self(vectors, inputs) * self.target_spread + self.target_centre
        held = torch.stack([out[:, 0].clamp(min=-1), out[:, 1].clamp(0, 1)], dim=1)
        return held.numpy().astype(np.float32)


def _distinct(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows that differ; unknown equals unknown, which it does not as NaN."""
    rows = np.unique(np.nan_to_num(features, nan=-np.inf), axis=0)
    return np.where(np.isneginf(rows), np.nan, rows)


def logarithms(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Features with the six counts in logarithms and the accuracy as it is; NaN stays."""
    return np.concatenate([np.log(np.maximum(features[:, :6], 1e-9)), features[:, 6:]], axis=1)


def experience_loss(predicted: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Eq. 3 with a Huber norm: weighted mean over the rows of the loss of AR plus that of PR.

    A target that is NaN adds nothing, neither loss nor gradient. All on the scale of the targets.
    """
    known = ~torch.isnan(targets)
    errors = nn.functional.huber_loss(predicted, torch.where(known, targets, 0.0), reduction="none")
    return (torch.where(known, errors, 0.0).sum(dim=1) * weights).sum() / weights.sum()


class ExperienceTraining:
    """Train NN_exp and, through the records' means, the entities' vectors.

    Adam for both (learning rate 0.001, the paper's), on batches of 32 records, of many records on 64
    batches, in an order drawn from `seed`.
    After each of its steps `constrain` brings the vectors back to where the graph's model keeps them, so NN_exp
    only ever sees vectors that the graph's model would keep too.
    """

    def __init__(
        self,
        net: ExperienceNet,
        entities: nn.Parameter,
        records: Records,
        *,
        seed: int,
        constrain: Callable[[], None],
    ) -> None:
        self.net, self.entities, self.records, self.constrain = net, entities, records, constrain
        self.optimizer = Adam([entities, *net.parameters()], LEARNING_RATE)
        self.generator = torch.Generator().manual_seed(seed)
        self.inputs = net.inputs(records.features, records.excess)
        self.targets = (torch.from_numpy(records.targets).float() - net.target_centre) / net.target_spread
        # Mean weight 1, so that a batch's share of the sum does not change the step's size.
        self.weights = torch.from_numpy(records.weights * len(records) / records.weights.sum()).float()

    def epoch(self) -> float:
        """See every record once; return the weighted mean loss."""
        total, order = 0.0, torch.randperm(len(self.records), generator=self.generator)
        size = max(BATCH, math.ceil(len(order) / BATCHES))
        for begin in range(0, len(order), size):
            rows = order[begin : begin + size]
            predicted = self.net(mean_vectors(self.records, self.entities, rows.numpy()), self.inputs[rows])
            weights = self.weights[rows]
            loss = experience_loss(predicted, self.targets[rows], weights)
            self.optimizer.zero_grad()
            # Weighted by the batch's own weight: over an epoch every source pulls alike.
            torch.autograd.backward(loss * weights.mean())
            self.optimizer.step()
            self.constrain()
            total += float(loss.detach()) * float(weights.sum())
        return total / len(self.records)


def mean_vectors(records: Records, entities: Tensor, rows: NDArray[np.int64] | None = None) -> Tensor:
    """Vectors (n × 32) of records: the sparse means times the entities' embeddings; gradients flow to those."""
    part = (records.mean if rows is None else records.mean[rows]).tocoo()
    index = torch.from_numpy(np.stack([part.row, part.col]).astype(np.int64))
    sparse = torch.sparse_coo_tensor(index, torch.from_numpy(part.data).float(), part.shape, check_invariants=False)
    product: Tensor = torch.sparse.mm(sparse, entities)
    return product
