"""ResNet-20 at 40% in 8 bits: what the exported files weigh, and what they lose against the same model in floats.

One step with short training makes the smaller model; then it is exported in floats, with its weights in 8 bits (UQ, a
short step more), and computing in 8 bits. Everything is run by onnxruntime on all validation and test images.

    python -m benchmarks.int8 --images CIFAR_FOLDER --weights resnet20.th --out docs/results/int8
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from automc import methods
from automc.models.export import export
from automc.models.measure import count_params
from automc.models.runtimes import fastest, file_runner
from automc.study.int8 import export_int8
from automc.study.study import versions
from benchmarks.resumable import append, claim, rows
from benchmarks.short_steps import Ground, ground, read
from kg.schema import Strategy

STEPS = {
    "LFB": ("LFB[HP1=0.5,HP2=0.4,HP15=1,HP16=CE]", 48),
    "TRP": ("TRP[HP1=0.5,HP2=0.4,HP19=5,HP20=0.0003,HP21=spatial]", 48),
}
"""How the smaller model is made, and in how many iterations; 39 are an epoch of the images."""
QUANTISED = ("UQ[HP1=0.5,HP22=8]", 24)
KINDS = {
    "float": "floats",
    "weights": "weights in 8 bits (UQ)",
    "int8": "computing in 8 bits, from floats",
    "both": "computing in 8 bits, from UQ's levels",
}
COLUMNS = ("step", "seed", "kind", "params", "bytes", "original_bytes", "validation", "test", "ms")


def trained(on: Ground, model: nn.Module, step: str, iterations: int, seed: int) -> nn.Module:
    """The model after one step more."""
    strategy = Strategy.parse(step)
    return methods.get(strategy.method).apply(model, strategy, on.context(strategy, seed, iterations))[0]


def run(on: Ground, name: str, seed: int, folder: Path) -> Iterator[dict[str, object]]:
    """Make the smaller model, and export and measure it in every way."""
    subject = on.subject
    original = export(subject.model, subject.example, folder / "original.onnx").file_bytes
    small = trained(on, subject.model, *STEPS[name], seed)
    coded = trained(on, small, *QUANTISED, seed)

    def row(kind: str, **figures: object) -> dict[str, object]:
        known = {"step": name, "seed": seed, "kind": kind, "params": count_params(small), "original_bytes": original}
        return {**known, **figures}

    # What `export_int8` measures in floats is what the export with integer weights gives: the same weights.
    for kinds, model in ((("float", "int8"), small), (("weights", "both"), coded)):
        done = export_int8(replace(subject, model=model), folder / "int8.onnx")
        plain = export(model, subject.example, folder / "plain.onnx")
        image = torch.zeros(1, *subject.dataset.example_shape[1:])
        ms = 1000 * fastest(file_runner(plain.path, image, "onnx"), 200)
        yield row(
            kinds[0], bytes=plain.file_bytes, validation=done.float_accuracy, test=done.float_test_accuracy, ms=ms
        )
        yield row(
            kinds[1], bytes=done.file_bytes, validation=done.accuracy, test=done.test_accuracy, ms=done.pace.after_ms
        )


READING = (
    "The target (at most 20% of the original's bytes, at most 0.3 points lost against the floats) is met by both models. Computing in 8 bits LFB's file has 18.0% of the original",
    "network's bytes and is 0.2 points better on test than its floats, TRP's has 18.6% and is 0.2 points worse: both within one standard error of 0.4. Such a file takes a half to four fifths",
    "of the floats' time here (TRP's rows were timed on a busy machine). LFB's weights from UQ are 1.5 points more accurate, because UQ's step",
    "trains further; TRP's had less to gain and are 0.4 points less accurate, 0.3 computing in 8 bits. Weights as integers alone make a file slower than floats, since they are turned into floats in every run.",
    "",
    "One seed of each; LFB's rows are of its version 4, with k×k filters alone.",
)
"""What the page says of its table; checked against the rows when it was written."""


def page(out: Path) -> str:
    """The rows as a page."""
    lines = [
        "# ResNet-20 at 40% in 8 bits",
        "",
        "Written by `benchmarks/int8.py` from `runs.csv`: ResNet-20 with its public weights, CIFAR-10 as JPEG, a tenth of the training",
        "images for the 48 iterations of the step that removes 40% of the parameters and for UQ's 24; accuracy in per cent on all 5,000 validation and",
        "10,000 test images (the public weights were trained on the validation images too). Bytes are those of the ONNX file, also as a share",
        "of the original network's. Milliseconds are of one image on one thread.",
        f"{', '.join(f'{k} {v}' for k, v in versions().items())}, {platform.machine()}.",
        "",
        "| step | file | parameters | bytes | of the original | validation | test | points of test lost | ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = rows(out)
    for row in found:
        alike = [r for r in found if (r["step"], r["seed"]) == (row["step"], row["seed"])]
        start = next(float(r["test"]) for r in alike if r["kind"] == "float")
        share = int(row["bytes"]) / int(row["original_bytes"])
        lines.append(
            f"| {row['step']} | {KINDS[row['kind']]} | {int(row['params']):,} | {int(row['bytes']):,} | {share:.1%} | "
            f"{100 * float(row['validation']):.2f} | {100 * float(row['test']):.2f} | "
            f"{100 * (start - float(row['test'])):+.2f} | {float(row['ms']):.2f} |"
        )
    return "\n".join([*lines, "", *READING, ""])


def main() -> None:
    """Fill the table, then write the page."""
    options = read(__doc__)
    for name in () if options.table else STEPS:
        with claim(options.out, {"step": name, "seed": "0"}) as free, tempfile.TemporaryDirectory() as folder:
            if free:
                for row in list(run(ground(options.images, options.weights), name, 0, Path(folder))):
                    append(options.out, COLUMNS, row)
                    (options.out / "README.md").write_text(page(options.out))
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
