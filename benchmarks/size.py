"""One command for a size beside the same size by hand: ResNet-20 on CIFAR-10 with a tenth of its bits.

`search` is `automc search --gamma-of size --gamma 0.9`: floats, then a quantiser, chosen by the search. By hand,
torch-pruning removes channels by L1 norm as far as 8 or 4 bits need, the same share of each layer (its default, and
better here than ranking all layers together), the rest trains as long as the found scheme did, and onnxruntime rounds the weights (static quantisation, one scale for each output channel, activations in 16 bits).

    python -m benchmarks.size --images CIFAR_FOLDER --weights resnet20.th --out docs/results/size --seeds 1
"""

from __future__ import annotations

import copy
import json
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch_pruning
from torch import nn

from automc import api
from automc.methods.quantising import quantisable
from automc.models import structure
from automc.models.bits import count_bits, stored
from automc.models.measure import count_params
from automc.models.stored import FLOAT
from automc.training.evaluate import accuracy, recalibrate
from automc.training.loop import fit
from automc.training.recipe import Recipe
from automc.training.seeds import derived
from benchmarks.quantisers import by_onnxruntime
from benchmarks.resumable import append, claim, made_with, rows
from benchmarks.short_steps import Ground, ground, read, spread
from benchmarks.torch_pruners import PRUNERS
from kg.schema import Scheme

GAMMA = 0.9
STEPS = 13
"""Of the search: each of the six methods before a quantiser, in two steps, and the quantiser that is enough alone."""
EPOCHS = 2.0
"""E0 of the search; 39 iterations are an epoch of its images."""
WAYS = ("search", "by hand, 8 bits", "by hand, 4 bits")
PAST = ("by hand, 8 bits, all layers ranked together",)
"""A row that is kept and run no more."""
COLUMNS = ("way", "seed", "iterations", "params", "sr", "floats", "validation", "test", "scheme")
"""`floats` is the accuracy on test before onnxruntime's rounding."""


def plan(seeds: int) -> Iterator[tuple[str, int]]:
    """Way and seed of each row; by hand takes its length from the search."""
    for seed in range(seeds):
        yield from ((way, seed) for way in WAYS)


def run(on: Ground, options: Any, way: str, seed: int) -> dict[str, Any]:
    """Measure one row."""
    if way == WAYS[0]:
        return searched(on, options, seed)
    (found,) = [row for row in rows(options.out) if row["way"] == WAYS[0] and row["seed"] == str(seed)]
    return by_hand(on, int(way.split()[2]), int(found["iterations"]), seed) | {"way": way, "seed": seed}


def searched(on: Ground, options: Any, seed: int) -> dict[str, Any]:
    """The recommended scheme of a search, its own model, measured like the others."""
    before = os.environ.get("AUTOMC_HOME")
    with tempfile.TemporaryDirectory() as home:
        os.environ["AUTOMC_HOME"] = home
        try:
            result = api.search(
                "resnet20", str(options.images), weights=options.weights, gamma=GAMMA, gamma_of="size",
                budget=f"{STEPS}steps", recipe=Recipe(fraction=0.1, unit_epochs=EPOCHS), precision="float32", workers=1,
                device="cpu", seed=seed, run_seed=seed, final=False, recover="none", learn_from_trials=False,
            )  # fmt: skip
            assert result.recommendation is not None
            assert result.model is not None
            trial = result.recommendation.trial
            model = structure.read(result.model).model
        finally:
            if before is None:
                del os.environ["AUTOMC_HOME"]
            else:
                os.environ["AUTOMC_HOME"] = before
    prefixes = {Scheme(trial.scheme.steps[:n]) for n in range(1, len(trial.scheme) + 1)}
    validation, test = on.measured(model)
    return {
        "way": WAYS[0], "seed": seed, "iterations": sum(t.iterations for t in result.trials if t.scheme in prefixes),
        "params": count_params(model), "sr": round(1 - count_bits(model) / (FLOAT * on.subject.params), 4),
        "validation": validation, "test": test, "scheme": trial.scheme.id,
    }  # fmt: skip


