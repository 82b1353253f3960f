"""What every step of a study shares: plain values that travel to workers, and what they open to."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from automc import methods
from automc.datasets import DataRef, Dataset, check, open_data
from automc.datasets.base import TrainData
from automc.datasets.splits import Splits, split
from automc.errors import AutoMCError, EnvironmentFault, ModelError, Note
from automc.execution.cache import DEFAULT_LIMIT, PrefixCache
from automc.execution.monitor import Monitor
from automc.execution.versions import RESTS_ON, versions
from automc.methods.base import StepContext
from automc.models import structure
from automc.models.factory import sources
from automc.models.load import FactoryRef, input_channels, layout, output_classes, prepare
from automc.models.measure import count_params
from automc.models.outputs import check_batches, check_training, other_part
from automc.training.recipe import Recipe
from automc.training.seeds import before_cuda, fixed_order, step_seed
from kg.schema import LEVELS, Scheme

CORE_VERSION = 3
"""Of what every method rests on: the training loop, evaluation, splits, augmentation, surgery, preparation, counting.

Raise it with any change there after which a step gives another result: what is cached is then executed anew. What one
method alone does has that method's own `version`.
"""


@dataclass(frozen=True, slots=True)
class Setup:
    """How steps are executed, as plain values: pickles, and opens to the same Bench in every process."""

    base: Path
    """The study's M, an .am file."""
    data: DataRef
    recipe: Recipe
    cache: Path
    """Folder of the prefix cache."""
    data_cache: Path | None = None
    """Folder of decoded images, shared by all processes through memory mapping."""
    run_seed: int = 0
    keep: tuple[str, ...] = ()
    """Patterns of layers whose shape stays."""
    still: tuple[str, ...] = ()
    """Patterns of layers, and names of parameters, that are not trained."""
    device: str = "cpu"
    cache_bytes: int = DEFAULT_LIMIT
    teacher: Path | None = None
    """The model that teaches where the recipe or the recovery wants one, an .am file; None: M itself."""
    imports: tuple[str, ...] = ()
    """Modules to import first: those that register methods and models besides entry points."""
    deterministic: bool = False
    """On an accelerator, use only kernels that give the same bits each time; a CPU's do."""

    def open(self) -> Bench:
        """Open this Setup, once in a process: a second call returns the same Bench while M's file is the same."""
        return _opened(self, _stamp(self.base))

    def key(self, scheme: Scheme) -> str:
        """Key of a scheme in the prefix cache: see `Bench.key`."""
        return self.open().key(scheme)


@dataclass(frozen=True)
class Bench:
    """An opened Setup: M prepared and on its device, the data split, the cache.

    `train` is the fraction that steps train on; `rest` everything but validation, for the final run.
    Nothing here is ever changed by a step.
    """

    setup: Setup
    model: nn.Module
    source: FactoryRef
    normalisation: tuple[Any, Any] | None
    dataset: Dataset
    splits: Splits
    train: TrainData
    rest: TrainData
    validation: TrainData
    device: torch.device
    teacher: nn.Module
    """M, or the model that teaches in its place."""
    original_params: int
    cache: PrefixCache
    identity: str
    """Hash of all that the key holds besides the scheme."""

    @property
    def example(self) -> torch.Tensor:
        """Two images of zeros, on the device."""
        return torch.zeros(self.dataset.example_shape, device=self.device)

    def key(self, scheme: Scheme) -> str:
        """Key of a scheme in the prefix cache, a sha256 in hexadecimal.

        Of M's structure and weights, the user's source files behind it, the data's content with subset and split,
        the recipe, the layers kept, the run seed, CORE_VERSION, the packages' versions, the kind of device, the
        version of each method in the scheme, and the signatures of its steps: schemes that differ in nothing that is
        executed share a key. Also of the scheme's level, where it has one.

        Raises:
            MethodError: the scheme names a method that is not registered.
        """
        versions = {step.method: methods.get(step.method).version for step in scheme.steps}
        level = [{"level": scheme.level}] if scheme.level else []
        signature = self._signature(scheme, self.recipe(scheme), self.train.n)
        return _sha256([self.identity, signature, versions, *level])

    def repeatable(self) -> AbstractContextManager[None]:
        """For everything that is computed: a fixed order of sums, where the setup asks for it."""
        return fixed_order(self.device, self.setup.deterministic)

    def recipe(self, scheme: Scheme) -> Recipe:
        """Return the recipe of a scheme's steps: at a level all lengths are a third."""
        recipe = self.setup.recipe
        return replace(recipe, unit_epochs=recipe.unit_epochs / LEVELS) if scheme.level else recipe

    def context(self, scheme: Scheme, monitor: Monitor, run_seed: int | None = None) -> StepContext:
        """What the scheme's last step may use; its seed follows from the run seed and the steps' signatures alone."""
        return self._context(scheme, monitor, self.train, self.recipe(scheme), run_seed)

    def final_context(self, scheme: Scheme, monitor: Monitor, run_seed: int | None = None) -> StepContext:
        """Like `context`, on all training images but validation; the fraction leaves an accelerator for them."""
        if self.rest is not self.train:
            self.train.release()
        return self._context(scheme, monitor, self.rest, replace(self.setup.recipe, fraction=1.0), run_seed)

    def _context(
        self, scheme: Scheme, monitor: Monitor, data: TrainData, recipe: Recipe, run_seed: int | None
    ) -> StepContext:
        chosen = self.setup.run_seed if run_seed is None else run_seed
        return StepContext(
            data=data,
            recipe=recipe,
            original_params=self.original_params,
            seed=step_seed(chosen, self._signature(scheme, recipe, data.n)),
            device=self.device,
            keep=self.setup.keep,
            still=self.setup.still,
            original=self.teacher,
            progress=monitor.progress,
        )

    @staticmethod
    def _signature(scheme: Scheme, recipe: Recipe, n_train: int) -> str:
        """What is executed of a scheme: the signatures of its steps, as text."""
        return json.dumps([methods.get(s.method).signature(s, recipe, n_train) for s in scheme.steps])


