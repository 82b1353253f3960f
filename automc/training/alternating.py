"""Scores that are trained beside the weights: by an optimiser of their own, on images held for them, in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from automc.datasets.base import TrainData
from automc.training.loop import Loss, batches
from automc.training.recipe import Recipe
from kg.adam import Adam

LR = 0.05
"""Of the scores. Published searches have thousands of updates and a tenth of that; a step has dozens."""
BETAS = (0.5, 0.999)
MOST, SHARE = 2000, 0.2
"""Training images on which scores are trained: a share, at most so many."""


def judging(data: TrainData, seed: int) -> TrainData:
    """Return the images on which scores are trained, never augmented."""
    return data.take(max(1, min(MOST, int(SHARE * data.n))), seed).without_augmentation()


class Alternation:
    """Updates scores after each update of the weights in the second half of a search: for `fit`'s `after_update`.

    By Adam on loss + Σ weight · excess. Each weight begins at 1 and doubles after every quarter of the search at whose
    end its excess is above 0.

    Args:
        model: reads the scores.
        scores: tensors that require gradients and are no parameters of the model.
        loss: on a batch.
        excess: each what is above a limit, as a share; differentiable in the scores.
        data: see `judging`.
        recipe: batch and precision.
        iterations: of the search.
        seed: of the batches.
    """

    def __init__(
        self, model: nn.Module, scores: Sequence[Tensor], loss: Loss, excess: Sequence[Callable[[], Tensor]],
        data: TrainData, recipe: Recipe, iterations: int, seed: int,
    ) -> None:  # fmt: skip
        self._model, self._scores, self._loss, self._excess = model, list(scores), loss, list(excess)
        self._data, self._recipe, self._iterations = data, recipe, iterations
        self._stream = batches(data, recipe.batch_size(data.n), torch.Generator().manual_seed(seed))
        self._optimizer = Adam(self._scores, LR, BETAS)
        self.weights = [1.0] * len(self._excess)
        self.updates = 0

    def __call__(self, update: int) -> None:
        """Update the scores once, if it is time."""
        quarter = 4 * (update + 1) // self._iterations > 4 * update // self._iterations
        if update >= self._iterations // 2:
            self._update()
        if quarter:
            over = [float(excess().detach()) > 0 for excess in self._excess]
            self.weights = [w * (2 if above else 1) for w, above in zip(self.weights, over, strict=True)]

    def _update(self) -> None:
        indices, views = next(self._stream)
        data, half = self._data, self._recipe.precision == "bfloat16"
        with torch.autocast(data.device.type, torch.bfloat16, enabled=half):
            value = self._loss(self._model, data.views(indices, views), data.y[indices])
        for weight, excess in zip(self.weights, self._excess, strict=True):
            value = value + weight * excess()
        slopes = torch.autograd.grad(value, self._scores, allow_unused=True)
        for score, slope in zip(self._scores, slopes, strict=True):
            score.grad = slope
        self._optimizer.step()
        self.updates += 1
