"""How the small task's network, cut to 70% in different ways, comes back over long training; and who should teach it.

Each way is followed at a constant learning rate, weights averaged over some 150 iterations, with looks on the way, then along a
cosine to the end. `--teachers` trains one of them from its 400th iteration on with one teacher and with several: the
original, and beside it others of these networks.

    python -m benchmarks.curves --images CIFAR_FOLDER --weights resnet8.pt --out docs/results/curves [--teachers]

The weights are those that `benchmarks.pays` trains. Rows that are there are not run again.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from automc import api
from automc.execution.jobs import final
from automc.execution.setup import Bench, Setup
from automc.methods import lfb
from automc.models import structure
from automc.study.closing import straight
from automc.study.doctor import scratch
from automc.study.reach import grids
from automc.study.task import open_subject
from automc.surgery.lowrank import energies, factor, sites
from automc.surgery.ranks import choose_ranks
from automc.training import evaluate
from automc.training.distill import taught
from automc.training.loop import cross_entropy, fit
from automc.training.recipe import Recipe
from automc.training.seeds import derived
from benchmarks.contenders import GAMMA
from benchmarks.resumable import append, claim, rows
from benchmarks.small_task import DATA
from kg.schema import Scheme, Strategy

RECIPE = Recipe(unit_epochs=4.0)
LR = 0.03
HORIZON = 150
LOOKS = (100, 200, 400, 800, 1600)
ENDS = {"SFP": 5000, "TRP": 5000, "LFB": 5000, "LFB, k×k": 5000, "HOS": 5000, "LMA": 5000, "k×1 and 1×k, in proportion": 5000,
        "k×1 and 1×k, by energy": 5000, "LFB 40%, LMA 30%": 2500}  # fmt: skip
"""Ways to cut, and iterations in all. Those of low rank in one form are factored and not trained before."""
STUDENT = "k×1 and 1×k, in proportion"
OTHERS = ("SFP", "LFB, k×k", "HOS")
TEACHERS = (
    ("the original", 0.5, ""), ("and three at 400 iterations", 0.5, "400"), ("and three at their end", 0.5, "end"),
    ("and three at 400 iterations", 0.9, "400"), ("the original", 0.9, ""),
)  # fmt: skip
"""Name, weight, and which models teach beside the original."""
CURVES = ("way", "iterations", "seconds", "validation", "test", "validation_loss", "test_loss", "params")
TAUGHT = ("teachers", "weight", "seconds", "teacher_test", "validation", "test", "validation_loss", "test_loss")


class Together(nn.Module):
    """Several networks as one: the mean of their probabilities, as logits."""

    def __init__(self, nets: list[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 16, 16) → (n, 10)."""
        return torch.stack([net(x).softmax(1) for net in self.nets]).mean(0).clamp_min(1e-8).log()


@contextmanager
def ground(weights: Path) -> Iterator[tuple[Setup, Bench]]:
    """The network and its data, opened."""
    subject = open_subject("resnet8", api.data_ref(DATA), weights=weights, device="cpu")
    with scratch(subject, RECIPE, 0, subject.hold()) as setup:
        yield setup, setup.open()


def by_form(model: nn.Module, way: str) -> nn.Module:
    """A copy of a model, factored into k×1 and 1×k layers."""
    small = copy.deepcopy(model)
    found = sites(small, (), "spatial")
    spectra = [energies(small, site) for site in found] if way.endswith("energy") else None
    params = sum(p.numel() for p in model.parameters())
    chosen, ranks, _ = choose_ranks(found, params, int((1 - GAMMA) * params), spectra)
    for site, rank in zip(chosen, ranks, strict=True):
        if rank <= site.levels:
            factor(small, site, rank)
    return small


def cut(way: str, setup: Setup) -> nn.Module:
    """The network cut in one of the ways."""
    if way.startswith("k×1"):
        return by_form(setup.open().model, way)
    parts = [("LFB", 0.4), ("LMA", 0.3)] if way == "LFB 40%, LMA 30%" else [(way.partition(",")[0], GAMMA)]
    steps: list[Strategy] = []
    for method, share in parts:
        steps += straight(grids((method,))[method], share, {}, lambda _: 0.0)[0].steps
    out = setup.base.with_name("out.am")
    forms = ("channel",) if way.endswith("k×k") else lfb.FORMS
    with patch.object(lfb, "FORMS", forms):
        done = final(setup, Scheme(tuple(steps)), out)
    assert done.status == "ok", done.reason
    return structure.read(out).model


def figures(model: nn.Module, on: Bench) -> tuple[nn.Module, dict[str, float]]:
    """A copy with statistics estimated anew, and what it can."""
    found = copy.deepcopy(model).eval()
    evaluate.recalibrate(found, on.rest, RECIPE.recalibration_images)
    assert on.splits.test is not None
    test = on.dataset.data(on.splits.test, on.device)
    return found, {
        "validation": evaluate.accuracy(found, on.validation), "test": evaluate.accuracy(found, test),
        "validation_loss": evaluate.cross_entropy(found, on.validation), "test_loss": evaluate.cross_entropy(found, test),
        "params": sum(p.numel() for p in found.parameters()),
    }  # fmt: skip


def kept(out: Path, way: str, when: str) -> Path:
    """Where a model is kept for those who learn from it."""
    (out / ".work").mkdir(parents=True, exist_ok=True)
    return out / ".work" / f"{way}-{when}.pt"


