"""CIFAR-10, CIFAR-100, Fashion-MNIST and SVHN, from the files their authors publish, read by torchvision."""

from __future__ import annotations

import gzip
import math
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from automc.datasets.base import Images, Progress, Raw
from automc.datasets.decoded import Allocate, decoded, signature
from automc.datasets.ref import Augment, DataRef
from automc.datasets.registry import register
from automc.errors import DataError

Pair = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (n, c, h, w) and labels (n,)."""

DEFAULT_ROOT = "data"


@register("cifar10")
def cifar10(ref: DataRef, cache: Path | None = None, progress: Progress | None = None) -> Raw:
    """50,000 + 10,000 colour images of 32 × 32, 10 classes: `cifar-10-batches-py/` or its archive under --root."""
    return _cifar("CIFAR10", ref, cache)


@register("cifar100")
def cifar100(ref: DataRef, cache: Path | None = None, progress: Progress | None = None) -> Raw:
    """50,000 + 10,000 colour images of 32 × 32, 100 classes: `cifar-100-python/` or its archive under --root."""
    return _cifar("CIFAR100", ref, cache)


@register("svhn")
def svhn(ref: DataRef, cache: Path | None = None, progress: Progress | None = None) -> Raw:
    """73,257 + 26,032 house numbers of 32 × 32: `train_32x32.mat` and `test_32x32.mat` under --root."""
    from torchvision.datasets import SVHN

    root = _root(ref)
    files = [root / SVHN.split_list[part][1] for part in ("train", "test")]
    fetch = ref.download and not all(file.is_file() for file in files)

    def part(name: str) -> Pair:
        found = _torchvision("svhn", root, lambda: SVHN(str(root), split=name, download=fetch))
        return found.data, found.labels.astype(np.int64)

    if fetch:
        part("train"), part("test")
    _present("svhn", files, root)

    return _raw("svhn", cache, files, part, tuple(map(str, range(10))), augment="crop")


@register("fashion-mnist")
def fashion_mnist(ref: DataRef, cache: Path | None = None, progress: Progress | None = None) -> Raw:
    """60,000 + 10,000 grey images of 28 × 28: idx files, gzipped or not, under --root or its FashionMNIST/raw/."""
    from torchvision.datasets import FashionMNIST

    root = _root(ref)
    stems = {
        "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    }

    def find() -> dict[str, list[Path]]:
        return {part: [_find(root, stem) for stem in pair] for part, pair in stems.items()}

    found = find()
    if ref.download and not all(file.is_file() for pair in found.values() for file in pair):
        _torchvision("fashion-mnist", root, lambda: FashionMNIST(str(root), download=True))
        found = find()
    files = [file for pair in found.values() for file in pair]
    _present("fashion-mnist", files, root)

    def part(name: str) -> Pair:
        images, labels = (_read_idx(file) for file in found[name])
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise DataError(
                f"{found[name][0]} holds {images.shape} and {found[name][1]} {labels.shape}: not images with labels."
            )
        return images[:, None], labels.astype(np.int64)

    return _raw("fashion-mnist", cache, files, part, tuple(FashionMNIST.classes))


def _cifar(kind: str, ref: DataRef, cache: Path | None) -> Raw:
    import torchvision.datasets
    from torchvision.datasets.utils import check_integrity

    family = getattr(torchvision.datasets, kind)
    name = kind.lower()
    root = _root(ref)
    if root.name == family.base_folder:
        root = root.parent
    folder, archive = root / family.base_folder, root / family.filename
    files = [folder / file for file, _ in (*family.train_list, *family.test_list)]
    meta = folder / family.meta["filename"]
    complete = all(file.is_file() for file in (*files, meta))
    unpack = not complete and (ref.download or archive.is_file())

    def part(which: str) -> Pair:
        found = _torchvision(name, root, lambda: family(str(root), train=which == "train", download=unpack))
        return np.ascontiguousarray(found.data.transpose(0, 3, 1, 2)), np.asarray(found.targets, dtype=np.int64)

    if unpack:
        part("test")
    _present(name, [*files, meta], root)
    if not check_integrity(str(meta), family.meta["md5"]):
        raise DataError(f"{meta} is damaged. Delete it and fetch it anew.")
    with meta.open("rb") as stream:  # a pickle, but only ever the published one: its checksum was just compared
        classes = tuple(pickle.load(stream, encoding="latin1")[family.meta["key"]])
    return _raw(name, cache, files, part, classes)


def _raw(
    name: str, cache: Path | None, files: list[Path], part: Callable[[str], Pair],
    classes: tuple[str, ...], augment: Augment | None = None,
) -> Raw:  # fmt: skip
    def images(which: str) -> Images:
        def produce(allocate: Allocate) -> Pair:
            pixels, labels = part(which)
            out = allocate(pixels.shape)
            out[:] = pixels
            return out, labels

        key = signature(files, name, which)
        return decoded(cache, key, produce)

    return Raw(images("train"), images("test"), classes, augment=augment)


def _torchvision(name: str, root: Path, read: Callable[[], Any]) -> Any:
    """Call torchvision's reader; what it raises for missing, damaged or unreachable files becomes a DataError."""
    try:
        return read()
    except (RuntimeError, OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"{name} cannot be read under {root}: {error} Delete the damaged files and fetch them anew, "
            "or use --download where a network allows."
        ) from None


def _root(ref: DataRef) -> Path:
    return Path(os.path.expanduser(ref.root or DEFAULT_ROOT))


def _present(name: str, files: list[Path], root: Path) -> None:
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"{name}: {missing[0]} is missing. Give the folder with the published files by --root (now {root}), "
            "or use --download where a network allows."
        )


def _find(root: Path, stem: str) -> Path:
    for folder in (root / "FashionMNIST" / "raw", root / "raw", root):
        for name in (stem, f"{stem}.gz"):
            if (folder / name).is_file():
                return folder / name
    return root / f"{stem}.gz"


def _read_idx(file: Path) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes: two zero bytes, type 8, the number of sizes, the sizes, the bytes."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}. Fetch it anew.") from None
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise DataError(f"{file} is no idx file of unsigned bytes. Fetch it anew.")
    ndim = content[3]
    shape = struct.unpack(f">{ndim}I", content[4 : 4 + 4 * ndim])
    body = content[4 + 4 * ndim :]
    if len(body) != math.prod(shape):
        raise DataError(f"{file} ends early: {len(body)} bytes of {math.prod(shape)}. Fetch it anew.")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)
