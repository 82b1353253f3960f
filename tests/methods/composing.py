"""Run schemes of steps on many networks, each step with almost no training, and check what every step promises."""

from __future__ import annotations

import random
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch
from torch import nn

from automc import methods
from automc.datasets.base import TrainData
from automc.errors import Infeasible
from automc.methods import StepContext, StepReport
from automc.models import structure
from automc.models.load import LoadedModel, load, prepare
from automc.models.modes import evaluating
from automc.surgery.quantised import QUANTISED
from automc.training.loop import Diverged
from automc.training.recipe import Recipe
from kg.cards import enumerate_strategies, read_cards
from kg.schema import Scheme, Strategy

HERE = Path(__file__).parents[1] / "models"
MODELS = {
    "resnet20": ("resnet20", 32),
    "resnet20-b": ("resnet20-b", 32),
    "vgg16": ("vgg16", 32),
    "preact": (f"{HERE / 'user_nets.py'}:preact", 32),
    "torchvision-resnet18": ("torchvision:resnet18", 64),
    "torchvision-mobilenet_v2": ("torchvision:mobilenet_v2", 64),
    "user-concat": (f"{HERE / 'user_nets.py'}:concat", 32),
    "user-grouped": (f"{HERE / 'user_nets.py'}:grouped", 32),
    "user-two-hidden": (f"{HERE / 'user_nets.py'}:two_hidden", 32),
    "user-transformer": (f"{HERE / 'user_nets.py'}:transformer", 32),
}
"""Name → model as `load` takes it, and the side of its images in pixels."""
TINY = {"resnet8": ("resnet8", 16), "tiny-vgg": (f"{HERE / 'group_nets.py'}:Vgg", 16)}

CARDS = {card.id: card for card in read_cards()}
NAMES = [name for name in methods.registered() if name in CARDS]
SHRINKING = [name for name in NAMES if methods.get(name).size == "HP2"]
QUANTISERS = [name for name in NAMES if name not in SHRINKING]
FACTORING = ("HOS", "LFB", "TRP", "PCO", "MDP")
"""Methods that put other layers in the place of a model's."""
CLASSES = 10
IMAGES = 16
LARGEST = 0.85
"""Sum of HP2 that a search admits."""


@dataclass
class Composed:
    """What became of a scheme. `target` and `slack` are the last executed step's; `broken` are promises not kept."""

    status: str = "ok"
    reached: bool = True
    reason: str = ""
    params_before: int = 0
    params_after: int = 0
    target: int | None = None
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)

    @property
    def slack(self) -> int | None:
        """Parameters below the target."""
        return None if self.target is None else self.target - self.params_after


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def first_strategy(name: str, hp2: float) -> Strategy:
    """The first strategy on a method's grid, with this HP2."""
    first = next(iter(enumerate_strategies(CARDS[name])))
    return Strategy(name, tuple((hp, hp2 if hp == "HP2" else value) for hp, value in first.settings))


def pairs(hp2: float = 0.2) -> list[Scheme]:
    """Every ordered pair of methods."""
    return [Scheme((first_strategy(a, hp2), first_strategy(b, hp2))) for a, b in product(NAMES, repeat=2)]


def refused(scheme: Scheme) -> bool:
    """Whether a step would take quantised layers off their levels: factoring after a quantiser, or a second one."""
    found = [n for n, step in enumerate(scheme.steps) if step.method in QUANTISERS]
    return bool(found) and any(step.method in (*FACTORING, *QUANTISERS) for step in scheme.steps[found[0] + 1 :])


def random_schemes(number: int, seed: int, length: int = 5) -> list[Scheme]:
    """Schemes drawn from the paper's grid that a search would admit: each step's method, then one of its strategies."""
    draw = random.Random(seed)
    names = [name for name in NAMES if CARDS[name].label]
    grid = {name: list(enumerate_strategies(CARDS[name])) for name in names}
    found: list[Scheme] = []
    while len(found) < number:
        scheme = Scheme(tuple(draw.choice(grid[draw.choice(names)]) for _ in range(length)))
        if sum(step.number("HP2") for step in scheme.steps) <= LARGEST and scheme not in found:
            found.append(scheme)
    return found


