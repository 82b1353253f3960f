"""Each method alone at 40% and 70% of the parameters, beside plain L1 pruning and the small model from scratch.

Real CIFAR-10 as an image folder, a tenth of the training images, E0 = 10 epochs. Every run is one row, appended and
flushed; rows that are there are not run again, so it may be stopped and started, and several may share the work:

    python -m benchmarks.single_methods --images CIFAR_FOLDER --model resnet20.am --seeds 3 --out docs/results/single-methods
    python -m benchmarks.single_methods --out docs/results/single-methods --table

The models are .am files tuned on these images (`automc train resnet20 --weights … --epochs 1 --lr 0.01`).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from torch import nn

from automc import api, methods
from automc.execution.step import execute, model_after
from automc.methods import Method, StepContext, StepReport
from automc.methods.step import Step
from automc.models.measure import count_params
from automc.study.doctor import scratch
from automc.study.study import versions
from automc.study.task import Subject, open_subject, settle_precision
from automc.training.precision import cpu_name
from automc.training.recipe import Recipe
from benchmarks.resumable import append, claim, grouped, rows
from benchmarks.torch_pruners import PRUNERS
from kg.schema import Strategy

COLUMNS = (
    "model", "method", "wanted", "seed", "strategy", "pr", "fr", "validation_before", "validation_after",
    "test_before", "test_after", "reached", "reason", "seconds", "device", "cpu", "torch",
)  # fmt: skip
SIZES = (0.4, 0.7)
"""Shares of the parameters to remove."""
SCHEMES = {
    "LMA": "LMA[HP1=0.5,HP2={wanted},HP3=8,HP4=3,HP5=0.5]",
    "LeGR": "LeGR[HP1=0.5,HP2={wanted},HP6=0.9,HP7=0.4,HP8=l2_weight]",
    "NS": "NS[HP1=0.5,HP2={wanted},HP6=0.9]",
    "SFP": "SFP[HP2={wanted},HP9=0.5,HP10=1]",
    "HOS": "HOS[HP1=0.5,HP2={wanted},HP11=P1,HP12=l1norm,HP13=0.3,HP14=1]",
    "LFB": "LFB[HP1=0.5,HP2={wanted},HP15=1,HP16=MSE]",
    "TRP": "TRP[HP1=0.5,HP2={wanted},HP19=5,HP20=0.0003,HP21=spatial]",
    "L1": "L1[HP1=0.5,HP2={wanted}]",
    "Scratch": "Scratch[HP1=0.5,HP2={wanted}]",
}
"""The longest fine-tuning on the grid; everything else in its middle. LeGR and HOS also spend HP7 and HP13."""
PAPER = {
    # AutoMC, Table 2: ResNet-56 on CIFAR-10, accuracy in per cent at about 40% and 70%.
    0.4: {"LMA": 79.61, "LeGR": 90.69, "NS": 89.19, "SFP": 88.24, "HOS": 90.18, "LFB": 89.99},
    0.7: {"LMA": 75.25, "LeGR": 85.88, "NS": 85.73, "SFP": 86.94, "HOS": 89.28, "LFB": 90.35},
}

READING = (
    "## Read beside the AutoMC paper's Table 2",
    "",
    "The levels do not compare: half an E0 is 176 iterations on 4,500 images here, and the paper's tables do not say at how many epochs they stand. What compares is the order.",
    "",
    "Several values before the step: the model was tuned three times, with the same recipe and seed on different processors. Seconds come from several processors and from loaded",
    "and idle machines; those of ResNet-56 do not compare with each other. ResNet-56 has one seed: a point between two methods is nothing there.",
    "",
    "- **LMA is last in the paper; here second at 40% and third at 70% on ResNet-20, first and second on ResNet-56.** The authors' code starts its student from fresh weights, at a learning rate of",
    "  0.001. With that defect our LMA falls by 59 points, with fresh weights at a learning rate of 0.1 by 41 (`../variants`, ResNet-20, 40%). Started from the pruned input with activations",
    "  fitted to its ReLUs and taught by the input it recovers well in a short step.",
    "- **LFB is first in the paper at 70%, and here on ResNet-20 at both sizes** since version 5 takes the better of two forms of a basis (decision 75); with k×k filters alone, as in the paper, it was 2.5 points",
    "  lower at 40% and 7.2 at 70% (`../variants`). At 40% it takes few FLOPs: the layers with most parameters have few. The authors' LFB trains a fresh network; in a short step that costs 43 points",
    "  (`../variants`, ResNet-20, 40%). Its FLOPs in the paper are a counter's mistake: `../lfb-flops.md`.",
    "- **TRP is not in that paper.** In its spatial form it is level with LFB at 40%, where it takes 41% of the FLOPs along and LFB 17%, and a point behind at 70%, in half of LFB's seconds.",
    "- **LeGR is first in the paper at 40%; here level with NS.** Its search (version 3; decision 63 changed it) has 140 iterations, about three for each of 46 candidates, and found nothing better on",
    "  ResNet-20 than the ranking it starts from, norms over their layer's mean (decision 29). At 70% it is behind LFB and HOS, as in the paper; on ResNet-56 it is last.",
    "- **HOS is second in the paper at both sizes.** At the recipe's learning rate its reconstruction loss ruined ResNet-20 at 70% (55% and 64% in two seeds); at a tenth of it, as in the",
    "  authors' code, it is the best but for LFB at 70% (decision 28).",
    "- **SFP is not the paper's to the letter** (decision 27): as published it tests at 68.4% and 25.9% on ResNet-20, below plain L1 pruning.",
    "- **Everything beats the small network from scratch by far** at equal length, and plain L1 pruning in every run, at 40% (where it removed 42%) and at 70%, on ResNet-56 by 9.5 to 14.5 points there.",
)
"""What the page says of its tables; checked against the rows when it was written."""


class Magnitude(Method):
    """Plain L1 pruning by torch-pruning: the same ratio in every layer, raised until the target is met."""

    name = "L1"

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Prune, fine-tune, recalibrate."""
        step = Step(model, strategy, context, (self.iterations(strategy, context.recipe, context.data.n),))
        self.shrink(step)
        self.recover(step)
        step.recalibrate()
        return step.model, step.report(0, "no smaller network")

    def shrink(self, step: Step) -> None:
        """Remove channels until the target is met."""
        heads = [m for m in step.model.modules() if isinstance(m, nn.Linear)]
        pruner = torch_pruning.pruner.BasePruner(
            step.model, step.example, importance=torch_pruning.importance.MagnitudeImportance(p=1),
            pruning_ratio=0.99, iterative_steps=200, ignored_layers=heads[-1:],
            customized_pruners={kind: pruner() for kind, pruner in PRUNERS.items()},
        )  # fmt: skip
        for _ in range(200):
            if count_params(step.model) <= step.target:
                break
            pruner.step()

    def recover(self, step: Step) -> None:
        """Fine-tune."""
        step.train()

    def relative_cost(self, strategy: Strategy) -> float:
        """HP1."""
        return strategy.number("HP1")


