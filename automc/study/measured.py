"""What one model costs and how good it is: everything that `automc measure` says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from automc.bounds import Size, check, sides
from automc.datasets import DataRef
from automc.models import load as _models
from automc.models.bits import count_bits
from automc.models.flops import count
from automc.models.measure import (
    Latency,
    artefact_bytes,
    count_params,
    latency,
    latency_of_one,
    one_image,
    peak_memory,
    timed,
)
from automc.models.pace import Runtime, checked
from automc.models.runtimes import content_runner, onnx_content
from automc.study.html import share, table
from automc.study.task import open_subject, resolve_device
from automc.training.own import OwnCode


@dataclass(frozen=True)
class Measured:
    """What `measure` found. `flops` is 2 × MACs of one image; accuracies None without data."""

    params: int
    bits: int
    """Of all parameters as they are stored: 32 of each, but in quantised layers."""
    flops: int
    accuracy: float | None
    """On the validation images."""
    test_accuracy: float | None
    latency: Latency
    peak_memory_bytes: int
    """Of one forward pass of the latency's batch: weights, buffers and intermediate results."""
    file_bytes: int
    """Of the .am file, or of the one that would be saved."""
    validation_images: int | None = None
    test_images: int | None = None
    runtime: Runtime = "torch"
    """What ran it for the latency; onnx: onnxruntime on the CPU, the exported file."""
    exported_bytes: int | None = None
    """Of the file that the runtime onnx ran."""
    uncounted: tuple[str, ...] = ()
    """Operations that the FLOPs leave out, such as aten::_fft_r2c."""

    def _repr_html_(self) -> str:
        """Show itself in a notebook."""
        pace = self.latency
        rows = (
            ("parameters", self.params), ("FLOPs", self.flops), ("file", f"{self.file_bytes / 1e6:.3g} MB"),
            ("validation", share(self.accuracy)), ("test", share(self.test_accuracy)),
            (f"latency of {pace.batch} on {pace.device}", f"{pace.median_ms:.3g} ms"),
            ("peak memory", f"{self.peak_memory_bytes / 1e6:.3g} MB"),
        )  # fmt: skip
        return table(("", ""), rows)


def no_faster(before: Measured, after: Measured) -> str | None:
    """Return a warning where the FLOPs fell and the time did not, by more than both measurements spread; else None."""
    gain = before.latency.median_ms - after.latency.median_ms
    if after.flops < before.flops and gain <= max(before.latency.iqr_ms, after.latency.iqr_ms):
        return (
            f"FLOPs fell by {1 - after.flops / before.flops:.0%}, but the time on {after.latency.device} did not "
            f"({before.latency.median_ms:.2f} to {after.latency.median_ms:.2f} ms at batch {after.latency.batch}): "
            "small or factored layers are bound by memory and calls. Try --batch, or --round-to auto when compressing."
        )
    return None


def measure(
    model: str, data: str | DataRef | None = None, *, weights: str | Path | None = None, device: str = "auto",
    size: Size | None = None, batch: int = 1, runtime: str = "torch", metric: OwnCode | None = None,
) -> Measured:  # fmt: skip
    """Measure parameters, bits, FLOPs, latency with its spread and file size; with data also accuracies.

    Args:
        runtime: what is timed: "torch" the model as it is, or "onnx" its export, whose size is told too.
        size: of the images in pixels, the side of a square or (height, width); needed without data where the model
            does not tell.
    """
    check("--batch", batch)
    place = checked(runtime)
    asked = None if size is None else sides(size)
    if data is not None:
        subject = open_subject(
            model,
            data if isinstance(data, DataRef) else DataRef(data),
            weights=Path(weights) if weights else None,
            device=device,
            metric=metric,
        )
        source, prepared, example = subject.source, subject.model, subject.example
        accuracies: tuple[float | None, float | None] = subject.accuracy, subject.test_accuracy()
        counted: tuple[int | None, int | None] = subject.splits.validation.n, subject.test_images
    else:
        loaded = _models.load(model, weights=Path(weights) if weights else None)
        where = resolve_device(device)
        example = _models.example_for(loaded.model, *(asked or _models.default_shape(model)), channels_of(loaded))
        source, prepared = loaded.source, _models.prepare(loaded.model, example).to(where)
        example, accuracies, counted = example.to(where), (None, None), (None, None)
    images = example[:1].expand(batch, -1, -1, -1).contiguous() if batch > 1 else one_image(prepared, example)
    found = count(prepared, example)
    found.tell(prepared)
    size_on_disk = Path(model).stat().st_size if model.endswith(".am") else artefact_bytes(prepared, source)
    exported = None
    if place == "onnx":
        content = onnx_content(prepared, images)
        exported, pace = len(content), timed(content_runner(content, images.cpu()), images.cpu())
        pace = pace if batch > 1 else pace.of_one()
    else:
        pace = latency(prepared, images) if batch > 1 else latency_of_one(prepared, example)
    return Measured(
        count_params(prepared), count_bits(prepared), found.flops, *accuracies, pace,
        peak_memory(prepared, images), size_on_disk, *counted, place, exported, found.uncounted,
    )  # fmt: skip


def channels_of(loaded: _models.LoadedModel) -> int | None:
    """Return the channels of a model's images, where they are recorded."""
    return len(loaded.normalisation[0]) if loaded.normalisation else None
