"""Splits that depend on what the images are, not on a seed, an order of files or a version of a library."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from automc.bounds import check
from automc.datasets.base import Dataset, Images
from automc.errors import DataError

Digests = NDArray[np.uint8]


@dataclass(frozen=True)
class Splits:
    """The parts of a data set.

    `train` is the fraction that steps train on; `rest` all training images but validation (a superset of
    `train`), for the final run; `test` is read for reported figures only.
    """

    train: Images
    rest: Images
    validation: Images
    test: Images | None


def validation_size(n: int) -> int:
    """Images held out of n training images: min(5,000, max(10 %, min(500, 25 %)))."""
    return min(5000, max(n // 10, min(500, n // 4)))


def split(dataset: Dataset, fraction: float = 1.0) -> Splits:
    """Split the training images into validation and the part steps train on, stratified by class.

    `fraction` is of the *full* training set, drawn from what validation leaves, or all of that where it is
    less. A data set with its own validation images gives up none of its training images.

    Raises:
        DataError: the fraction is outside (0, 1] or leaves no image, or there are too few images to split.
    """
    check("--fraction", fraction, DataError)
    images = dataset.train
    order = ranked(digests(images))
    labels = images.y.cpu().numpy()
    everything = np.arange(images.n)
    if dataset.validation is not None:
        validation, left = dataset.validation, everything
    else:
        size = validation_size(images.n)
        if size == 0:
            raise DataError(f"{dataset.name} has {images.n} training images: too few to hold out a validation split.")
        held = draw(labels, order, size, everything, leave=1)
        validation = images.select(torch.from_numpy(held))
        left = np.setdiff1d(everything, held)
    rest = images if len(left) == images.n else images.select(torch.from_numpy(left))
    wanted = round(fraction * images.n)
    if wanted == 0:
        raise DataError(f"--fraction {fraction:g} of {images.n} training images is none. Use a larger fraction.")
    if wanted >= len(left):
        train = rest
    else:
        train = images.select(torch.from_numpy(draw(labels, order, wanted, left)))
    return Splits(train, rest, validation, dataset.test)


def draw(
    labels: NDArray[Any], order: NDArray[Any], count: int, among: NDArray[Any], leave: int = 0
) -> NDArray[np.int64]:
    """Draw `count` of the images `among`, stratified, and return their indices ascending.

    Each class gives its share by largest remainders (ties to the lower label), its first ones in `order`;
    `leave` images of each class are never drawn, unless the classes are too small to give `count` otherwise.
    """
    inside = np.zeros(len(labels), dtype=bool)
    inside[among] = True
    members = order[inside[order]]
    classes, sizes = np.unique(labels[members], return_counts=True)
    caps = np.maximum(sizes - leave, 0)
    if caps.sum() < count:
        caps = sizes
    shares = apportion(sizes.tolist(), count, caps.tolist())
    picked = [members[labels[members] == c][:k] for c, k in zip(classes, shares, strict=True)]
    return np.sort(np.concatenate(picked)).astype(np.int64)


def apportion(sizes: Sequence[int], count: int, caps: Sequence[int]) -> list[int]:
    """Share `count` in proportion to `sizes`, by largest remainders, none above its cap; the shares sum to `count`.

    Raises:
        ValueError: the caps do not admit `count`.
    """
    if count > sum(caps):
        raise ValueError(f"cannot take {count} of {sum(caps)}")
    total = sum(sizes)
    shares = [min(cap, size * count // total) for size, cap in zip(sizes, caps, strict=True)]
    remainder = [size * count % total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-remainder[i], i))
    while (missing := count - sum(shares)) > 0:
        for i in [i for i in by_remainder if shares[i] < caps[i]][:missing]:
            shares[i] += 1
    return shares


def digests(images: Images) -> Digests:
    """One 16-byte digest per image of its pixels, (n, 16) uint8; kept on the images once computed."""
    if images.digests is None:
        store = images.store.cpu().numpy()
        rows = range(len(store)) if images.rows is None else images.rows.tolist()
        joined = b"".join(hashlib.blake2b(store[i].tobytes(), digest_size=16).digest() for i in rows)
        images.digests = np.frombuffer(joined, dtype=np.uint8).reshape(-1, 16)
    return images.digests


def ranked(keys: Digests) -> NDArray[np.int64]:
    """Indices of the images in the order of their digests: as good as random, and a function of content alone."""
    high, low = keys.view(">u8").reshape(-1, 2).T
    return np.lexsort((low, high)).astype(np.int64)


def content_hash(images: Images) -> str:
    """Sha256 of pixels, labels, their order and the images' shape, in hexadecimal."""
    key = hashlib.sha256(repr((images.n, images.channels, *images.shape)).encode())
    key.update(digests(images).tobytes())
    key.update(images.y.cpu().numpy().astype("<i8").tobytes())
    return key.hexdigest()