def open_bench(setup: Setup) -> Bench:
    """Open a Setup.

    Raises:
        AutoMCError: the model or the data cannot be read or do not fit each other, or the device is missing.
    """
    if setup.deterministic:
        before_cuda()
    for name in setup.imports:
        importlib.import_module(name)
    device = open_device(setup.device)
    loaded = structure.read(setup.base)
    dataset = open_data(setup.data, setup.data_cache)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)  # said when the command began
        model, dataset = fitted(loaded.model, dataset)
    splits = split(dataset, setup.recipe.fraction)
    # In the data's layout, as a teacher sees its batches.
    model = model.to(device).to(memory_format=dataset.layout)
    train, validation = dataset.data(splits.train, device), dataset.data(splits.validation, device)
    teacher = model if setup.teacher is None else _teacher(setup.teacher, dataset).to(device)
    return Bench(
        setup=setup,
        model=model,
        source=loaded.source,
        normalisation=loaded.normalisation,
        dataset=dataset,
        splits=splits,
        train=train,
        rest=train if splits.rest is splits.train else dataset.data(splits.rest, device),
        validation=validation,
        device=device,
        teacher=teacher,
        original_params=count_params(model),
        cache=PrefixCache(setup.cache, setup.cache_bytes),
        identity=_identity(setup, loaded.source, model, teacher, dataset),
    )


def _teacher(file: Path, dataset: Dataset) -> nn.Module:
    """Read the model that teaches, in evaluation mode."""
    example = torch.zeros(dataset.example_shape)
    return prepare(structure.read(file).model, example).to(memory_format=dataset.layout).eval()


def fitted(model: nn.Module, dataset: Dataset) -> tuple[nn.Module, Dataset]:
    """Bring a model and its data together: the model prepared for surgery, the data laid out as it wants them.

    Raises:
        ModelError: the model is no classifier, or cannot be trained.
        DataError: they do not fit: channels or classes differ.

    Warns:
        Note: only a part of what it returns is used.
    """
    example = torch.zeros(dataset.example_shape)
    try:
        classes = output_classes(model, example)
    except ModelError:
        check(dataset, channels=input_channels(model))  # the likeliest reason, where the numbers differ
        raise
    if classes != len(dataset.classes) and (said := other_part(model, example, len(dataset.classes))):
        raise ModelError(said)
    check(dataset, outputs=classes)
    prepared = prepare(model, example)
    check_batches(prepared, example)
    if note := check_training(prepared, example):
        warnings.warn(note, Note, stacklevel=2)
    return prepared, replace(dataset, layout=layout(prepared, example))


@lru_cache(maxsize=2)
def _opened(setup: Setup, stamp: tuple[int, ...]) -> Bench:
    return open_bench(setup)


def _stamp(file: Path) -> tuple[int, ...]:
    """What changes when a file is written anew: a study that was deleted may give its name to another."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def open_device(name: str) -> torch.device:
    """Return a torch device by name.

    Raises:
        AutoMCError: AutoMC does not run on a device of that name.
        EnvironmentFault: this machine has not got it.
    """
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", str(name)):
        raise AutoMCError(f"--device '{name}' is not a device that AutoMC runs on. Use auto, cpu, cuda or cuda:N.")
    device = torch.device(name)
    visible = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and (device.index or 0) >= visible:
        raise EnvironmentFault(f"There is no {name} here: {visible} CUDA devices are visible. Use --device cpu.")
    return device


def _identity(setup: Setup, source: FactoryRef, model: nn.Module, teacher: nn.Module, dataset: Dataset) -> str:
    """Hash of all that an outcome rests on besides the scheme and its methods."""
    # The data's hash covers their own validation images; the split follows from content and the recipe's fraction.
    given = [dataset.hash, setup.recipe.as_dict(), sorted(setup.keep), sorted(setup.still), setup.run_seed]
    code = [CORE_VERSION, versions(RESTS_ON), sources(source)]
    given += [] if teacher is model else [structure.weights_hash(teacher)]
    given += ["deterministic"] if setup.deterministic and torch.device(setup.device).type != "cpu" else []
    return _sha256([structure.weights_hash(model), *given, *code, torch.device(setup.device).type])


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