def by_hand(on: Ground, bits: int, iterations: int, seed: int) -> dict[str, Any]:
    """Channels by L1 norm until the rounded model is small enough, fine-tuning, and onnxruntime's rounding."""
    model = copy.deepcopy(on.subject.model)
    heads = [m for m in model.modules() if isinstance(m, nn.Linear)]
    pruner = torch_pruning.pruner.BasePruner(
        model, on.subject.example, importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.99, iterative_steps=200, ignored_layers=heads[-1:],
        customized_pruners={kind: pruner() for kind, pruner in PRUNERS.items()},
    )  # fmt: skip
    while (ratio := rounded_ratio(on, model, bits)) < GAMMA:
        pruner.step()
    recipe = Recipe(fraction=0.1)
    fit(model, on.train, iterations=iterations, recipe=recipe, seed=derived(seed, "by hand"))
    recalibrate(model, on.train, recipe.recalibration_images)
    floats = accuracy(model, on.test)
    validation, test = by_onnxruntime(replace(on, subject=replace(on.subject, model=model)), bits)
    return {
        "iterations": iterations, "params": count_params(model), "sr": round(ratio, 4), "floats": floats,
        "validation": validation, "test": test, "scheme": f"torch-pruning, fine-tuning, onnxruntime with {bits} bits",
    }  # fmt: skip


def rounded_ratio(on: Ground, model: nn.Module, bits: int) -> float:
    """Share of the bits that is gone when all weights of a model have so many, with a scale for each channel."""
    left = stored(model, quantisable(model).values()).quantised(bits, ends=None)
    return 1 - left / (FLOAT * on.subject.params)


def page(out: Path) -> str:
    """The rows as a page."""
    found = rows(out)
    lines = [
        "# A size in one command, and by hand",
        "",
        "Written by `benchmarks/size.py` from `runs.csv`: ResNet-20 with its public weights (accuracy of the original in `docs/results/quantisers`), CIFAR-10 as JPEG, a tenth of the training images;",
        f"at most a tenth of the bits ({GAMMA:.0%} gone). *search*: `automc search resnet20 --gamma-of size --gamma {GAMMA:g} --budget {STEPS}steps --unit-epochs {EPOCHS:g} --fraction 0.1`, the trial's own model.",
        "*by hand*: torch-pruning by L1 norm, the same share of each layer, as many training iterations as the found scheme has, then onnxruntime's static quantisation of the weights (activations in 16 bits);",
        "*floats* is the accuracy on test before that.",
        "1,000 images each of validation and test (one standard error is about 1.3 points); accuracy in per cent, mean (lowest to highest) over n seeds. The search chose on 5,000 images of validation.",
        made_with(),
        "",
        "| way | n | iterations | parameters | SR | floats | validation | test |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way in (*WAYS, *PAST):
        group = [row for row in found if row["way"] == way]
        if group:
            cells = [spread([float(row[part]) for row in group]) for part in ("validation", "test")]
            first = group[0]
            size = f"{int(first['iterations'])} | {int(first['params']):,} | {float(first['sr']):.2%}"
            floats = spread([float(row["floats"]) for row in group if row["floats"]] or [math.nan])
            lines.append(f"| {way} | {len(group)} | {size} | {floats.replace('nan', '')} | {' | '.join(cells)} |")
    schemes = [json.dumps(row["scheme"]).strip('"') for row in found if row["way"] == WAYS[0]]
    lines += ["", "Found, by seed: " + "; ".join(f"`{scheme}`" for scheme in schemes) + ".", *READING, ""]
    return "\n".join(lines)


READING = (
    "",
    "The one command is better than either way by hand: 84.5% on test, as good as the original trained on in floats (84.8% in `../quantisers`), beside 77.3% with 4 bits and 58.8% with 8. It takes few parameters and many bits (3 for each weight,",
    "trained through the rounding); by hand every bit that onnxruntime cannot save must go as channels. With 4 bits the channels cost little (83.2% in floats) and rounding without training 6 points; with 8 bits rounding costs nothing and the channels",
    "cost 26 points. By hand the files are a little smaller than asked (90.3 and 90.5% gone), since channels go in steps. Ranking all layers' channels together, which one may also do by hand, is far worse. The search took 13 steps",
    "to find its scheme, the ways by hand one each: equal is the training of what is compared, not the time to find it. One seed.",
)
"""What the page says of its table; checked against the rows when it was written."""


def main() -> None:
    """Fill the table, then write the page."""
    options = read(__doc__)
    for way, seed in [] if options.table else plan(options.seeds):
        with claim(options.out, {"way": way, "seed": str(seed)}) as free:
            if free:
                append(options.out, COLUMNS, run(ground(options.images, options.weights), options, way, seed))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