def labelled_noise(size: int, seed: int = 0) -> TrainData:
    """Random colour images whose brightness depends on their label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (IMAGES,), generator=generator)
    noise = torch.randint(0, 60, (IMAGES, 3, size, size), generator=generator)
    pixels = (noise + 19 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    return TrainData(pixels, labels, mean=[0.5] * 3, std=[0.25] * 3)


def context(params: int, data: TrainData, seed: int = 0, original: nn.Module | None = None) -> StepContext:
    """One iteration for every phase of a step, short ones: networks with random weights soon diverge."""
    recipe = Recipe(unit_epochs=1.0, batch=IMAGES // 2, lr=1e-4, recalibration_images=IMAGES)
    return StepContext(
        data=data, recipe=recipe, original_params=params, seed=seed, device=torch.device("cpu"), max_iterations=1,
        original=original,
    )  # fmt: skip


class Bench:
    """One model, on which schemes are run; the first steps of schemes are kept and used again."""

    def __init__(self, name: str, seed: int = 0) -> None:
        spec, size = (MODELS | TINY)[name]
        torch.manual_seed(seed)
        self.loaded: LoadedModel = load(spec, classes=CLASSES)
        self.data = labelled_noise(size, seed)
        self.example = torch.zeros(self.data.example_shape)
        self.model = prepare(self.loaded.model, self.example)
        self.params = count(self.model)
        self._seed = seed
        self._first: dict[str, tuple[nn.Module, StepReport]] = {}

    def run(self, scheme: Scheme) -> Composed:
        """Run a scheme to its end, or to the step that a method refuses."""
        done = Composed(params_before=self.params, params_after=self.params)
        started = time.perf_counter()
        model, reasons = self.model, []
        for number, strategy in enumerate(scheme.steps, 1):
            try:
                smaller, report = self._step(model, strategy, first=number == 1)
            except (Infeasible, Diverged) as error:
                done.status = "infeasible" if isinstance(error, Infeasible) else "diverged"
                done.reached = False
                reasons.append(f"step {number}, {strategy.method}: {error}")
                done.broken += unclear(str(error))
                break
            done.broken += [f"step {number}, {b}" for b in self._broken(model, smaller, strategy, report)]
            done.reached &= report.reached
            done.target, done.params_after = report.target, count(smaller)
            if report.reason:
                reasons.append(f"step {number}, {strategy.method}: {report.reason}")
            model = smaller
        done.reason = "; ".join(reasons)
        if model is not self.model:
            done.broken += self._lost_in_a_file(model)
        done.seconds = time.perf_counter() - started
        return done

    def product(self, scheme: Scheme) -> nn.Module:
        """The model that a scheme leaves."""
        model = self.model
        for number, strategy in enumerate(scheme.steps, 1):
            model = self._step(model, strategy, first=number == 1)[0]
        return model

    def _step(self, model: nn.Module, strategy: Strategy, first: bool) -> tuple[nn.Module, StepReport]:
        if first and strategy.id in self._first:
            return self._first[strategy.id]
        step = context(self.params, self.data, self._seed, self.model)
        done = methods.get(strategy.method).apply(model, strategy, step)
        if first:
            self._first[strategy.id] = done
        return done

    def _broken(self, model: nn.Module, smaller: nn.Module, strategy: Strategy, report: StepReport) -> Iterator[str]:
        before, after = count(model), count(smaller)
        target = max(before - round(strategy.removal * self.params), -(-15 * self.params // 100))
        if strategy.method in QUANTISERS:
            target = before
        if report.target != target:
            yield f"the target is {report.target} instead of {target}"
        if (report.params_in, report.params_out) != (before, after):
            yield f"the report says {report.params_in} to {report.params_out}, there are {before} to {after}"
        yield from broken_size(before, after, target, report)
        layers = [m for m in smaller.modules() if isinstance(m, QUANTISED)]
        if not all(torch.equal(m.levels.nearest(m.weight), m.weight) for m in layers):
            yield "a quantised layer is off its levels"
        if any(p.numel() == 0 for p in smaller.parameters()):
            yield "a layer is empty"
        with evaluating(smaller), torch.no_grad():
            logits = smaller(self.example.expand(2, -1, -1, -1))
        if logits.shape != (2, CLASSES):
            yield f"the logits have shape {tuple(logits.shape)}"
        if not logits.isfinite().all():
            yield "the logits are not finite"

    def _lost_in_a_file(self, model: nn.Module) -> Iterator[str]:
        images = torch.randn(2, *self.example.shape[1:], generator=torch.Generator().manual_seed(self._seed))
        with tempfile.TemporaryDirectory() as folder:
            structure.save(Path(folder) / "x.am", model, self.loaded.source, metadata={})
            back = structure.read(Path(folder) / "x.am").model
        with evaluating(model), evaluating(back), torch.no_grad():
            if not torch.equal(model(images), back(images)):
                yield "the saved model gives other logits"


def broken_size(before: int, after: int, target: int, report: StepReport) -> Iterator[str]:
    """What a step promises of its size: the target with less slack than one unit, or a reason why not."""
    if report.reached:
        if after > target:
            yield f"{after} parameters are more than the target of {target}"
        if after < target and target - after >= report.details["unit"]:
            yield f"{target - after} parameters of slack are no less than the cheapest unit, {report.details['unit']}"
        return
    if after > before:
        yield f"the model grew from {before} to {after}"
    yield from unclear(report.reason)


def unclear(reason: str) -> Iterator[str]:
    """A reason is for a person: words, not what Python prints of objects or where it stood."""
    if len(reason.split()) < 5 or re.search(r"Traceback|0x[0-9a-f]{6}|<[\w.]+ object|<class|\bNoneType\b", reason):
        yield f"nobody understands {reason!r}"
