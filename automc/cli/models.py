"""`automc train`, `automc measure`, `automc compress`: one model at a time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from automc.cli import options as o
from automc.cli.output import Format, FormatOption, guarded, progress, say, show_record


@guarded
def train(
    model: o.Model,
    data: o.Data,
    out: Annotated[Path, typer.Option("--out", help="Where to save the trained model (.am).")],
    epochs: Annotated[float, typer.Option("--epochs", help="Passes over the training images.")] = 30,
    weights: o.Weights = None,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 0.1,
    batch: o.Batch = 128,
    seed: Annotated[int, typer.Option("--seed", help="Seed of weights, order and augmentation.")] = 0,
    precision: o.Precision = "auto",
    device: o.Device = "auto",
    root: o.Root = None,
    download: o.Download = False,
    mean: o.Mean = None,
    std: o.Std = None,
    size: o.Size = None,
    classes: o.Classes = None,
    augment: o.Augment = None,
    val: o.Val = None,
    format: FormatOption = Format.table,
) -> None:
    """Train a model on everything but the validation split, and save it.

    Example: automc train resnet8 --data digits --epochs 20 --out digits.am
    """
    from automc import api

    reference = o.data_ref(data, root, download, mean, std, size, classes, augment, val)
    with progress("training") as bar:
        done = api.train(
            model, reference, out=out, epochs=epochs, lr=lr, batch=batch, weights=weights, seed=seed,
            precision=o.check_precision(precision), device=device, progress=lambda did, of: bar(did, of, {}),
        )  # fmt: skip
    show_record(asdict(done), format)


@guarded
def measure(
    model: o.Model,
    data: Annotated[str | None, typer.Option("--data", help="Measure accuracy on these data as well.")] = None,
    weights: o.Weights = None,
    batch: Annotated[int, typer.Option("--batch", help="Images in a batch of the latency measurement.")] = 1,
    device: o.Device = "auto",
    root: o.Root = None,
    download: o.Download = False,
    mean: o.Mean = None,
    std: o.Std = None,
    size: o.Size = None,
    classes: o.Classes = None,
    val: o.Val = None,
    format: FormatOption = Format.table,
) -> None:
    """Measure a model: parameters, FLOPs (2 x MACs of one image), accuracy, latency with spread, file size.

    Example: automc measure digits.am --data digits
    """
    from automc import api

    reference = o.data_ref(data, root, download, mean, std, size, classes, None, val) if data else None
    found = asdict(api.measure(model, reference, weights=weights, device=device, size=size, batch=batch))
    latency: dict[str, Any] = found.pop("latency") or {}
    show_record({**found, **{f"latency_{k}" if "latency" not in k else k: v for k, v in latency.items()}}, format)


@guarded
def compress(
    model: o.Model,
    data: o.Data,
    scheme: Annotated[
        str, typer.Option("--scheme", help="File with one strategy a line; values off the grid are allowed.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Where to save the smaller model (.am).")] = Path("compressed.am"),
    weights: o.Weights = None,
    fraction: o.Fraction = 1.0,
    unit_epochs: o.UnitEpochs = 10.0,
    precision: o.Precision = "auto",
    batch: o.Batch = 128,
    lr: o.LearningRate = 0.01,
    round_to: o.RoundTo = 1,
    sparsity: o.Sparsity = 0.0,
    keep: o.Keep = None,
    run_seed: Annotated[int, typer.Option("--run-seed", help="Seed of the executed steps.")] = 0,
    device: o.Device = "auto",
    root: o.Root = None,
    download: o.Download = False,
    mean: o.Mean = None,
    std: o.Std = None,
    size: o.Size = None,
    classes: o.Classes = None,
    augment: o.Augment = None,
    val: o.Val = None,
    format: FormatOption = Format.table,
) -> None:
    """Run a scheme on a model and save the smaller model.

    Example: automc compress digits.am --data digits --scheme scheme.txt --out small.am
    """
    from automc import api

    with progress("compressing") as bar:
        done = api.compress(
            model, o.data_ref(data, root, download, mean, std, size, classes, augment, val), scheme, out=out,
            weights=weights, recipe=o.recipe_of(fraction, unit_epochs, batch, lr, round_to, sparsity),
            precision=o.check_precision(precision), device=device, run_seed=run_seed, keep=tuple(keep or ()),
            progress=lambda did, of: bar(did, of, {}),
        )  # fmt: skip
    before, after = done.before, done.after
    record = {
        "scheme": done.scheme.id, "path": str(done.path), "params_before": before.params, "params_after": after.params,
        "removed": 1 - after.params / before.params, "flops_before": before.flops, "flops_after": after.flops,
        "validation_before": before.accuracy, "validation_after": after.accuracy, "test_before": done.test_before,
        "test_after": done.test_after, "reached": done.reached, "seconds": done.seconds,
    }  # fmt: skip
    show_record(record, format)
    if not done.reached:
        say(f"The target was not reached: {done.reason}")
