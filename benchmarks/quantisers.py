"""Quantisers beside each other: ResNet-20 on CIFAR-10 in 8 to 2 bits, trained equally long.

Each row is one step of so many iterations on ResNet-20 with its public weights. Beside them stand the float model trained
as long, and what onnxruntime makes of the weights without training (static quantisation in QDQ form: weights in 8 or 4
bits, one scale for each output channel, activations in 16 bits, so that the weights decide).

    python -m benchmarks.quantisers --images CIFAR_FOLDER --weights resnet20.th --out docs/results/quantisers --seeds 1
"""

from __future__ import annotations

import copy
import itertools
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from automc import methods
from automc.datasets.base import TrainData
from automc.models.bits import count_bits
from automc.models.export import export
from automc.study.study import versions
from automc.training.evaluate import recalibrate
from automc.training.loop import fit
from automc.training.seeds import derived
from benchmarks.resumable import append, claim, rows
from benchmarks.short_steps import Ground, ground, read, spread
from kg.schema import Strategy

STEPS = {
    "UQ": "UQ[HP1=0.5,HP22={bits}]",
    "SLQ": "SLQ[HP1=0.5,HP22={bits},HP23=2,HP24=loss]",
    "MLQ": "MLQ[HP1=0.5,HP22={bits},HP23=2]",
    "DNQ": "DNQ[HP1=0.5,HP17=16,HP22={bits},HP24=distance]",
}
BITS = (4, 2, 8, 3, 6)
"""In the order in which they are run."""
ONLY = {"MLQ": (2,), "onnxruntime": (8, 4), "DNQ": (6, 4, 3)}
"""Bits of those that cannot have others, or nothing to choose with them."""
ITERATIONS = 60
"""Of a step; 39 are an epoch of the images."""
COLUMNS = ("method", "bits", "iterations", "seed", "mean_bits", "sr", "validation", "test")


def plan(seeds: int) -> Iterator[tuple[str, int, int]]:
    """Method, bits and seed of each row, those first that tell most."""
    ways = ("onnxruntime", *STEPS)
    for seed, bits in itertools.product(range(seeds), BITS):
        for name in ways:
            if bits in ONLY.get(name, BITS) and (name != "onnxruntime" or seed == 0):
                yield name, bits, seed
        if bits == BITS[0]:
            yield "float", 32, seed


