"""`automc export`: a model for other runtimes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from automc.cli import options as o
from automc.cli.models import interval
from automc.cli.output import Format, guarded, say, show_record

if TYPE_CHECKING:
    from automc.models.export import Exported
    from automc.models.pace import Comparison
    from automc.study.int8 import EightBits


class Kind(StrEnum):
    """What a model can be exported to."""

    onnx = "onnx"
    torch = "torch"


@guarded
@o.grouped
def export(
    model: o.Model,
    out: Annotated[Path, typer.Option("--out", help="Where to save the exported model.", show_default=False)],
    kind: Annotated[Kind, typer.Option("--format", "--to", help="onnx, or torch for torch.export (.pt2).")] = Kind.onnx,
    weights: o.Weights = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Compute in 8 bits: calibrate on --data, and measure what became of it.")
    ] = False,
    data: Annotated[str | None, typer.Option("--data", help="Data for --int8.")] = None,
    opset: Annotated[int | None, typer.Option("--opset", help="ONNX operator set; default the exporter's own.")] = None,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch/--no-dynamic-batch", help="Take any number of images, or one.")
    ] = True,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance", help="Largest difference from PyTorch's logits, as a share of the largest; default 1e-4."
        ),
    ] = None,
    reading: o.DataOptions = o.DataOptions(),
    force: o.Force = False,
    printed: Annotated[Format, typer.Option("--print", help="How the answer is printed on stdout.")] = Format.table,
) -> None:
    """Export a model to ONNX or torch.export, and compare its outputs with PyTorch's before anything is saved.

    With --int8 the file computes in 8 bits, and its accuracy, size and time are measured anew beside the floats.

    Example: automc export small.am --format onnx --out small.onnx
    """
    from automc import api
    from automc.errors import ModelError

    if int8:
        unfit = {"--format torch": kind is Kind.torch, "--tolerance": tolerance is not None}
        unfit["--no-dynamic-batch"] = not dynamic_batch
        for option in (name for name, given in unfit.items() if given):
            raise ModelError(
                f"{option} does not go with --int8, which writes ONNX for any batch. Leave one of them out."
            )
        if data is None:
            raise ModelError("--int8 needs --data: images show the range of each activation, and what it costs.")
        eight = api.export_int8(model, reading.ref(data), out=out, weights=weights, opset=opset, force=force)
        show_record(_eight_bits(eight), printed)
        say(_verdict(eight))
        return
    if data is None:
        reading.unused_without_data()
    else:
        raise ModelError("--data is for --int8, which needs images. Leave it out.")
    done = api.export(
        model, out=out, kind=kind.value, weights=weights, size=o.image_size(reading.size), opset=opset, dynamic_batch=dynamic_batch,
        tolerance=tolerance, force=force,
    )  # fmt: skip
    pace = api.pace(model, done, weights=weights)
    show_record(_as_it_is(done, pace), printed)
    if pace and pace.warning:
        say(pace.warning)
    if done.stored.floats:
        some = ", ".join(done.stored.floats[:3])
        say(
            f"Of the quantised weights, {len(done.stored.floats)} are floats in the file, changed by the export: {some}."
        )
    if weights is None and not model.endswith(".am"):
        say("The weights are random: give --weights, or a saved .am.")
    say(
        f"Give it normalised float32 images of {' x '.join(map(str, done.images[1:]))}; --size changes height and width."
    )


def _as_it_is(done: Exported, pace: Comparison | None) -> dict[str, Any]:
    """What an export without `--int8` prints."""
    return {
        "path": str(done.path), "format": done.kind, "opset": done.opset, "images": " x ".join(map(str, done.images)),
        "classes": done.classes, "checked_batches": ", ".join(map(str, done.batches)), "max_error": done.max_error,
        "time_ratio": pace and pace.ratio, "time_ratio_low": pace and pace.low,
        "time_ratio_high": pace and pace.high, "allowed_error": done.limit, "file_bytes": done.file_bytes,
        "weights_int8": done.stored.int8, "weights_int4": done.stored.int4,
    }  # fmt: skip


def _eight_bits(done: EightBits) -> dict[str, Any]:
    """What `--int8` prints: every figure beside that of the floats."""
    return {
        "path": str(done.path), "format": "onnx", "opset": done.opset, "images": " x ".join(map(str, done.images)),
        "accuracy_float": done.float_accuracy, "accuracy": done.accuracy,
        **interval("accuracy", done.accuracy, done.validation_images),
        "test_accuracy_float": done.float_test_accuracy, "test_accuracy": done.test_accuracy,
        **interval("test_accuracy", done.test_accuracy, done.test_images),
        "float_bytes": done.float_bytes, "file_bytes": done.file_bytes, "float_ms": done.pace.before_ms,
        "latency_ms": done.pace.after_ms, "time_ratio": done.pace.ratio, "time_ratio_low": done.pace.low,
        "time_ratio_high": done.pace.high,
    }  # fmt: skip


def _verdict(done: EightBits) -> str:
    """What 8 bits cost and bring here, as a sentence."""
    size = f"The file has {done.file_bytes / done.float_bytes:.0%} of the bytes of floats"
    drop = f"validation accuracy changes by {100 * (done.accuracy - done.float_accuracy):+.2f} points"
    pace = f"{done.pace.ratio:.2f} times the time of floats ({done.pace.after_ms:.3g} and {done.pace.before_ms:.3g} ms)"
    if done.pace.slower:
        return f"{size}, {drop}. It is slower than floats on this processor: an image takes {pace}. For speed, leave out --int8."
    return f"{size}, {drop}, and an image takes {pace} on this processor."
