"""Single steps of a given number of iterations on a ResNet with its public weights, for tables that compare ways to do them.

CIFAR-10 as an image folder, a tenth of the training images; 1,000 images each of validation and test, always the same.
The public weights were trained on the validation images too: validation chooses, test reports.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from automc import api
from automc.datasets.base import TrainData
from automc.methods import StepContext
from automc.study.task import Subject, open_subject
from automc.training.evaluate import accuracy
from automc.training.recipe import Recipe
from automc.training.seeds import step_seed
from kg.schema import Strategy

MEASURED = 1000
"""Images of validation and of test that a row is measured on: one standard error is about 1.3 points."""
LENGTH = 0.5
"""HP1 of all steps; `Ground.context` sets E0 so that it means the wanted number of iterations."""
NEAR, TRIES, MOVED = 0.005, 4, 1e-3
"""A share that is near enough, tries to come so near, and how far HP2 must move to tell a slope."""


@dataclass(frozen=True)
class Ground:
    """The model and its images."""

    subject: Subject
    train: TrainData
    validation: TrainData
    test: TrainData

    def context(self, strategy: Strategy, seed: int, iterations: int) -> StepContext:
        """What a step of so many iterations may use; HP1 must be `LENGTH`, other lengths follow from it."""
        recipe = Recipe(fraction=0.1)
        epochs = iterations * recipe.batch_size(self.train.n) / (LENGTH * self.train.n)
        return StepContext(
            data=self.train, recipe=replace(recipe, unit_epochs=epochs), original_params=self.subject.params,
            seed=step_seed(seed, strategy.id), device=self.subject.device, original=self.subject.model,
        )  # fmt: skip

    def measured(self, model: nn.Module) -> tuple[float, float]:
        """Accuracy on validation and on test."""
        return accuracy(model, self.validation), accuracy(model, self.test)


@functools.cache
def ground(images: Path, weights: Path, model: str = "resnet20") -> Ground:
    """Open the model and its images, on the CPU and with one thread."""
    torch.set_num_threads(1)
    subject = open_subject(model, api.data_ref(str(images)), weights=weights, fraction=0.1, device="cpu")
    parts = subject.splits
    assert parts.test is not None
    train, validation, test = (subject.dataset.data(part) for part in (parts.train, parts.validation, parts.test))
    return Ground(subject, train, validation.take(MEASURED), test.take(MEASURED))


def read(description: str | None, *, resnet56: bool = False) -> argparse.Namespace:
    """Read the command line; `resnet56`: of a table that has a second model."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--weights", type=Path, help="the public checkpoint of ResNet-20")
    if resnet56:
        parser.add_argument("--resnet56", type=Path, help="the public checkpoint of ResNet-56")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="only write the page from the rows so far")
    return parser.parse_args()


def solved(taken: Callable[[float], float], known: tuple[float, float], wanted: float) -> float:
    """Return an HP2 with which a step takes the wanted share, within half a point or as near as four tries come.

    `taken` does a step with an HP2 and says what it took; `known` is one such pair.
    """
    (hp2, share), slope = known, 1.0
    tried: dict[float, float] = {}
    while len(tried) < TRIES and all(abs(share - wanted) > NEAR for share in tried.values()):
        following = round(min(0.95, max(0.01, hp2 + (wanted - share) / slope)), 4)
        if following in tried:
            break
        tried[following] = taken(following)
        if abs(following - hp2) > MOVED:
            slope = max(0.3, (tried[following] - share) / (following - hp2))
        hp2, share = following, tried[following]
    return min(tried, key=lambda hp2: abs(tried[hp2] - wanted))


def spread(values: Sequence[float]) -> str:
    """Mean of fractions in per cent, and the lowest and highest of several."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})" if len(values) > 1 else mean
