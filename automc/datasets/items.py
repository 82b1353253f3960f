"""What a user's factory returned, as labelled uint8 images; whatever it is, a sentence and never a traceback."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from automc.datasets.base import Images, Progress
from automc.datasets.pictures import GREY_MODES, to_pixels
from automc.errors import DataError

SPLIT = (
    "a torch Dataset of (image, label) or a pair (x, y) of arrays or tensors; images uint8 0…255 or floats, as "
    "(channels, height, width) or (height, width); labels whole numbers from 0"
)
"""What one split may be."""
WANTED = f"It must return (train, test), each {SPLIT}; floats in [0, 1], not normalised"
MAX_CLASSES = 100_000
AGAIN = 4
"""Items that are read twice: random augmentation shows there."""
Stack = Callable[[NDArray[Any], str], NDArray[Any]]
"""(images as they came, where) -> (n, c, h, w); DataError where they are none."""
T = TypeVar("T")
_NO_DATA_SET = (tuple, list, dict, str, bytes, np.ndarray, torch.Tensor)
"""Have a length and an index, and are no data set by themselves."""
_NOT_THEIRS = (
    __file__,
    *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    "<frozen",
)
"""Where code lies that the user did not write."""


def asked(where: str, call: Callable[[], T]) -> T:
    """Run the user's code.

    Raises:
        DataError: it raised; the message has the line of their file, and the cause.
    """
    try:
        return call()
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_NOT_THEIRS)]
        line = f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
        raise DataError(f"{where} failed{line}: {type(error).__name__}: {str(error)[:500]}") from error


def images_of(source: Any, where: str, progress: Progress | None) -> Images:
    """Return what a factory gave for one split.

    Raises:
        DataError: it is no data set, an item or label is wrong; says which and what is wanted.
    """
    pixels, labels = arrays_of(source, where, progress, _stack)
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels))


def arrays_of(
    source: Any, where: str, progress: Progress | None, stack: Stack
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return images (n, c, h, w) as `stack` makes them, and labels (n,), of one split.

    Raises:
        DataError: as `images_of`.
    """
    if isinstance(source, torch.utils.data.DataLoader):
        raise DataError(f"{where}: got a DataLoader, which makes batches of its own. Return its dataset.")
    if isinstance(source, torch.utils.data.IterableDataset):
        raise DataError(f"{where}: got an iterable data set, whose images have no place. Return one with an index.")
    if is_labelled(source):
        pixels, labels = stack(_array(source[0], where), where), _array(source[1], f"{where}, labels")
    elif hasattr(source, "__getitem__") and not hasattr(source, "__len__"):
        raise DataError(f"{where}: {kind(source)} has no length. Give it __len__, the number of its images.")
    elif hasattr(source, "__getitem__") and hasattr(source, "__len__") and not _is_none(source):
        pixels, labels = _iterate(source, where, progress, stack)
    else:
        raise DataError(f"{where}: got {kind(source)}. Give {SPLIT}.")
    return pixels, _labels(labels, len(pixels), where)


def is_labelled(source: Any) -> bool:
    """Whether this is a pair (x, y): an array or tensor of images, and labels in one or in a list."""
    if not isinstance(source, tuple | list) or len(source) != 2:
        return False
    return hasattr(source[0], "shape") and (hasattr(source[1], "shape") or isinstance(source[1], tuple | list))


def _is_none(source: Any) -> bool:
    """Whether what has a length and an index is no data set; a list of (image, label) is one."""
    samples = isinstance(source, list) and len(source) > 2 and all(isinstance(i, tuple) and len(i) == 2 for i in source)
    return isinstance(source, _NO_DATA_SET) and not samples


def _iterate(source: Any, where: str, progress: Progress | None, stack: Stack) -> tuple[NDArray[Any], NDArray[Any]]:
    total = asked(f"{where}: len()", lambda: len(source))
    if total == 0:
        raise DataError(f"{where}: the data set is empty.")
    images: list[NDArray[Any]] = []
    labels: list[Any] = []
    for i in range(total):
        item = asked(f"{where}: item {i} of {total}", lambda i=i: source[i])  # type: ignore[misc]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"{where}: item {i} is {kind(item)}, not (image, label). Give {SPLIT}.")
        image, label = item
        place = f"{where}, item {i}"
        array = _picture(image, place) if isinstance(image, Image.Image) else _array(image, place)
        images.append(stack(array[None], place)[0])
        if i == 0:
            _check_memory(total * images[0].nbytes, total, where)
        if images[-1].shape != images[0].shape:
            raise DataError(
                f"{place} has shape {images[-1].shape}, item 0 {images[0].shape}. "
                "Resize images to one size, and bring them to one kind."
            )
        labels.append(_label(label, place))
        if progress is not None:
            progress(i + 1, total)
    for i in range(min(total, AGAIN)):
        image = asked(f"{where}: item {i} of {total}", lambda i=i: source[i])[0]  # type: ignore[misc]
        array = _picture(image, where) if isinstance(image, Image.Image) else _array(image, where)
        if not np.array_equal(stack(array[None], where)[0], images[i]):
            raise DataError(
                f"{where}: item {i} is another image each time it is read, so accuracies would not compare. Leave "
                "random augmentation out: AutoMC augments the images of training itself (augment)."
            )
    return np.stack(images), np.asarray(labels)


