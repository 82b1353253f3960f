"""The user's own data: `file.py:factory`, a function without arguments that returns training and test data."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from automc.datasets.base import DataRef, Images, Progress, Raw
from automc.errors import DataError

WANTED = (
    "It must return (train, test), each a torch Dataset of (image, label) or a pair (x, y) of arrays or tensors; "
    "images uint8 0…255 or floats in [0, 1], not normalised, as (channels, height, width) or (height, width); "
    "labels whole numbers from 0"
)


def read(ref: DataRef, cache: Path | None = None, progress: Progress | None = None) -> Raw:
    """Call the user's `file.py:factory` and read what it returns.

    The factory takes no argument and returns (train, test). Each is a map-style torch Dataset whose items are
    (image, label), or a pair (x, y) of tensors or arrays: x (n, c, h, w) or (n, h, w), y (n,). Images are uint8
    0 … 255, floats in [0, 1] (rounded to 8 bits), or PIL images; *before* normalisation and augmentation, which are
    AutoMC's. Class names: `ref.classes`, else a `classes` attribute of train, else the labels' numbers.

    The file is run as Python: use only one you trust. Nothing is cached: the factory is called in every process.

    Raises:
        DataError: the file or factory is missing or fails, or returns something else; the message names what came.
    """
    factory = _factory(ref.spec)
    try:
        result = factory()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"{ref.spec} failed in {where.filename}, line {where.lineno}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise DataError(f"{ref.spec} returned {_kind(result)}. {WANTED}.")
    train = _images(result[0], f"{ref.spec}, train", progress)
    test = _images(result[1], f"{ref.spec}, test", progress)
    return Raw(train, test, _classes(ref, result[0], train, test))


def _classes(ref: DataRef, source: Any, train: Images, test: Images) -> tuple[str, ...]:
    highest = max(int(train.y.max()), int(test.y.max()))
    if ref.classes is not None:
        return ref.classes
    named = getattr(source, "classes", None)
    if isinstance(named, list | tuple) and len(named) > highest:
        return tuple(map(str, named))
    return tuple(map(str, range(highest + 1)))


def _factory(spec: str) -> Callable[[], Any]:
    place, _, name = spec.rpartition(":")
    if not place:
        raise DataError(f"--data {spec}: name the function too, as {spec}:FUNCTION. {WANTED}.")
    file = Path(place).expanduser().absolute()
    if not file.is_file():
        raise DataError(f"--data {spec}: there is no file {file}.")
    found = importlib.util.spec_from_file_location(f"automc_data_{file.stem}", file)
    if found is None or found.loader is None:
        raise DataError(f"--data {spec}: {file} is no Python file.")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # so that classes defined there can be found again
    sys.path.insert(0, str(file.parent))
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise DataError(f"--data {spec}: {file} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.parent))
    factory = getattr(module, name, None)
    if not callable(factory):
        names = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_")]
        raise DataError(f"--data {spec}: {file} has no function {name!r}. It has: {', '.join(names) or 'none'}.")
    return factory  # type: ignore[no-any-return]


def _images(source: Any, where: str, progress: Progress | None) -> Images:
    if isinstance(source, tuple | list) and len(source) == 2 and all(hasattr(part, "shape") for part in source):
        x, y = (np.asarray(part.detach().cpu() if isinstance(part, torch.Tensor) else part) for part in source)
        pixels = _stack(x, where)
    elif hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, tuple | list):
        pixels, y = _iterate(source, where, progress)
    else:
        raise DataError(f"{where}: got {_kind(source)}. {WANTED}.")
    if y.shape != (len(pixels),) or not (np.issubdtype(y.dtype, np.integer) or np.array_equal(y, np.rint(y))):
        raise DataError(f"{where}: labels are {y.dtype} of shape {y.shape} for {len(pixels)} images. {WANTED}.")
    return Images(torch.from_numpy(pixels), torch.from_numpy(y.astype(np.int64)))


def _iterate(source: Any, where: str, progress: Progress | None) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    total = len(source)
    if total == 0:
        raise DataError(f"{where}: the data set is empty.")
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for i in range(total):
        item = source[i]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"{where}: item {i} is {_kind(item)}, not (image, label). {WANTED}.")
        image, label = item
        if isinstance(image, Image.Image):
            array = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
            array = array.transpose(2, 0, 1) if array.ndim == 3 else array
        else:
            array = np.asarray(image)
        images.append(_stack(array[None], f"{where}, item {i}")[0])
        if images[-1].shape != images[0].shape:
            raise DataError(
                f"{where}: item {i} has shape {images[-1].shape}, item 0 {images[0].shape}. Resize images to one size."
            )
        labels.append(int(label))
        if progress is not None:
            progress(i + 1, total)
    return np.stack(images), np.asarray(labels)


def _stack(x: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Images as uint8 (n, c, h, w)."""
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or len(x) == 0:
        raise DataError(f"{where}: images have shape {x.shape}. {WANTED}.")
    if x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        raise DataError(f"{where}: images have shape {x.shape}, channels last. Move the channels before the height.")
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"{where}: images are {x.dtype}. {WANTED}.")
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"{where}: float images range from {low:.3g} to {high:.3g}, so they are not in [0, 1]. Return them before "
            "normalisation, and give --mean and --std."
        )
    pixels: NDArray[np.uint8] = np.rint(x * 255).astype(np.uint8)
    return pixels


def _kind(value: Any) -> str:
    """What came, in words: the type, and the length or shape where there is one."""
    name = type(value).__name__
    if hasattr(value, "shape"):
        return f"{name} of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"{name} of {len(value)}"
    return name
