"""Data that come as objects: kept as a folder of uint8 images, so that workers and later days read the same.

Floats are what the model sees: a channel's range is divided into 256 levels, and mean and std say how to come back.
uint8 and pictures are pixels, value / 255, normalised as the model's record or the user says.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from automc.datasets.base import Images, Progress, Raw
from automc.datasets.decoded import load_entry, save_entry
from automc.datasets.items import arrays_of, is_labelled, named, stacked
from automc.datasets.ref import DataRef
from automc.datasets.splits import content_hash
from automc.errors import DataError, EnvironmentFault, Note
from automc.temporary import prefix

ABOUT = "given.json"
PARTS = ("train", "test", "validation")
Scale = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and std per channel, of pixels in [0, 1]."""


def keep(data: Any, folder: Path, *, val: Any = None, progress: Progress | None = None, **options: Any) -> DataRef:
    """Write data to a folder of their class's name under `folder`, and return how to read them; equal ones share one.

    Args:
        data: one split or a pair (train, test); a split is a torch Dataset of (image, label) with a length, or a pair
            (x, y) of arrays or tensors, x (n, c, h, w) or (n, h, w).
        val: a split that replaces the validation split.
        options: other fields of DataRef: mean, std, classes, augment.

    Raises:
        DataError: it is no such data; says what came, and where.
        EnvironmentFault: the folder cannot be written.
    """
    train, test = data if _is_pair(data) else (data, None)
    if train is None:
        raise DataError("There are no training data.")
    splits = {name: part for name, part in zip(PARTS, (train, test, val), strict=True) if part is not None}
    read = {name: arrays_of(part, f"{name} data", progress, stacked) for name, part in splits.items()}
    scale = _scale({name: pixels for name, (pixels, _) in read.items()}, options)
    parts = {
        name: Images(torch.from_numpy(_pixels(x, scale)), torch.from_numpy(y)) for name, (x, y) in read.items()
    }  # fmt: skip
    highest = max(int(images.y.max()) for images in parts.values())
    classes = tuple(options.pop("classes", None) or named(train, highest, "train data"))
    spec = _written(folder, _title(train), parts, classes)
    if scale is not None:
        options |= {"mean": scale[0], "std": scale[1]}
    return DataRef(str(spec), **options)


def is_given(spec: str) -> bool:
    """Tell whether a path is a folder that `keep` has written."""
    return (Path(os.path.expanduser(spec)) / ABOUT).is_file()


def read(ref: DataRef) -> Raw:
    """Read what `keep` has written.

    Raises:
        DataError: it is damaged.
    """
    place = Path(os.path.expanduser(ref.spec))
    try:
        about = json.loads((place / ABOUT).read_text())
        parts = {name: load_entry(place / name) for name in about["parts"]}
        return Raw(parts["train"], parts.get("test"), tuple(about["classes"]), parts.get("validation"))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{place} is damaged: {error}. Give the data again.") from error


def _is_pair(data: Any) -> bool:
    """Whether data are (train, test), and not the arrays (x, y) of one split."""
    return isinstance(data, tuple | list) and len(data) == 2 and not is_labelled(data)


def _scale(pixels: dict[str, NDArray[Any]], options: dict[str, Any]) -> Scale | None:
    """How 8-bit levels become what the model sees; None for pixels, whose normalisation is the model's."""
    floats = {name: np.issubdtype(x.dtype, np.floating) for name, x in pixels.items()}
    if len(set(floats.values())) > 1:
        odd = ", ".join(f"{name} {pixels[name].dtype}" for name in floats)
        raise DataError(f"The images of the splits differ in kind: {odd}. Give all as floats, or all as uint8.")
    if not floats["train"]:
        return None
    if options.get("mean") is not None or options.get("std") is not None:
        raise DataError("mean and std are for uint8 images: floats are taken as what the model sees. Leave them out.")
    for name, x in pixels.items():
        if wrong := int((~np.isfinite(x)).sum()):
            raise DataError(f"{name} data: {wrong:,} values of the images are NaN or infinite.")
        if x.shape[1] != pixels["train"].shape[1]:
            raise DataError(f"{name} data have {x.shape[1]} channels, train data {pixels['train'].shape[1]}.")
    channels = range(pixels["train"].shape[1])
    low = [min(float(x[:, c].min()) for x in pixels.values()) for c in channels]
    high = [max(float(x[:, c].max()) for x in pixels.values()) for c in channels]
    if min(low) >= 0 and max(high) <= 1:
        low, high = [0.0] * len(low), [1.0] * len(high)  # the 256 levels of pixels, if they were such
    else:
        warnings.warn(
            f"Images of floats from {min(low):.3g} to {max(high):.3g} are kept in 256 levels.", Note, stacklevel=4
        )
    spans = [max(b - a, 0.1) for a, b in zip(low, high, strict=True)]
    return tuple(-a / s for a, s in zip(low, spans, strict=True)), tuple(1 / s for s in spans)


def _pixels(x: NDArray[Any], scale: Scale | None) -> NDArray[np.uint8]:
    if scale is None:
        return x
    mean, std = (np.asarray(part, dtype=np.float32).reshape(1, -1, 1, 1) for part in scale)
    levels: NDArray[np.uint8] = np.rint(np.clip(x.astype(np.float32) * std + mean, 0, 1) * 255).astype(np.uint8)
    return levels


def _title(train: Any) -> str:
    """A name for people: the data set's class, or what it is a part of."""
    while isinstance(train, torch.utils.data.Subset):
        train = train.dataset
    return "arrays" if isinstance(train, tuple | list) else type(train).__name__


def _written(folder: Path, title: str, parts: dict[str, Images], classes: tuple[str, ...]) -> Path:
    key = hashlib.sha256(repr((classes, {name: content_hash(part) for name, part in parts.items()})).encode())
    place = folder / key.hexdigest()[:12] / title
    if (place / ABOUT).is_file():
        os.utime(place.parent)  # used again
        return place
    temporary = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=prefix()))
        for name, images in parts.items():
            save_entry(temporary / name, images)
        (temporary / ABOUT).write_text(json.dumps({"classes": list(classes), "parts": list(parts)}))
        os.rename(temporary, place)
    except OSError as error:
        if not (place / ABOUT).is_file():  # another process was first
            raise EnvironmentFault(
                f"The images cannot be kept in {folder}: {error.strerror}. Free some space, or set AUTOMC_HOME."
            ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return place
