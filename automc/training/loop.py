"""The one training loop: SGD on resident images, with hooks for regularised, distilled and masked training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, islice, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automc.datasets.base import Dataset, TrainData, Views
from automc.datasets.splits import split
from automc.errors import AutoMCError
from automc.models.forms import settled
from automc.models.keeping import held
from automc.models.outputs import logits
from automc.surgery.quantised import settle
from automc.training.descent import Descent
from automc.training.gradients import Loss as Loss
from automc.training.gradients import passes
from automc.training.own import OwnCode, own_loss
from automc.training.recipe import Precision, Recipe
from automc.training.seeds import seeded
from automc.training.state import FitState
from automc.training.strided import sliced

GradientHook = Callable[[int, float, nn.Module], None]
"""(step, learning rate of this step, model), after backward and before the update."""
UpdateHook = Callable[[int], None]
"""(step), after the update."""

CHECK_EVERY = 50
"""Iterations between looks at the loss: each look waits for the device."""


class Diverged(AutoMCError):
    """The loss or the weights are no longer finite numbers."""


@dataclass(frozen=True, slots=True)
class FitReport:
    """What training did. `loss` is the mean training loss over the last (at most 50) iterations."""

    loss: float
    iterations: int
    seconds: float
    no_graph: str = ""
    """Why its passes were not replayed as a CUDA graph, where they should have been."""


def fit(
    model: nn.Module, data: TrainData, *, iterations: int, recipe: Recipe, seed: int,
    lr: float | None = None, loss: Loss | None = None, gradient_hook: GradientHook | None = None,
    after_update: UpdateHook | None = None, warmup: int = 0, progress: Callable[[int, int], None] | None = None,
    still: Sequence[str] = (), part: tuple[float, float] = (0.0, 1.0), floor: float = 0.0,
    cycles: int = 1, state: FitState | None = None,
) -> FitReport:  # fmt: skip
    """Train `model` in place for `iterations` updates of SGD with Nesterov momentum.

    The learning rate follows half a cosine from `lr` (default the recipe's) to 0, see `learning_rate`. Images
    come in random order, epoch after epoch without a break in between; the last, partial batch of an epoch is
    dropped when n ≥ 2·batch, and when it holds a single image (batch norm has no variance there). Order,
    augmentation and dropout follow from `seed` alone. Training is in the recipe's precision (bfloat16: autocast
    over float32 weights). The model's training flag is left as it was; parameters that do not require
    gradients are not changed. Quantised layers lie on their levels at the end.

    Args:
        model: on the data's device.
        data: what to train on, with its normalisation and augmentation.
        iterations: updates, at least 1.
        recipe: batch, momentum, weight decay, precision.
        seed: of everything random.
        lr: peak learning rate.
        loss: default the recipe's, which is cross-entropy of the model's output unless the user has another.
        gradient_hook: may add to gradients (sparsity terms).
        after_update: may write weights (masks).
        warmup: iterations of linear rise before the cosine.
        progress: called with (iterations done, iterations).
        still: patterns of layers and names of parameters that are not trained, see `models.keeping`.
        part: of the cosine, in [0, 1], that this call is; momentum begins anew with each.
        floor: where the cosine ends, as a share of `lr`.
        cycles: how often the learning rate falls, over nearly equal shares of the iterations; momentum stays.
        state: where this training stands; it goes on from there, with the seed it began with, and is written at the
            end. So a training in pieces of whole cycles is the same as in one go: bit by bit on a CPU.

    Raises:
        Diverged: the loss or the weights became infinite or NaN.
    """
    started = time.perf_counter()
    peak = recipe.lr if lr is None else lr
    objective = objective_of(recipe) if loss is None else loss
    was_training = model.training
    device = data.device
    model.to(memory_format=data.layout)
    model.train()
    losses = _Losses(iterations, peak, device)
    parts = split_evenly(iterations, cycles)
    rates = [learning_rate(i, n, peak, warmup, part, floor) for n in parts for i in range(n)]
    turns = set(accumulate(parts[:-1]))
    state = state or FitState()
    seed = state.seed = seed if state.seed is None else state.seed
    try:
        with seeded(seed, device), held(model, still), sliced(model), fixed_shapes(device):
            trained = [p for p in model.parameters() if p.requires_grad]
            descent = Descent(trained, recipe.momentum, recipe.weight_decay)
            run = passes(model, objective, trained, recipe.precision, device, iterations, recipe.loss is None)
            state.restore(model, descent.momenta, device)
            stream = batches(data, recipe.batch_size(data.n), torch.Generator().manual_seed(seed))
            for step, (indices, views) in enumerate(islice(stream, state.done, state.done + iterations)):
                rate = rates[step]
                value = run(data.views(indices, views), data.y[indices])
                if gradient_hook is not None:
                    gradient_hook(step, rate, model)
                descent.step(rate)
                if after_update is not None:
                    after_update(step)
                losses.add(step, value)
                if step + 1 in turns:
                    settle(model)
                if progress is not None:
                    progress(step + 1, iterations)
            run.end()
            state.keep(model, descent.momenta, device, iterations)
    finally:
        model.train(was_training)
    settled(model)
    if not all_finite(model):
        raise Diverged(_diverged(iterations, iterations, peak))
    settle(model)
    return FitReport(losses.mean, iterations, time.perf_counter() - started, run.reason)


@contextmanager
def fixed_shapes(device: torch.device) -> Iterator[None]:
    """Let cuDNN try its algorithms once for each shape inside the block: batches of training are all of one shape.

    Not where results must repeat: it may choose another one each time.
    """
    before = torch.backends.cudnn.benchmark
    free = not torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = free and (before or device.type == "cuda")
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class _Losses:
    """The mean loss between two looks at it, each of which waits for the device."""

    def __init__(self, iterations: int, peak: float, device: torch.device) -> None:
        self.iterations, self.peak = iterations, peak
        self.sum = torch.zeros((), device=device)
        self.since, self.mean = 0, math.nan

    def add(self, step: int, value: Tensor) -> None:
        """Take the loss of update `step`; at a look, refuse a mean that is not finite."""
        self.sum += value
        self.since += 1
        if self.since == CHECK_EVERY or step == self.iterations - 1:
            self.mean = float(self.sum) / self.since
            if not math.isfinite(self.mean):
                raise Diverged(_diverged(step + 1, self.iterations, self.peak))
            self.sum.zero_()
            self.since = 0


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of the model's logits, in float32."""
    return F.cross_entropy(logits(model, x).float(), y)