def _check_memory(size: int, total: int, where: str) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise DataError(
            f"{where}: {total:,} images take {size / 2**30:,.0f} GiB of memory, where they are held, and this machine "
            f"has {memory / 2**30:,.0f}. Give smaller images, or fewer."
        )


def _picture(picture: Image.Image, where: str) -> NDArray[np.uint8]:
    try:
        return to_pixels(picture, 1 if picture.mode in GREY_MODES else 3)
    except (ValueError, OSError) as error:
        raise DataError(f"{where}: the picture cannot be read: {error}.") from error


def _array(value: Any, where: str) -> NDArray[Any]:
    """A tensor, wherever it lies and whatever its type, or anything array-like."""
    try:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu()
            value = value.float() if value.dtype == torch.bfloat16 else value
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{where}: {kind(value)} cannot be read as an array: {error}. Give {SPLIT}.") from error
    if array.dtype == object:
        raise DataError(f"{where}: {kind(value)} holds no numbers of one shape. Give {SPLIT}.")
    return array


def _label(label: Any, where: str) -> int | float:
    """One item's label: a number, or an array or tensor that holds one."""
    if isinstance(label, str | bytes) or label is None:
        raise DataError(f"{where}: the label is {label!r:.60}. Labels are whole numbers from 0; {_ENCODE}.")
    value = _array(label, f"{where}, label")
    if value.size != 1 or value.dtype.kind not in "biuf":
        raise DataError(f"{where}: the label is {kind(label)}, not a number. {_ONE_HOT}")
    number: int | float = value.reshape(()).item()
    return number


_ENCODE = "sort the names, and give each its position"
_ONE_HOT = "Of one-hot labels give the position of the one, as by y.argmax(1)."


def _labels(y: NDArray[Any], count: int, where: str) -> NDArray[np.int64]:
    if y.dtype.kind not in "biuf":
        raise DataError(f"{where}: labels are {y.dtype}, such as {y.ravel()[:1].tolist()}. Give numbers: {_ENCODE}.")
    if y.ndim == 2 and y.shape[1] > 1:
        raise DataError(f"{where}: labels have shape {y.shape}: a row per image. {_ONE_HOT}")
    if y.shape in ((count, 1), (count,)):
        y = y.reshape(count)
    if y.shape != (count,) or not np.array_equal(y, np.rint(y)):
        raise DataError(f"{where}: labels are {y.dtype} of shape {y.shape} for {count} images. Give {SPLIT}.")
    if y.max() >= MAX_CLASSES:
        raise DataError(
            f"{where}: the largest label is {y.max()}, so there would be more than {MAX_CLASSES:,} classes. Labels "
            "count the classes from 0 without gaps."
        )
    return np.maximum(y, -1).astype(np.int64) if y.min() < -(2**62) else y.astype(np.int64)


def stacked(x: NDArray[Any], where: str) -> NDArray[Any]:
    """Images (n, c, h, w), uint8 or finite floats as they came.

    Raises:
        DataError: they have another shape or type.
    """
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or 0 in x.shape:
        raise DataError(f"{where}: images have shape {x.shape}. Give {SPLIT}.")
    if x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        raise DataError(f"{where}: images have shape {x.shape}, channels last. Move the channels before the height.")
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"{where}: images are {x.dtype}. Give {SPLIT}.")
    return np.ascontiguousarray(x)


def _stack(x: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Images as uint8 (n, c, h, w)."""
    x = stacked(x, where)
    if x.dtype == np.uint8:
        return x
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        wrong = int((~np.isfinite(x)).sum())
        broken = f" {wrong:,} of their values are NaN or infinite." if wrong else ""
        raise DataError(
            f"{where}: float images range from {low:.3g} to {high:.3g}, so they are not in [0, 1].{broken} Return them "
            "before normalisation, and give --mean and --std."
        )
    pixels: NDArray[np.uint8] = np.rint(x * 255).astype(np.uint8)
    return pixels


def kind(value: Any) -> str:
    """Say what came: the type, and the length or shape where there is one."""
    name = type(value).__name__
    if hasattr(value, "shape"):
        return f"{name} of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"{name} of {len(value)}"
    return name


def named(source: Any, highest: int, where: str) -> Iterable[str]:
    """Return class names: the `classes` of a data set, else the labels' numbers.

    Raises:
        DataError: it names fewer classes than there are labels.
    """
    names = asked(f"{where}: classes", lambda: getattr(source, "classes", None))
    if not isinstance(names, list | tuple) or not names:
        return map(str, range(highest + 1))
    if len(names) <= highest:
        raise DataError(f"{where}: a label is {highest}, but its `classes` names {len(names)}. Name all, or none.")
    return map(str, names)
