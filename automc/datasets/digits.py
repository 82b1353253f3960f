"""Scikit-learn's handwritten digits: 1,797 grey images of 8 × 8, no file and no network needed."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from automc.datasets.base import Images, Progress, Raw
from automc.datasets.ref import DataRef
from automc.datasets.registry import register
from automc.datasets.splits import digests, draw, ranked
from automc.errors import DataError

TEST_SHARE = 0.2


@register("digits")
def read(ref: DataRef, cache: Path | None = None, progress: Progress | None = None) -> Raw:
    """Read the digits: uint8 (n, 1, 8, 8), grey levels 0 … 16 scaled to 0 … 255; a fixed, stratified 80/20 split.

    Not augmented by default: a pixel is an eighth of a digit, and short training suffers.

    Raises:
        DataError: a folder is named, whose files would not be read.
    """
    if ref.root is not None:
        raise DataError(
            f"digits has no files: it comes with scikit-learn, so --root {ref.root} would be ignored. Leave it out; a "
            f"folder of your own images is --data {ref.root}."
        )
    x, y, kept, held = _whole()
    train, test = (Images(torch.from_numpy(x[part]), torch.from_numpy(y[part])) for part in (kept, held))
    return Raw(train, test, tuple(map(str, range(10))), augment="none")


@functools.cache
def _whole() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.intp], NDArray[np.intp]]:
    """Pixels and labels of all digits, and which of them are for training and for the test; read once in a process."""
    table = _table()
    images, y = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
    x = np.rint(images * (255 / 16)).astype(np.uint8)
    everything = np.arange(len(y))
    ranks = ranked(digests(Images(torch.from_numpy(x), torch.from_numpy(y))))
    held = draw(y, ranks, round(TEST_SHARE * len(y)), everything)
    return x, y, np.setdiff1d(everything, held), held


def _table() -> NDArray[np.float64]:
    """Read what `load_digits` reads, (n, 64 + 1): to import scikit-learn for it takes 85 MB and a second a process."""
    spec = importlib.util.find_spec("sklearn")
    file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz" if spec and spec.origin else None
    if file is not None and file.is_file():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # a version that keeps it elsewhere

    found = load_digits()
    return np.column_stack([found.data, found.target])
