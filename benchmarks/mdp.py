"""MDP beside pruning and factoring: half of ResNet-20's FLOPs, the same length, one step with its public weights.

python -m benchmarks.mdp --images CIFAR_FOLDER --weights resnet20.th --out docs/results/mdp

Then the first seed's steps are done once more, and timed in turns with the original: leave the machine alone meanwhile.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from time import process_time
from typing import Any

from torch import nn

from automc import methods
from automc.models.measure import count_flops, count_params, one_image
from automc.models.pace import NAMES, Place
from automc.models.runtimes import compare, runner
from automc.training.precision import cpu_name
from benchmarks.resumable import append, claim, made_with, rows
from benchmarks.short_steps import Ground, ground, read, solved, spread
from kg.schema import Strategy

WAYS = {
    "MDP, channels and resolution": "MDP[HP1=0.3,HP2={},HP25=0.2,HP27=0.25]",
    "MDP, resolution": "MDP[HP1=0.3,HP2=0.01,HP25=0.2,HP27={}]",
    "MDP, channels": "MDP[HP1=0.3,HP2={},HP25=0.2,HP27=0]",
    "NS": "NS[HP1=0.5,HP2={},HP6=0.9]",
    "SFP": "SFP[HP2={},HP9=0.5,HP10=1]",
    "TRP": "TRP[HP1=0.5,HP2={},HP19=5,HP20=0.0003,HP21=spatial]",
}
"""What is solved for at the first seed, so that half of the FLOPs go: HP2, of resolution alone HP27."""
WANTED = 0.5
"""Share of the FLOPs that goes."""
START = {"MDP, channels and resolution": (0.3, 0.5)}
"""A first guess at what takes how much; otherwise half takes half."""
ITERATIONS = 120
"""Of a step, search and fine-tuning together; 39 are an epoch of the images."""
COLUMNS = ("way", "seed", "strategy", "pr", "fr", "seconds", "validation", "test")
TIMED = ("way", "seed", "place", "before_ms", "after_ms", "ratio", "low", "high", "turns", "cpu")
PLACES: tuple[Place, ...] = ("torch", "onnx")
READING = (
    "At half of the FLOPs and in steps this short MDP does not pay: resolution alone, which leaves the parameters, has 70% of the test images right,",
    "as network slimming has; with channels 66%; channels alone by its gates 58%, where slimming ranks them by the scales that they have already. SFP has",
    "77%, TRP in its spatial form 82%. Seeds lie within three points of test accuracy. Two fifths of the iterations go to a search that ends in 24",
    "updates of scores and gates, and nearest-neighbour copies of a coarser convolution are new to the layers behind it. So MDP stays off the default grid: it is",
    "searched where it is named and FLOPs or latency are limited. Its source has no figure that could be read.",
)
"""What the page says of its table; checked against the rows when it was written, as is what it says of times."""
TIMES = (
    "In PyTorch half of the FLOPs takes 13 to 23% of the time off, resolution the most. In onnxruntime coarser convolutions do not pay at all: resolution alone",
    "takes a tenth longer than the original, with channels it is level with it; the copies around them cost what they save. Gates alone, slimming, SFP and TRP",
    "take 19 to 28% off there.",
)


def after(on: Ground, strategy: Strategy, seed: int) -> nn.Module:
    """Return what a step leaves of the model."""
    return methods.get(strategy.method).apply(on.subject.model, strategy, on.context(strategy, seed, ITERATIONS))[0]


def run(on: Ground, way: str, seed: int, others: list[dict[str, str]]) -> dict[str, object]:
    """Do one step and measure it: with what the first seed's row has, or with what takes half of the FLOPs."""
    done: dict[float, dict[str, Any]] = {}

    def step(text: str) -> dict[str, Any]:
        strategy = Strategy.parse(text)
        began = process_time()
        model = after(on, strategy, seed)
        spent = process_time() - began
        validation, test = on.measured(model)
        return {
            "way": way, "seed": seed, "strategy": strategy.id, "pr": 1 - count_params(model) / on.subject.params,
            "fr": 1 - count_flops(model, on.subject.example) / on.subject.flops, "seconds": spent,
            "validation": validation, "test": test,
        }  # fmt: skip

    def taken(share: float) -> float:
        done[share] = step(WAYS[way].format(share))
        return float(done[share]["fr"])

    first = next((row["strategy"] for row in others if row["way"] == way), None)
    return step(first) if first else done[solved(taken, START.get(way, (WANTED, WANTED)), WANTED)]


