"""Images that anybody has: a pattern for each class, under noise. A network learns them; nothing is downloaded."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

IMAGES = "AUTOMC_KIT_IMAGES"
"""The environment's variable with the number of training images; there are a fifth as many for testing."""
CLASSES, SIDE = 10, 32


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return uint8 (n, 3, 32, 32) and labels (n,), each class alike."""
    patterns = np.random.default_rng(0).integers(0, 256, (CLASSES, 3, 4, 4))
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    large = patterns.repeat(8, axis=2).repeat(8, axis=3)
    x = np.empty((n, 3, SIDE, SIDE), np.uint8)
    for part in np.array_split(np.arange(n), max(1, n // 5000)):
        noise = rng.integers(0, 192, (len(part), 3, SIDE, SIDE), dtype=np.uint8)
        x[part] = large[labels[part]] // 4 + noise
    return torch.from_numpy(x), torch.from_numpy(labels)


def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return training and test images: the factory of `--data synthetic.py:data`."""
    n = int(os.environ.get(IMAGES, "50000"))
    return images(n, 1), images(max(CLASSES, n // 5), 2)
