"""PCO beside operators chosen at random and LFB: the same length, the same size, one step of ResNet-20.

python -m benchmarks.operators --images CIFAR_FOLDER --weights resnet20.th --out docs/results/operators
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from time import process_time

import torch

from automc import methods
from automc.methods.base import Method
from automc.methods.operator_search import OperatorSearch
from automc.methods.pco import PartialChannelOperators
from automc.methods.step import Step
from automc.models.measure import count_flops, count_params
from automc.training.loop import Loss
from automc.training.recipe import Recipe
from automc.training.seeds import derived
from benchmarks.resumable import append, claim, made_with, rows
from benchmarks.short_steps import Ground, ground, read, spread
from kg.schema import Strategy


class Drawn(PartialChannelOperators):
    """The same operators, chosen by scores that are drawn: all of the step is fine-tuning."""

    def search(self, step: Step, search: OperatorSearch, loss: Loss) -> None:
        """Draw the scores."""
        draw = torch.Generator().manual_seed(derived(step.context.seed, "drawn"))
        for scores in search.scores:
            scores.data.copy_(torch.randn(len(scores), generator=draw))

    def phases(self, strategy: Strategy, recipe: Recipe, n_train: int) -> tuple[int, int]:
        """Iterations of the search, which are none, and of the fine-tuning."""
        return 0, sum(super().phases(strategy, recipe, n_train))


WAYS: dict[str, tuple[str, type[Method] | None]] = {
    "PCO, K = 4": ("PCO[HP1=0.3,HP2={},HP25=0.2,HP26=4]", None),
    "operators at random": ("PCO[HP1=0.3,HP2={},HP25=0.2,HP26=4]", Drawn),
    "PCO, K = 1": ("PCO[HP1=0.3,HP2={},HP25=0.2,HP26=1]", None),
}
BESIDE = Path("docs/results/trp"), "LFB"
"""The rows of another way, of the same length on the same ground."""
SHARES = (0.4, 0.7)
ITERATIONS = 120
"""Of a step, search and fine-tuning together; 39 are an epoch of the images."""
COLUMNS = ("way", "share", "seed", "strategy", "pr", "fr", "seconds", "validation", "test", "operators")


def run(on: Ground, way: str, share: float, seed: int) -> dict[str, object]:
    """Do one step and measure it."""
    text, cls = WAYS[way]
    strategy = Strategy.parse(text.format(share))
    method = methods.get(strategy.method) if cls is None else cls()

    def tick(done: int, of: int) -> None:
        assert of == ITERATIONS, (done, of)

    began = process_time()
    context = replace(on.context(strategy, seed, ITERATIONS), progress=tick)
    model, report = method.apply(on.subject.model, strategy, context)
    spent = process_time() - began
    validation, test = on.measured(model)
    return {
        "way": way, "share": share, "seed": seed, "strategy": strategy.id,
        "pr": 1 - count_params(model) / on.subject.params,
        "fr": 1 - count_flops(model, on.subject.example) / on.subject.flops, "seconds": spent,
        "validation": validation, "test": test, "operators": counted(report.details.get("operators", {})),
    }  # fmt: skip


def counted(operators: dict[str, str]) -> str:
    """How often each operator was chosen, e.g. "dropped 2, rank 7"."""
    kinds = sorted("rank" if what.startswith("rank") else what for what in operators.values())
    return ", ".join(f"{kind} {len(list(group))}" for kind, group in itertools.groupby(kinds))


READING = (
    "PCO is behind LFB at both sizes, by far more than the error: 5 points of test at 40%, 8 to 14 at 70%, in more time, though twice as",
    "many FLOPs go at 40%. With K = 4, as its source has it, its search is no better than chance: 1.7 points better than operators at random at 40%,",
    "3.1 worse at 70%, where chance has the iterations of the search for fine-tuning. With K = 1, where whole convolutions are",
    "mixed, it is 2.1 and 3.2 points better than chance (means of three; single seeds of chance lie up to 10 points apart), in the same time: a",
    "quarter of the channels tells too little in the 24 updates that the scores get here, and mixing kernels instead of outputs makes whole ones cost no",
    "more. So K = 1 is on its card beside 4, and PCO stays off the default grid.",
)
"""What the page says of its table; checked against the rows when it was written."""


def beside() -> list[dict[str, str]]:
    """LFB's rows."""
    place, name = BESIDE
    return [
        row | {"operators": ""} for row in rows(place) if (row["way"], row["iterations"]) == (name, str(ITERATIONS))
    ]


def page(out: Path) -> str:
    """The rows as a page."""
    place, _ = BESIDE
    lines = [
        "# PCO beside operators at random and LFB",
        "",
        "Written by `benchmarks/operators.py` from `runs.csv`: ResNet-20 with its public weights, CIFAR-10 as JPEG, a tenth of the",
        "training images; 1,000 images each of validation and test (one standard error is about 1.3 points); accuracy in per cent, mean",
        f"(lowest to highest) over n seeds. Each row is one step of {ITERATIONS} iterations, of PCO two fifths search; seconds are processor time.",
        f"LFB's rows are those of `{place}`.",
        made_with(),
        "",
        "| removed | | n | FLOPs removed | seconds | validation | test | operators of seed 0 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found = [*rows(out), *beside()]
    for share, way in itertools.product(SHARES, (BESIDE[1], *WAYS)):
        group = [r for r in found if (r["share"], r["way"]) == (str(share), way)]
        if group:
            fr, seconds = (sum(float(row[part]) for row in group) / len(group) for part in ("fr", "seconds"))
            cells = " | ".join(spread([float(row[part]) for row in group]) for part in ("validation", "test"))
            lines.append(
                f"| {share:.0%} | {way} | {len(group)} | {fr:.1%} | {seconds:.0f} | {cells} | {group[0]['operators']} |"
            )
    return "\n".join([*lines, "", *READING, ""])


def main() -> None:
    """Fill the table, then write the page."""
    options = read(__doc__)
    for seed, way, share in () if options.table else itertools.product(range(options.seeds), WAYS, SHARES):
        with claim(options.out, {"way": way, "share": str(share), "seed": str(seed)}) as free:
            if free:
                append(options.out, COLUMNS, run(ground(options.images, options.weights), way, share, seed))
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
