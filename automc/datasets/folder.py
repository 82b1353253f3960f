"""Image folders: train/ with one sub-folder per class, and test/ or val/ alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from automc.datasets.base import DataRef, Images, Progress, Raw
from automc.datasets.decoded import Allocate, decoded, signature
from automc.errors import DataError

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))
GREY_MODES = frozenset(("1", "L", "LA", "La", "I;16", "I;16L", "I;16B"))
DEEP_MODES = frozenset(("I", "F"))
"""32-bit pixels, which have no range to scale from."""
CHUNK = 64
_R = TypeVar("_R")


@dataclass(frozen=True)
class Listing:
    """The image files of one split, by class in order, and their labels."""

    folder: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]


def read(ref: DataRef, cache: Path | None = None, progress: Progress | None = None) -> Raw:
    """Read an image folder.

    `train/` and `test/`, each with a sub-folder per class; sub-folders may nest. A `val/` beside `test/` is the
    validation split; without `test/` it is the test set, as for ImageNet, whose test labels nobody has. Classes are
    the sub-folders of train/ in alphabetical order, or `ref.classes`. With `ref.size`, images are resized to
    size × size (bilinear, antialiased, aspect not kept); else all must have one size. If every image is grey, the
    data has 1 channel, else 3; transparency is dropped.

    Raises:
        DataError: a folder, class or image is missing, empty or unreadable, or the sizes differ.
    """
    root = Path(ref.spec).expanduser()
    train = root / "train"
    if not train.is_dir():
        raise DataError(f"{root} has no train/ folder. An image folder holds train/CLASS/… and test/CLASS/… (or val/).")
    classes = _classes(train, ref.classes)
    test, val = root / "test", root / "val"
    notes: tuple[str, ...] = ()
    parts = {"train": train}
    if test.is_dir():
        parts["test"] = test
        if val.is_dir():
            parts["validation"] = val
            notes = (f"Validation images come from {val}.",)
    elif val.is_dir():
        parts["test"] = val
        notes = (f"There is no test/ in {root}: val/ is the test set, and validation is held out of train/.",)
    else:
        raise DataError(f"{root} has neither test/ nor val/ beside train/. One of them is needed to test on.")
    listings = {part: _list(folder, classes) for part, folder in parts.items()}
    images = _decode(listings, ref.size, None, cache, progress)
    return Raw(images["train"], images.get("test"), classes, validation=images.get("validation"), notes=notes)


def read_validation(
    folder: Path, data: Raw, size: int | None, cache: Path | None = None, progress: Progress | None = None
) -> Images:
    """Read a folder of class sub-folders that takes the place of the validation split of `data`.

    Grey images become colour where `data` is in colour.

    Raises:
        DataError: as `read`, or the images do not fit those of `data`.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise DataError(f"--val {folder}: there is no such folder.")
    listing = _list(folder, data.classes)
    images = _decode({"validation": listing}, size, data.train.channels, cache, progress)["validation"]
    if images.shape != data.train.shape:
        raise DataError(
            f"--val {folder}: its images are {_size(images.shape)}, the training images {_size(data.train.shape)}. "
            "Give --size to resize all of an image folder, or resize these."
        )
    return images


