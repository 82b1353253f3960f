"""`automc train`, `automc measure`, `automc compress`: one model at a time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from automc.bounds import check_precision
from automc.cli import options as o
from automc.cli.figures import shown
from automc.cli.output import Format, FormatOption, guarded, progress, say, show, show_record

if TYPE_CHECKING:
    from automc.study.replay import Origin, SchemeForecast


@guarded
@o.grouped
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
    deterministic: o.Deterministic = False,
    train_frozen: o.TrainFrozen = False,
    loss: o.Loss = None,
    metric: o.Metric = None,
    augment: o.Augment = None,
    reading: o.DataOptions = o.DataOptions(),
    force: o.Force = False,
    format: FormatOption = Format.table,
) -> None:
    """Train a model on everything but the validation split, and save it.

    Example: automc train resnet8 --data digits --epochs 20 --out digits.am
    """
    from automc import api

    reference = reading.ref(data, augment)
    with progress("training") as bar:
        done = api.train(
            model, reference, out=out, epochs=epochs, lr=lr, batch=batch, weights=weights, seed=seed,
            precision=check_precision(precision), device=device, deterministic=deterministic, train_frozen=train_frozen,
            progress=lambda did, of: bar(did, of, {}), force=force, loss=loss, metric=metric,
        )  # fmt: skip
    show_record(asdict(done), format)


@guarded
@o.grouped
def measure(
    model: o.Model,
    data: Annotated[str | None, typer.Option("--data", help="Measure accuracy on these data as well.")] = None,
    weights: o.Weights = None,
    before: Annotated[str | None, typer.Option("--before", help="The model it was made from, to compare with.")] = None,
    batch: Annotated[int, typer.Option("--batch", help="Images in a batch of the latency measurement.")] = 1,
    runtime: Annotated[
        str, typer.Option("--runtime", help="What runs it for the latency: torch, or onnx for the exported file.")
    ] = "torch",
    metric: o.Metric = None,
    device: o.Device = "auto",
    reading: o.DataOptions = o.DataOptions(),
    format: FormatOption = Format.table,
) -> None:
    """Measure a model: parameters, bits, FLOPs (2 x MACs of one image), accuracy, latency, memory, file size.

    Example: automc measure small.am --before digits.am --data digits
    """
    from automc import api

    if data is None:
        reading.unused_without_data()
    reference = None if data is None else reading.ref(data)

    def of(reference_model: str, checkpoint: Path | None) -> api.Measured:
        return api.measure(
            reference_model, reference, weights=checkpoint, device=device, size=o.image_size(reading.size), batch=batch,
            runtime=runtime, metric=metric,
        )  # fmt: skip

    found = of(model, None if before else weights)
    if before is None:
        show_record(_flat(found, metric), format)
        return
    first = of(before, weights)
    rows = _changes(_flat(first, metric), _flat(found, metric))
    if format is Format.table:
        rows = [(name, shown(name, old), shown(name, new), change) for name, old, new, change in rows]
    show(("figure", "before", "after", "change"), rows, format)
    if warning := api.no_faster(first, found):
        say(warning)


def _flat(measured: Any, metric: str | None = None) -> dict[str, Any]:
    """The figures of a measurement, the latency's among them."""
    figures = asdict(measured)
    latency: dict[str, Any] = figures.pop("latency")
    counted = {"accuracy": figures.pop("validation_images"), "test_accuracy": figures.pop("test_images")}
    figures["uncounted"] = ", ".join(figures["uncounted"]) or "nothing"
    flat: dict[str, Any] = {}
    for name, value in figures.items():
        flat |= {name: value, **(interval(name, value, counted[name], metric) if name in counted else {})}
    return {**flat, **{f"latency_{name}": value for name, value in latency.items()}}


