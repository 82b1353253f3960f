"""AMC beside what divides the removal without an agent: one step of ResNet-20 and of ResNet-56 with public weights.

python -m benchmarks.amc --images CIFAR_FOLDER --weights resnet20.th --resnet56 resnet56.th --out docs/results/amc
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import process_time

from torch import nn

from automc import methods
from automc.methods.amc import Bound
from automc.methods.base import Method, StepReport
from automc.methods.ranking import narrowest
from automc.methods.step import Step
from automc.models.measure import count_flops, count_params
from benchmarks.resumable import append, claim, made_with, rows
from benchmarks.short_steps import Ground, ground, read, solved, spread
from benchmarks.single_methods import Magnitude
from kg.schema import Strategy

WAYS = {
    "uniform": "Uniform[HP1=0.5,HP2={}]",
    "AMC": "AMC[HP1=0.5,HP2={},HP6=0.9,HP17=50,HP18=ls,HP28=accuracy]",
    "LeGR": "LeGR[HP1=0.5,HP2={},HP6=0.9,HP7=0.4,HP8=l2_weight]",
    "L1": "L1[HP1=0.5,HP2={}]",
    "AMC, reward of FLOPs": "AMC[HP1=0.5,HP2={},HP6=0.9,HP17=50,HP18=ls,HP28=flops]",
    "AMC, no repair": "AMC[HP1=0.5,HP2={},HP6=0.9,HP17=50,HP18=none,HP28=accuracy]",
    "AMC, two episodes": "AMC[HP1=0.5,HP2={},HP6=0.9,HP17=2,HP18=ls,HP28=accuracy]",
}
BESIDE = ("uniform", "LeGR", "L1")
"""Ways that are also run with HP2 solved so that they take as many FLOPs as AMC did with the same seed."""
SHARES = {"resnet20": (0.7, 0.4), "resnet56": (0.57,)}
"""Shares of the parameters that go; on ResNet-56 one with which the agent takes about half of the FLOPs, as in the poster."""
PARTS = ("AMC, reward of FLOPs", "AMC, no repair", "AMC, two episodes")
"""The other reward, and the agent taken apart: ResNet-20, one seed."""
ITERATIONS = 120
PROBE = {"uniform": 1, "L1": 1}
"""Iterations of a step that only shows how many FLOPs go; those of LeGR depend on its search."""
COLUMNS = (
    "model", "way", "share", "equal", "seed", "strategy", "pr", "fr", "seconds", "judged", "given", "validation", "test",
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


@dataclass(frozen=True)
class Done:
    """A step that was done, and its processor seconds."""

    strategy: Strategy
    model: nn.Module
    report: StepReport
    seconds: float


def step(on: Ground, way: str, share: float, seed: int, iterations: int) -> Done:
    """Do one step."""
    strategy = Strategy.parse(WAYS[way].format(share))
    began = process_time()
    model, report = method_of(strategy).apply(on.subject.model, strategy, on.context(strategy, seed, iterations))
    return Done(strategy, model, report, process_time() - began)


def flops_gone(on: Ground, model: nn.Module) -> float:
    """Share of the original's FLOPs that a model does without."""
    return 1 - count_flops(model, on.subject.example) / on.subject.flops


def flops_by_way(key: dict[str, str], found: list[dict[str, str]]) -> dict[str, float]:
    """Share of the FLOPs that each way took with the model, share of the parameters and seed of a row."""
    same = [r for r in found if all(r[part] == key[part] for part in ("model", "share", "seed"))]
    return {r["way"]: float(r["fr"]) for r in same if r["equal"] == "parameters"}


def equal_flops(on: Ground, key: dict[str, str], fr: dict[str, float]) -> Done:
    """Do a step that takes as many FLOPs as AMC did with the same seed; `fr` is of both at equal parameters."""
    way, share, seed = key["way"], float(key["share"]), int(key["seed"])
    length, done = PROBE.get(way, ITERATIONS), dict[float, Done]()

    def taken(hp2: float) -> float:
        done[hp2] = step(on, way, hp2, seed, length)
        return flops_gone(on, done[hp2].model)

    hp2 = solved(taken, (share, fr[way]), fr["AMC"])
    return done[hp2] if length == ITERATIONS else step(on, way, hp2, seed, ITERATIONS)


