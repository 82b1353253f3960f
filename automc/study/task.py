"""A model and its data, opened, checked against each other and measured: what a study or a compression starts from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from automc.bounds import check_precision
from automc.datasets import DataRef, Dataset, located, open_data
from automc.datasets.opening import COMPUTED
from automc.datasets.splits import Splits, content_hash, split
from automc.errors import Note
from automc.execution.setup import fitted, open_device
from automc.home import home
from automc.models.bits import count_bits
from automc.models.flops import count
from automc.models.keeping import Held, frozen_parameters, hold, several
from automc.models.load import FactoryRef, load
from automc.models.measure import count_flops, count_params
from automc.study.trial import Figures
from automc.training import evaluate
from automc.training import precision as precisions
from automc.training.own import OwnCode
from automc.training.recipe import Recipe
from automc.training.seeds import seeded
from kg.schema import Task


@dataclass(frozen=True)
class Subject:
    """M and its data; `flops` are 2 × MACs of one image."""

    name: str
    model: nn.Module
    source: FactoryRef
    data: DataRef
    dataset: Dataset
    splits: Splits
    device: torch.device
    params: int
    flops: int
    frozen: tuple[str, ...]
    """Parameters that M's factory froze."""
    metric: OwnCode | None
    """The user's metric in place of accuracy; None: accuracy."""
    saw_validation: bool
    """True unless the model's artefact says that validation was left out of its training."""

    @cached_property
    def accuracy(self) -> float:
        """Float32 top-1 (or metric) of M on the validation split, in [0, 1]; measured when it is first asked for."""
        return evaluate.score(self.model, self.dataset.data(self.splits.validation, self.device), self.metric)

    @property
    def example(self) -> torch.Tensor:
        """Two images of zeros, on the device."""
        return torch.zeros(self.dataset.example_shape, device=self.device)

    def task(self, params: float | None = None, flops: float | None = None, accuracy: float | None = None) -> Task:
        """Return the task of these data with M, or with a step's input model whose figures are given."""
        features = self.dataset.features()
        chosen = {
            "params": float(self.params if params is None else params),
            "flops": float(self.flops if flops is None else flops),
            "accuracy": float(self.accuracy if accuracy is None else accuracy),
        }
        key = f"{self.dataset.name}:{self.dataset.hash[:8]}:{self.name}:" + ":".join(
            f"{v:.6g}" for v in chosen.values()
        )
        return Task(id=key, dataset=self.dataset.name, model=self.name, **features, **chosen)

    @property
    def test_images(self) -> int | None:
        """Number of test images; None where there are none."""
        return None if self.splits.test is None else self.splits.test.n

    def hold(self, keep: Sequence[str] = (), keep_shape: Sequence[str] = (), train_frozen: bool = False) -> Held:
        """Return what stays of M, see `models.keeping.hold`."""
        return hold(self.model, self.frozen, several(keep), several(keep_shape), train_frozen)

    def test_accuracy(self, model: nn.Module | None = None) -> float | None:
        """Return top-1 or metric of M or of `model` on the test images, None without any; for the very end only."""
        if self.splits.test is None:
            return None
        return evaluate.score(model or self.model, self.dataset.data(self.splits.test, self.device), self.metric)


def resolve_device(name: str) -> torch.device:
    """Return the device behind "auto", "cpu" or "cuda:0".

    Raises:
        AutoMCError, EnvironmentFault: see `open_device`.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    return open_device(name)


def open_subject(
    model: str, data: DataRef, *, weights: Path | None = None, fraction: float = 1.0, device: str = "auto",
    seed: int = 0, progress: Any = None, metric: OwnCode | None = None,
) -> Subject:  # fmt: skip
    """Load a model and its data, check that they fit, prepare the model and count it.

    Args:
        model: a zoo name, `file.py:factory`, `torchvision:NAME` or a saved `.am`.
        seed: of the initial weights, for a model that is built here.
        progress: called with (done, total) while images are decoded for the first time.
        metric: what measures it in place of accuracy.

    Raises:
        ModelError: the model cannot be loaded or is no classifier.
        DataError: the data cannot be read or do not fit the model.
    """
    where = resolve_device(device)
    with seeded(seed, where):
        return _opened(model, data, weights, fraction, where, progress, metric)


def _opened(
    model: str, data: DataRef, weights: Path | None, fraction: float, where: torch.device, progress: Any,
    metric: OwnCode | None,
) -> Subject:  # fmt: skip
    known = load(model, weights=weights) if model.endswith(".am") else None
    data = located(data)
    reference = data.normalised_by(known.normalisation if known else None)
    dataset = open_data(reference, cache=home() / "data", progress=progress)
    if known is None:
        known = load(model, weights=weights, classes=len(dataset.classes), channels=dataset.channels)
        if known.normalisation is not None and data.mean is None and weights is not None:
            reference = data.normalised_by(known.normalisation)
            dataset = open_data(reference, cache=home() / "data", progress=progress)
    frozen = frozen_parameters(known.model)
    prepared, dataset = fitted(known.model, dataset)
    prepared = prepared.to(where)
    splits = split(dataset, fraction)
    counted = count(prepared, torch.zeros(dataset.example_shape, device=where))
    counted.tell(prepared)
    for note in dataset.notes:
        if not note.startswith(COMPUTED):  # that is usual, and not worth a line each time
            warnings.warn(note, Note, stacklevel=3)
    return Subject(
        name=_short(model),
        model=prepared,
        source=known.source,
        data=reference,
        dataset=dataset,
        splits=splits,
        device=where,
        params=count_params(prepared),
        flops=counted.flops,
        frozen=frozen,
        metric=metric,
        saw_validation=known.metadata.get("left_out") != content_hash(splits.validation),
    )


def open_figures(model: nn.Module, subject: Subject) -> Figures:
    """Measure a model on a subject's validation split."""
    data = subject.dataset.data(subject.splits.validation, subject.device)
    flops = count_flops(model, subject.example)
    return Figures(evaluate.score(model, data, subject.metric), count_params(model), flops, count_bits(model))


def settle_precision(
    recipe: Recipe, precision: str, subject: Subject, say: Callable[[str], None] | None = None
) -> Recipe:
    """Return the recipe with its precision: "float32", "bfloat16", or for "auto" what is faster for steps of this size.

    `say` is told what was measured, the first time on a device with a model and batch of this size.

    Raises:
        DataError: there is no such precision.
    """
    if check_precision(precision) == "auto":
        train = subject.dataset.data(subject.splits.train, subject.device)
        flops, batch = subject.flops, recipe.batch_size(train.n)
        chosen = precisions.choose(subject.device, home(), subject.model, train, flops, batch, say)
        return replace(recipe, precision=chosen)
    return replace(recipe, precision="bfloat16" if precision == "bfloat16" else "float32")


def _short(model: str) -> str:
    """Return a name for studies: resnet20 of torchvision:resnet20, net of path/to/net.am or net.py:build."""
    if model.startswith("torchvision:"):
        return model.partition(":")[2]
    file, colon, factory = model.rpartition(":")
    if colon and file.endswith(".py"):
        return f"{Path(file).stem}-{factory}"
    return Path(model).stem
