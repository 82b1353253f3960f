"""What single choices inside the methods are worth: the same step, or scheme, with one thing otherwise.

Rows as those of `benchmarks/single_methods.py`, on the same data and recipe:

    python -m benchmarks.variants --images CIFAR_FOLDER --model resnet20.am --out docs/results/variants
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

from torch import nn

from automc import methods
from automc.errors import MethodError
from automc.methods import StepContext, StepReport, hos, legr, lfb, lma, sfp
from automc.methods.step import Step
from automc.study.study import versions
from benchmarks.resumable import rows
from benchmarks.single_methods import SCHEMES, SIZES, fill, forget, read, tables
from kg.schema import Strategy

NS_LMA = "NS[HP1=0.5,HP2={half},HP6=0.9] -> LMA[HP1=0.5,HP2={half},HP3=8,HP4=3,HP5=0.5]"
VARIANTS = {
    "LMA": (SCHEMES["LMA"], "as it is"),
    "LMA, fresh student": (SCHEMES["LMA"].replace("LMA[", "LMAfresh["), "fresh weights, learning rate 0.1"),
    "LMA, official": (SCHEMES["LMA"].replace("LMA[", "LMAslow["), "fresh weights, learning rate 0.001, as in the AutoMC authors' code"),
    "LFB, official": ("LFBfresh[HP1=0.5,HP2={wanted},HP15=0,HP16=MSE]", "fresh weights, learning rate 0.1, as in the AutoMC authors' code"),
    "LFB, CE": ("LFB[HP1=0.5,HP2={wanted},HP15=1,HP16=CE]", "k×k filters, cross-entropy with the input's softmax, weight 1"),
    "LFB, NLL": ("LFB[HP1=0.5,HP2={wanted},HP15=1,HP16=NLL]", "likelihood of the input's predicted label, weight 1"),
    "LFB, no auxiliary loss": ("LFB[HP1=0.5,HP2={wanted},HP15=0,HP16=MSE]", "cross-entropy with the labels alone"),
    "SFP": (SCHEMES["SFP"], "as it is: half of HP9 after the deletion; masks every HP10 / 200 of E0, HP10 = 1"),
    "SFP, HP10 = 5": ("SFP[HP2={wanted},HP9=0.5,HP10=5]", "masks five times as far apart"),
    "SFP, untempered": ("SFPuntempered[HP2={wanted},HP9=0.5,HP10=1]", "zeroed filters learn as fast as batch norm makes them"),
    "SFP, paper": ("SFPpaper[HP2={wanted},HP9=0.5,HP10=1]", "likewise, and all of HP9 before the deletion, as in the paper"),
    "SFP, paper, HP10 = 5": ("SFPpaper[HP2={wanted},HP9=0.5,HP10=5]", "likewise, masks five times as far apart"),
    "SFP, paper, HP10 = 20": ("SFPpaper[HP2={wanted},HP9=0.5,HP10=20]", "likewise, an epoch between masks"),
    "LeGR, not evolved": (SCHEMES["LeGR"].replace("HP7=0.4", "HP7=0"), "the plain ranking by norms over their layer's mean, no search"),
    "LeGR, plain norms, not evolved": (
        SCHEMES["LeGR"].replace("LeGR[", "LeGRplain[").replace("HP7=0.4", "HP7=0"), "norms as they are, no search"
    ),
    "HOS": (SCHEMES["HOS"], "as it is: a tenth of the learning rate with the reconstruction loss, HP14 = 1"),
    "HOS, HP14 = 5": (SCHEMES["HOS"].replace("HP14=1", "HP14=5"), "five times the weight of the reconstruction loss"),
    "HOS, a third": (SCHEMES["HOS"].replace("HOS[", "HOSthird["), "a third of the learning rate with the reconstruction loss"),
    "HOS, full rate": (SCHEMES["HOS"].replace("HOS[", "HOSfull["), "the recipe's learning rate with the reconstruction loss"),
    "HOS, full rate, no reconstruction": (
        SCHEMES["HOS"].replace("HOS[", "HOSfull[").replace("HP14=1", "HP14=0"), "likewise, with the labels' cross-entropy alone"
    ),
    "NS, LMA": (NS_LMA, "half of it each; LMA's teacher is its input"),
    "NS, LMA of the original": (NS_LMA.replace("LMA[", "LMAoriginal["), "likewise; LMA's teacher is the original model"),
}  # fmt: skip
"""Scheme of each variant, and what it is."""
PAST = {
    "LFB": "version 3: k×k filters alone, as in the paper; MSE, weight 1 (version 5: ../single-methods)",
    "LeGR": "version 3: the best of 46 rankings, each judged after three iterations, that is better than guessing",
    "LeGR, any candidate": "version 3, and those that do no better than guessing may win",
    "LeGR, 11 candidates": "version 3, 11 candidates of 12 iterations each, any of which may win",
    "LeGR, plain norms": "version 3, norms as they are, as in the paper; any candidate may win",
}
"""What earlier versions did (LeGR 3: commit f1f6be5): rows that are kept and run no more."""


READING = (
    "## What follows",
    "",
    "- **LMA's poor rows in the AutoMC paper are its authors' student**, fresh weights at a learning rate of 0.001: 59 and 50 points below ours. With a rate that suits fresh weights",
    "  it is still 41 and 31 points below.",
    "- **LFB from fresh weights** costs 43 and 33 points in a step of this length.",
    "- **LFB's auxiliary loss** hardly matters: MSE is worth nothing beside plain cross-entropy, the input's softmax (CE) half a point to one, in one seed. The definitions stay (all three",
    "  are on the grid, and the search may choose).",
    "- **LMA's teacher**: the original model instead of the step's input gained 0.6 and 1.0 points after an NS step, one seed each. Too little to leave the paper's teacher for; `--teacher` mixes the",
    "  original into every step.",
    "- **SFP**: decision 27. **HOS**: decision 28. **LeGR**: decisions 29 and 63. The validation column decides, the test column reports; both put the variants of each in the same order but for",
    "  differences of less than a point. The rows were run before batch-norm statistics were estimated after training (decision 34), which matters in short steps.",
)
"""What the page says of its tables; checked against the rows when it was written."""


class FreshStep(Step):
    """A step whose network is trained from fresh weights."""

    lr: ClassVar[float] = 0.1

    def train(self, *args: Any, **options: Any) -> Any:
        """Forget, then train."""
        forget(self.model)
        return super().train(*args, **options, lr=self.lr, warmup=self.lengths[0] // 20)


class SlowFreshStep(FreshStep):
    """Likewise, at the learning rate of LMA in the AutoMC authors' code."""

    lr = 1e-3


