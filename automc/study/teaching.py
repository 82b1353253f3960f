"""What the user has steps learn from besides AutoMC's own: a loss of theirs, another model as the teacher."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from automc.datasets.base import TrainData
from automc.errors import AutoMCError, ModelError, Note
from automc.execution.setup import fitted
from automc.models import structure
from automc.models.load import LoadedModel, load
from automc.study.task import Subject
from automc.training.loop import objective_of
from automc.training.own import OwnCodeError
from automc.training.recipe import Recipe
from automc.training.recover import TEACHER

TEACHER_FILE = "teacher.am"
"""Its name in a study's folder."""
_IMAGES = 8


@dataclass(frozen=True)
class Teacher:
    """A model that teaches in the place of the one that is compressed."""

    name: str
    loaded: LoadedModel
    model: nn.Module
    """Prepared for the data."""

    def save(self, path: Path, shape: tuple[int, ...]) -> None:
        """Write it beside the study's model; `shape` is an image's (channels, height, width)."""
        structure.save(path, self.model, self.loaded.source, metadata={"teacher": self.name}, shape=shape)


def open_teacher(name: str, weights: Path | None, subject: Subject) -> Teacher:
    """Load the model that is to teach, and check that it fits the data.

    Raises:
        ModelError: it cannot be loaded, or answers for other classes or images; the message names the teacher.

    Warns:
        Note: its images were normalised in another way, or its weights are random.
    """
    data = subject.dataset
    try:
        loaded = load(name, weights=weights, classes=len(data.classes), channels=data.channels)
        model, _ = fitted(loaded.model, data)
    except AutoMCError as error:
        raise ModelError(f"The teacher {name} does not fit: {error}") from error
    other = loaded.normalisation
    if other is not None and [tuple(map(float, part)) for part in other] != [data.mean, data.std]:
        warnings.warn(
            f"The teacher {name} was trained on images of mean {other[0]} and std {other[1]}, and is shown those of "
            f"the model: {data.mean} and {data.std}.",
            Note,
            stacklevel=2,
        )
    if weights is None and loaded.source.kind != "file" and not name.endswith(".am"):
        warnings.warn(f"The weights of the teacher {name} are random: give --teacher-weights.", Note, stacklevel=2)
    return Teacher(name, loaded, model)


def taught_by(recipe: Recipe, teacher: Teacher | None) -> Recipe:
    """Return the recipe with a weight for a teacher that was named, where it gives none."""
    return recipe if teacher is None or recipe.teacher else replace(recipe, teacher=TEACHER)


def try_own(subject: Subject, recipe: Recipe) -> None:
    """Measure the model by the user's metric, and train a copy on one small batch by their loss, where they have some.

    Raises:
        OwnCodeError: one of them fails, or is no measure, or no gradient comes of it; said before anything slow.
    """
    if recipe.metric is not None:
        _ = subject.accuracy  # is kept once it was measured
    if recipe.loss is None:
        return
    images: TrainData = subject.dataset.data(subject.splits.train, subject.device)
    rows = torch.arange(min(_IMAGES, images.n), device=subject.device)
    model = copy.deepcopy(subject.model).train()
    try:
        value = objective_of(recipe)(model, images.normalised(rows), images.y[rows])
        if value.requires_grad:
            value.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise OwnCodeError(f"The loss {recipe.loss.place} cannot be trained by: {error}") from error
    if not any(p.grad is not None for p in model.parameters()):
        raise OwnCodeError(
            f"No gradient of the loss {recipe.loss.place} reaches the model. Compute it of the outputs, without "
            "detach() or numbers of Python."
        )
