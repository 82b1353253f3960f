"""What choices inside the methods are worth in short steps: ranks by proportion or energy, HP15 under MSE, LeGR's search.

Each row is one step of ResNet-20 with its public weights, on a tenth of CIFAR-10's training images. Choose by the
validation column; the test column reports. Rows of an earlier version of a method are run with this file and
`short_steps.py` in a checkout of that version; they go into the same table.

    python -m benchmarks.step_choices --images CIFAR_FOLDER --weights resnet20.th --out docs/results/step-choices
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from automc import methods
from automc.methods import legr, lfb
from automc.methods.step import Step
from automc.models.measure import count_flops, count_params
from automc.surgery.lowrank import Site, matrix
from automc.training.loop import FitReport
from benchmarks.resumable import append, claim, made_with, rows
from benchmarks.short_steps import Ground, ground, read, spread
from kg.schema import Strategy


@dataclass(frozen=True)
class Choice:
    """A strategy done in one way: iterations of HP1, 0 for a look without any training."""

    strategy: str
    iterations: int
    way: Callable[[], AbstractContextManager[Any]]
    what: str
    version: int | None = None
    """Of the method, where only one did it so."""


def ranks(place: int) -> AbstractContextManager[Any]:
    """Take ranks by proportion (0) or by energy (1), whichever is better."""
    return patch.object(Step, "best", lambda _, models: min(place, len(models) - 1))


def mean_error(model: nn.Module, factored: Sequence[Site], filters: Sequence[Tensor]) -> Tensor:
    """The mean squared error over all weights: what MSE meant before."""
    errors = [(matrix(model, site) - w).square().sum() for site, w in zip(factored, filters, strict=True)]
    return torch.stack(errors).sum() / sum(w.numel() for w in filters)


def old_error() -> AbstractContextManager[Any]:
    return patch.object(lfb, "filter_error", mean_error)


LFB, HOS = "LFB[HP1=0.5,HP2={},HP15=1,HP16=CE]", "HOS[HP1=0.5,HP2={},HP11=P1,HP12=l1norm,HP13=0.3,HP14=1]"
MSE = "LFB[HP1=0.5,HP2=0.4,HP15={},HP16=MSE]"
WAYS = {"by proportion": lambda: ranks(0), "by energy": lambda: ranks(1), "as it is": nullcontext}
"""`as it is` takes the better of both on a slice of the training images; after training it is one of the other rows."""


def rank_choices(length: int, shares: Sequence[float]) -> dict[str, Choice]:
    """LFB and HOS with either kind of ranks, at several sizes."""
    found = {}
    for (method, step), share, (name, way) in itertools.product((("LFB", LFB), ("HOS", HOS)), shares, WAYS.items()):
        if length == 0 or name != "as it is":
            what = f"ranks {name}, {length} iterations"
            found[f"{method} {share} {what}"] = Choice(step.format(share), length, way, what)
    return found


def error_choices() -> dict[str, Choice]:
    """LFB with HP16 = MSE: HP15 with either meaning of the error."""
    ways = (("relative", nullcontext, 0.5), ("relative", nullcontext, 5), ("mean", old_error, 5))
    whats = [(f"{name} error, HP15 = {weight}, 24 iterations", way, weight) for name, way, weight in ways]
    return {what: Choice(MSE.format(weight), 24, way, what) for what, way, weight in whats}


LEGR = "LeGR[HP1={},HP2={},HP6=0.9,HP7={},HP8=l2_weight]"


def all_for_candidates() -> AbstractContextManager[Any]:
    """All of HP7 buys candidates, however few, and whatever the first one loses."""
    return patch.multiple(legr, SHARE=1.0, LEAST=2, HOPELESS=math.inf)


def half_for_candidates() -> AbstractContextManager[Any]:
    """As it is, but whatever the first one loses."""
    return patch.object(legr, "HOPELESS", math.inf)


def ranking_choices(total: int) -> dict[str, Choice]:
    """LeGR in so many iterations, HP1 and HP7 half of them each, or HP1 alone."""
    ways = (
        ("no search, HP1 alone", 0, total // 2, nullcontext, None),
        ("no search, all for training", 0, total, nullcontext, None),
        ("candidates trained (version 3, commit f1f6be5)", 0.5, total // 2, nullcontext, 3),
        ("candidates not trained, HP7 for them", 0.5, total // 2, all_for_candidates, 4),
        ("candidates not trained, half of HP7 for them", 0.5, total // 2, half_for_candidates, 4),
    )
    return {
        f"LeGR {share} {total} {what}": Choice(
            LEGR.format(0.5, share, hp7), length, way, f"{total} iterations, {what}", version
        )
        for share in (0.4, 0.7) for what, hp7, length, way, version in ways
    }  # fmt: skip


CHOICES = rank_choices(0, (0.2, 0.4, 0.6, 0.7)) | rank_choices(24, (0.4,)) | error_choices() | rank_choices(24, (0.7,))
CHOICES |= ranking_choices(24) | ranking_choices(120)
COLUMNS = ("name", "seed", "strategy", "pr", "fr", "validation", "test", "told")


def untrained(step: Step, *args: Any, **options: Any) -> FitReport:
    return FitReport(0.0, 0, 0.0)


def run(on: Ground, name: str, seed: int) -> dict[str, object]:
    """Do one step and measure it."""
    choice = CHOICES[name]
    strategy = Strategy.parse(choice.strategy)
    context = on.context(strategy, seed, max(1, choice.iterations))
    with contextlib.ExitStack() as stack:
        stack.enter_context(choice.way())
        if not choice.iterations:
            stack.enter_context(patch.object(Step, "train", untrained))
        model, report = methods.get(strategy.method).apply(on.subject.model, strategy, context)
    validation, test = on.measured(model)
    return {
        "name": name, "seed": seed, "strategy": strategy.id, "pr": 1 - count_params(model) / on.subject.params,
        "fr": 1 - count_flops(model, on.subject.example) / on.subject.flops, "validation": validation, "test": test,
        "told": report.details.get("ranks_by", report.details.get("candidates", "")),
    }  # fmt: skip


READING = (
    "`as it is` looks at both kinds of ranks on training images before any training. It took the better one on validation and on test at every size, and the one that is better after 24 iterations:",
    "by energy at 40%, where LFB gains 5 points and HOS 4 on validation, in proportion at 70%, where LFB gains 14 and HOS 12. HP16 = MSE with the relative error is as good as with the mean one;",
    "HP15 = 0.5 and 5 differ by less than a standard error.",
    "",
    "LeGR, one seed but for what n says. Rankings whose candidates train found nothing better than the norms that they start from: that half of the iterations was lost, and its measuring besides.",
    "Rankings judged without training do find better ones, at 40%. Half of HP7 for 20 of them and the rest for fine-tuning is better than all of HP7 for 40, and, in three seeds, than no search with all",
    "iterations for fine-tuning, by 0.4 points on validation and 1.0 on test, less than a standard error; at 24 iterations and at 70% no search is best, by 2 points and more. So a search that could pay for fewer than 12 candidates, and one",
    "whose first candidate is hardly better than guessing (at 70%; the rows were run without this rule), is left out. The better ranking keeps more FLOPs.",
    "",
    "Rows of LeGR that are planned and missing here were not run yet; the script goes on where it stopped.",
)
"""What the page says of its table; checked against the rows when it was written."""


def page(out: Path) -> str:
    """The rows as a page."""
    lines = [
        "# Choices inside the methods, in short steps",
        "",
        "Written by `benchmarks/step_choices.py` from `runs.csv`: ResNet-20 with its public weights, CIFAR-10 as JPEG, a tenth of the",
        "training images; 1,000 images each of validation and test; accuracy in per cent, mean (lowest to highest) over n seeds.",
        f"{made_with()} With 0 iterations nothing is trained and",
        "nothing depends on the seed.",
        "",
        "| step | what | n | parameters removed | FLOPs removed | validation | test |",
        "|---|---|---|---|---|---|---|",
    ]
    found = rows(out)
    for name, choice in CHOICES.items():
        group = [row for row in found if row["name"] == name]
        if group:
            cells = (spread([float(row[part]) for row in group]) for part in ("validation", "test"))
            pr, fr = (sum(float(row[part]) for row in group) / len(group) for part in ("pr", "fr"))
            told = {row["told"] for row in group} - {""} if "as it is" in name else set()
            what = f"{choice.what}: {', '.join(sorted(told))}" if told else choice.what
            lines.append(
                f"| {group[0]['strategy']} | {what} | {len(group)} | {pr:.1%} | {fr:.1%} | {' | '.join(cells)} |"
            )
    return "\n".join([*lines, "", *READING, ""])


def main() -> None:
    """Fill the table, then write the page."""
    options = read(__doc__)
    plan = [] if options.table else itertools.product(CHOICES, range(options.seeds))
    for name, seed in plan:
        choice = CHOICES[name]
        version = methods.get(Strategy.parse(choice.strategy).method).version
        if (seed and not choice.iterations) or choice.version not in (None, version):
            continue
        with claim(options.out, {"name": name.replace("/", " "), "seed": str(seed)}) as free:
            if free:
                append(options.out, COLUMNS, run(ground(options.images, options.weights), name, seed))
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
