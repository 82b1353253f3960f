"""Training a compressed model on, with the original as its teacher, for as long as it is given or it helps."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from automc.bounds import check
from automc.datasets.base import TrainData
from automc.errors import AutoMCError
from automc.training import evaluate
from automc.training.distill import taught
from automc.training.loop import Diverged, fit, objective_of
from automc.training.recipe import Recipe
from automc.training.seeds import derived

LR = 0.03
"""Peak learning rate: see docs/results/recovery."""
TEACHER = 0.5
"""Weight of the original model's outputs where the recipe names none."""
PARTS = (0.5, 0.75, 0.9, 1.0)
"""Of a cosine, after which the iterations that the time still allows are counted anew."""
LONGEST = 200.0
"""Epochs of one cosine; what is given beyond that makes another one, if the one before it has helped."""
FIRST = 20
"""Iterations from which the time of one is told."""
WHOLE = (0.0, 1.0)
"""All places of a cosine."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How long a model may train on: seconds of the clock, validation included, or epochs."""

    seconds: float | None = None
    epochs: float | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.epochs is None):
            raise AutoMCError("Recovery lasts a number of seconds, or of epochs.")
        if self.epochs is None:
            check("--recover", self.seconds)
        else:
            check("--recover in epochs", self.epochs)

    def __str__(self) -> str:
        if self.epochs is not None:
            return f"{self.epochs:g} epochs"
        seconds = self.seconds or 0.0
        return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@dataclass(frozen=True)
class Recovered:
    """The model at the end of the last cosine that did no harm, in evaluation mode; else the one that came."""

    model: nn.Module
    kept: bool
    """Whether it is a model that was trained on."""
    before: float
    after: float
    iterations: int
    seconds: float
    ended: str
    """Why it ended, for a person: "the time is used", …"""


def recover(
    model: nn.Module, teacher: nn.Module, data: TrainData, validation: TrainData, recipe: Recipe, extent: Extent, *,
    seed: int, lr: float = LR, still: Sequence[str] = (), progress: Callable[[int, int], None] | None = None,
    part: tuple[float, float] = WHOLE,
) -> Recovered:  # fmt: skip
    """Train a copy of `model` on and return what comes of it; `model` is left as it was.

    One cosine over all that is given, up to LONGEST epochs; then others, as long as the one before has raised
    validation accuracy. At the end of each batch-norm statistics are estimated anew, as after a step, and what came of
    it is kept unless validation is more than a standard error below what was: a lucky figure of a few hundred images
    before it would else undo an hour. On the way validation is not asked: the best of several looks is the luckiest.
    In epochs the result depends on the seed alone (on a CPU); in seconds it does not.

    Args:
        teacher: the study's original model, on the same device.
        data: training images; `validation` only chooses.
        recipe: batch, momentum, weight decay, precision, weight of the teacher.
        still: what is not trained, see `fit`.
        progress: called with the share that is done, as (done, of).
        part: places on the first cosine, in [0, 1], between which it trains in the time that is given. What ends before
            1 is a leg of a race: there is no other cosine, and its model is kept whatever validation says.
    """
    return _Run(model, teacher, data, validation, recipe, extent, seed, lr, still, progress, part).whole()


class _Run:
    """One recovery in progress."""

    def __init__(
        self, model: nn.Module, teacher: nn.Module, data: TrainData, validation: TrainData, recipe: Recipe,
        extent: Extent, seed: int, lr: float, still: Sequence[str], progress: Callable[[int, int], None] | None,
        part: tuple[float, float],
    ) -> None:  # fmt: skip
        self._began = time.perf_counter()
        self._model = copy.deepcopy(model)
        self._loss = taught(objective_of(recipe), teacher, recipe.teacher or TEACHER)
        self._data, self._validation, self._recipe, self._extent = data, validation, recipe, extent
        self._seed, self._lr, self._still, self._progress = seed, lr, still, progress
        self._epoch = max(1.0, data.n / recipe.batch_size(data.n))
        self._trained, self._training, self._part = 0, 0.0, part
        self._best, self._before = copy.deepcopy(model).eval(), evaluate.score(model, validation, recipe.metric)
        self._after, self._kept = self._before, False
        self._looking = time.perf_counter() - self._began
        self._planned = max(1, round((extent.epochs or 0.0) * self._epoch))

    def whole(self) -> Recovered:
        """Run it."""
        ended = "the time is used" if self._extent.epochs is None else "the epochs are over"
        try:
            if self._extent.seconds is not None:
                self._train(min(FIRST, round(self._epoch)), (self._part[0], self._part[0]))
                self._planned = max(1, int(self._extent.seconds * self._trained / self._training))
            cycles = 1 if self._leg else max(1, round(self._planned / (LONGEST * self._epoch)))
            for cycle in range(cycles):
                places = WHOLE if cycle else self._part
                if not self._cosine(self._spent, (cycle + 1) / cycles, places) and cycle + 1 < cycles:
                    ended = "validation accuracy no longer rose"
                    break
        except Diverged as error:
            ended = str(error)
        seconds = time.perf_counter() - self._began
        return Recovered(self._best, self._kept, self._before, self._after, self._trained, seconds, ended)

    @property
    def _leg(self) -> bool:
        return self._part[1] < 1

    @property
    def _spent(self) -> float:
        """Share of what is given that is used."""
        if self._extent.seconds is None:
            return self._trained / self._planned
        return (time.perf_counter() - self._began) / self._extent.seconds

    def _cosine(self, begin: float, end: float, places: tuple[float, float]) -> bool:
        """Train between two shares of what is given and two places on a cosine; tell whether validation rose."""
        first, last = places
        for part in PARTS:
            now, goal = self._spent, begin + (end - begin) * part
            if self._extent.seconds is not None:
                # The look at the end is part of the time.
                goal -= self._looking / self._extent.seconds
                self._planned = max(1, int(self._extent.seconds * self._trained / self._training))
            iterations = round((goal - now) * self._planned)
            if iterations > 0:
                so_far = max(0.0, now - begin) / (end - begin)
                self._train(iterations, (first + (last - first) * so_far, first + (last - first) * part))
        return self._look()

    def _train(self, iterations: int, part: tuple[float, float]) -> None:
        def tell(done: int, of: int) -> None:
            if self._progress is not None and (done == of or done % 10 == 0):
                self._progress(min(100, round(100 * self._spent)), 100)

        started, before = time.perf_counter(), self._trained

        def count(step: int) -> None:
            self._trained = before + step + 1

        fit(
            self._model, self._data, iterations=iterations, recipe=self._recipe, seed=derived(self._seed, before),
            lr=self._lr, loss=self._loss, still=self._still, part=part, after_update=count, progress=tell,
        )  # fmt: skip
        self._training += time.perf_counter() - started

    def _look(self) -> bool:
        """Ask validation, and keep the model unless it is worse than before; tell whether accuracy rose."""
        started = time.perf_counter()
        found = copy.deepcopy(self._model).eval()
        evaluate.recalibrate(found, self._data, self._recipe.recalibration_images, still=self._still)
        accuracy, was = evaluate.score(found, self._validation, self._recipe.metric), self._after
        self._looking = time.perf_counter() - started
        n = self._validation.n
        share = (was * n + 1) / (n + 2)  # never 0 or 1, where the error of a share would vanish
        if self._leg or accuracy >= was - math.sqrt(share * (1 - share) / n):
            self._best, self._after, self._kept = found, accuracy, True
        return accuracy > was
