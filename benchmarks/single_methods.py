"""Each method alone at 40% and 70% of the parameters, beside plain L1 pruning and the small model from scratch.

LMA and LFB run with the defects of the AutoMC authors' code, too, on the first seed: their networks start from fresh
weights, LMA's at a learning rate of 0.001.

Real CIFAR-10 as an image folder, a tenth of the training images, E0 = 10 epochs. Every run is one row, appended and
flushed; rows that are there are not run again, so it may be stopped and started, and several may share the work:

    python -m benchmarks.single_methods --images CIFAR_FOLDER --model resnet20.am --seeds 3 --out docs/results/single-methods
    python -m benchmarks.single_methods --out docs/results/single-methods --table

The models are .am files tuned on these images (`automc train resnet20 --weights … --epochs 1 --lr 0.01`).
"""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
import torch_pruning
from filelock import FileLock
from torch import nn

from automc import api, methods
from automc.execution.step import execute, model_after
from automc.methods import Method, StepContext, StepReport, lfb, lma
from automc.methods.step import Step
from automc.models.coupling import PRUNERS
from automc.models.measure import count_params
from automc.study.doctor import scratch
from automc.study.study import versions
from automc.study.task import Subject, open_subject, settle_precision
from automc.training.recipe import Recipe
from benchmarks.resumable import append, rows
from kg.schema import Strategy

COLUMNS = (
    "model", "method", "wanted", "seed", "strategy", "pr", "fr", "validation_before", "validation_after",
    "test_before", "test_after", "reached", "reason", "seconds", "device", "cpu", "torch",
)  # fmt: skip
SETTINGS = {
    "LMA": "HP1=0.5,HP2={},HP3=8,HP4=3,HP5=0.5",
    "LeGR": "HP1=0.5,HP2={},HP6=0.9,HP7=0.4,HP8=l2_weight",
    "NS": "HP1=0.5,HP2={},HP6=0.9",
    "SFP": "HP2={},HP9=0.5,HP10=1",
    "HOS": "HP1=0.5,HP2={},HP11=P1,HP12=l1norm,HP13=0.3,HP14=1",
    "LFB": "HP1=0.5,HP2={},HP15=1,HP16=MSE",
    "L1": "HP1=0.5,HP2={}",
    "Scratch": "HP1=0.5,HP2={}",
}
"""The longest fine-tuning on the grid; everything else in its middle. LeGR and HOS also spend HP7 and HP13."""
DEFECTS = {"LMAfresh": "LMA", "LMAslow": "LMA", "LFBfresh": "LFB"}
"""Variants with a defect, and the method each of them is otherwise."""
SETTINGS |= {name: SETTINGS[method] for name, method in DEFECTS.items()}
SETTINGS["LFBfresh"] = SETTINGS["LFB"].replace("HP15=1", "HP15=0")  # there are no trained filters to stay close to
PAPER = {
    # AutoMC, Table 2: ResNet-56 on CIFAR-10, accuracy in per cent at about 40% and 70%.
    0.4: {"LMA": 79.61, "LeGR": 90.69, "NS": 89.19, "SFP": 88.24, "HOS": 90.18, "LFB": 89.99},
    0.7: {"LMA": 75.25, "LeGR": 85.88, "NS": 85.73, "SFP": 86.94, "HOS": 89.28, "LFB": 90.35},
}


class Magnitude(Method):
    """Plain L1 pruning by torch-pruning: the same ratio in every layer, raised until the target is met."""

    name = "L1"

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Prune, recalibrate, fine-tune."""
        step = Step(model, strategy, context, (self.iterations(strategy, context.recipe, context.data.n),))
        self.shrink(step)
        step.recalibrate()
        self.recover(step)
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


class FreshStep(Step):
    """A step whose network is trained from fresh weights."""

    lr: ClassVar[float] = 0.1

    def train(self, *args: Any, **options: Any) -> Any:
        """Forget, then train."""
        forget(self.model)
        return super().train(*args, **options, lr=self.lr, warmup=self.lengths[0] // 20)


class SlowFreshStep(FreshStep):
    """Likewise at LMA's learning rate in the AutoMC authors' code."""

    lr = 1e-3


class LMAFresh(lma.LightMultiSegmentActivation):
    """LMA whose student starts from fresh weights, with a learning rate that suits them."""

    name = "LMAfresh"
    kind: ClassVar[type[Step]] = FreshStep

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """LMA, but for the weights."""
        with patch.object(lma, "Step", self.kind):
            return super().apply(model, strategy, context)


class LMASlow(LMAFresh):
    """LMA as in the AutoMC authors' code: fresh weights, learning rate 0.001."""

    name = "LMAslow"
    kind = SlowFreshStep


class LFBFresh(lfb.LearningFilterBasis):
    """LFB as in the AutoMC authors' code: what the model has learned is not used."""

    name = "LFBfresh"

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """LFB, but for the weights."""
        with patch.object(lfb, "Step", FreshStep):
            return super().apply(model, strategy, context)


@functools.cache
def opened(
    model: Path, images: Path, device: str, precision: str, unit_epochs: float
) -> tuple[Subject, Recipe, float | None]:
    """A model with its data, the recipe of its steps, and its test accuracy: once for all its rows."""
    recipe = Recipe(fraction=0.1, unit_epochs=unit_epochs)
    subject = open_subject(str(model), api.reference(str(images)), fraction=recipe.fraction, device=device)
    return subject, settle_precision(recipe, precision, subject), subject.test_accuracy()


