"""The tasks of `pays`: a trained network and its images, made once in a working folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.small_task import DATA, NETS, trained

PARTS = {"train": ("train", 0, 500), "val": ("test", 0, 200), "test": ("test", 200, 800)}
"""Of ResNet-20's images: of each class so many, drawn from a folder's part, from a place in it on. The checkpoint has
seen all images of train/: validation is of others."""
EPOCHS, LR = 1.0, 0.01
"""Of tuning the public checkpoint on these images, which went through JPEG."""


@dataclass(frozen=True, slots=True)
class Given:
    """What `automc` is given."""

    model: str
    data: str
    weights: Path | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A network and its images."""

    about: str
    """For the page."""
    make: Callable[[Path, Path | None, Path | None], None]
    """Put what the task needs into a working folder, from a folder of CIFAR-10 images and a public checkpoint."""
    given: Callable[[Path], Given]


def small(net: str, about: str) -> Task:
    """A network of the small tasks, which is trained first; the images are read by their factory."""

    def make(work: Path, images: Path | None, weights: Path | None) -> None:
        trained(net, work)

    return Task(about, make, lambda work: Given(NETS[net], DATA, work / f"{net}.pt"))


def make_resnet20(work: Path, images: Path | None, weights: Path | None) -> None:
    """Link the images of a folder into another, and tune the checkpoint on them; builds of any age read what is kept.

    Raises:
        SystemExit: one of both is not given.
    """
    if (work / "resnet20.pt").is_file():
        return
    if images is None or weights is None:
        raise SystemExit("ResNet-20 asks for --images and --weights the first time.")
    import torch

    from automc import api

    for part, (source, first, count) in PARTS.items():
        for kind in sorted(p for p in (images.resolve() / source).iterdir() if p.is_dir()):
            files = sorted(kind.iterdir())
            place = work / "cifar10" / part / kind.name
            place.mkdir(parents=True, exist_ok=True)
            # Every k-th of those behind `first`: a folder's order may mean something.
            for file in files[first :: max(1, (len(files) - first) // count)][:count]:
                if not (place / file.name).is_symlink():
                    (place / file.name).symlink_to(file)
    api.train(
        "resnet20", str(work / "cifar10"), out=work / "resnet20.am", weights=weights, epochs=EPOCHS, lr=LR,
        precision="float32", device="cpu",
    )  # fmt: skip
    torch.save(api.load(str(work / "resnet20.am")).state_dict(), work / "resnet20.pt")


TASKS = {
    "small": small(
        "resnet8",
        "ResNet-8, CIFAR-10 at 16×16 pixels, 7,500 training images (750 of them for validation), 10,000 of test",
    ),
    "plain": small(
        "plain6",
        "A network in the manner of VGG, six convolutions without shortcuts; the images of the small task",
    ),
    "separable": small(
        "separable",
        "A network in the manner of MobileNet, depthwise and pointwise convolutions; the images of the small task",
    ),
    "resnet20": Task(
        "ResNet-20 (a public checkpoint, tuned for an epoch), CIFAR-10 at 32×32 pixels, 5,000 training images, 2,000 of "
        "validation and 8,000 of test, which it has not seen",
        make_resnet20,
        lambda work: Given("resnet20", str(work / "cifar10"), work / "resnet20.pt"),
    ),
}
