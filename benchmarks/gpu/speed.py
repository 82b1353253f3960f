"""Images per second of training on one device: by a plain PyTorch loop, and by AutoMC's in its variants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from automc.datasets.base import TrainData
from automc.execution.memory import PeakMemory
from automc.models.load import load
from automc.models.measure import synchronise
from automc.training import gradients
from automc.training.loop import fit
from automc.training.recipe import Precision, Recipe
from benchmarks.gpu.synthetic import CLASSES, images

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


@dataclass(frozen=True)
class Size:
    """How much is timed."""

    device: torch.device
    images: int = 50_000
    batch: int = 128
    warm: int = 60
    """Iterations before the clock starts: a graph is recorded in them."""
    timed: int = 300
    loaders: int = 4
    """Processes that decode images for the plain loop."""


@dataclass(frozen=True)
class Variant:
    """A way to train."""

    name: str
    precision: Precision = "float32"
    last: bool = True
    """Whether pixels lie channels last."""
    graph: bool = False
    compiled: bool = False


VARIANTS = (
    Variant("float32, channels first", last=False),
    Variant("float32"),
    Variant("bfloat16", "bfloat16"),
    Variant("float32, graph", graph=True),
    Variant("bfloat16, graph", "bfloat16", graph=True),
)
COMPILED = Variant("bfloat16, compiled", "bfloat16", compiled=True)
BEST = VARIANTS[-1]


@dataclass(frozen=True)
class Timed:
    """What was found."""

    images_per_second: float
    seconds: float
    peak_bytes: int
    first_seconds: float = 0.0
    """Of the first iteration: compiling lies in it."""
    note: str = ""


def fresh(network: str, device: torch.device) -> nn.Module:
    """An untrained network of the zoo."""
    torch.manual_seed(0)
    return load(network, classes=CLASSES, channels=3).model.to(device)


@contextmanager
def graphs(wanted: bool) -> Iterator[None]:
    """Let every training inside be replayed as a graph where the device can, or none."""
    with patch.object(gradients, "LEAST", 1 if wanted else 1 << 62):
        yield


def automc(
    network: str, variant: Variant, size: Size, started: Callable[[], Any] = lambda: None
) -> tuple[Timed, tuple[float, float]]:
    """Time AutoMC's own loop; also return when the clock began and ended. `started` is called just before."""
    data = train_data(size, torch.channels_last if variant.last else torch.contiguous_format)
    model = fresh(network, size.device)
    run: Any = torch.compile(model) if variant.compiled else model
    recipe = replace(Recipe(), batch=size.batch, precision=variant.precision)
    memory, marks = PeakMemory(size.device), [time.perf_counter()]

    def mark(done: int, of: int) -> None:
        if done not in (1, size.warm, of):
            return
        synchronise(size.device)
        if done == size.warm:
            started()
        marks.append(time.perf_counter())

    with graphs(variant.graph):
        report = fit(run, data, iterations=size.warm + size.timed, recipe=recipe, seed=0, progress=mark)
    began, first, warm, end = marks
    seen = size.timed * min(size.batch, data.n)
    found = Timed(seen / (end - warm), end - warm, memory.bytes(), first - began, report.no_graph)
    return found, (warm, end)


def train_data(size: Size, layout: torch.memory_format) -> TrainData:
    """The images as steps have them: on the device, cropped and mirrored there."""
    x, y = images(size.images, 1)
    return TrainData(x, y, mean=MEAN, std=STD, augment="crop-flip", device=size.device, layout=layout)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's data sets have them: each is turned into a picture, cropped, mirrored and normalised."""

    def __init__(self, n: int) -> None:
        from torchvision import transforms

        self.x, self.y = images(n, 1)
        self.change = transforms.Compose([
            transforms.ToPILImage(), transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(),
            transforms.ToTensor(), transforms.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.change(self.x[index]), int(self.y[index])


def plain(network: str, size: Size, resident: bool = False) -> Timed:
    """Time a loop as tutorials write it: float32, channels first, SGD of PyTorch's defaults, the loss read each time.

    Args:
        resident: images lie on the device, normalised and not augmented: what is left is the loop alone.
    """
    model = fresh(network, size.device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    batches = _resident(size) if resident else _loaded(size)
    memory, began, warm, total = PeakMemory(size.device), time.perf_counter(), 0.0, 0.0
    few = max(1, size.warm // 3)
    for turn in range(few + size.timed):
        x, y = next(batches)
        x, y = x.to(size.device), y.to(size.device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item()
        if turn + 1 == few:
            synchronise(size.device)
            warm = time.perf_counter()
    synchronise(size.device)
    seconds = time.perf_counter() - warm
    seen = size.timed * min(size.batch, size.images)
    return Timed(seen / seconds, seconds, memory.bytes(), warm - began, f"mean loss {total / (few + size.timed):.2f}")


def _loaded(size: Size) -> Iterator[tuple[Tensor, Tensor]]:
    pinned = size.device.type == "cuda"
    loader = DataLoader(
        Pictures(size.images), batch_size=min(size.batch, size.images), shuffle=True, drop_last=True,
        num_workers=size.loaders, pin_memory=pinned,
    )  # fmt: skip
    while True:
        yield from loader


def _resident(size: Size) -> Iterator[tuple[Tensor, Tensor]]:
    data = train_data(size, torch.contiguous_format).without_augmentation()
    few = torch.arange(min(data.n, 4096), device=size.device)
    while True:
        for rows in few.split(min(size.batch, data.n)):  # type: ignore[no-untyped-call]
            yield data.normalised(rows), data.y[rows]