def read_classes(text: str) -> tuple[str, ...]:
    """Class names from `--classes`: a file with one name per line, or names with commas between them.

    Raises:
        DataError: a name is given twice, or there is none.
    """
    path = Path(text)
    if os.path.isfile(path.expanduser()):  # unlike Path's, it takes a long list of names
        try:
            names = [line.strip() for line in path.expanduser().read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise DataError(f"--classes {text} cannot be read: {reason}.") from None
    else:
        names = [name.strip() for name in text.split(",")]
    names = [name for name in names if name]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise DataError(f"--classes {text}: {f'{twice[0]!r} is there twice' if twice else 'no class name'}.")
    return tuple(names)


def _classes(train: Path, wanted: Sequence[str] | None) -> tuple[str, ...]:
    found = _sub_folders(train)
    if not found:
        raise DataError(f"{train} has no sub-folder: it needs one per class, with that class's images.")
    if wanted is None:
        return tuple(found)
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or extra:
        what = f"{missing[0]!r} has no folder in {train}" if missing else f"folder {train / extra[0]} is not named"
        raise DataError(f"--classes: {what}. Name every sub-folder of train/ exactly once.")
    return tuple(wanted)


def _sub_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _list(folder: Path, classes: Sequence[str]) -> Listing:
    strange = sorted(set(_sub_folders(folder)) - set(classes))
    if strange:
        raise DataError(f"{folder / strange[0]} is no class of the training images. Remove it, or add it to train/.")
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        place = folder / name
        inside = sorted(
            os.path.join(parent, file)
            for parent, _, names in os.walk(place, followlinks=True)
            for file in names
            if os.path.splitext(file)[1].lower() in EXTENSIONS
        )
        if not inside:
            why = "holds no image" if place.is_dir() else "is missing"
            raise DataError(
                f"{place} {why}: every class needs images in {folder.name}/ ({' '.join(sorted(EXTENSIONS))})."
            )
        files += inside
        labels += [label] * len(inside)
    return Listing(folder, tuple(files), tuple(labels))


def _decode(
    listings: dict[str, Listing], size: int | None, channels: int | None, cache: Path | None, progress: Progress | None
) -> dict[str, Images]:
    """Decode all splits; headers are read first, because one colour image makes all of them colour.

    So each split's key is that of all files together.
    """
    together = [file for listing in listings.values() for file in listing.files]
    whole = signature(together, "folder", size, channels)
    total = len(together)
    done = 0
    probed: list[tuple[int, int, int]] = []

    def told(step: int) -> None:
        nonlocal done
        done += step
        if progress is not None:
            progress(min(done, total), total)

    def shape() -> tuple[int, int, int]:
        if not probed:
            probed.append(_common_shape(together, size, channels))
        return probed[0]

    def images(listing: Listing) -> Images:
        def produce(allocate: Allocate) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
            kind = shape()
            out = allocate((len(listing.files), *kind))

            def fill(start: int) -> None:
                for i in range(start, min(start + CHUNK, len(listing.files))):
                    out[i] = _pixels(listing.files[i], kind)

            _threaded(fill, range(0, len(listing.files), CHUNK), lambda _: told(CHUNK))
            return out, np.asarray(listing.labels, dtype=np.int64)

        return decoded(cache, f"{whole}-{listing.folder.name}", produce)

    return {part: images(listing) for part, listing in listings.items()}


def _common_shape(files: Sequence[str], size: int | None, channels: int | None) -> tuple[int, int, int]:
    """(channels, height, width) of every image after decoding."""
    headers: list[tuple[int, int, bool]] = []
    for part in _threaded(
        lambda start: [_header(file) for file in files[start : start + CHUNK]], range(0, len(files), CHUNK)
    ):
        headers += part
    coloured = next((i for i, header in enumerate(headers) if not header[2]), None)
    if channels == 1 and coloured is not None:
        raise DataError(f"{files[coloured]} is a colour image, but the training images are grey.")
    depth = channels or (1 if coloured is None else 3)
    if size is not None:
        return depth, size, size
    first = headers[0][:2]
    other = next((i for i, header in enumerate(headers) if header[:2] != first), None)
    if other is not None:
        raise DataError(
            f"The images differ in size: {files[0]} is {_size(first)}, {files[other]} is {_size(headers[other][:2])}. "
            "Give --size N to resize all of them to N×N."
        )
    return depth, *first


def _header(file: str) -> tuple[int, int, bool]:
    """(height, width, grey?) without decoding."""
    with _opened(file) as image:
        if image.mode in DEEP_MODES:
            raise DataError(f"{file} has 32-bit pixels (mode {image.mode}). Convert it to 8 bits.")
        return image.height, image.width, image.mode in GREY_MODES


def _pixels(file: str, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Decode to uint8 (c, h, w)."""
    depth, height, width = shape
    try:
        with _opened(file) as image:
            picture: Image.Image = image
            if picture.mode.startswith("I;16"):
                picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
            picture = picture.convert("L" if depth == 1 else "RGB")
            if picture.size != (width, height):
                picture = picture.resize((width, height), Image.Resampling.BILINEAR)
            array = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:  # a truncated or damaged body
        raise _unreadable(file, error) from None
    return array[None] if depth == 1 else array.transpose(2, 0, 1)


def _opened(file: str) -> Image.Image:
    try:
        return Image.open(file)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: str, error: Exception) -> DataError:
    return DataError(f"{file} cannot be read as an image: {error}. Replace or remove it.")


def _threaded(work: Callable[[int], _R], starts: Sequence[int], after: Callable[[_R], None] | None = None) -> list[_R]:
    """Run `work` on every start in threads (decoding releases the interpreter); results in order."""
    results = []
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        try:
            for result in pool.map(work, starts):
                results.append(result)
                if after is not None:
                    after(result)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return results


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[1]}×{shape[0]}"