class LMAFresh(lma.LightMultiSegmentActivation):
    """LMA whose student starts from fresh weights."""

    name = "LMAfresh"
    kind: ClassVar[type[Step]] = FreshStep

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """LMA, but for the weights."""
        with patch.object(lma, "Step", self.kind):
            return super().apply(model, strategy, context)


class LMASlow(LMAFresh):
    """LMA as in the AutoMC authors' code."""

    name = "LMAslow"
    kind = SlowFreshStep


class LMAOriginal(lma.LightMultiSegmentActivation):
    """LMA taught by the study's original model."""

    name = "LMAoriginal"

    def teacher(self, step: Step) -> nn.Module:
        """The model before the first step."""
        if step.context.original is None:
            raise MethodError("The original model is not known here.")
        return copy.deepcopy(step.context.original)


class LFBFresh(lfb.LearningFilterBasis):
    """LFB as in the AutoMC authors' code: what the model has learned is not used."""

    name = "LFBfresh"

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """LFB, but for the weights."""
        with patch.object(lfb, "Step", FreshStep):
            return super().apply(model, strategy, context)


class WholeStep(Step):
    """A step that spends all of its training in the first phase."""

    def __init__(self, model: nn.Module, strategy: Strategy, context: StepContext, lengths: Sequence[int]) -> None:
        super().__init__(model, strategy, context, (sum(lengths), 0))


class SFPUntempered(sfp.SoftFilterPruning):
    """SFP that leaves the gradients of zeroed filters as they are."""

    name = "SFPuntempered"

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """SFP, but for the tempering."""
        with patch.object(sfp.SoftMask, "temper", lambda *_: None):
            return super().apply(model, strategy, context)


class SFPPaper(SFPUntempered):
    """Likewise, and ends with the deletion."""

    name = "SFPpaper"

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """SFP, but for the second half and the tempering."""
        with patch.object(sfp, "Step", WholeStep):
            return super().apply(model, strategy, context)


class LeGRPlain(legr.LearnedGlobalRanking):
    """LeGR that compares the norms of different layers as they are."""

    name = "LeGRplain"

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """LeGR, but for what the norms are relative to."""
        with patch.object(legr, "relative", list):
            return super().apply(model, strategy, context)


class HOSFull(hos.HigherOrderStatistics):
    """HOS that follows the reconstruction loss at the recipe's learning rate."""

    name = "HOSfull"
    rate: ClassVar[float] = 1.0

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """HOS, but for the learning rate."""
        with patch.object(hos, "RATE", self.rate):
            return super().apply(model, strategy, context)


class HOSThird(HOSFull):
    """At a third of it."""

    name = "HOSthird"
    rate = 1 / 3


VARIED = (
    LMAFresh,
    LMASlow,
    LMAOriginal,
    LFBFresh,
    SFPUntempered,
    SFPPaper,
    LeGRPlain,
    HOSFull,
    HOSThird,
)
"""Methods that are registered for the schemes above."""


def page(out: Path) -> str:
    """The rows as a page."""
    found = rows(out)
    about = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Choices inside the methods",
        "",
        "Written by `benchmarks/variants.py` from `runs.csv`. Data, recipe and columns as in `../single-methods`: CIFAR-10",
        "as JPEG, a tenth of the training images, E0 = 10 epochs. Test accuracy in per cent: mean (lowest to highest) over n",
        f"seeds; with n = 1 nothing is claimed of small differences. Device {found[0]['device']}; {about}.",
        "Some rows were run under other names, from which a step's seed follows: another run of them differs by its seed. Seconds",
        "are of a shared machine, and 2106 hold a long pause.",
        "",
    ]
    what = {name: text for name, (_, text) in VARIANTS.items()} | PAST
    return "\n".join([*lines, *tables(found, dict.fromkeys(SIZES, what), "what it is"), *READING, ""])


def main() -> None:
    """Fill the table, then write the page."""
    options = read(__doc__, seeds=1)
    if not options.table:
        for kind in VARIED:
            methods.register(kind)
        fill({name: scheme for name, (scheme, _) in VARIANTS.items()}, options)
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
