"""Calibrating the prediction of latencies on a model, and checking it on compressed ones that it has not seen."""

from __future__ import annotations

import shlex
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from automc import bounds, knowledge, methods
from automc.bounds import Size, sides
from automc.datasets.base import TrainData
from automc.datasets.ref import DataRef
from automc.errors import ModelError, StudyError
from automc.home import home
from automc.latency import calibration as stored
from automc.latency.calibration import Calibration
from automc.latency.kernels import Kernel, torch_kernels
from automc.latency.networks import Timed, kernels_of, timed
from automc.latency.predictor import Predictor
from automc.latency.sampling import drawn
from automc.latency.timing import seconds
from automc.methods.base import StepContext
from automc.models import load as models
from automc.models.export import onnx_tools
from automc.models.measure import count_params
from automc.models.pace import NAMES, Runtime
from automc.study.measured import channels_of
from automc.study.task import open_subject
from automc.training.precision import device_key
from automc.training.recipe import Recipe
from kg.cards import enumerate_strategies
from kg.schema import Strategy, Value

NETWORKS = 20
"""Whole networks that a calibration measures."""
CHECKED = 60
"""Networks that a check measures, if not said otherwise."""
WITHIN = 0.10
"""A prediction is good when it is this near to what was measured."""
_IMAGES = 16
_MOST_REMOVED = 0.65
_EPISODES = 4.0
_CALIBRATED, _HELD_OUT = 1, 1_000_003
"""Seeds of the networks that are fitted, and of those that are checked."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model on the CPU and what it is timed on."""

    name: str
    model: nn.Module
    images: Tensor
    """(batch, c, h, w), laid out as the model reads them."""
    classes: int

    @classmethod
    def open(
        cls, model: str, weights: Path | None, size: Size | None, batch: int, data: DataRef | None = None
    ) -> Subject:
        """Load a model and find images that it runs on.

        Args:
            data: for which a study builds the model; `size` is theirs then.

        Raises:
            ModelError: it cannot be loaded, or does not tell the size of its images.
            DataError: the data cannot be read or do not fit the model.
        """
        if data is not None:
            opened = open_subject(
                model, data if size is None else replace(data, size=size), weights=weights, device="cpu"
            )
            prepared, example = opened.model, opened.example
        else:
            loaded = models.load(model, weights=weights)
            shape = sides(size) if size is not None else models.default_shape(model)
            example = models.example_for(loaded.model, *shape, channels_of(loaded))
            prepared = models.prepare(loaded.model, example)
        form = models.layout(prepared, example)
        prepared = prepared.eval().to(memory_format=form)
        images = example[:1].expand(batch, -1, -1, -1).contiguous().to(memory_format=form)
        return cls(model, prepared, images, models.output_classes(prepared, example))


@dataclass(frozen=True, slots=True)
class Checked:
    """One compressed network: what was predicted of it and what was measured, in milliseconds."""

    scheme: str
    removed: float
    predicted_ms: float
    measured_ms: float
    settled: bool
    """False: other work went on, so that the measurement did not settle."""

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True, slots=True)
class Check:
    """How good predictions are on networks that the calibration has not seen."""

    runtime: Runtime
    networks: tuple[Checked, ...]
    base_ms: float
    base_predicted_ms: float
    guessed: tuple[str, ...] = ()
    """Kinds of kernels that were not measured."""

    @property
    def within(self) -> float:
        """Share of the networks whose prediction is within WITHIN."""
        return statistics.fmean(abs(one.error) <= WITHIN for one in self.networks)

    @property
    def median_error(self) -> float:
        """Median of the relative errors, whatever their sign."""
        return statistics.median(abs(one.error) for one in self.networks)

    @property
    def rank(self) -> float:
        """Spearman's correlation of predicted with measured times."""
        from scipy.stats import spearmanr

        found = spearmanr([o.predicted_ms for o in self.networks], [o.measured_ms for o in self.networks])
        return float(found.statistic)


def place(runtime: Runtime, batch: int) -> dict[str, Any]:
    """Return what times hang on here.

    Raises:
        EnvironmentFault: the runtime's packages are missing.
    """
    version = {} if runtime == "torch" else {"onnxruntime": onnx_tools(None).__version__}
    device = device_key(torch.device("cpu"))
    return {"device": device, "runtime": runtime, "threads": torch.get_num_threads(), "batch": batch, **version}


def folder() -> Path:
    """Where calibrations lie."""
    return home() / "latency"