def run(model: Path, name: str, wanted: float, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run one strategy on one model; return its row."""
    strategy = f"{name}[{SETTINGS[name].format(wanted)}]"
    subject, recipe, test_before = opened(model, options.images, options.device, options.precision, options.unit_epochs)
    scheme = api.read_scheme(strategy)
    with scratch(subject, recipe, seed) as setup:
        bench = setup.open()
        done = execute(bench, scheme)
        if done.status != "ok" or done.params is None or done.flops is None:
            raise SystemExit(f"{strategy} on {model}: {done.status}, {done.reason}")
        test = subject.test_accuracy(model_after(bench, scheme))
    return {
        "model": model.stem, "method": name, "wanted": wanted, "seed": seed, "strategy": strategy,
        "pr": 1 - done.params / subject.params, "fr": 1 - done.flops / subject.flops,
        "validation_before": subject.accuracy, "validation_after": done.accuracy,
        "test_before": test_before, "test_after": test, "reached": done.reached, "reason": done.reason,
        "seconds": done.seconds, "device": options.device, "cpu": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }  # fmt: skip


def fill(options: argparse.Namespace) -> None:
    """Run what is missing, model by model and seed by seed, so that a stopped table is evenly filled."""
    options.out.mkdir(parents=True, exist_ok=True)
    for kind in (Magnitude, FromScratch, LMAFresh, LMASlow, LFBFresh):
        methods.register(kind)
    plan = [
        (model, seed, wanted, name)
        for model in options.model
        for seed in range(options.seeds)
        for wanted in (0.4, 0.7)
        for name in SETTINGS
        if name in methods.registered() and (seed == 0 or name not in DEFECTS)
    ]
    for model, seed, wanted, name in plan:
        key = (model.stem, name, str(wanted), str(seed))
        claim = FileLock(options.out / f".{'-'.join(key)}.lock", blocking=False)
        try:
            claim.acquire()
        except TimeoutError:
            continue  # another process is at it
        with claim:
            if key not in {(r["model"], r["method"], r["wanted"], r["seed"]) for r in rows(options.out)}:
                print(*key, flush=True)
                append(options.out, COLUMNS, run(model, name, wanted, seed, options))
            Path(claim.lock_file).unlink(missing_ok=True)


def table(out: Path) -> str:
    """The rows as a page."""
    found = rows(out)
    about = ", ".join(f"{name} {version}" for name, version in versions().items())
    device = found[0]["device"]
    lines = [
        "# Single methods on CIFAR-10",
        "",
        "Written by `benchmarks/single_methods.py` from `runs.csv`. CIFAR-10 as JPEG (quality 75), a tenth of the training",
        "images, E0 = 10 epochs; every method with the longest fine-tuning on its grid (0.5 E0), LeGR with another 0.4 E0",
        "of search and HOS with another 0.3 E0 of training with auxiliary losses. L1: torch-pruning's magnitude pruning, the",
        "same ratio everywhere; Scratch: that network trained from fresh weights as long. LMAfresh, LFBfresh: the method's",
        "network trained from fresh weights at a learning rate of 0.1; LMAslow: at 0.001. Test accuracy in per cent: mean",
        f"(lowest to highest) over n seeds. Device {device}; {about}.",
        "",
    ]
    for model in dict.fromkeys(r["model"] for r in found):
        for wanted in ("0.4", "0.7"):
            chosen = [r for r in found if (r["model"], r["wanted"]) == (model, wanted)]
            if not chosen:
                continue
            base = float(chosen[0]["test_before"])
            lines += [
                f"## {model}, {float(wanted):.0%} of the parameters removed (before: {base:.2%})",
                "",
                "| method | n | removed | FLOPs removed | test accuracy | validation | seconds | AutoMC's Table 2 |",
                "|---|---|---|---|---|---|---|---|",
            ]
            by_method = {name: [r for r in chosen if r["method"] == name] for name in SETTINGS}
            order = sorted((n for n in by_method if by_method[n]), key=lambda n: -mean(by_method[n], "test_after"))
            for name in order:
                group = by_method[name]
                values = [100 * float(r["test_after"]) for r in group]
                spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
                lines.append(
                    f"| {name} | {len(group)} | {mean(group, 'pr'):.1%} | {mean(group, 'fr'):.1%} | "
                    f"{statistics.mean(values):.2f}{spread} | {mean(group, 'validation_after'):.2%} | "
                    f"{mean(group, 'seconds'):.0f} | {PAPER[float(wanted)].get(name, '')} |"
                )
            lines.append("")
    return "\n".join(lines)


def mean(group: list[dict[str, str]], column: str) -> float:
    """Mean of a column."""
    return statistics.mean(float(r[column]) for r in group)


def main() -> None:
    """Fill the table, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", type=Path, action="append", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--unit-epochs", type=float, default=10.0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true", help="only write the page from the rows so far")
    options = parser.parse_args()
    if not options.table:
        fill(options)
    (options.out / "README.md").write_text(table(options.out))


if __name__ == "__main__":
    main()