def interval(name: str, accuracy: float | None, images: int | None, metric: str | None = None) -> dict[str, Any]:
    """The 95% interval of an accuracy as fields, and the images it was counted on; None where it was not.

    Nobody knows that of a `metric` of the user's own.
    """
    from automc.study.headline import Share

    known = None if accuracy is None else Share.of(accuracy, None if metric else images)
    ends = (None, None) if known is None else (known.low, known.high)
    return {f"{name}_low": ends[0], f"{name}_high": ends[1], f"{name}_images": None if accuracy is None else images}


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Rows of a comparison; accuracies change by points, everything else by a share of what it was."""
    rows: list[tuple[Any, ...]] = []
    for name, new in after.items():
        old, change = before[name], ""
        if isinstance(old, int | float) and isinstance(new, int | float) and old != new:
            change = (
                f"{100 * (new - old):+.2f} points" if "accuracy" in name else f"{new / old - 1:+.1%}" if old else ""
            )
        rows.append((name, old, new, change))
    return rows


@guarded
@o.grouped
def compress(
    model: o.Model,
    data: o.Data,
    scheme: Annotated[
        str, typer.Option("--scheme", help="File with one strategy a line, or STUDY:3 for the third trial of a study.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Where to save the smaller model (.am).")] = Path("compressed.am"),
    weights: o.Weights = None,
    how: o.RecipeOptions = o.RecipeOptions(),
    keep: o.Keep = None,
    keep_shape: o.KeepShape = None,
    train_frozen: o.TrainFrozen = False,
    recover: Annotated[
        str,
        typer.Option(
            "--recover", help="How long the saved model trains on, with MODEL as its teacher: 30m, 20epochs or none."
        ),
    ] = "none",
    teacher_model: o.TeacherModel = None,
    teacher_weights: o.TeacherWeights = None,
    run_seed: o.RunSeed = 0,
    device: o.Device = "auto",
    deterministic: o.Deterministic = False,
    augment: o.Augment = None,
    reading: o.DataOptions = o.DataOptions(),
    force: o.Force = False,
    format: FormatOption = Format.table,
) -> None:
    """Run a scheme on a model and save the smaller model; say before what is expected of it.

    Example: automc compress digits.am --data digits --scheme scheme.txt --out small.am
    """
    from automc import api

    def foretell(expected: SchemeForecast, origin: Origin | None) -> None:
        for line in _foretold(expected, origin):
            say(line)

    with progress("compressing") as bar, progress("recovery") as later:
        done = api.compress(
            model, reading.ref(data, augment), scheme, out=out, weights=weights, recipe=how.recipe(),
            precision=how.precision, device=device, deterministic=deterministic, run_seed=run_seed, keep=tuple(keep or ()),
            keep_shape=tuple(keep_shape or ()), train_frozen=train_frozen,
            progress=lambda did, of: bar(did, of, {}), on_forecast=foretell, force=force, recover=recover,
            on_recovery=lambda did, of: later(did, of, {}),
            runtime=how.runtime, auto_widths=how.auto_widths, say=say, teacher_model=teacher_model,
            teacher_weights=teacher_weights,
        )  # fmt: skip
    before, after, forecast = done.before, done.after, done.forecast
    record = {
        "scheme": done.scheme.id, "path": str(done.path), "params_before": before.params, "params_after": after.params,
        "removed": 1 - after.params / before.params, "bits_before": before.stored, "bits_after": after.stored,
        "bits_removed": 1 - after.stored / before.stored, "flops_before": before.flops, "flops_after": after.flops,
        "validation_before": before.accuracy, "validation_after": after.accuracy,
        **interval("validation_after", after.accuracy, done.validation_images, how.metric), "test_before": done.test_before,
        "test_after": done.test_after, **interval("test_after", done.test_after, done.test_images, how.metric), "reached": done.reached, "seconds": done.seconds,
        "recovery_seconds": done.recovery and done.recovery.seconds,
        "recovery_iterations": done.recovery and done.recovery.iterations,
        "runtime": how.runtime, "time_ratio": done.pace and done.pace.ratio,
        "time_ratio_low": done.pace and done.pace.low, "time_ratio_high": done.pace and done.pace.high,
        "forecast_removed": forecast.removed, "forecast_validation_study": forecast.accuracy_study,
        "forecast_validation_experience": forecast.accuracy_experience,
    }  # fmt: skip
    show_record(record, format)
    if done.pace and done.pace.warning:
        say(done.pace.warning)
    if not done.reached:
        say(f"The target was not reached: {done.reason}")
    if done.unrecorded:
        say(f"The model is saved, but this run is not in the graph: {done.unrecorded}")


def _foretold(expected: SchemeForecast, origin: Origin | None) -> list[str]:
    """What is expected of a scheme, as lines to read."""
    from automc.knowledge.words import in_words
    from kg.schema import Strategy

    lines = []
    if origin:
        lines.append(f"Scheme of {origin.id}, {origin.model} on {origin.data}: {origin.trial.scheme.id}")
    if expected.differences:
        lines.append(f"  Another recipe than the study's, so expect another result: {'; '.join(expected.differences)}.")
    for number, step in enumerate(expected.steps, 1):
        said = [f"removes {step.hp2:.1%} of the original parameters" if step.hp2 else "stores weights in fewer bits"]
        said += [f"accuracy {step.study_ar:+.2%} in the study"] if step.study_ar is not None else []
        said += [f"{step.experience_ar:+.2%} by experience"] if step.experience_ar is not None else []
        lines.append(f"  step {number}, {in_words(Strategy.parse(step.strategy))}")
        lines.append(f"          {', '.join(said)}")
    if expected.basis:
        lines.append(f"  {expected.basis}")
    forecasts = [("as in the study", expected.accuracy_study), ("by experience", expected.accuracy_experience)]
    known = [f"{accuracy:.2%} {name}" for name, accuracy in forecasts if accuracy is not None]
    lines.append(
        f"Forecast: {expected.removed:.1%} removed; validation accuracy "
        + (
            " or ".join(known)
            if known
            else "unknown: no study measured it, and nothing was learned from experience here yet"
        )
    )
    return lines
