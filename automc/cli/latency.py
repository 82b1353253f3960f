"""`automc latency`: predict what smaller networks take on this machine, and check the predictions."""

from __future__ import annotations

from typing import Annotated

import typer

from automc.cli import options as o
from automc.cli.output import Format, FormatOption, guarded, progress, say, show, show_record

app = typer.Typer(help="Predict how long smaller networks take on this machine.", no_args_is_help=True)

Runtime = Annotated[
    str, typer.Option("--runtime", help="What runs the network: torch, or onnx for onnxruntime on the CPU.")
]
Images = Annotated[str | None, typer.Option("--size", help="Side of the images in pixels, or HEIGHTxWIDTH.")]
Data = Annotated[
    str | None,
    typer.Option("--data", help="Build the model for these data, as a search does; a saved .am needs none."),
]
Batch = Annotated[int, typer.Option("--batch", help="Images in a batch.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the networks that are made.")]


@app.command()
@guarded
def calibrate(
    model: o.Model,
    weights: o.Weights = None,
    data: Data = None,
    runtime: Runtime = "torch",
    size: Images = None,
    batch: Batch = 1,
    networks: Annotated[int, typer.Option("--networks", help="Compressed networks to measure as a whole.")] = 20,
    seed: Seed = 0,
    format: FormatOption = Format.table,
) -> None:
    """Measure kernels in a model's shapes, and networks made from it, on this machine; minutes. Let nothing else run.

    A search with --max-latency then asks only for what is predicted to come near.

    Example: automc latency calibrate digits.am --runtime onnx
    """
    from automc.datasets.ref import DataRef
    from automc.models.pace import checked
    from automc.study import latency

    place = checked(runtime)
    found = latency.calibrate(
        model, weights=weights, runtime=place, size=o.image_size(size), batch=batch, networks=networks, seed=seed,
        data=DataRef(data) if data is not None else None, say=say,
    )  # fmt: skip
    fit = found.fit
    record = {
        "model": model, **found.place, "kernels": len(found.kernels), "networks": len(found.networks),
        "latency_ms": found.base_ms, "sum_factor": fit.sums, "ms_per_kernel": fit.each, "ms_per_pass": fit.whole,
    }  # fmt: skip
    show_record(record, format)
    if found.unsettled:
        say(
            f"The machine was busy: {found.unsettled} of {len(found.networks)} times did not settle. Calibrate again "
            "when nothing else runs, or look at automc latency check."
        )


@app.command()
@guarded
def check(
    model: o.Model,
    weights: o.Weights = None,
    data: Data = None,
    runtime: Runtime = "torch",
    size: Images = None,
    batch: Batch = 1,
    networks: Annotated[int, typer.Option("--networks", help="Compressed networks to make and measure.")] = 60,
    seed: Seed = 0,
    each: Annotated[bool, typer.Option("--each", help="List the networks one by one.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Compare predictions with measurements, on compressed networks that the calibration has not seen.

    Example: automc latency check digits.am --networks 12
    """
    from automc.datasets.ref import DataRef
    from automc.models.pace import checked
    from automc.study import latency

    with progress("measuring") as bar:
        found = latency.check(
            model, weights=weights, runtime=checked(runtime), size=o.image_size(size), batch=batch, networks=networks,
            seed=seed, data=DataRef(data) if data is not None else None,
            progress=lambda done, of: bar(done, of, {}),
        )  # fmt: skip
    if each:
        rows = [(n.scheme, n.removed, n.predicted_ms, n.measured_ms, n.error, n.settled) for n in found.networks]
        show(("scheme", "removed", "predicted_ms", "measured_ms", "error", "settled"), rows, format)
        return
    record = {
        "model": model, "runtime": found.runtime, "networks": len(found.networks), "within_10_percent": found.within,
        "median_error": found.median_error, "rank_correlation": found.rank, "latency_ms": found.base_ms,
        "predicted_ms": found.base_predicted_ms, "guessed": ", ".join(found.guessed) or "nothing",
        "unsettled": sum(not n.settled for n in found.networks),
    }  # fmt: skip
    show_record(record, format)
