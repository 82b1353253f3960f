"""Scikit-learn's handwritten digits: 1,797 grey images of 8 × 8, no file and no network needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from automc.datasets.base import DataRef, Images, Progress, Raw
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
    from sklearn.datasets import load_digits

    if ref.root is not None:
        raise DataError(
            f"digits has no files: it comes with scikit-learn, so --root {ref.root} would be ignored. Leave it out; a "
            f"folder of your own images is --data {ref.root}."
        )
    found = load_digits()
    x = np.rint(found.images * (255 / 16)).astype(np.uint8)[:, None]
    images = Images(torch.from_numpy(x), torch.from_numpy(found.target.astype(np.int64)))
    everything = np.arange(images.n)
    held = draw(found.target, ranked(digests(images)), round(TEST_SHARE * images.n), everything)
    kept = np.setdiff1d(everything, held)
    train, test = (Images(torch.from_numpy(x[part]), images.y[torch.from_numpy(part)]) for part in (kept, held))
    return Raw(train, test, tuple(map(str, range(10))), augment="none")
