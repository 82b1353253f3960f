"""AutoMC from Python; every command of the command line is one of these calls."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from automc.bounds import Size, check, sides
from automc.compressing import COMPRESSED as COMPRESSED
from automc.compressing import Compressed as Compressed
from automc.compressing import Progress, made_by, recipe_with
from automc.compressing import compress as compress
from automc.datasets import DataRef as DataRef
from automc.datasets.splits import content_hash
from automc.errors import ModelError, OutputInTheWay
from automc.files import Kind, claim, marked
from automc.given import Data, Model, inputs, model_name
from automc.given import data_ref as data_ref
from automc.given import dataset as dataset
from automc.given import define as define
from automc.models import export as _exports
from automc.models import load as _models
from automc.models import structure
from automc.models.given import remember
from automc.models.keeping import several
from automc.models.pace import Comparison, checked
from automc.study import Budget, Study, StudySpec, gauge, widths
from automc.study import Listener as Listener
from automc.study import int8 as _int8
from automc.study import measured as _measured
from automc.study.doctor import Diagnosis, examine
from automc.study.int8 import EightBits as EightBits
from automc.study.limits import asked
from automc.study.listening import Also
from automc.study.measured import Measured as Measured
from automc.study.measured import channels_of
from automc.study.measured import no_faster as no_faster
from automc.study.result import Result
from automc.study.schemes import read_scheme as read_scheme
from automc.study.task import open_subject as open_subject
from automc.study.task import settle_precision
from automc.study.teaching import try_own
from automc.study.trial import Trial
from automc.training import evaluate
from automc.training.loop import train_model
from automc.training.own import Own, own_code
from automc.training.recipe import Recipe as Recipe
from automc.training.seeds import before_cuda, fixed_order

TRAINED = Kind("a model that automc train saved", made_by("trained"), ".am")
EXPORTED = marked("a model that automc export saved", _exports.MADE_BY)
SUFFIXES = {".am": "am", ".onnx": "onnx", ".pt2": "torch"}
"""What a name says that a file is: one that says otherwise would be taken for damaged later."""
NAMES = {"am": "a model that AutoMC can go on with", "onnx": "ONNX", "torch": "a program of torch.export"}


def load(model: str | Path, *, weights: str | Path | None = None, classes: int | None = None) -> nn.Module:
    """Return a model in evaluation mode.

    Args:
        model: a zoo name, `file.py:factory`, `torchvision:NAME`, or a saved `.am`.
        weights: a checkpoint to load into it.
        classes: number of outputs for models that are built here; default their own.

    Raises:
        ModelError: it cannot be found, built or loaded.
    """
    if not isinstance(model, str | Path):
        raise ModelError(f"load() takes the name or file of a model, not {type(model).__name__}.")
    loaded = _models.load(str(model), weights=Path(weights) if weights else None, classes=classes)
    return remember(loaded.model.eval(), loaded.source)


def search(
    model: Model, data: Data, *, gamma: float | None = None, max_flops: str | None = None,
    max_size: str | None = None, max_latency: str | None = None, max_drop: str | None = None, gamma_of: str = "params",
    budget: str = "30m", listener: Listener | None = None, on_trial: Callable[[Trial], object] | None = None,
    loss: Own = None, metric: Own = None, teacher_model: Model | None = None, recipe: Recipe | None = None,
    **options: Any,
) -> Result:  # fmt: skip
    """Search compression schemes for a model, and return the front with one recommended, saved model.

    Args:
        model: as for `load`, or a module; it must be trained for these data.
        data: a name, an image folder, `file.py:factory`, a DataRef with its options; or objects, see `dataset`.
        gamma: share of the parameters to remove, in (0, 0.84]; 0.3 where nothing else is asked for.
        max_flops: limit on the FLOPs (2 × MACs of one image): a share of the model's, "40%", or "20M".
        max_size: limit on the saved file: "50%" or "500KB".
        max_latency: limit on the time of one image on this device: "60%" or "3ms".
        max_drop: validation accuracy that may be lost, "0.5pp"; the smallest model within is recommended.
        gamma_of: "params", or "size": gamma is a share of the bits in which parameters are stored, in (0, 0.99], and
            the search has quantisers.
        budget: such as "30m", "2h" or "40steps".
        listener: is told of the plan, each trial and progress; `on_trial` of each trial alone.
        loss: see `compress`, like `metric` and `teacher_model`.
        recipe: how steps are executed.
        options: see `Study.create`.

    Raises:
        AutoMCError: something given is wrong.
    """
    _check_names(options)
    target = asked(gamma, max_flops, max_size, max_latency, max_drop, gamma_of)
    options |= {name: several(options[name]) for name in ("keep", "keep_shape", "only") if name in options}
    if teacher_model is not None:
        options["teacher_model"] = model_name(teacher_model)
    heard = listener if on_trial is None else Also(listener or Listener(), on_trial)
    study = Study.create(
        model_name(model), data_ref(data), budget=Budget.parse(budget), listener=heard, **target,
        recipe=recipe_with(recipe, loss, metric), **options,
    )  # fmt: skip
    return study.run(heard)


def _check_names(options: dict[str, Any]) -> None:
    """Refuse a misspelt argument by its name, as Python does for functions that list theirs."""
    known = {*inspect.signature(Study.create).parameters, *(f.name for f in fields(StudySpec))}
    for name in options.keys() - known:
        near = difflib.get_close_matches(name, [*known, *inspect.signature(search).parameters], n=1)
        raise TypeError(f"search() has no argument {name!r}." + (f" Did you mean {near[0]}?" if near else ""))


def doctor(
    model: Model, data: Data, *, weights: str | Path | None = None, recipe: Recipe | None = None,
    precision: str = "auto", device: str = "auto", keep: tuple[str, ...] = (), keep_shape: tuple[str, ...] = (),
    train_frozen: bool = False, runtime: str = "torch", auto_widths: bool = False, loss: Own = None, metric: Own = None,
) -> Diagnosis:  # fmt: skip
    """Say what will and will not work on a model: its layers one by one, and every method tried once on one batch.

    Raises:
        ModelError, DataError: the model or the data cannot be opened, or do not fit.
    """
    recipe = recipe_with(recipe, loss, metric)
    subject = open_subject(
        model_name(model),
        data_ref(data),
        weights=Path(weights) if weights else None,
        fraction=recipe.fraction,
        device=device,
    )
    held = subject.hold(keep, keep_shape, train_frozen)
    return examine(subject, widths.settle_recipe(recipe, precision, subject, checked(runtime), auto_widths), held)


@dataclass(frozen=True)
class Trained:
    """A model trained by `train`: top-1 on validation and, where there are test images, on those."""

    path: Path
    accuracy: float
    test_accuracy: float | None
    seconds: float
    iterations: int

    @cached_property
    def module(self) -> nn.Module:
        """The trained model, on the CPU, in evaluation mode; read when it is first asked for."""
        return load(str(self.path))


def train(
    model: Model, data: Data, *, out: str | Path, epochs: float = 30, lr: float = 0.1, batch: int = 128,
    weights: str | Path | None = None, seed: int = 0, precision: str = "auto", device: str = "auto",
    deterministic: bool = False, train_frozen: bool = False, loss: Own = None, metric: Own = None,
    progress: Progress | None = None, force: bool = False,
) -> Trained:  # fmt: skip
    """Train a model on everything but the validation split, and save it.

    Args:
        deterministic: on an accelerator, use only kernels that give the same bits each time; a CPU's do.
        train_frozen: train what its factory froze, too.
        loss: see `compress`, like `metric`.

    Raises:
        ModelError, DataError: the model or the data cannot be opened, or do not fit.
        ArtefactError: the model cannot be saved so that it reads back as it is; said before it is trained.
        Diverged: the learning rate was too high.
        Infeasible: an operation has no kernel that is `deterministic`.
        OutputInTheWay: there is something else at `out`.
        EnvironmentFault: `out` cannot be written; what was there is intact.
    """
    for option, value in (("--epochs", epochs), ("--lr", lr), ("--batch", batch), ("--seed", seed)):
        check(option, value)
    if deterministic:
        before_cuda()
    path = claim(out, TRAINED, inputs=(*inputs(model, data), weights), force=force)
    name, given = model_name(model), Path(weights) if weights else None
    own = recipe_with(Recipe(batch=batch), loss, metric)
    subject = open_subject(name, data_ref(data), weights=given, device=device, seed=seed, metric=own.metric)
    try_own(subject, own)
    fresh = not (weights or name.endswith(".am")) or not subject.saw_validation
    shape = subject.example.shape[1:]
    structure.check(subject.model, subject.source, shape)
    chosen = settle_precision(own, precision, subject).precision
    with fixed_order(subject.device, deterministic):
        report = train_model(
            subject.model, subject.dataset, epochs=epochs, lr=lr, seed=seed, device=subject.device, precision=chosen,
            batch=batch, still=subject.hold(train_frozen=train_frozen).still, progress=progress, loss=own.loss,
        )  # fmt: skip
    validation = subject.dataset.data(subject.splits.validation, subject.device)
    accuracy = evaluate.score(subject.model, validation, own.metric)
    metadata = {
        "trained": {"epochs": epochs, "lr": lr, "batch": batch, "seed": seed, "precision": chosen},
        # Weights that were trained elsewhere may have seen these images.
        "left_out": content_hash(subject.splits.validation) if fresh else None,
        "data": subject.data.as_dict(),
        "image_shape": list(subject.dataset.train.shape),
        "validation_accuracy": accuracy,
    }
    normalisation = (subject.dataset.mean, subject.dataset.std)
    structure.save(path, subject.model, subject.source, metadata=metadata, normalisation=normalisation, shape=shape)
    return Trained(path, accuracy, subject.test_accuracy(), report.seconds, report.iterations)


def measure(
    model: Model, data: Data | None = None, *, weights: str | Path | None = None, device: str = "auto",
    size: Size | None = None, batch: int = 1, runtime: str = "torch", metric: Own = None,
) -> Measured:  # fmt: skip
    """Measure parameters, bits, FLOPs, latency with its spread and file size; with data also accuracies.

    Args:
        runtime: what is timed: "torch" the model as it is, or "onnx" its export, whose size is told too.
        size: of the images in pixels, the side of a square or (height, width); needed without data where the model
            does not tell.
        metric: in place of accuracy, see `compress`.

    Raises:
        ModelError, DataError: the model or the data cannot be opened, or do not fit.
    """
    reference = None if data is None else data_ref(data)
    return _measured.measure(
        model_name(model), reference, weights=weights, device=device, size=size, batch=batch, runtime=runtime,
        metric=own_code(metric, "metric"),
    )  # fmt: skip


def export(
    model: Model, *, out: str | Path, kind: _exports.Kind = "onnx", weights: str | Path | None = None,
    size: Size | None = None, opset: int | None = None, dynamic_batch: bool = True,
    tolerance: float | None = None, force: bool = False,
) -> _exports.Exported:  # fmt: skip
    """Write a model as ONNX or `torch.export`, once its outputs agree with PyTorch's; see `automc.models.export`.

    Args:
        size: of the images in pixels, the side of a square or (height, width); needed where the model does not tell.

    Raises:
        ModelError: the model cannot be loaded, is no classifier, or cannot be exported faithfully; nothing is written.
        EnvironmentFault: packages are missing, or `out` cannot be written; what was there is intact.
    """
    asked = None if size is None else sides(size)
    for option, value in (("--opset", opset), ("--tolerance", tolerance)):
        if value is not None:
            check(option, value)
    path = _claimed(out, kind, model, weights, force)
    name = model_name(model)
    loaded = _models.load(name, weights=Path(weights) if weights else None)
    example = _models.example_for(loaded.model, *(asked or _models.default_shape(name)), channels_of(loaded))
    return _exports.export(
        loaded.model, example, path, kind=kind, opset=opset, dynamic_batch=dynamic_batch, tolerance=tolerance,
        normalisation=loaded.normalisation,
    )  # fmt: skip


def export_int8(
    model: Model, data: Data, *, out: str | Path, weights: str | Path | None = None, opset: int | None = None,
    force: bool = False,
) -> EightBits:  # fmt: skip
    """Write a model as ONNX that computes in 8 bits, calibrated and measured anew on data; see `study.int8`.

    Raises:
        ModelError, DataError: the model or the data cannot be read, or it cannot be exported or quantised.
        EnvironmentFault: packages are missing, or `out` cannot be written; what was there is intact.
    """
    if opset is not None:
        check("--opset", opset)
    path = _claimed(out, "onnx", model, weights, force)
    subject = open_subject(model_name(model), data_ref(data), weights=Path(weights) if weights else None, device="cpu")
    return _int8.export_int8(subject, path, opset)


def _claimed(out: str | Path, kind: _exports.Kind, model: Model, weights: str | Path | None, force: bool) -> Path:
    """Return where an export goes, as `claim`; a name that says something else is refused, also by force."""
    says = SUFFIXES.get(Path(out).suffix.lower(), kind)
    if says != kind:
        raise OutputInTheWay(
            f"--out {out}: a name that ends in {Path(out).suffix} is for {NAMES[says]}, and this is {NAMES[kind]}."
        )
    return claim(out, EXPORTED, inputs=(*inputs(model, None), weights), force=force)


def pace(model: Model, exported: _exports.Exported, *, weights: str | Path | None = None) -> Comparison | None:
    """Time what was exported of a model beside its original, exported likewise: see `runtimes.beside_original`."""
    return gauge.export_pace(_models.load(model_name(model), weights=Path(weights) if weights else None), exported)
