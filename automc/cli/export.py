"""`automc export`: a model for other runtimes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from automc.cli import options as o
from automc.cli.output import Format, guarded, say, show_record


class Kind(StrEnum):
    """What a model can be exported to."""

    onnx = "onnx"
    torch = "torch"


@guarded
def export(
    model: o.Model,
    out: Annotated[Path, typer.Option("--out", help="Where to save the exported model.", show_default=False)],
    kind: Annotated[Kind, typer.Option("--format", "--to", help="onnx, or torch for torch.export (.pt2).")] = Kind.onnx,
    weights: o.Weights = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", help="Side of the images in pixels, or HEIGHTxWIDTH; default what the model is made for."
        ),
    ] = None,
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
    force: o.Force = False,
    printed: Annotated[Format, typer.Option("--print", help="How the answer is printed on stdout.")] = Format.table,
) -> None:
    """Export a model to ONNX or torch.export, and compare its outputs with PyTorch's before anything is saved.

    Example: automc export small.am --format onnx --out small.onnx
    """
    from automc import api

    done = api.export(
        model, out=out, kind=kind.value, weights=weights, size=o.image_size(size), opset=opset, dynamic_batch=dynamic_batch,
        tolerance=tolerance, force=force,
    )  # fmt: skip
    pace = api.pace(model, done, weights=weights)
    record = {
        "path": str(done.path), "format": done.kind, "opset": done.opset, "images": " x ".join(map(str, done.images)),
        "classes": done.classes, "checked_batches": ", ".join(map(str, done.batches)), "max_error": done.max_error,
        "time_ratio": pace and pace.ratio, "time_ratio_low": pace and pace.low,
        "time_ratio_high": pace and pace.high, "allowed_error": done.limit, "file_bytes": done.file_bytes,
        "weights_int8": done.stored.int8, "weights_int4": done.stored.int4,
    }  # fmt: skip
    show_record(record, printed)
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