def curve(way: str, weights: Path, out: Path) -> list[dict[str, Any]]:
    """Follow one way; its models at 400 iterations and at the end are kept."""
    with ground(weights) as (setup, on):
        model = cut(way, setup)
        average, count, done, began = copy.deepcopy(model), 0, 0, time.process_time()
        loss = taught(cross_entropy, on.model, 0.5)

        def follow(step: int) -> None:
            nonlocal count
            count += 1
            keep = min(1 - 1 / HORIZON, count / (count + 10))
            with torch.no_grad():
                for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                    mean.lerp_(now, 1 - keep)

        found = []
        for goal in (0, *LOOKS, ENDS[way]):
            last = goal == ENDS[way]
            if goal:
                hooks: dict[str, Any] = {} if last else {"floor": 1.0, "after_update": follow}
                fit(
                    model,
                    on.rest,
                    iterations=goal - done,
                    recipe=RECIPE,
                    seed=derived(0, done),
                    lr=LR,
                    loss=loss,
                    **hooks,
                )
            done = goal
            small, told = figures(model if last or not goal else average, on)
            found.append({"way": way, "iterations": goal, "seconds": time.process_time() - began, **told})
            if last or goal == 400:
                torch.save(small, kept(out, way, "end" if last else str(goal)))
    return found


def lesson(name: str, weight: float, which: str, weights: Path, out: Path) -> dict[str, Any]:
    """Train STUDENT along a cosine of 1,500 iterations from its 400th on."""
    with ground(weights) as (_, on):
        model = torch.load(kept(out, STUDENT, "400"), weights_only=False)
        nets = [torch.load(kept(out, way, which), weights_only=False).eval() for way in OTHERS if which]
        teacher = Together([on.model, *nets]) if nets else on.model
        assert on.splits.test is not None
        known = evaluate.accuracy(teacher, on.dataset.data(on.splits.test, on.device))
        began = time.process_time()
        loss = taught(cross_entropy, teacher, weight)
        fit(model, on.rest, iterations=1500, recipe=RECIPE, seed=derived(0, 7), lr=LR, loss=loss)
        used = time.process_time() - began
        told = figures(model, on)[1]
    return {
        "teachers": name,
        "weight": weight,
        "seconds": used,
        "teacher_test": known,
        **{k: told[k] for k in TAUGHT[4:]},
    }


READING = (
    "Low rank in the form of k×1 and 1×k layers is ahead at every length, and where it starts from does not matter after 400 iterations. LFB in its k×k form looks best after a short step",
    "(58% where SFP has 50%) and is behind SFP, HOS and LMA in loss from 800 iterations on: what a short look prefers is not what long training prefers, but the loss on validation tells SFP from",
    "k×k LFB from 800 iterations on, where its accuracy does not. Half LFB, half LMA is as good as low rank alone, and a third slower.",
    "",
    "TRP and LFB as it is today: LFB begins three points ahead; TRP has the lower loss on validation from 100 iterations on, by 1.2% at 400 and 3% at 800 and 1,600, is ahead on test from 800 on, and ends ahead (64.8 to 64.2).",
    "A race that ends after some 450 iterations sees a difference that its rule of 5% does not act on. Yet the least loss is no rule either: at 1,600 iterations SFP and HOS have less than LFB, and end behind it.",
    "",
    "Several teachers lower the student's loss, for half as much time again, and hardly change its accuracy unless they are trained to their end, which costs more than it brings. One seed each; a standard error is half a point.",
)
"""What the page says of its tables; checked against the rows when it was written."""


def page(out: Path) -> str:
    """The rows as a page."""
    curves, lessons = rows(out), rows(out / "teachers")
    lines = [
        "# Long training after different cuts, and teachers", "",
        "Written by `benchmarks/curves.py`: ResNet-8, CIFAR-10 at 16×16, 70% of the parameters gone, taught by the original; accuracy on 10,000 test images in per cent, and loss on 750",
        f"of validation. Seed 0, one thread, torch {torch.__version__}, {platform.machine()}.", "",
        "| iterations | " + " | ".join(ENDS) + " |", "|---|" + "---|" * len(ENDS),
    ]  # fmt: skip
    for goal in (0, *LOOKS, 2500, 5000):
        cells = []
        for way in ENDS:
            row = next((r for r in curves if (r["way"], r["iterations"]) == (way, str(goal))), None)
            cells.append(f"{100 * float(row['test']):.1f}; {float(row['validation_loss']):.3f}" if row else "")
        lines.append(f"| {goal:,} | {' | '.join(cells)} |")
    lines += ["", f"1,500 iterations more of `{STUDENT}`, by who teaches:", "",
              "| teachers | weight | their test accuracy | seconds | test | loss on test |", "|---|---|---|---|---|---|"]  # fmt: skip
    for row in lessons:
        own, teacher = (100 * float(row[name]) for name in ("test", "teacher_test"))
        lines.append(
            f"| {row['teachers']} | {row['weight']} | {teacher:.1f} | {float(row['seconds']):.0f} | {own:.1f} | {float(row['test_loss']):.3f} |"
        )
    return "\n".join([*lines, "", *READING, ""])


def main() -> None:
    """Fill the tables, one run at a time, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teachers", action="store_true")
    options = parser.parse_args()
    if options.images:
        os.environ["SMALL_TASK_IMAGES"] = str(options.images.resolve())
        torch.set_num_threads(1)
        for way in ENDS:
            with claim(options.out, {"way": way}) as free:
                if free:
                    for row in curve(way, options.weights, options.out):
                        append(options.out, CURVES, row)
        for name, weight, which in TEACHERS if options.teachers else ():
            with claim(options.out / "teachers", {"teachers": name, "weight": str(weight)}) as free:
                if free:
                    append(options.out / "teachers", TAUGHT, lesson(name, weight, which, options.weights, options.out))
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
