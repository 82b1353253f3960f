"""The small tasks: CIFAR-10 at 16×16 pixels, 7,500 images to train on and all 10,000 of the test set; and in grey.

The folder of images is named by the environment variable SMALL_TASK_IMAGES.
"""

from __future__ import annotations

import functools
import itertools
import os
import random
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision.transforms.functional import pil_to_tensor, rgb_to_grayscale

SIDE = 16
DATA = f"{Path(__file__).resolve()}:images"
"""What `--data` is given."""
GREY = f"{Path(__file__).resolve()}:grey_images"
"""The same in grey, with 30,000 images: 3,000 to choose by; the second table's steps train on a tenth."""
NETS = {
    "resnet8": "resnet8",
    "plain6": f"{Path(__file__).resolve()}:plain6",
    "grey6": f"{Path(__file__).resolve()}:grey6",
    "separable": f"{Path(__file__).resolve()}:separable",
}
"""The networks of the small tasks, by name: what `automc` is given as MODEL."""
EPOCHS = {"resnet8": 40, "plain6": 40, "grey6": 12, "separable": 40}
"""Of training a network before it is compressed."""
PER_CLASS = {"train": 750, "test": 1000}
GREY_PER_CLASS = {"train": 3000, "test": 1000}


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


@functools.cache
def images() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Training and test images, read once a process: a factory for `--data benchmarks/small_task.py:images`."""
    root = Path(os.environ["SMALL_TASK_IMAGES"])
    train, test = (part(root / name, count) for name, count in PER_CLASS.items())
    return train, test


@functools.cache
def grey_images() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """The same in grey, (n, 1, 16, 16): more images to train on, the same test set."""
    root = Path(os.environ["SMALL_TASK_IMAGES"])
    train, test = (part(root / name, count) for name, count in GREY_PER_CLASS.items())
    return (rgb_to_grayscale(train[0]), train[1]), (rgb_to_grayscale(test[0]), test[1])


def trained(model: str, out: Path) -> Path:
    """The weights of one of NETS that all rows of a table start from: trained once, kept in `out`."""
    file = out / f"{model}.pt"
    if not file.is_file():
        from automc import api

        out.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        data = GREY if model == "grey6" else DATA
        api.train(NETS[model], data, out=out / f"{model}.am", epochs=EPOCHS[model], precision="float32", device="cpu")
        torch.save(api.load(str(out / f"{model}.am")).state_dict(), file)
    return file


def plain6() -> nn.Module:
    """A network in the manner of VGG, without shortcuts: six convolutions, 288,746 parameters."""
    return plain((3, 32, 32, 64, 64, 128, 128))


def grey6() -> nn.Module:
    """The same kind for grey images, narrower: 162,562 parameters."""
    return plain((1, 24, 24, 48, 48, 96, 96))


def plain(widths: tuple[int, ...]) -> nn.Module:
    """3×3 convolutions of these widths, two poolings and a linear classifier of ten classes."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(widths), 1):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        if number in (2, 4):
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def separable() -> nn.Module:
    """A network in the manner of MobileNet: six depthwise convolutions with a pointwise one behind each, 90,890 parameters."""

    def layer(before: int, after: int, side: int, groups: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(before, after, side, padding=side // 2, groups=groups, bias=False)
        return [convolution, nn.BatchNorm2d(after), nn.ReLU()]

    layers = layer(3, 32, 3)
    for number, (before, after) in enumerate(itertools.pairwise((32, 64, 64, 128, 128, 128, 256)), 1):
        layers += [*layer(before, before, 3, groups=before), *layer(before, after, 1)]
        if number in (2, 4):
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))