def time_rows(on: Ground, row: dict[str, str]) -> list[dict[str, object]]:
    """Do a row's step again; return how long what it leaves takes for an image, in turns with the original.

    Raises:
        ModelError: one of them cannot be exported.
    """
    seed = int(row["seed"])
    model = after(on, Strategy.parse(row["strategy"]), seed)
    image = one_image(model, on.subject.example)
    found = []
    for place in PLACES:
        original, smaller = (runner(each, image, place) for each in (on.subject.model, model))
        pace = compare(original, smaller, place, "cpu")
        found.append(
            {"way": row["way"], "seed": seed, "cpu": cpu_name()} | {name: getattr(pace, name) for name in TIMED[2:-1]}
        )
    return found


def page(out: Path) -> str:
    """The rows as a page."""
    lines = [
        "# MDP beside pruning and factoring",
        "",
        "Written by `benchmarks/mdp.py` from `runs.csv`: half of the FLOPs of ResNet-20 with its public weights, CIFAR-10 as JPEG, a tenth",
        "of the training images; 1,000 images each of validation and test (one standard error is about 1.3 points); accuracy in per cent,",
        f"mean (lowest to highest) over n seeds. Each row is one step of {ITERATIONS} iterations, of MDP two fifths search; seconds are processor",
        "time. HP2, of resolution alone HP27, was solved for with the first seed.",
        made_with(),
        "",
        "| | n | FLOPs removed | parameters removed | seconds | validation | test | settings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        if group := [r for r in rows(out) if r["way"] == way]:
            fr, pr, seconds = (sum(float(row[part]) for row in group) / len(group) for part in ("fr", "pr", "seconds"))
            cells = " | ".join(spread([float(row[part]) for row in group]) for part in ("validation", "test"))
            lines.append(
                f"| {way} | {len(group)} | {fr:.1%} | {pr:.1%} | {seconds:.0f} | {cells} | {group[0]['strategy']} |"
            )
    return "\n".join([*lines, "", *READING, "", *times(rows(out / "latency")), ""])


def times(found: list[dict[str, str]]) -> list[str]:
    """Return the table of latencies as lines; none without rows."""
    if not found:
        return []
    lines = [
        "## How long what is left takes",
        "",
        "The first seed's networks, one image, in turns with the original: the median of the turns' ratios and their quartiles. "
        f"{', '.join(sorted({row['cpu'] for row in found}))}, one thread.",
        "",
        "| | " + " | ".join(NAMES[place] for place in PLACES) + " |",
        "|---|" + "---|" * len(PLACES),
    ]
    for way in WAYS:
        cells = {
            row["place"]: f"{float(row['ratio']):.2f} ({float(row['low']):.2f} to {float(row['high']):.2f})"
            for row in found
            if row["way"] == way
        }
        if cells:
            lines.append(f"| {way} | " + " | ".join(cells.get(place, "") for place in PLACES) + " |")
    return [*lines, "", *TIMES]


def main() -> None:
    """Fill the table, then write the page."""
    options = read(__doc__)
    for seed, way in () if options.table else itertools.product(range(options.seeds), WAYS):
        with claim(options.out, {"way": way, "seed": str(seed)}) as free:
            if free:
                append(options.out, COLUMNS, run(ground(options.images, options.weights), way, seed, rows(options.out)))
    firsts = [] if options.table else [row for row in rows(options.out) if row["seed"] == "0"]
    for row in firsts:
        with claim(options.out / "latency", {"way": row["way"]}) as free:
            if free:
                for timed in time_rows(ground(options.images, options.weights), row):
                    append(options.out / "latency", TIMED, timed)
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