def run(on: Ground, name: str, bits: int, seed: int) -> dict[str, Any]:
    """Measure one row."""
    row: dict[str, Any] = {"method": name, "bits": bits, "iterations": ITERATIONS, "seed": seed, "mean_bits": bits}
    floats = 32 * on.subject.params
    if name == "onnxruntime":
        found = by_onnxruntime(on, bits)
        # Every weight has these bits there, and each output channel a scale.
        layers = [m.weight for m in on.subject.model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        left = floats - sum(w.numel() * (32 - bits) - 32 * len(w) for w in layers)
        return row | {"iterations": 0, "sr": 1 - left / floats, "validation": found[0], "test": found[1]}
    if name == "float":
        model = trained(on, seed)
    else:
        strategy = Strategy.parse(STEPS[name].format(bits=bits))
        model, report = methods.get(name).apply(on.subject.model, strategy, on.context(strategy, seed, ITERATIONS))
        row["mean_bits"] = round(report.details["mean_bits"], 3)
    row["validation"], row["test"] = on.measured(model)
    return row | {"sr": round(1 - count_bits(model) / floats, 4)}


def trained(on: Ground, seed: int) -> nn.Module:
    """The float model, trained as long as the others."""
    model = copy.deepcopy(on.subject.model)
    recipe = on.context(Strategy.parse(STEPS["UQ"].format(bits=8)), seed, ITERATIONS).recipe
    fit(model, on.train, iterations=ITERATIONS, recipe=recipe, seed=derived(seed, "float"))
    recalibrate(model, on.train, recipe.recalibration_images)
    return model


def by_onnxruntime(on: Ground, bits: int) -> tuple[float, float]:
    """Accuracy on validation and test of the weights that onnxruntime rounds."""
    from onnxruntime import InferenceSession  # type: ignore[import-untyped]
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # type: ignore[import-untyped]
    from onnxruntime.quantization.calibrate import CalibrationDataReader  # type: ignore[import-untyped]
    from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            data = on.train.without_augmentation()
            self.left = iter(torch.arange(256).split(64))  # type: ignore[no-untyped-call]
            self.data = data

        def get_next(self) -> dict[str, np.ndarray] | None:
            rows = next(self.left, None)
            return None if rows is None else {"images": self.data.normalised(rows).numpy()}

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, small = (Path(folder) / f"{name}.onnx" for name in ("plain", "ready", "small"))
        export(on.subject.model, torch.zeros(2, 3, 32, 32), plain, opset=21)
        quant_pre_process(str(plain), str(ready))
        quantize_static(
            str(ready), str(small), Images(), quant_format=QuantFormat.QDQ, per_channel=True,
            weight_type=QuantType.QInt8 if bits == 8 else QuantType.QInt4, activation_type=QuantType.QUInt16,
            op_types_to_quantize=["Conv", "Gemm"],
        )  # fmt: skip
        session = InferenceSession(str(small), providers=["CPUExecutionProvider"])

    def right(data: TrainData) -> float:
        hits = 0
        for part in torch.arange(data.n).split(250):  # type: ignore[no-untyped-call]
            (logits,) = session.run(None, {"images": data.normalised(part).numpy()})
            hits += int((logits.argmax(1) == data.y[part].numpy()).sum())
        return hits / data.n

    return right(on.validation), right(on.test)


def page(out: Path) -> str:
    """The rows as a page."""
    lines = [
        "# Quantisers beside each other",
        "",
        f"Written by `benchmarks/quantisers.py` from `runs.csv`: ResNet-20 with its public weights, CIFAR-10 as JPEG, a tenth of the training images, {ITERATIONS} iterations a step (39 are an epoch);",
        "1,000 images each of validation and test (one standard error is about 1.3 points); accuracy in per cent, mean (lowest to highest) over n seeds. SR is the share of the bits that is gone;",
        "the first and the last layer have 8 bits. *float* is the original trained as long; *onnxruntime* rounds the weights of the original without training, activations in 16 bits;",
        "its integers have 8 or 4 bits, so it has no rows at 6, 3 and 2. MLQ's levels are three, so it has 2 bits only, and DNQ has at 8 and 2 bits nothing to choose: its layers get 2 to 8.",
        ", ".join(f"{k} {v}" for k, v in versions().items()) + f" on one thread, {platform.machine()}.",
        "",
        "| bits | method | n | SR | validation | test |",
        "|---|---|---|---|---|---|",
    ]
    found = rows(out)
    for bits in (32, 8, 6, 4, 3, 2):
        for name in ("float", "onnxruntime", *STEPS):
            group = [row for row in found if row["method"] == name and row["bits"] == str(bits)]
            if group:
                cells = [spread([float(row[part]) for row in group]) for part in ("validation", "test")]
                ratio = f"{float(group[0]['sr']):.1%}"
                lines.append(f"| {bits} | {name} | {len(group)} | {ratio} | {' | '.join(cells)} |")
    lines += ["", *(f"- {name}: `{text.format(bits='b')}`" for name, text in STEPS.items())]
    return "\n".join([*lines, "", *READING, ""])


READING = (
    "At 8 to 4 bits all are as good as floats that were trained as long, at 3 bits 1 to 3 points worse on test, at 2 some 5 to 11; without training 4 bits lose 17 points on validation, 14 on test, so training through the",
    "rounding, or around it, is what pays. Beside UQ, SLQ is ahead at 2 bits (2.0 points on validation, 0.9 on test) and at 4 (0.4 and 0.7), behind at 8 and 6 (0.1 and 1.0, 0.4 and 0.6), and at 3 validation and test",
    "disagree (1.0 ahead, 0.8 behind): only at 2 bits, which few keep, is it more than the error. DNQ is behind UQ at every width, and MLQ, whose layers have three levels each, by 5 points at 2 bits. So SLQ, MLQ and DNQ are off the",
    "default grid; a search for size has UQ, and who wants 2 bits should try SLQ. DNQ tried 16 allocations, its card has 50 and 150. Not measured: steps of more than 60 iterations, other networks.",
)
"""What the page says of its tables; checked against the rows when it was written."""


def main() -> None:
    """Fill the table, then write the page."""
    options = read(__doc__)
    for name, bits, seed in [] if options.table else plan(options.seeds):
        with claim(options.out, {"method": name, "bits": str(bits), "seed": str(seed)}) as free:
            if free:
                append(options.out, COLUMNS, run(ground(options.images, options.weights), name, bits, seed))
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
