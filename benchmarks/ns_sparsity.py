"""Does the sparsity phase of NS pay? Selection and accuracy with and without it, at equal iterations.

ResNet-20 on CIFAR-10 images: each run removes HP2 of the parameters within HP1·E0 epochs of a tenth of the training
set. "half" spends the first half on the sparsity phase; "none" ranks the scales as they are and fine-tunes all the
time. `overlap` is the share of removed channels that a run has in common with "none" of the same HP2. Accuracy is on
the test images, since the checkpoint has seen the training images. Rows already in the CSV are not run again.

    python benchmarks/ns_sparsity.py --images CIFAR_FOLDER --checkpoint resnet20.th --out docs/results/ns-sparsity.csv
"""

from __future__ import annotations

import argparse
import copy
import csv
import platform
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from automc.datasets.opening import open_data
from automc.datasets.ref import DataRef
from automc.datasets.splits import split
from automc.methods.base import StepContext
from automc.methods.ns import NetworkSlimming, sparsity_factor, sparsity_hook
from automc.methods.ranking import rank_by_scales
from automc.models.load import load, prepare
from automc.models.measure import count_params
from automc.surgery.groups import Groups
from automc.training.evaluate import accuracy
from automc.training.loop import fit
from automc.training.recipe import Recipe
from automc.training.seeds import derived
from kg.schema import Strategy

VARIANTS = {"none": 0.0, "half": 0.5}
FIELDS = (
    "variant", "seed", "hp1", "hp2", "params_in", "params_out", "accuracy_in", "accuracy", "overlap", "iterations",
    "lambda", "seconds", "device", "torch", "automc",
)  # fmt: skip


def removed(model: nn.Module, context: StepContext, strategy: Strategy, sparsity: float) -> set[tuple[int, int]]:
    """Channels that the method would remove, found by repeating its first phase."""
    work = copy.deepcopy(model)
    total = context.recipe.iterations(strategy.number("HP1"), context.data.n)
    first = int(sparsity * total)
    if first:
        hook = sparsity_hook(sparsity_factor(work, first, context.recipe))
        fit(
            work,
            context.data,
            iterations=first,
            recipe=context.recipe,
            seed=derived(context.seed, 0),
            gradient_hook=hook,
        )
    groups = Groups(work, torch.zeros(context.data.example_shape))
    target = context.target(count_params(model), strategy.number("HP2"))
    plan, _ = rank_by_scales(groups, target, strategy.number("HP6"), context.recipe.round_to)
    return {(g, unit) for g, units in enumerate(plan.removed) for unit in units}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", required=True)
    options.add_argument("--checkpoint", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--hp1", type=float, nargs="+", default=[0.3])
    options.add_argument("--hp2", type=float, nargs="+", default=[0.2, 0.4])
    given = options.parse_args()
    loaded = load("resnet20", weights=given.checkpoint)
    dataset = open_data(DataRef(given.images).normalised_by(loaded.normalisation), None)
    parts = split(dataset, 0.1)
    if parts.test is None:
        raise SystemExit(f"{given.images} has no test images.")
    train, test = dataset.data(parts.train), dataset.data(parts.test)
    model = prepare(loaded.model, torch.zeros(train.example_shape))
    done: dict[tuple[str, ...], dict[str, Any]] = {}
    if given.out.exists():
        with given.out.open(newline="") as file:
            done = {tuple(str(row[f]) for f in FIELDS[:4]): row for row in csv.DictReader(file)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    before = accuracy(model, test)
    for seed, hp1, hp2, variant in product(range(given.seeds), given.hp1, given.hp2, VARIANTS):
        if (variant, str(seed), str(hp1), str(hp2)) in done:
            continue
        context = StepContext(
            data=train, recipe=Recipe(fraction=0.1, sparsity=VARIANTS[variant]), original_params=count_params(model),
            seed=seed, device=torch.device("cpu"),
        )  # fmt: skip
        strategy = Strategy("NS", (("HP1", hp1), ("HP2", hp2), ("HP6", 0.9)))
        method = NetworkSlimming()
        started = time.perf_counter()
        smaller, report = method.apply(model, strategy, context)
        seconds = time.perf_counter() - started
        chosen, plain = (removed(model, context, strategy, VARIANTS[v]) for v in (variant, "none"))
        row = (
            variant, seed, hp1, hp2, report.params_in, report.params_out, before, accuracy(smaller, test),
            len(chosen & plain) / len(chosen), method.iterations(strategy, context.recipe, train.n),
            report.details["sparsity"], round(seconds, 1), platform.machine(), torch.__version__, version("automc"),
        )  # fmt: skip
        with given.out.open("a", newline="") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(FIELDS)
            writer.writerow(row)
        print(dict(zip(FIELDS, row, strict=True)), flush=True)


if __name__ == "__main__":
    main()
