"""Images in memory: what a data set is, and batches for training and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from automc.datasets.ref import Augment
from automc.errors import DataError

Progress = Callable[[int, int], None]
"""Called with (done, total) while images are decoded."""


class Images:
    """Labelled uint8 images, or a selection of them that shares the pixels.

    Args:
        x: (m, channels, height, width) uint8; may be memory-mapped.
        y: (n,) int64 labels of the selected images.
        rows: (n,) int64 rows of `x` that are selected; None means all, in order (n = m).

    Raises:
        DataError: shapes or types do not fit, or there is no image.
    """

    def __init__(self, x: Tensor, y: Tensor, rows: Tensor | None = None) -> None:
        if x.dtype != torch.uint8 or x.ndim != 4:
            raise DataError(f"Images must be uint8 (n, channels, height, width), not {x.dtype} {tuple(x.shape)}.")
        count = len(x) if rows is None else len(rows)
        if y.shape != (count,):
            raise DataError(f"There are {count} images but the labels have shape {tuple(y.shape)}.")
        if count == 0:
            raise DataError("There are no images.")
        self.store = x
        self.rows = rows
        self.y = y.to(torch.int64)
        self.digests: NDArray[np.uint8] | None = None
        """One 16-byte digest per image, (n, 16), once somebody needed them: see `splits.digests`."""

    @property
    def x(self) -> Tensor:
        """The selected images (n, c, h, w); a copy when this is a selection."""
        return self.store if self.rows is None else self.store[self.rows]

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.y)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.store.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.store.shape[2], self.store.shape[3]

    def select(self, indices: Tensor) -> Images:
        """The images at `indices` (int64, in that order), sharing the pixels."""
        indices = indices.to(self.y.device)
        chosen = Images(self.store, self.y[indices], indices if self.rows is None else self.rows[indices])
        if self.digests is not None:
            chosen.digests = self.digests[indices.cpu().numpy()]
        return chosen

    def gather(self, indices: Tensor | slice) -> Tensor:
        """Pixels of the images at `indices`, uint8 (len(indices), c, h, w)."""
        return self.store[indices] if self.rows is None else self.store[self.rows[indices]]

    def to(self, device: torch.device) -> Images:
        """The same images on `device`; only selected pixels travel."""
        if self.store.device == device:
            return self
        return Images(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Dataset:
    """A classification data set, read.

    `mean` and `std` are per channel, of pixels scaled to [0, 1]. `hash` identifies pixels, labels, classes,
    normalisation and augmentation: two data sets of equal hash train alike. `validation` is None unless the
    data came with its own. `notes` are sentences to tell the user.
    """

    name: str
    train: Images
    test: Images | None
    validation: Images | None
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment
    hash: str
    notes: tuple[str, ...] = ()
    layout: torch.memory_format = torch.channels_last
    """How batches lie in memory; see `automc.models.load.layout`."""

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.train.channels

    @property
    def example_shape(self) -> tuple[int, int, int, int]:
        """Shape of two images, for probing: some code behaves otherwise for a single one."""
        return 2, self.channels, *self.train.shape

    def features(self) -> dict[str, float]:
        """The four data features of a task: classes, image_size (side, of an equal-area square), channels, images."""
        height, width = self.train.shape
        side = float(height) if height == width else math.sqrt(height * width)
        return {
            "classes": float(len(self.classes)), "image_size": side,
            "channels": float(self.channels), "images": float(self.train.n),
        }  # fmt: skip

    def data(self, images: Images, device: torch.device | str = "cpu") -> TrainData:
        """`images` (of this data set) ready for training or evaluation on `device`."""
        return TrainData(
            images, None, mean=self.mean, std=self.std, augment=self.augment, device=device, layout=self.layout
        )


@dataclass(frozen=True)
class Raw:
    """What a reader returns, before normalisation and augmentation are settled.

    `augment` is the reader's default where the size of the images does not decide it.
    """

    train: Images
    test: Images | None
    classes: tuple[str, ...]
    validation: Images | None = None
    augment: Augment | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Views:
    """Drawn augmentation of n images: crop offsets in [0, 2·pad] and whether to mirror; None where not augmented."""

    top: Tensor | None = None
    left: Tensor | None = None
    mirror: Tensor | None = None

    def part(self, start: int, stop: int) -> Views:
        """The views of images start … stop − 1."""
        return Views(*(None if t is None else t[start:stop] for t in (self.top, self.left, self.mirror)))


RESIDENT = 0.4
"""Share of an accelerator's free memory that one set of images may take; larger ones stay in the host's memory."""


class TrainData:
    """Images resident as uint8 on one device, and the batches made from them.

    They go to the device when they are first used; where they do not fit there, batch by batch.

    Augmentation is that of the CIFAR papers: zero padding of `pad` pixels (an eighth of the shorter side, at least
    1, at most 4), a random crop, and for "crop-flip"
    a mirror with probability 1/2. Batches are float32, laid out as `layout` says, normalised by `mean` and `std` (per
    channel, of pixels in [0, 1]). Padding is black *before* normalisation, as torchvision pads images.

    Args:
        x: uint8 (n, c, h, w), or `Images` (then `y` is None).
        y: int64 (n,).
    """

    def __init__(
        self, x: Tensor | Images, y: Tensor | None = None, *, mean: Sequence[float], std: Sequence[float],
        augment: Augment = "none", device: torch.device | str = "cpu",
        layout: torch.memory_format = torch.channels_last,
    ) -> None:  # fmt: skip
        if isinstance(x, Images):
            images = x
        else:
            if y is None:
                raise DataError("Training data needs labels.")
            images = Images(x, y)
        if len(mean) != images.channels or len(std) != images.channels:
            raise DataError(
                f"The images have {images.channels} channel(s), but mean has {len(mean)} and std {len(std)} values. "
                "Give --mean and --std with one value per channel."
            )
        self._given = images
        self.device = torch.empty(0, device=device).device  # which of the accelerators "cuda" is now
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.augment: Augment = augment
        self.layout = layout
        height, width = images.shape
        self.pad = 0 if augment == "none" else min(4, max(1, min(height, width) // 8))
        # One multiply-add per pixel: (p / 255 − mean) / std = p · scale + shift.
        shape = (1, -1, 1, 1)
        deviation = torch.tensor(self.std, dtype=torch.float64)
        self._scale = (1 / (255 * deviation)).float().view(shape).to(self.device)
        self._shift = (-torch.tensor(self.mean, dtype=torch.float64) / deviation).float().view(shape).to(self.device)

    @cached_property
    def images(self) -> Images:
        """The images: on the device, or in memory where they do not fit there."""
        return self._given.to(self.device) if fits(self._given, self.device) else self._given

    def release(self) -> None:
        """Let go of a copy on the device; the next use makes it anew."""
        vars(self).pop("images", None)

    @property
    def x(self) -> Tensor:
        """All images, uint8 (n, c, h, w); a copy when this is a selection."""
        return self.images.x

    @cached_property
    def y(self) -> Tensor:
        """All labels, int64 (n,), on the device."""
        return self.images.y.to(self.device)

    @property
    def n(self) -> int:
        """Number of images."""
        return self._given.n

    @property
    def example_shape(self) -> tuple[int, int, int, int]:
        """Shape of two images, for probing."""
        return 2, self._given.channels, *self._given.shape

    def subset(self, indices: Tensor) -> TrainData:
        """The images at `indices`, sharing the pixels."""
        return self._of(self.images.select(indices), self.augment)

    def take(self, k: int, seed: int = 0) -> TrainData:
        """`min(k, n)` images drawn without replacement; the same for the same seed."""
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(seed))
        return self.subset(order[: min(k, self.n)])

    def without_augmentation(self) -> TrainData:
        """The same images, never augmented."""
        return self._of(self.images, "none")

    def _of(self, images: Images, augment: Augment) -> TrainData:
        return TrainData(images, mean=self.mean, std=self.std, augment=augment, device=self.device, layout=self.layout)

    def draw(self, count: int, generator: torch.Generator) -> Views:
        """Random views for `count` images, on this data's device; drawn in one go for a whole epoch."""
        if not self.pad:
            return Views()
        where = generator.device
        offsets = torch.randint(0, 2 * self.pad + 1, (2, count), generator=generator, device=where).to(self.device)
        mirror = None
        if self.augment == "crop-flip":
            mirror = (torch.rand(count, generator=generator, device=where) < 0.5).to(self.device)
        return Views(offsets[0], offsets[1], mirror)

    def views(self, indices: Tensor, views: Views) -> Tensor:
        """The normalised batch at `indices` seen through `views`, float32 (b, c, h, w)."""
        pixels = self._pixels(indices)
        if views.top is not None and views.left is not None:
            pixels = crop(pixels, views.top, views.left, self.pad)
        if views.mirror is not None:
            pixels = torch.where(views.mirror.view(-1, 1, 1, 1), pixels.flip(3), pixels)
        return self._float(pixels)

    def batch(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """An augmented, normalised batch, float32 (b, c, h, w); `indices` int64 on `device`."""
        return self.views(indices, self.draw(len(indices), generator))

    def normalised(self, indices: Tensor | slice) -> Tensor:
        """A normalised batch without augmentation, float32 (b, c, h, w)."""
        return self._float(self._pixels(indices))

    def _pixels(self, indices: Tensor | slice) -> Tensor:
        """The images at `indices`, uint8, on the device."""
        images = self.images
        at = indices if isinstance(indices, slice) else indices.to(images.store.device)
        return images.gather(at).to(self.device, non_blocking=True)

    def _float(self, pixels: Tensor) -> Tensor:
        batch = pixels.contiguous(memory_format=self.layout).to(torch.float32)
        # One channel is contiguous in either layout: only a new tensor has the strides that say which one is meant.
        out = torch.empty(batch.shape, device=self.device, memory_format=self.layout)
        return torch.addcmul(self._shift, batch, self._scale, out=out)


def fits(images: Images, device: torch.device) -> bool:
    """Tell whether images may lie in the device's memory beside everything else."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images.n * images.store[0].numel() <= RESIDENT * free


def crop(pixels: Tensor, top: Tensor, left: Tensor, pad: int) -> Tensor:
    """Shift each image of (b, c, h, w) by (top − pad, left − pad), zeros outside; one gather.

    The padded batch is viewed as (b, 2·pad + 1, 2·pad + 1, c, h, w) by `unfold`, without a copy.
    """
    count, _, height, width = pixels.shape
    padded = torch.nn.functional.pad(pixels, (pad, pad, pad, pad))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(count, device=pixels.device), :, top, left]


def check(dataset: Dataset, outputs: int | None = None, channels: int | None = None) -> None:
    """Compare a data set with a model's number of outputs and input channels (None: unknown).

    Raises:
        DataError: they do not fit; the message says what to do.
    """
    kinds = {1: "grey (1 channel)", 3: "colour (3 channels)"}
    if channels is not None and channels != dataset.channels:
        has, wants = (kinds.get(k, f"{k} channels") for k in (dataset.channels, channels))
        raise DataError(
            f"The images of {dataset.name} are {has}, but the model takes {wants}. "
            "Use images of the model's kind, or a model built for these."
        )
    if outputs is not None and outputs != len(dataset.classes):
        raise DataError(
            f"{dataset.name} has {len(dataset.classes)} classes, but the model has {outputs} outputs. "
            "Use the data the model was trained for, or build the model with as many classes."
        )