def objective_of(recipe: Recipe) -> Loss:
    """Return what a recipe trains by: cross-entropy, or the user's own loss."""
    return cross_entropy if recipe.loss is None else own_loss(recipe.loss)


def learning_rate(
    step: int, iterations: int, peak: float, warmup: int = 0, part: tuple[float, float] = (0.0, 1.0), floor: float = 0.0
) -> float:
    """Learning rate of update `step` (from 0): linear to `peak` over `warmup`, then from there to `floor` · `peak`.

    It falls by half a cosine, (1 + cos πt)/2. t runs from the begin of `part`, 0, at the first update after the warm-up
    towards its end, 1, which none reaches.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    length, (begin, end) = max(1, iterations - warmup), part
    fall = (1 + math.cos(math.pi * (begin * length + (end - begin) * (step - warmup)) / length)) / 2
    return peak * (floor + (1 - floor) * fall)


def split_evenly(iterations: int, parts: int) -> list[int]:
    """Return nearly equal lengths of so many parts, each at least 1 as far as the iterations go."""
    bounds = [round(iterations * part / parts) for part in range(parts + 1)]
    return [b - a for a, b in pairwise(bounds) if b > a]


def batches(data: TrainData, batch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Views]]:
    """Endless (indices, views) of batches; each epoch's order and views are drawn in one go."""
    sizes = batch_sizes(data.n, batch)
    while True:
        order = torch.randperm(data.n, generator=generator).to(data.device)
        views = data.draw(data.n, generator)
        start = 0
        for size in sizes:
            yield order[start : start + size], views.part(start, start + size)
            start += size


def batch_sizes(n: int, batch: int) -> list[int]:
    """Sizes of an epoch's batches; a last one that is not full is dropped when n ≥ 2·batch or it is a single image."""
    full, rest = divmod(n, batch)
    sizes = [batch] * full
    if rest and n < 2 * batch and (rest > 1 or not full):
        sizes.append(rest)
    return sizes


@torch.no_grad()
def all_finite(model: nn.Module) -> bool:
    """Whether every parameter and every floating buffer of `model` is finite."""
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point() and t.numel()]
    return not tensors or bool(torch.stack([t.isfinite().all() for t in tensors]).all())


def train_model(
    model: nn.Module, dataset: Dataset, *, epochs: float, lr: float = 0.1, seed: int = 0,
    device: torch.device | str = "cpu", precision: Precision = "float32", batch: int = 128,
    progress: Callable[[int, int], None] | None = None, still: Sequence[str] = (), loss: OwnCode | None = None,
) -> FitReport:  # fmt: skip
    """Train a model for `automc train` on the training images without the validation split, in place.

    A twentieth of the iterations is a linear warm-up, because deep residual networks do not start at lr 0.1
    (He et al., Deep Residual Learning, section 4.2); then the cosine of `fit`.

    Args:
        still: what is not trained, see `fit`.

    Raises:
        Diverged: the loss or the weights became infinite or NaN.
    """
    recipe = replace(Recipe(), unit_epochs=epochs, lr=lr, precision=precision, batch=batch, loss=loss)
    data = dataset.data(split(dataset).train, device)
    model.to(data.device)
    iterations = recipe.iterations(1.0, data.n)
    return fit(
        model,
        data,
        iterations=iterations,
        recipe=recipe,
        seed=seed,
        warmup=iterations // 20,
        progress=progress,
        still=still,
    )


def _diverged(step: int, iterations: int, lr: float) -> str:
    return (
        f"Training diverged: the loss or the weights were no longer finite by iteration {step} of {iterations} "
        f"(learning rate up to {lr:g}). Use a lower learning rate."
    )
