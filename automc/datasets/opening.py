"""From what the user named to a `Dataset`: choose the reader, then settle normalisation and augmentation."""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import torch

from automc.datasets import custom, folder, given
from automc.datasets.base import Dataset, Images, Progress, Raw
from automc.datasets.ref import Augment, DataRef
from automc.datasets.registry import registered
from automc.datasets.splits import content_hash, digests
from automc.errors import DataError

DARK = 64
"""Pixels of 255 below which all of the training images are said to lie."""
KNOWN_SHARE = 0.01
"""Share of the test images from which on it is said that they are training images too."""
COMPUTED = "Normalisation computed from the training images"
NATURAL_SIZE = 24
"""Sides from this many pixels on are taken for photographs, which may be mirrored."""


def open_data(ref: DataRef, cache: Path | None = None, progress: Progress | None = None) -> Dataset:
    """Read the data `ref` names.

    `ref.spec` is the name of a registered data set, an image folder, or `file.py:factory`. Decoded images are
    kept under `cache` (None: nowhere) and memory-mapped from there, so that processes share them.
    Normalisation: the reference's (the user's, or the model's by `DataRef.normalised_by`), else computed from the
    training images, which a note says. Augmentation: the reference's, else "crop-flip" for sides from 24 pixels
    on and "crop" below, where the data set does not know better.

    Raises:
        DataError: the data cannot be found or read, or its parts do not fit together.
    """
    raw = _read(ref, cache, progress)
    _check(ref, raw)
    if ref.val is not None:
        own = folder.read_validation(Path(ref.val), raw, ref.size, cache, progress)
        raw = replace(raw, validation=own)
    notes = [*raw.notes, *_remarks(ref, raw)]
    if ref.mean is None or ref.std is None:
        mean, std = statistics(raw.train)
        notes.append(f"{COMPUTED}: mean {_short(mean)}, std {_short(std)}.")
    else:
        mean, std = ref.mean, ref.std
        for name, values in (("--mean", mean), ("--std", std)):
            if len(values) != raw.train.channels:
                raise DataError(
                    f"The images of {ref.spec} have {raw.train.channels} channel(s), but {name} has {len(values)} "
                    "value(s) (given, or recorded with the model). Give one value per channel."
                )
    augment = ref.augment or raw.augment or default_augment(raw.train)
    return Dataset(
        name=_name(ref.spec), train=raw.train, test=raw.test, validation=raw.validation, classes=raw.classes,
        mean=mean, std=std, augment=augment, hash=_hash(raw, mean, std, augment), notes=tuple(notes),
    )  # fmt: skip


def located(ref: DataRef) -> DataRef:
    """Return a reference that means the same from every working directory: folders and files by their full paths."""

    def full(place: str) -> str:
        return str(Path(os.path.expanduser(place)).absolute())

    spec = ref.spec
    if spec not in registered():
        file, colon, name = spec.rpartition(":") if ".py:" in spec else (spec, "", "")
        spec = full(file) + colon + name if os.path.exists(os.path.expanduser(file)) else spec
    root, val = (place if place is None else full(place) for place in (ref.root, ref.val))
    return replace(ref, spec=spec, root=root, val=val)


def default_augment(images: Images) -> Augment:
    """Mirror only what is large enough to be a photograph."""
    return "crop-flip" if min(images.shape) >= NATURAL_SIZE else "crop"


def statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of pixels in [0, 1], exact, to 6 decimals (std 1 where constant)."""
    total = torch.zeros(2, images.channels, dtype=torch.int64)  # whole numbers: no rounding in any order
    for start in range(0, images.n, 1024):
        block = images.gather(slice(start, min(start + 1024, images.n))).transpose(0, 1).flatten(1).int()
        total[0] += block.sum(1)
        total[1] += block.square_().sum(1)
    mean, square = total.double() / (images.n * images.shape[0] * images.shape[1])
    std = (square - mean**2).clamp_min(0).sqrt() / 255
    mean /= 255
    return tuple(round(v, 6) for v in mean.tolist()), tuple(round(v, 6) or 1.0 for v in std.tolist())


def _read(ref: DataRef, cache: Path | None, progress: Progress | None) -> Raw:
    readers = registered()
    if ref.spec in readers:
        if ref.size is not None and ref.val is None:
            raise DataError(f"--size resizes image folders; {ref.spec} has images of one size. Leave it out.")
        return _reordered(readers[ref.spec](ref, cache, progress), ref)
    if ref.root is not None or ref.download:
        raise DataError(f"--root and --download are for a named data set ({', '.join(readers)}). Leave them out.")
    if ".py:" in ref.spec or ref.spec.endswith(".py"):
        return custom.read(ref, cache, progress)
    if given.is_given(ref.spec):
        return _reordered(given.read(ref), ref)
    if os.path.isdir(os.path.expanduser(ref.spec)):
        return folder.read(ref, cache, progress)
    if os.path.isfile(os.path.expanduser(ref.spec)):
        raise DataError(
            f"--data {ref.spec}: it is a file. Name an image folder (train/CLASS/…, test/CLASS/…), or file.py:factory."
        )
    near = difflib.get_close_matches(ref.spec, readers, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise DataError(
        f"--data {ref.spec}: neither a known data set ({', '.join(readers)}) nor an existing image folder "
        f"nor file.py:factory.{hint}"
    )


def _reordered(raw: Raw, ref: DataRef) -> Raw:
    """Labels counted in the order of `ref.classes`, which names the same classes."""
    if ref.classes is None or ref.classes == raw.classes:
        return raw
    strange = sorted(set(ref.classes) - set(raw.classes)) or sorted(set(raw.classes) - set(ref.classes))
    if strange:
        raise DataError(f"--classes: {strange[0]!r} is not in both your list and {ref.spec}: {', '.join(raw.classes)}.")
    new = torch.tensor([ref.classes.index(name) for name in raw.classes])

    def moved(images: Images) -> Images:
        result = Images(images.store, new[images.y], images.rows)
        result.digests = images.digests
        return result

    return replace(raw, train=moved(raw.train), test=moved(raw.test) if raw.test else None, classes=ref.classes)


def _check(ref: DataRef, raw: Raw) -> None:
    parts = {"training": raw.train, "test": raw.test, "validation": raw.validation}
    for part, images in parts.items():
        if images is None:
            continue
        low, high = int(images.y.min()), int(images.y.max())
        if low < 0 or high >= len(raw.classes):
            wrong = low if low < 0 else high
            raise DataError(f"{ref.spec}: a {part} label is {wrong}, but the {len(raw.classes)} classes count from 0.")
        if (images.channels, *images.shape) != (raw.train.channels, *raw.train.shape):
            raise DataError(
                f"{ref.spec}: {part} images are {_size(images)}, but training images are {_size(raw.train)}. "
                "All images must have one size and kind."
            )
    if len(raw.classes) < 2:
        raise DataError(f"{ref.spec} has {len(raw.classes)} class; a classifier needs at least 2.")


def _remarks(ref: DataRef, raw: Raw) -> list[str]:
    """What is no mistake for sure, and yet spoils what is measured."""
    remarks = []
    for part, images in (("training", raw.train), ("validation", raw.validation), ("test", raw.test)):
        missing = sorted(set(range(len(raw.classes))) - set(images.y.tolist())) if images is not None else []
        if missing:
            names = ", ".join(raw.classes[label] for label in missing[:5]) + (", …" if len(missing) > 5 else "")
            remarks.append(f"No {part} image in {len(missing)} of the {len(raw.classes)} classes: {names}.")
    if (brightest := int(raw.train.x.max())) < DARK:
        remarks.append(
            f"The brightest pixel of the training images of {ref.spec} is {brightest} of 255, so they tell few levels "
            "apart. Of pictures of 16 bits the high byte is kept: scale those up that hold fewer bits, such as 12."
        )
    known = {row.tobytes() for row in digests(raw.train)}
    for part, images in (("validation", raw.validation), ("test", raw.test)):
        seen = 0 if images is None else sum(row.tobytes() in known for row in digests(images))
        if images is not None and seen > KNOWN_SHARE * images.n:
            remarks.append(
                f"{seen:,} of the {images.n:,} {part} images of {ref.spec} are training images too: accuracy on them "
                "says little about new images."
            )
    return remarks


def _hash(raw: Raw, mean: tuple[float, ...], std: tuple[float, ...], augment: Augment) -> str:
    parts = [content_hash(images) if images is not None else "-" for images in (raw.train, raw.test, raw.validation)]
    text = repr((parts, raw.classes, mean, std, augment))
    return hashlib.sha256(text.encode()).hexdigest()


def _name(spec: str) -> str:
    """A name for people and for studies: of a path its last part, of file.py:factory the factory."""
    return spec.rsplit(":", 1)[-1] if ".py:" in spec else Path(spec).name or spec


def _size(images: Images) -> str:
    return f"{images.shape[0]}×{images.shape[1]} with {images.channels} channel(s)"


def _short(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.3f}" for v in values) + ")"
