"""AutoMC from Python; every command of the command line is one of these calls."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from automc.datasets import DataRef
from automc.datasets.splits import content_hash
from automc.errors import EnvironmentFault, MethodError
from automc.execution.jobs import final
from automc.execution.setup import Setup
from automc.home import home
from automc.models import load as _models
from automc.models import structure
from automc.models.measure import Latency, latency
from automc.study import Budget, Listener, Study
from automc.study.study import Result, open_figures
from automc.study.task import open_subject, settle_precision
from automc.study.trial import Figures
from automc.training import evaluate
from automc.training.loop import train_model
from automc.training.recipe import Recipe
from kg.errors import SchemaInvalid
from kg.schema import Scheme

Progress = Callable[[int, int], None]


def load(model: str, *, weights: str | Path | None = None, classes: int | None = None) -> nn.Module:
    """Return a model in evaluation mode.

    Args:
        model: a zoo name, `file.py:factory`, `torchvision:NAME`, or a saved `.am`.
        weights: a checkpoint to load into it.
        classes: number of outputs for models that are built here; default their own.

    Raises:
        ModelError: it cannot be found, built or loaded.
    """
    loaded = _models.load(model, weights=Path(weights) if weights else None, classes=classes)
    return loaded.model.eval()


def search(
    model: str, data: str | DataRef, *, gamma: float = 0.3, budget: str = "30m", listener: Listener | None = None,
    **options: Any,
) -> Result:  # fmt: skip
    """Search compression schemes for a model, and return the front with one recommended, saved model.

    Args:
        model: as for `load`; it must be trained for these data.
        data: a name, an image folder, `file.py:factory`, or a DataRef with its options.
        gamma: share of the parameters to remove, in (0, 0.84].
        budget: such as "30m", "2h" or "40steps".
        listener: is told of the plan, each trial and progress.
        options: see `Study.create`.

    Raises:
        AutoMCError: something given is wrong.
    """
    study = Study.create(model, reference(data), gamma=gamma, budget=Budget.parse(budget), listener=listener, **options)
    return study.run(listener)


@dataclass(frozen=True)
class Compressed:
    """A scheme run on a model: figures on validation before and after, top-1 on the test images where there are any."""

    scheme: Scheme
    path: Path
    before: Figures
    after: Figures
    reached: bool
    reason: str
    test_before: float | None
    test_after: float | None
    seconds: float


def compress(
    model: str, data: str | DataRef, scheme: str | Path | Scheme, *, out: str | Path = "compressed.am",
    weights: str | Path | None = None, recipe: Recipe | None = None, precision: str = "auto", device: str = "auto",
    run_seed: int = 0, keep: tuple[str, ...] = (), progress: Progress | None = None,
) -> Compressed:  # fmt: skip
    """Run a scheme on a model and save the result; it trains on all images but validation, or the recipe's fraction.

    Args:
        scheme: a Scheme, a file with one strategy a line, or such text itself; values off the grid are allowed.

    Raises:
        SchemaInvalid: the scheme cannot be read.
        MethodError: a step names no executable method, lacks a setting, or did not end well; nothing is saved.
        EnvironmentFault: `out` cannot be written; what was there is intact.
    """
    wanted = read_scheme(scheme)
    target = writable(out)
    recipe = recipe or Recipe()
    subject = open_subject(
        model, reference(data), weights=Path(weights) if weights else None, fraction=recipe.fraction, device=device
    )
    recipe = settle_precision(recipe, precision, subject)
    with tempfile.TemporaryDirectory(prefix="compress-", dir=home()) as folder:
        base = Path(folder) / "base.am"
        structure.save(base, subject.model, subject.source, metadata={"model": model})
        setup = Setup(
            base=base, data=subject.data, recipe=recipe, cache=Path(folder) / "cache", data_cache=home() / "data",
            run_seed=run_seed, keep=keep, device=str(subject.device),
        )  # fmt: skip
        saved = Path(folder) / "out.am"
        outcome = final(setup, wanted, saved, progress=progress, everything=recipe.fraction == 1)
        if outcome.status != "ok":
            raise MethodError(f"The scheme ended as {outcome.status}: {outcome.reason}")
        structure.write_atomically(target, saved.read_bytes())
    smaller = structure.read(target).model.to(subject.device)
    return Compressed(
        scheme=wanted, path=target, before=Figures(subject.accuracy, subject.params, subject.flops),
        after=open_figures(smaller, subject), reached=bool(outcome.reached), reason=outcome.reason,
        test_before=subject.test_accuracy(), test_after=subject.test_accuracy(smaller), seconds=outcome.seconds,
    )  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """A model trained by `train`: top-1 on validation and, where there are test images, on those."""

    path: Path
    accuracy: float
    test_accuracy: float | None
    seconds: float
    iterations: int


def train(
    model: str, data: str | DataRef, *, out: str | Path, epochs: float = 30, lr: float = 0.1, batch: int = 128,
    weights: str | Path | None = None, seed: int = 0, precision: str = "auto", device: str = "auto",
    progress: Progress | None = None,
) -> Trained:  # fmt: skip
    """Train a model on everything but the validation split, and save it.

    Raises:
        ModelError, DataError: the model or the data cannot be opened, or do not fit.
        Diverged: the learning rate was too high.
        EnvironmentFault: `out` cannot be written; what was there is intact.
    """
    path = writable(out)
    subject = open_subject(model, reference(data), weights=Path(weights) if weights else None, device=device, seed=seed)
    fresh = not (weights or model.endswith(".am")) or not subject.saw_validation
    chosen = settle_precision(Recipe(), precision, subject).precision
    report = train_model(
        subject.model, subject.dataset, epochs=epochs, lr=lr, seed=seed, device=subject.device, precision=chosen,
        batch=batch, progress=progress,
    )  # fmt: skip
    accuracy = evaluate.accuracy(subject.model, subject.dataset.data(subject.splits.validation, subject.device))
    metadata = {
        "trained": {"epochs": epochs, "lr": lr, "batch": batch, "seed": seed, "precision": chosen},
        # Weights that were trained elsewhere may have seen these images.
        "left_out": content_hash(subject.splits.validation) if fresh else None,
        "data": subject.data.as_dict(),
        "validation_accuracy": accuracy,
    }
    normalisation = (subject.dataset.mean, subject.dataset.std)
    structure.save(path, subject.model, subject.source, metadata=metadata, normalisation=normalisation)
    return Trained(path, accuracy, subject.test_accuracy(), report.seconds, report.iterations)


@dataclass(frozen=True)
class Measured:
    """What `measure` found. `flops` is 2 × MACs of one image; accuracies None without data."""

    params: int
    flops: int | None
    accuracy: float | None
    test_accuracy: float | None
    latency: Latency | None
    file_bytes: int | None


def measure(
    model: str, data: str | DataRef | None = None, *, weights: str | Path | None = None, device: str = "auto",
    size: int | None = None, batch: int = 1,
) -> Measured:  # fmt: skip
    """Measure parameters, FLOPs, latency with its spread and file size; with data also accuracies.

    Args:
        size: side of the input image in pixels; needed without data where the model does not tell.
    """
    file = Path(model).stat().st_size if model.endswith(".am") and Path(model).is_file() else None
    if data is not None:
        subject = open_subject(model, reference(data), weights=Path(weights) if weights else None, device=device)
        timing = latency(subject.model, subject.example.expand(batch, -1, -1, -1))
        return Measured(subject.params, subject.flops, subject.accuracy, subject.test_accuracy(), timing, file)
    return _measure_alone(model, weights, device, size, batch, file)


def read_scheme(scheme: str | Path | Scheme) -> Scheme:
    """Return a scheme from an object, a file or text.

    Raises:
        MethodError: the file cannot be read, or holds no step.
        SchemaInvalid: a line is no strategy.
    """
    if isinstance(scheme, Scheme):
        return scheme
    text = str(scheme)
    if "[" not in text:
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text file"
            raise MethodError(f"The scheme file {scheme} cannot be read: {reason}.") from None
        try:
            found = Scheme.parse(text)
        except SchemaInvalid as error:
            raise SchemaInvalid(f"{scheme}, {error}") from None
    else:
        found = Scheme.parse(text)
    if not found.steps:
        raise MethodError(
            f"The scheme {scheme} has no step. Write one strategy a line, like NS[HP1=0.2,HP2=0.12,HP6=0.9]."
        )
    return found


def writable(out: str | Path) -> Path:
    """Return where a result will be saved, its folder made: a place that cannot be written must not cost the work.

    Raises:
        EnvironmentFault: it cannot be written.
    """
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
    except OSError as error:
        reason = "its folder, or one above, is a file"
        if not isinstance(error, FileExistsError | NotADirectoryError):
            reason = error.strerror or str(error)
        raise EnvironmentFault(f"{path} cannot be written: {reason}. Choose another place for --out.") from None
    return path


def reference(data: str | DataRef) -> DataRef:
    """Return data by name as a DataRef."""
    return data if isinstance(data, DataRef) else DataRef(data)


def _measure_alone(
    model: str, weights: str | Path | None, device: str, size: int | None, batch: int, file: int | None
) -> Measured:
    import torch

    from automc.models.measure import count_flops, count_params
    from automc.study.task import resolve_device

    loaded = _models.load(model, weights=Path(weights) if weights else None)
    where = resolve_device(device)
    channels = _models.input_channels(loaded.model) or 3
    side = size or _models.default_size(model)
    example = torch.zeros(1, channels, side, side, device=where)
    prepared = _models.prepare(loaded.model, example.cpu()).to(where)
    timing = latency(prepared, example.expand(batch, -1, -1, -1))
    return Measured(count_params(prepared), count_flops(prepared, example), None, None, timing, file)