def calibration_command(model: str, data: str | None, size: Size | None, runtime: str) -> str:
    """Return the command that calibrates a model as a study of these data builds it."""
    words = ["automc", "latency", "calibrate", model]
    if data is not None and not model.endswith(".am"):
        words += ["--data", data]
    if size is not None and "--data" in words:
        words += ["--size", "x".join(map(str, sides(size)))]
    return shlex.join(words + (["--runtime", runtime] if runtime != "torch" else []))


def calibrate(
    model: str, *, weights: Path | None = None, runtime: Runtime = "torch", size: Size | None = None, batch: int = 1,
    networks: int = NETWORKS, share: float = 1.0, seed: int = 0, data: DataRef | None = None,
    say: Say = lambda text: None,
) -> Calibration:  # fmt: skip
    """Measure kernels in a model's shapes and whole networks made from it, and keep them in the home.

    Args:
        data: for which a study builds the model, where it is no file that tells its images.
        networks: compressed networks on which sums of kernels are corrected.
        share: of the usual number of kernels of PyTorch, for a quick look.
        say: hears what goes on.

    Raises:
        AutoMCError: a number is out of its range.
        ModelError: the model cannot be loaded, or does not run in the runtime.
    """
    _bounded(batch, networks, seed)
    here = place(runtime, batch)
    subject = Subject.open(model, weights, size, batch, data)
    made = list(compressed(subject, networks, _CALIBRATED + seed))
    found = calibrated(subject, [one for _, one in made], here, share, say)
    file = found.save(folder())
    say(f"Kept in {file}: {len(found.kernels)} kernels, {len(found.networks)} networks.")
    return found


def calibrated(
    subject: Subject, made: Sequence[nn.Module], here: dict[str, Any], share: float = 1.0, say: Say = lambda text: None
) -> Calibration:
    """Measure kernels and the networks `made` from a model.

    In PyTorch kernels are drawn and timed alone; in onnxruntime they are the nodes of the networks, in their places.
    """
    runtime: Runtime = here["runtime"]
    samples = _alone(subject, made, share, say) if runtime == "torch" else []
    say(f"Measuring {len(made)} networks in {NAMES[runtime]}.")
    whole = [one for one in timed(subject.model, [subject.model, *made], subject.images, runtime) if one is not None]
    if runtime == "onnx":
        samples = _in_place(whole)
    if not samples:
        raise ModelError(f"No kernel of {subject.name} can be timed in {NAMES[runtime]}.")
    kernels, times = [kernel for kernel, _ in samples], [time for _, time in samples]
    predictor = Predictor(kernels, times)
    # Each network beside the model: what the machine did meanwhile disturbed both.
    usual = statistics.median(one.base_ms for one in whole)
    rows = [
        (float(predictor.kernel_ms(one.kernels).sum()), len(one.kernels), one.ms * usual / one.base_ms) for one in whole
    ]
    identity = stored.identity(torch_kernels(subject.model, subject.images))
    return Calibration(
        subject.name, identity, here, kernels, times, rows, usual, sum(not one.settled for one in whole),
    )  # fmt: skip


def _alone(subject: Subject, made: Sequence[nn.Module], share: float, say: Say) -> list[tuple[Kernel, float]]:
    """Draw kernels of PyTorch and return the seconds of each alone."""
    of_networks = [torch_kernels(one, subject.images) for one in made]
    wanted = drawn(torch_kernels(subject.model, subject.images), [k for ks in of_networks for k in ks], share=share)
    say(f"Measuring {len(wanted)} kernels in {NAMES['torch']}.")
    times = {int(i): seconds(wanted[i]) for i in np.random.default_rng(0).permutation(len(wanted))}
    return [(wanted[i], time) for i in sorted(times) if (time := times[i])]


def _in_place(networks: Sequence[Timed]) -> list[tuple[Kernel, float]]:
    """Return the seconds of each kernel in its places in networks: the median."""
    found: dict[Kernel, list[float]] = {}
    for one in networks:
        for kernel, time in zip(one.kernels, one.seconds, strict=True):
            found.setdefault(kernel, []).append(time)
    return [(kernel, statistics.median(times)) for kernel, times in found.items()]


