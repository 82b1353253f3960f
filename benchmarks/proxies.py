"""Which cheap look keeps the order of schemes that remove the same share? Spearman's correlation with the result at full length.

30 single steps and 30 schemes of two steps, all of which remove 70% of the parameters, on two small networks and the small
task of `pays` (CIFAR-10 at 16×16 pixels, 7,500 images): executed at full length, at shorter ones, with fewer images, and at
the levels of the searcher `eco`.
What is compared is accuracy on the 10,000 test images: validation has 750, and its noise would hide the answer.

    python -m benchmarks.proxies --images CIFAR_FOLDER --out docs/results/proxies [--only full recalibrated] [--unit-epochs 10]

It goes on where it stopped, and several processes may share the work; `--table` writes the page from the rows so far.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from automc import api
from automc.execution.step import execute, model_after
from automc.study.closing import solved
from automc.study.doctor import scratch
from automc.study.reach import grids
from automc.study.study import versions
from automc.study.task import Subject, open_subject
from automc.training import evaluate
from automc.training.precision import cpu_name
from automc.training.recipe import Recipe
from benchmarks.resumable import append, claim, rows
from benchmarks.small_task import DATA, NETS, trained
from kg.schema import LEVELS, Scheme, Strategy

GAMMA = 0.7
FULL = 10.0
"""Unit epochs of the full length, the default: steps of 5 epochs."""
PROXIES = {
    "full": (1.0, 1.0, 0, 0), "full, another seed": (1.0, 1.0, 1, 0), "half": (0.5, 1.0, 0, 0),
    "quarter": (0.25, 1.0, 0, 0), "eighth": (0.125, 1.0, 0, 0), "recalibrated": (1e-6, 1.0, 0, 0),
    "half the images": (1.0, 0.5, 0, 0), **{f"level {level}": (1.0, 1.0, 0, level) for level in range(1, LEVELS + 1)},
}  # fmt: skip
"""Share of the length, of the images, the run seed, and the level.

