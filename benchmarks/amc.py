"""AMC beside what divides the removal without an agent: one step of ResNet-20 with its public weights.

python -m benchmarks.amc --images CIFAR_FOLDER --weights resnet20.th --seeds 1 --out docs/results/amc
"""

from __future__ import annotations

import itertools
from pathlib import Path
from time import process_time

from automc import methods
from automc.methods.amc import Bound
from automc.methods.base import Method, StepContext
from automc.methods.ranking import narrowest
from automc.methods.step import Step
from automc.models.measure import count_flops, count_params
from benchmarks.resumable import append, claim, made_with, rows
from benchmarks.short_steps import Ground, ground, read, spread
from benchmarks.single_methods import Magnitude
from kg.schema import Strategy

WAYS = {
    "uniform": "Uniform[HP1=0.5,HP2={}]",
    "AMC": "AMC[HP1=0.5,HP2={},HP6=0.9,HP17=50,HP18=ls,HP28=accuracy]",
    "LeGR": "LeGR[HP1=0.5,HP2={},HP6=0.9,HP7=0.4,HP8=l2_weight]",
    "L1": "L1[HP1=0.5,HP2={}]",
    "AMC, no repair": "AMC[HP1=0.5,HP2={},HP6=0.9,HP17=50,HP18=none,HP28=accuracy]",
    "AMC, two episodes": "AMC[HP1=0.5,HP2={},HP6=0.9,HP17=2,HP18=ls,HP28=accuracy]",
    "AMC, reward of FLOPs": "AMC[HP1=0.5,HP2={},HP6=0.9,HP17=50,HP18=ls,HP28=flops]",
}
SHARES = (0.7, 0.4)
ITERATIONS = 120
COLUMNS = (
    "way", "share", "seed", "strategy", "pr", "fr", "seconds", "judged", "given", "validation", "test",
)  # fmt: skip


class Uniform(Magnitude):
    """One ratio for all groups, those channels first that the next layers read least: AMC's first episode."""

    name = "Uniform"

    def shrink(self, step: Step) -> None:
        """Remove channels inside blocks, of streams as well where that is not enough."""
        groups = step.groups()
        caps = narrowest(groups, step.target, 0.9, 1)[0]
        bound = Bound(step, groups, caps)
        groups.apply(bound.plan(bound.given()[0]))


def method_of(strategy: Strategy) -> Method:
    """The method, also of those that only this table has."""
    return {"Uniform": Uniform, "L1": Magnitude}.get(strategy.method, lambda: methods.get(strategy.method))()


def run(on: Ground, way: str, share: float, seed: int) -> dict[str, object]:
    """Do one step and measure it."""
    strategy = Strategy.parse(WAYS[way].format(share))
    context: StepContext = on.context(strategy, seed, ITERATIONS)
    began = process_time()
    model, report = method_of(strategy).apply(on.subject.model, strategy, context)
    spent = process_time() - began
    validation, test = on.measured(model)
    given = report.details.get("given")
    return {
        "way": way, "share": share, "seed": seed, "strategy": strategy.id,
        "pr": 1 - count_params(model) / on.subject.params,
        "fr": 1 - count_flops(model, on.subject.example) / on.subject.flops, "seconds": spent,
        "judged": report.details.get("judged", ""), "given": "" if given is None else " ".join(map(str, given)),
        "validation": validation, "test": test,
    }  # fmt: skip


def page(out: Path) -> str:
    """The rows as a page."""
    lines = [
        "# AMC beside other divisions",
        "",
        "Written by `benchmarks/amc.py` from `runs.csv`: ResNet-20 with its public weights, CIFAR-10 as JPEG, a tenth of the training",
        "images; 1,000 images each of validation and test (one standard error is about 1.3 points); accuracy in per cent, mean (lowest to",
        f"highest) over n seeds. Each row is one step with {ITERATIONS} iterations of fine-tuning; LeGR spends 96 more, on its search and on",
        "more fine-tuning. Seconds are processor time. Before: the accuracy of the division on 900 training images before any training,",
        "with statistics estimated anew, beside those of one ratio and of one ranking.",
        made_with(),
        "",
        "| removed | | n | FLOPs removed | seconds | before | one ratio, one ranking | validation | test |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = rows(out)
    for share, way in itertools.product(SHARES, WAYS):
        group = [r for r in found if (r["share"], r["way"]) == (str(share), way)]
        if group:
            fr, seconds = (sum(float(row[part]) for row in group) / len(group) for part in ("fr", "seconds"))
            plain = [r for r in group if r["judged"] and "HP28=accuracy" in r["strategy"]]  # the reward is −error
            before = ", ".join(f"{100 * (1 + float(r['judged'])):.1f}" for r in plain)
            given = ", ".join(" / ".join(f"{100 * (1 + float(v)):.1f}" for v in r["given"].split()) for r in plain)
            cells = (spread([float(row[part]) for row in group]) for part in ("validation", "test"))
            lines.append(
                f"| {share:.0%} | {way} | {len(group)} | {fr:.1%} | {seconds:.0f} | {before} | {given} | {' | '.join(cells)} |"
            )
    note = out / "note.md"
    return "\n".join([*lines, "", note.read_text() if note.exists() else ""])


def main() -> None:
    """Fill the table, then write the page."""
    options = read(__doc__)
    plan = () if options.table else itertools.product(range(options.seeds), SHARES, WAYS)
    for seed, share, way in plan:
        key = {"way": way, "share": str(share), "seed": str(seed)}
        with claim(options.out, key) as free:
            if free:
                append(options.out, COLUMNS, run(ground(options.images, options.weights), way, share, seed))
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