def check(
    model: str, *, weights: Path | None = None, runtime: Runtime = "torch", size: Size | None = None, batch: int = 1,
    networks: int = CHECKED, seed: int = 0, data: DataRef | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Check:  # fmt: skip
    """Predict and measure compressed networks that the calibration has not seen; arguments as for `calibrate`.

    Raises:
        AutoMCError: a number is out of its range.
        StudyError: nothing was calibrated for this model and runtime.
        ModelError: the calibration is of another place; see `calibration.load`.
    """
    _bounded(batch, networks, seed)
    subject = Subject.open(model, weights, size, batch, data)
    here = place(runtime, batch)
    known = stored.load(folder(), stored.identity(torch_kernels(subject.model, subject.images)), here)
    if known is None:
        raise StudyError(
            f"There is no latency calibration of {model} in {NAMES[runtime]} at batch {batch}. Make one: "
            f"{calibration_command(model, None if data is None else data.spec, size, runtime)}"
        )
    made = list(compressed(subject, networks, _HELD_OUT + seed))
    return checked(subject, known, made, progress)


def _bounded(batch: int, networks: int, seed: int) -> None:
    bounds.check("--batch", batch)
    bounds.check("--networks", networks)
    bounds.check("--seed", seed)


def checked(
    subject: Subject, known: Calibration, made: Sequence[tuple[str, nn.Module]],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Check:  # fmt: skip
    """Compare predictions with measurements on networks, by scheme."""
    runtime: Runtime = known.place["runtime"]
    predictor, params = known.predictor(), count_params(subject.model)
    own = kernels_of(subject.model, subject.images, runtime)
    found: list[Checked] = []
    guessed: set[str] = set()
    bases: list[float] = []
    times = timed(subject.model, [one for _, one in made], subject.images, runtime)
    for done, ((scheme, one), time) in enumerate(zip(made, times, strict=True), 1):
        progress(done, len(made))
        if time is None:
            continue
        guessed |= set(predictor.unknown(time.kernels))
        # Predicted for the machine as it was when it was calibrated; measured beside the model.
        drift = (known.base_ms or time.base_ms) / time.base_ms
        removed = 1 - count_params(one) / params
        found.append(Checked(scheme, removed, predictor.ms(time.kernels), time.ms * drift, time.settled))
        bases.append(time.base_ms)
    if not found:
        raise ModelError(f"No compressed network of {subject.name} runs in {NAMES[runtime]}.")
    return Check(runtime, tuple(found), statistics.median(bases), predictor.ms(own), tuple(sorted(guessed)))


def compressed(subject: Subject, number: int, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield compressed networks, untrained, with their schemes: every method that works, one or two steps.

    Each removes an arbitrary share, so that channel counts are as odd as in a search.
    """
    random = np.random.default_rng(seed)
    grids = [list(enumerate_strategies(card)) for card in knowledge.methods() if card.id in methods.registered()]
    grids = [grid for grid in grids if grid]
    made = tried = 0
    while made < number and tried < 4 * number + 8:
        steps = [_drawn(grids[tried % len(grids)], random)]
        if random.random() < 0.4:
            steps.append(_drawn(grids[int(random.integers(len(grids)))], random))
        tried += 1
        one = subject.model
        try:
            for step in steps:
                one = dry(one, step, subject, seed + tried)
        except Exception:  # a method that fails on noise makes no network; there are others
            continue
        made += 1
        yield " → ".join(step.id for step in steps), one


def dry(model: nn.Module, step: Strategy, subject: Subject, seed: int = 0) -> nn.Module:
    """Return what a step leaves of a model, as to its structure: each phase of training is one iteration on noise.

    Raises:
        Infeasible: the method cannot do this to this model.
    """
    generator = torch.Generator().manual_seed(seed)
    _, channels, height, width = subject.images.shape
    noise = torch.randint(0, 256, (_IMAGES, channels, height, width), generator=generator, dtype=torch.uint8)
    data = TrainData(
        noise, torch.arange(_IMAGES) % subject.classes, mean=(0.5,) * channels, std=(0.25,) * channels
    )  # fmt: skip
    context = StepContext(
        data=data, recipe=Recipe(batch=_IMAGES // 2, unit_epochs=1, recalibration_images=_IMAGES // 2),
        original_params=count_params(subject.model), seed=seed, device=torch.device("cpu"), original=subject.model,
        max_iterations=1,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return methods.get(step.method).apply(model, step, context)[0]


def _drawn(grid: Sequence[Strategy], random: np.random.Generator) -> Strategy:
    """Draw a strategy of a method's grid, with any removal."""
    chosen = grid[int(random.integers(len(grid)))]
    return briefly(chosen, round(float(random.uniform(0.05, _MOST_REMOVED)), 4))


def briefly(strategy: Strategy, share: float) -> Strategy:
    """Return a strategy that removes another share, with hardly any episodes (HP17) where it searches."""
    changed: dict[str, Value] = {"HP2": share, "HP17": _EPISODES}
    return Strategy(strategy.method, tuple((name, changed.get(name, value)) for name, value in strategy.settings))