class FromScratch(Magnitude):
    """The network that L1 pruning leaves, with fresh weights, trained as long at a learning rate of 0.1."""

    name = "Scratch"

    def recover(self, step: Step) -> None:
        """Train from fresh weights."""
        forget(step.model)
        step.train(lr=0.1, warmup=step.lengths[0] // 20)


def forget(model: nn.Module) -> None:
    """Give every layer the weights it would have in a new network; an LMA, which has no such thing, keeps its own."""
    for module in model.modules():
        if callable(renew := getattr(module, "reset_parameters", None)):
            renew()


@functools.cache
def opened(
    model: Path, images: Path, device: str, precision: str, unit_epochs: float
) -> tuple[Subject, Recipe, float | None]:
    """A model with its data, the recipe of its steps, and its test accuracy: once for all its rows."""
    recipe = Recipe(fraction=0.1, unit_epochs=unit_epochs)
    subject = open_subject(str(model), api.data_ref(str(images)), fraction=recipe.fraction, device=device)
    return subject, settle_precision(recipe, precision, subject), subject.test_accuracy()


def run(model: Path, name: str, scheme: str, wanted: float, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run a scheme on a model; return its row. The seconds are those of its last step."""
    subject, recipe, test_before = opened(model, options.images, options.device, options.precision, options.unit_epochs)
    steps = api.read_scheme(scheme)
    with scratch(subject, recipe, seed) as setup:
        bench = setup.open()
        done = execute(bench, steps)
        if done.status != "ok" or done.params is None or done.flops is None:
            raise SystemExit(f"{scheme} on {model}: {done.status}, {done.reason}")
        test = subject.test_accuracy(model_after(bench, steps))
    return {
        "model": model.stem, "method": name, "wanted": wanted, "seed": seed, "strategy": steps.id,
        "pr": 1 - done.params / subject.params, "fr": 1 - done.flops / subject.flops,
        "validation_before": subject.accuracy, "validation_after": done.accuracy,
        "test_before": test_before, "test_after": test, "reached": done.reached, "reason": done.reason,
        "seconds": done.seconds, "device": options.device, "cpu": cpu_name(), "torch": torch.__version__,
    }  # fmt: skip


def fill(schemes: dict[str, str], options: argparse.Namespace) -> None:
    """Run what is missing, model by model and seed by seed, so that a stopped table is evenly filled."""
    plan = itertools.product(options.model, range(options.seeds), SIZES, schemes)
    for model, seed, wanted, name in plan:
        key = {"model": model.stem, "method": name, "wanted": str(wanted), "seed": str(seed)}
        with claim(options.out, key) as free:
            if free:
                print(*key.values(), flush=True)
                scheme = schemes[name].format(wanted=wanted, half=wanted / 2)
                append(options.out, COLUMNS, run(model, name, scheme, wanted, seed, options))


def page(out: Path) -> str:
    """The rows as a page."""
    found = rows(out)
    about = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Single methods on CIFAR-10",
        "",
        "Written by `benchmarks/single_methods.py` from `runs.csv`. CIFAR-10 as JPEG (quality 75), a tenth of the training",
        "images, E0 = 10 epochs; every method with the longest fine-tuning on its grid (0.5 E0), LeGR with another 0.4 E0",
        "of search and HOS with another 0.3 E0 of training with auxiliary losses. L1: torch-pruning's magnitude pruning, the",
        "same ratio everywhere; Scratch: that network trained from fresh weights as long. Test accuracy in per cent: mean",
        f"(lowest to highest) over n seeds. Device {found[0]['device']}; {about}.",
        "",
    ]
    return "\n".join([*lines, *tables(found, PAPER, "AutoMC's Table 2"), *READING, ""])


def tables(found: list[dict[str, str]], beside: dict[float, dict[str, Any]], title: str) -> list[str]:
    """A table for each model and size, see `table`."""
    lines: list[str] = []
    for model in dict.fromkeys(r["model"] for r in found):
        for wanted in SIZES:
            chosen = [r for r in found if (r["model"], r["wanted"]) == (model, str(wanted))]
            lines += table(chosen, beside[wanted], title) if chosen else []
    return lines


def table(chosen: list[dict[str, str]], beside: dict[str, Any], title: str) -> list[str]:
    """The rows of one model and size as a table, best first, with a column of what `beside` says of a name."""
    first = chosen[0]
    before = " and ".join(sorted({f"{float(r['test_before']):.2%}" for r in chosen}))
    lines = [
        f"## {first['model']}, {float(first['wanted']):.0%} of the parameters removed (before: {before})",
        "",
        f"| method | n | removed | FLOPs removed | test accuracy | validation | seconds | {title} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups = grouped(chosen, "method")
    for name, group in sorted(groups.items(), key=lambda item: -mean(item[1], "test_after")):
        values = [100 * float(r["test_after"]) for r in group]
        spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
        lines.append(
            f"| {name} | {len(group)} | {mean(group, 'pr'):.1%} | {mean(group, 'fr'):.1%} | "
            f"{statistics.mean(values):.2f}{spread} | {mean(group, 'validation_after'):.2%} | "
            f"{mean(group, 'seconds'):.0f} | {beside.get(name, '')} |"
        )
    return [*lines, ""]


def mean(group: list[dict[str, str]], column: str) -> float:
    """Mean of a column."""
    return statistics.mean(float(r[column]) for r in group)


def read(description: str | None, seeds: int) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", type=Path, action="append", default=[])
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--unit-epochs", type=float, default=10.0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true", help="only write the page from the rows so far")
    return parser.parse_args()


def main() -> None:
    """Fill the table, then write the page."""
    options = read(__doc__, seeds=3)
    if not options.table:
        for kind in (Magnitude, FromScratch):
            methods.register(kind)
        fill(SCHEMES, options)
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
