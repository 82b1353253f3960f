"""What decides how good a compressed model is after its recovery: how it was cut, the learning rate, or the teacher's weight?

The network and the images of `benchmarks.pays`, ResNet-20; each row is a scheme, then a recovery of so many epochs. All
schemes remove the same share, in the shortest steps that the grid has.

    python -m benchmarks.recovery --images CIFAR_FOLDER --weights CHECKPOINT --out docs/results/recovery [--seeds 1] [--table]
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from automc import api
from automc.execution.jobs import final
from automc.models import structure
from automc.study.doctor import scratch
from automc.study.task import open_figures, open_subject
from automc.training import evaluate
from automc.training.recipe import Recipe
from automc.training.recover import LR, TEACHER, Extent, recover
from benchmarks.contenders import E0
from benchmarks.pays_tasks import TASKS
from benchmarks.resumable import append, claim, made_with, rows
from benchmarks.short_steps import spread
from kg.schema import Scheme

LFB = "LFB[HP1=0.1,HP2={},HP15=0.5,HP16=NLL]"
HOS = "HOS[HP1=0.1,HP2={},HP11=P2,HP12=k34,HP13=0.4,HP14=3]"
LMA = "LMA[HP1=0.1,HP2={},HP3=8,HP4=6,HP5=0.5]"
SFP = "SFP[HP2={},HP9=0.1,HP10=3]"
NS = "NS[HP1=0.1,HP2={},HP6=0.9]"
LEGR = "LeGR[HP1=0.1,HP2={},HP6=0.7,HP7=0.4,HP8=l2_weight]"
EPOCHS = 8
COLUMNS = (
    "scheme", "lr", "teacher", "seed", "iterations", "removed", "validation_before", "validation", "validation_loss",
    "test", "cut_seconds", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    """A scheme and how it recovers."""

    scheme: str
    lr: float = LR
    teacher: float = TEACHER

    def key(self, seed: int) -> dict[str, str]:
        """What identifies a row."""
        return dict(zip(COLUMNS, map(str, (*astuple(self), seed)), strict=False))


ALONE = LFB.format(0.7)
WAYS = (
    Way(ALONE),
    Way(f"{LFB.format(0.35)} -> {HOS.format(0.35)}"),
    Way(f"{SFP.format(0.3)} -> {LFB.format(0.4)}"),
    Way(f"{LFB.format(0.4)} -> {LMA.format(0.3)}"),
    Way(f"{LFB.format(0.4)} -> {LEGR.format(0.3)}"),
    Way(f"{LFB.format(0.5)} -> {LEGR.format(0.2)}"),
    Way(f"{LFB.format(0.5)} -> {SFP.format(0.2)}"),
    Way(f"{LFB.format(0.4)} -> {NS.format(0.3)}"),
    Way(HOS.format(0.7)),
    Way(ALONE, lr=0.1),
    Way(ALONE, teacher=0.9),
    Way(ALONE, lr=0.015),
)


def row(way: Way, seed: int, work: Path) -> dict[str, Any]:
    """Cut, recover and measure."""
    task = TASKS["resnet20"].given(work)
    subject = open_subject(task.model, api.data_ref(task.data), device="cpu")
    recipe = Recipe(unit_epochs=E0)
    with scratch(subject, recipe, seed, subject.hold()) as setup:
        cut, began = setup.base.with_name("cut.am"), time.process_time()
        done = final(setup, Scheme.parse(way.scheme), cut)
        assert done.status == "ok", done.reason
        bench, cut_seconds, began = setup.open(), time.process_time() - began, time.process_time()
        end = recover(
            structure.read(cut).model, bench.model, bench.rest, bench.validation, replace(recipe, teacher=way.teacher),
            Extent(epochs=EPOCHS), seed=seed, lr=way.lr,
        )  # fmt: skip
        seconds = time.process_time() - began
        loss = evaluate.cross_entropy(end.model, bench.validation)
    return {
        **way.key(seed), "iterations": end.iterations, "removed": 1 - open_figures(end.model, subject).params / subject.params,
        "validation_before": end.before, "validation": end.after, "validation_loss": loss,
        "test": subject.test_accuracy(end.model), "cut_seconds": cut_seconds, "seconds": seconds,
    }  # fmt: skip


def page(out: Path) -> str:
    """The rows as a page."""
    lines = [
        "# What a recovery makes of a compressed model", "",
        f"Written by `benchmarks/recovery.py` from `runs.csv`: {TASKS['resnet20'].about}.",
        f"70% of the parameters go in the shortest steps of the grid, then {EPOCHS} epochs of recovery, taught by the original;",
        "accuracy in per cent, mean (lowest to highest) over n seeds; one standard error is 0.9 points of validation and 0.5 of test, and rows",
        "share their images. Seconds are of the processor, for the cut and for the recovery.",
        made_with(), "",
        "| scheme | learning rate | teacher's weight | n | validation before | validation | its loss | test | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    found = rows(out)
    for way in WAYS:
        group = [r for r in found if {**way.key(0), "seed": r["seed"]}.items() <= r.items()]
        if group:
            before, after, test = (
                spread([float(r[name]) for r in group]) for name in ("validation_before", "validation", "test")
            )
            loss, first, then = (
                sum(float(r[name]) for r in group) / len(group)
                for name in ("validation_loss", "cut_seconds", "seconds")
            )
            lines.append(
                f"| {way.scheme} | {way.lr:g} | {way.teacher:g} | {len(group)} | {before} | {after} | {loss:.3f} | {test} | {first:.0f} + {then:.0f} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    """Fill the table, one row at a time, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--weights", type=Path, help="the public checkpoint of ResNet-20")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    work = (options.out / ".work").resolve()
    for seed, way in itertools.product([] if options.table else range(options.seeds), WAYS):
        TASKS["resnet20"].make(work, options.images, options.weights)
        with claim(options.out, way.key(seed)) as free:
            if free:
                append(options.out, COLUMNS, row(way, seed, work))
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
