"""The small task of `pays`: CIFAR-10 at 16×16 pixels, 7,500 images to train on and 2,000 to test, balanced over classes.

The folder of images is named by the environment variable SMALL_TASK_IMAGES.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

SIDE = 16
PER_CLASS = {"train": 750, "test": 200}


def part(folder: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """So many images of each class, drawn with a fixed seed: (n, 3, 16, 16) uint8 and labels."""
    images, labels = [], []
    for label, kind in enumerate(sorted(p for p in folder.iterdir() if p.is_dir())):
        files = sorted(kind.iterdir())
        for file in random.Random(label).sample(files, count):
            with Image.open(file) as image:
                small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
            images.append(pil_to_tensor(small))
            labels.append(label)
    return torch.stack(images), torch.tensor(labels)


def images() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Training and test images: a factory for `--data benchmarks/small_task.py:images`."""
    root = Path(os.environ["SMALL_TASK_IMAGES"])
    train, test = (part(root / name, count) for name, count in PER_CLASS.items())
    return train, test
