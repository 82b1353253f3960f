"""Image folders: train/ with one sub-folder per class, and test/ or val/ alike."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from automc.bounds import Size, sides
from automc.datasets.base import Images, Progress, Raw
from automc.datasets.decoded import Allocate, decoded, signature
from automc.datasets.listing import SHOWN, Listing, find_classes, find_parts, list_images, with_test
from automc.datasets.pictures import DEEP_MODES, GREY_MODES, to_pixels
from automc.datasets.ref import DataRef
from automc.errors import DataError

CHUNK = 64
_R = TypeVar("_R")


def read(ref: DataRef, cache: Path | None = None, progress: Progress | None = None) -> Raw:
    """Read an image folder.

    `train/` and `test/`, each with a sub-folder per class; sub-folders may nest. A `val/` (or `valid/`,
    `validation/`) beside `test/` is the validation split; without `test/` it is the test set, as for ImageNet, whose
    test labels nobody has. Classes are the sub-folders of train/ in alphabetical order, or `ref.classes`; a class may
    be missing elsewhere. Names that begin with a dot are passed over, other files than images counted. With
    `ref.size`, images are resized to it (bilinear, antialiased, aspect not kept); else all must have one
    size. If every image is grey, the data has 1 channel, else 3; transparency is dropped.

    Raises:
        DataError: a folder, class or image is missing, empty or unreadable, or the sizes differ.
    """
    root = Path(os.path.expanduser(ref.spec))
    parts = find_parts(root)
    classes = find_classes(parts["train"], ref.classes)
    parts, notes = with_test(root, parts)
    listings = {part: list_images(place, classes, every_class=part == "train") for part, place in parts.items()}
    images = _decode(listings, ref.size, None, cache, progress)
    notes += tuple(note for listing in listings.values() for note in listing.notes)
    return Raw(images["train"], images["test"], classes, validation=images.get("validation"), notes=notes)


def read_validation(
    folder: Path, data: Raw, size: Size | None, cache: Path | None = None, progress: Progress | None = None
) -> Images:
    """Read a folder of class sub-folders that takes the place of the validation split of `data`.

    Grey images become colour where `data` is in colour.

    Raises:
        DataError: as `read`, or the images do not fit those of `data`.
    """
    folder = Path(os.path.expanduser(folder))
    if not folder.is_dir():
        raise DataError(f"--val {folder}: there is no such folder.")
    listing = list_images(folder, data.classes, every_class=False)
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
    path = os.path.expanduser(text)
    if os.path.isfile(path):  # unlike Path's, it takes a long list of names
        try:
            names = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
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


def _decode(
    listings: dict[str, Listing], size: Size | None, channels: int | None, cache: Path | None, progress: Progress | None
) -> dict[str, Images]:
    """Decode all splits; headers are read first, because one colour image makes all of them colour.

    So each split's key is that of all files together, with their labels: classes are not always those of the files.
    """
    together = [file for listing in listings.values() for file in listing.files]
    missing = _Unreadable()
    for file in together:
        missing.attempt(_look, file)
    missing.check()
    labels = [label for listing in listings.values() for label in listing.labels]
    whole = signature(together, "folder", size, channels, labels)
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

            broken = _Unreadable()

            def fill(start: int) -> None:
                for i in range(start, min(start + CHUNK, len(listing.files))):
                    pixels = broken.attempt(lambda file: _pixels(file, kind), listing.files[i])
                    if pixels is not None:
                        out[i] = pixels

            _threaded(fill, range(0, len(listing.files), CHUNK), lambda _: told(CHUNK))
            broken.check()
            return out, np.asarray(listing.labels, dtype=np.int64)

        return decoded(cache, f"{whole}-{listing.folder.name}", produce)

    return {part: images(listing) for part, listing in listings.items()}


def _common_shape(files: Sequence[str], size: Size | None, channels: int | None) -> tuple[int, int, int]:
    """(channels, height, width) of every image after decoding."""
    broken = _Unreadable()
    read = _threaded(
        lambda start: [broken.attempt(_header, file) for file in files[start : start + CHUNK]],
        range(0, len(files), CHUNK),
    )
    broken.check()
    headers = [header for part in read for header in part if header is not None]
    coloured = next((i for i, header in enumerate(headers) if not header[2]), None)
    if channels == 1 and coloured is not None:
        raise DataError(f"{files[coloured]} is a colour image, but the training images are grey.")
    depth = channels or (1 if coloured is None else 3)
    if size is not None:
        return depth, *sides(size, DataError)
    first = headers[0][:2]
    other = next((i for i, header in enumerate(headers) if header[:2] != first), None)
    if other is not None:
        raise DataError(
            f"The images differ in size: {files[0]} is {_size(first)}, {files[other]} is {_size(headers[other][:2])}. "
            "Give --size N to resize all of them to N×N, or --size HEIGHTxWIDTH."
        )
    return depth, *first


def _header(file: str) -> tuple[int, int, bool]:
    """(height, width, grey?) without decoding."""
    with Image.open(file) as image:
        if image.mode in DEEP_MODES:
            raise ValueError(f"it has 32-bit pixels (mode {image.mode}); convert it to 8 bits")
        return image.height, image.width, image.mode in GREY_MODES


def _pixels(file: str, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Decode to uint8 (c, h, w)."""
    with Image.open(file) as image:
        return to_pixels(image, shape[0], shape[1:])


def _look(file: str) -> None:
    """Refuse what is missing, and what would be waited for, such as a pipe."""
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise ValueError("it is no file, but a pipe or a device")


class _Unreadable:
    """Files that cannot be read as images, collected so that they are named together."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def attempt(self, work: Callable[[str], _R], file: str) -> _R | None:
        """Return what `work` makes of a file; None where it is damaged."""
        try:
            return work(file)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            self.found[file] = str(error)
            return None

    def check(self) -> None:
        """Refuse what was collected."""
        if self.found:
            first, *others = sorted(self.found)
            more = ", ".join(others[:SHOWN]) + (f" and {len(others) - SHOWN} more" if len(others) > SHOWN else "")
            also = f" Nor can {more}: {len(self.found)} files in all. Replace or remove them." if others else ""
            raise DataError(
                f"{first} cannot be read as an image: {self.found[first]}.{also or ' Replace or remove it.'}"
            )


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
