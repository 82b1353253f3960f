"""Evaluation in float32, and batch-norm statistics estimated anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from automc.datasets.base import TrainData
from automc.models.keeping import resting
from automc.models.modes import evaluating
from automc.models.outputs import logits
from automc.surgery.lma import LMA
from automc.training.loop import Diverged
from automc.training.own import OwnCode, own_figure

PIXELS_AT_ONCE = 1 << 21
"""Pixels of one evaluation batch at most, so that large images do not exhaust memory."""
VIEWS = 0
"""Seed of the views in which `recalibrate` sees its images."""


@torch.no_grad()
def accuracy(model: nn.Module, data: TrainData, batch: int = 500, *, finite: bool = False) -> float:
    """Top-1 accuracy in [0, 1] over all images of `data`, without augmentation, always in float32.

    TF32 convolutions are off too. The model's training flags are left as they were. Not a number in an output
    counts as wrong, like any other wrong answer.

    Raises:
        Diverged: `finite` is asked for, and an output is infinite or not a number.
    """
    correct, broken = torch.zeros((2,), dtype=torch.int64, device=data.device)
    for found, labels in outputs(model, data, batch):
        hit = (found.argmax(1) == labels) & ~found.isnan().any(1)
        correct += hit.sum()
        broken += (~found.isfinite().all(1)).sum()
    if finite and broken:
        raise Diverged(
            f"The outputs for {int(broken)} of {data.n} images are not finite numbers, though all weights are. "
            "Use a lower learning rate."
        )
    return int(correct) / data.n


@torch.no_grad()
def score(
    model: nn.Module, data: TrainData, metric: OwnCode | None = None, batch: int = 500, *, finite: bool = False
) -> float:
    """Return how good a model is on all images of `data`, in [0, 1]: its accuracy, or the user's metric.

    Measured like `accuracy`; a metric is given the outputs and labels of all images at once, on the CPU.

    Raises:
        Diverged: `finite` is asked for, and an output is infinite or not a number.
        OwnCodeError: the metric fails, or returns no number in [0, 1].
    """
    if metric is None or finite:
        plain = accuracy(model, data, batch, finite=finite)
        if metric is None:
            return plain
    found = [(logits_.float().cpu(), labels.cpu()) for logits_, labels in outputs(model, data, batch)]
    return own_figure(metric, torch.cat([one for one, _ in found]), torch.cat([labels for _, labels in found]))


@torch.no_grad()
def cross_entropy(model: nn.Module, data: TrainData, batch: int = 500) -> float:
    """Mean cross-entropy over all images of `data`, measured like `accuracy`."""
    total = torch.zeros((), dtype=torch.float64, device=data.device)
    for found, labels in outputs(model, data, batch):
        total += F.cross_entropy(found, labels, reduction="sum")
    return float(total) / data.n


def outputs(model: nn.Module, data: TrainData, batch: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (logits, labels) of all images in batches, in evaluation mode and float32; for use without gradients."""
    size = _batch_size(data, batch)
    with evaluating(model), float32(data.device):
        for start in range(0, data.n, size):
            part = slice(start, min(start + size, data.n))
            yield logits(model, data.normalised(part)), data.y[part]


@torch.no_grad()
def recalibrate(
    model: nn.Module, data: TrainData, images: int = 2000, batch: int = 500, still: Sequence[str] = ()
) -> int:
    """Estimate all batch-norm statistics anew on min(images, n) training images; return how many were used.

    So are those of LMA activations. Running means and variances are reset and become the plain average over nearly
    equal batches; the images are always the same ones, in the same views, in float32. So a second
    call changes nothing. They are augmented as `data` says, because weights trained on augmented images go with the
    statistics of such (docs/results/recalibration).
    Weights, momenta and training flags are left as they were; layers without running statistics, and those that
    `still` matches, are not touched.
    """
    kept = resting(model, still)
    norms = [
        m for m in model.modules()
        if m not in kept and (isinstance(m, LMA) or (isinstance(m, _BatchNorm) and m.track_running_stats))
    ]  # fmt: skip
    if not norms:
        return 0
    sample = data.take(images)
    views = sample.draw(sample.n, torch.Generator().manual_seed(VIEWS))
    momenta = [norm.momentum for norm in norms]
    parts = -(-sample.n // _batch_size(data, batch))
    try:
        with evaluating(model), float32(data.device):
            for norm in norms:
                norm.reset_running_stats()
                norm.training = True
            start = 0
            for number, rows in enumerate(torch.arange(sample.n, device=data.device).tensor_split(parts), 1):
                for norm in norms:
                    norm.momentum = 1 / number  # what None means to torch; code of the user's own wants a number
                model(sample.views(rows, views.part(start, start + len(rows))))
                start += len(rows)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return sample.n


@contextmanager
def float32(device: torch.device) -> Iterator[None]:
    """Full float32 inside the block: no autocast, no TF32 in convolutions."""
    cudnn = torch.backends.cudnn
    settings = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    with torch.autocast(device.type, enabled=False), cudnn.flags(**settings, allow_tf32=False):
        yield


def _batch_size(data: TrainData, batch: int) -> int:
    height, width = data.images.shape
    return max(1, min(batch, PIXELS_AT_ONCE // (height * width)))
