"""Which layers should HOS prune more: the Gaussian ones or the others? Accuracy right after pruning, without training.

Each global criterion as it is, the same with its order of layers inverted, and one ratio for all layers; filters by L1
norm. The pruning alone removes each share of the parameters; batch-norm statistics are estimated anew on training
images, accuracy is on test images, both drawn with seed 0. Nothing else is random.

    python benchmarks/hos_criteria.py --images CIFAR_FOLDER --model resnet20 --checkpoint resnet20.th --out docs/results/hos-criteria.csv
"""

from __future__ import annotations

import argparse
import csv
import platform
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from automc.datasets.opening import open_data
from automc.datasets.ref import DataRef
from automc.datasets.splits import split
from automc.methods.hos import rank_channels
from automc.methods.normality import GLOBAL, Layer, measure
from automc.models.load import load, prepare
from automc.models.measure import count_params
from automc.surgery.groups import Groups
from automc.training.evaluate import accuracy, recalibrate

FIELDS = (
    "model", "criterion", "wanted", "params_in", "params_out", "accuracy_in", "accuracy", "scope", "recalibration_images",
    "test_images", "machine", "torch", "scipy", "automc",
)  # fmt: skip


def variants(groups: Groups) -> Iterator[tuple[str, list[Layer]]]:
    """Name and layers of each criterion, its inverse, and a constant."""
    for criterion in GLOBAL:
        layers = measure(groups, criterion, "l1norm")
        yield criterion, layers
        yield f"{criterion} inverted", [replace(layer, gaussian=-layer.gaussian) for layer in layers]
    yield "uniform", [replace(layer, gaussian=0.0) for layer in layers]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", required=True)
    options.add_argument("--model", default="resnet20")
    options.add_argument("--checkpoint", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--removed", type=float, nargs="+", default=[0.12, 0.36])
    options.add_argument("--test-images", type=int, default=1000)
    options.add_argument("--recalibration-images", type=int, default=1000)
    given = options.parse_args()
    loaded = load(given.model, weights=given.checkpoint)
    dataset = open_data(DataRef(given.images).normalised_by(loaded.normalisation), None)
    parts = split(dataset)
    if parts.test is None:
        raise SystemExit(f"{given.images} has no test images.")
    train, test = dataset.data(parts.train), dataset.data(parts.test).take(given.test_images)
    example = torch.zeros(train.example_shape)
    model = prepare(loaded.model, example).eval()
    params, before = count_params(model), accuracy(model, test)
    groups = Groups(model, example)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("a", newline="") as file:
        writer = csv.writer(file)
        if file.tell() == 0:
            writer.writerow(FIELDS)
        for name, layers in variants(groups):
            for wanted in given.removed:
                plan, scope, _ = rank_channels(groups, layers, params - round(wanted * params), 1)
                pruned = groups.pruned(plan)
                recalibrate(pruned, train, given.recalibration_images)
                row = (
                    given.model, name, wanted, params, plan.params, before, accuracy(pruned, test), scope,
                    given.recalibration_images, test.n, platform.machine(), torch.__version__, version("scipy"), version("automc"),
                )  # fmt: skip
                writer.writerow(row)
                file.flush()
                print(dict(zip(FIELDS, row, strict=True)), flush=True)


if __name__ == "__main__":
    main()