`recalibrated`: cut, one iteration, statistics estimated anew.
"""
COLUMNS = (
    "unit_epochs", "model", "proxy", "scheme", "status", "removed", "validation", "test", "loss", "seconds", "cpu", "torch",
)  # fmt: skip


def chosen(count: int = 30, seed: int = 0) -> list[Scheme]:
    """Schemes that remove GAMMA: so many of one step, the methods in turn, and as many of a step and one that closes."""
    rng = random.Random(seed)
    by_method = {name: [s for s in grid if longest(s)] for name, grid in sorted(grids().items())}

    def one(name: str) -> Scheme:
        return Scheme((solved(rng.choice(by_method[name]), GAMMA),))

    def two(name: str) -> Scheme:
        first, last = rng.choice(by_method[name]), rng.choice(by_method[rng.choice(list(by_method))])
        return Scheme((first, solved(last, GAMMA - first.number("HP2"))))

    found: list[Scheme] = []
    for draw in (one, two):
        # Some methods have few settings besides HP2: what comes twice is drawn again, of the next method.
        distinct: dict[Scheme, None] = {}
        for name in itertools.cycle(by_method):
            distinct[draw(name)] = None
            if len(distinct) == count:
                break
        found += distinct
    return found


def longest(strategy: Strategy) -> bool:
    """Whether a strategy trains what it leaves as long as the grid allows, so that all schemes have equal lengths."""
    return 0.5 in (strategy.get("HP1"), strategy.get("HP9"))


@cache
def opened(model: str, weights: Path, fraction: float) -> Subject:
    """A network with its data."""
    torch.set_num_threads(1)
    return open_subject(NETS[model], api.data_ref(DATA), weights=weights, fraction=fraction, device="cpu")


def run(model: str, weights: Path, proxy: str, scheme: Scheme, full: float) -> dict[str, Any]:
    """Execute a scheme as the proxy says; return its row. The seconds are those of all its steps."""
    length, fraction, seed, level = PROXIES[proxy]
    subject = opened(model, weights, fraction)
    row: dict[str, Any] = {"unit_epochs": f"{full:g}", "model": model, "proxy": proxy, "scheme": scheme.id}
    scheme = scheme.at(level)
    with scratch(subject, Recipe(unit_epochs=length * full, fraction=fraction), seed) as setup:
        bench = setup.open()
        outcomes = [execute(bench, prefix) for prefix in scheme.beginnings]
        row["status"] = outcomes[-1].status
        if outcomes[-1].status == "ok":
            assert subject.splits.test is not None
            after, test = model_after(bench, scheme), subject.dataset.data(subject.splits.test)
            row |= {
                "removed": 1 - (outcomes[-1].params or 0) / subject.params, "validation": outcomes[-1].accuracy,
                "test": evaluate.accuracy(after, test), "loss": evaluate.cross_entropy(after, test),
                "seconds": sum(o.seconds for o in outcomes),
            }  # fmt: skip
    return {**row, "cpu": cpu_name(), "torch": torch.__version__}


def bounds(found: Sequence[dict[str, str]], model: str) -> str:
    """What an upper bound right after the cut would have stopped, as a sentence; empty with fewer than 10 schemes.

    A scheme's bound is its accuracy after the cut plus the largest gain that training has brought any *other* scheme;
    it is stopped where that is below the best of the others at full length.
    """
    full, cut = (
        {r["scheme"]: r for r in found if r["model"] == model and r["proxy"] == p} for p in ("full", "recalibrated")
    )
    both = sorted(s for s in full.keys() & cut.keys() if full[s]["status"] == cut[s]["status"] == "ok")
    if len(both) < 10:
        return ""
    after, before = (np.array([float(of[s]["test"]) for s in both]) for of in (full, cut))
    gains, stopped, wrong, beyond = after - before, 0, 0, 0
    for i in range(len(both)):
        bound, best = before[i] + np.delete(gains, i).max(), np.delete(after, i).max()
        stopped += bound < best
        wrong += bound < best <= after[i]
        beyond += after[i] > bound
    return (
        f"{model}: training gained {100 * gains.min():.1f} to {100 * gains.max():.1f} points (median {100 * np.median(gains):.1f}) after the cut. With the largest gain of the "
        f"others as the bound {stopped} of {len(both)} schemes would have been stopped, {wrong} of them wrongly; {beyond} ended above their bound."
    )  # fmt: skip


def agreement(found: Sequence[dict[str, str]], model: str, proxy: str, figure: str) -> tuple[str, ...]:
    """How a proxy's `figure` orders schemes that full length has ordered by test accuracy: cells of the table."""
    full, cheap = ({r["scheme"]: r for r in found if r["model"] == model and r["proxy"] == p} for p in ("full", proxy))
    both = sorted(s for s in full.keys() & cheap.keys() if full[s]["status"] == cheap[s]["status"] == "ok")
    if len(both) < 10:
        return ("", "", "", "", "")
    truth = np.array([float(full[s]["test"]) for s in both])
    looks = np.array([float(cheap[s][figure]) * (-1 if figure == "loss" else 1) for s in both])
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(both), size=len(both)) for _ in range(1000)]
    low, high = np.nanpercentile([spearmanr(truth[d], looks[d]).statistic for d in draws], (2.5, 97.5))
    cost = sum(float(cheap[s]["seconds"]) for s in both) / sum(float(full[s]["seconds"]) for s in both)
    regret = 100 * (truth.max() - truth[looks.argmax()])
    better = truth.argsort()[len(both) // 2 :]
    return (
        str(len(both)), f"{spearmanr(truth, looks).statistic:.2f} ({low:.2f} to {high:.2f})",
        f"{regret:.1f}", f"{cost:.2f}", f"{spearmanr(truth[better], looks[better]).statistic:.2f}",
    )  # fmt: skip


def page(out: Path) -> str:
    """The rows as a page."""
    found = rows(out)
    lines = [
        "# Which cheap look keeps the order?", "",
        "Written by `benchmarks/proxies.py` from `runs.csv`: schemes that remove 70% of the parameters, half of one step and half of two, CIFAR-10 at 16×16 pixels,",
        f"7,500 training and 10,000 test images; full length is E0 = {', '.join(sorted({r['unit_epochs'] for r in found}))}; float32, one thread, {', '.join(sorted({r['cpu'] for r in found}))}, torch {', '.join(sorted({r['torch'] for r in found}))}.",
        "Spearman's correlation of the look's figure with test accuracy at full length, with its 95% interval over schemes (1,000 bootstrap draws); regret: how many points of test accuracy",
        "the scheme that looks best is below the best one; better half: the correlation among those that are better at full length; cost: seconds of the look as a share of those at full length. `test` needs images that a user does not have to spare: what is",
        "left of it with the validation images that a search really looks at is the column beside it. Levels are those of the searcher `eco`: thirds of the length, each with a cosine of its own,",
        "so level 3 is the full length in pieces. With few schemes the intervals are wide: n says how many there are.", "",
        "| network | look | n | test accuracy | better half | regret | cross-entropy on test | validation accuracy (750 images) | regret | cost |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for model, proxy in itertools.product(dict.fromkeys(r["model"] for r in found), PROXIES):
        count, own, regret, cost, better = agreement(found, model, proxy, "test")
        _, loss, *_ = agreement(found, model, proxy, "loss")
        _, validation, missed, *_ = agreement(found, model, proxy, "validation")
        if count:
            lines.append(
                f"| {model} | {proxy} | {count} | {own} | {better} | {regret} | {loss} | {validation} | {missed} | {cost} |"
            )
    told = [said for model in dict.fromkeys(r["model"] for r in found) if (said := bounds(found, model))]
    stop = ["", "## Could a step be stopped after its cut?", "", *told] if told else []
    return "\n".join([*lines, *stop, ""])


def main() -> None:
    """Fill the table, scheme by scheme, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=["resnet8", "plain6"])
    parser.add_argument("--only", nargs="*", default=list(PROXIES))
    parser.add_argument("--unit-epochs", type=float, default=FULL)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.images:
        os.environ["SMALL_TASK_IMAGES"] = str(options.images.resolve())
    # Scheme by scheme, single and double in turn: a stopped table is evenly filled.
    schemes = chosen()
    half = len(schemes) // 2
    in_turn = [s for pair in zip(schemes[:half], schemes[half:], strict=True) for s in pair]
    work = [] if options.table else itertools.product(options.models, in_turn, options.only)
    for model, scheme, proxy in work:
        key = {"unit_epochs": f"{options.unit_epochs:g}", "model": model, "proxy": proxy, "scheme": scheme.id}
        weights = trained(model, options.out / ".work")
        with claim(options.out, key) as free:
            if free:
                append(options.out, COLUMNS, run(model, weights, proxy, scheme, options.unit_epochs))
    (options.out / "README.md").write_text(page(options.out))
    print(f"{len(rows(options.out))} rows; {versions()}")


if __name__ == "__main__":
    main()