def run(on: Ground, key: dict[str, str], found: list[dict[str, str]]) -> dict[str, object]:
    """Do one step and measure it."""
    if key["equal"] == "FLOPs":
        done = equal_flops(on, key, flops_by_way(key, found))
    else:
        done = step(on, key["way"], float(key["share"]), int(key["seed"]), ITERATIONS)
    validation, test = on.measured(done.model)
    given = done.report.details.get("given")
    return {
        **key, "strategy": done.strategy.id, "pr": 1 - count_params(done.model) / on.subject.params,
        "fr": flops_gone(on, done.model), "seconds": done.seconds,
        "judged": done.report.details.get("judged", ""), "given": "" if given is None else " ".join(map(str, given)),
        "validation": validation, "test": test,
    }  # fmt: skip


def page(out: Path) -> str:
    """The rows as a page."""
    lines = [
        "# AMC beside other divisions",
        "",
        "Written by `benchmarks/amc.py` from `runs.csv`: networks with their public weights, CIFAR-10 as JPEG, a tenth of the training",
        "images; 1,000 images each of validation and test (one standard error is about 1.3 points); accuracy in per cent, mean (lowest to",
        f"highest) over n seeds. Each row is one step with {ITERATIONS} iterations of fine-tuning; LeGR spends 96 more, on its search and on",
        "more fine-tuning. At equal FLOPs HP2 is solved for each seed so that as many go as AMC took with it. Seconds are processor time.",
        "Before: the accuracy of the division on 900 training images before any training, with statistics estimated anew, beside those of",
        "one ratio and of one ranking.",
        made_with(),
        "",
        "| model | equal | | n | parameters removed | FLOPs removed | seconds | before | one ratio, one ranking | validation | test |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    found = rows(out)
    places = ((model, share) for model, shares in SHARES.items() for share in shares)
    for (model, share), equal, way in itertools.product(places, ("parameters", "FLOPs"), WAYS):
        key = {"model": model, "share": str(share), "equal": equal, "way": way}
        group = [r for r in found if all(r[part] == value for part, value in key.items())]
        if group:
            mean = {part: sum(float(row[part]) for row in group) / len(group) for part in ("pr", "fr", "seconds")}
            plain = [r for r in group if r["judged"] and "HP28=accuracy" in r["strategy"]]  # the reward is −error
            before = ", ".join(f"{100 * (1 + float(r['judged'])):.1f}" for r in plain)
            given = ", ".join(" / ".join(f"{100 * (1 + float(v)):.1f}" for v in r["given"].split()) for r in plain)
            cells = " | ".join(spread([float(row[part]) for row in group]) for part in ("validation", "test"))
            lines.append(
                f"| {model} | {equal} | {way} | {len(group)} | {mean['pr']:.1%} | {mean['fr']:.1%} | {mean['seconds']:.0f} "
                f"| {before} | {given} | {cells} |"
            )
    note = out / "note.md"
    return "\n".join([*lines, "", note.read_text() if note.exists() else ""])


def plan(seeds: int) -> Iterator[dict[str, str]]:
    """What is to be run, AMC before what is measured by its FLOPs."""
    for seed, (model, shares) in itertools.product(range(seeds), SHARES.items()):
        for share, way in itertools.product(shares, WAYS):
            if way not in PARTS or (model, seed) == ("resnet20", 0):
                yield {"model": model, "way": way, "share": str(share), "equal": "parameters", "seed": str(seed)}
        for share, way in itertools.product(shares, BESIDE):
            yield {"model": model, "way": way, "share": str(share), "equal": "FLOPs", "seed": str(seed)}


def main() -> None:
    """Fill the table, then write the page; what needs a row that another process is at is left to the next call."""
    options = read(__doc__, resnet56=True)
    for key in () if options.table else plan(options.seeds):
        weights = options.weights if key["model"] == "resnet20" else options.resnet56
        with claim(options.out, key) as free:
            found = rows(options.out)
            ready = key["equal"] == "parameters" or {"AMC", key["way"]} <= flops_by_way(key, found).keys()
            if free and weights and ready:
                append(options.out, COLUMNS, run(ground(options.images, weights, key["model"]), key, found))
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
