"""CIFAR, Fashion-MNIST and SVHN on tiny files of their published formats.

torchvision accepts a file only by its published checksum, so the tests put the tiny files' checksums in its lists.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision.datasets as tv

from automc.datasets import DataRef, open_data
from automc.errors import DataError

RNG = np.random.default_rng(0)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def cifar_files(
    family: type[tv.CIFAR10], each: int, classes: list[str]
) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """The files of a CIFAR with `each` images a batch, and all pixels by batch."""
    files, pixels = {}, {}
    key = "fine_labels" if family is tv.CIFAR100 else "labels"
    for name, _ in (*family.train_list, *family.test_list):
        rows = RNG.integers(0, 256, (each, 3072), dtype=np.uint8)
        pixels[name] = rows.reshape(each, 3, 32, 32)
        files[name] = pickle.dumps({"data": rows, key: [i % len(classes) for i in range(each)]}, protocol=2)
    files[family.meta["filename"]] = pickle.dumps({family.meta["key"]: classes}, protocol=2)
    return files, pixels


def accept(monkeypatch: pytest.MonkeyPatch, family: type[tv.CIFAR10], files: dict[str, bytes]) -> None:
    for attribute in ("train_list", "test_list"):
        names = [name for name, _ in getattr(family, attribute)]
        monkeypatch.setattr(family, attribute, [[name, md5(files[name])] for name in names])
    monkeypatch.setattr(family, "meta", {**family.meta, "md5": md5(files[family.meta["filename"]])})


@pytest.mark.parametrize(("name", "family"), [("cifar10", tv.CIFAR10), ("cifar100", tv.CIFAR100)])
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, family: type[tv.CIFAR10]) -> None:
    classes = ["ant", "bee", "cat"]
    files, pixels = cifar_files(family, 6, classes)
    accept(monkeypatch, family, files)
    folder = tmp_path / family.base_folder
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    cache = tmp_path / "cache"
    data = open_data(DataRef(name, root=str(tmp_path)), cache)
    assert data.classes == tuple(classes)
    assert data.augment == "crop-flip"
    assert np.array_equal(data.train.x.numpy(), np.concatenate([pixels[f] for f, _ in family.train_list]))
    assert data.test is not None
    assert np.array_equal(data.test.x.numpy(), pixels[family.test_list[0][0]])
    assert data.test.y.tolist() == [0, 1, 2, 0, 1, 2]
    assert open_data(DataRef(name, root=str(folder)), cache).hash == data.hash

    damaged = folder / family.test_list[0][0]
    damaged.write_bytes(files[damaged.name] + b"x")
    with pytest.raises(DataError, match=f"{name} cannot be read"):
        open_data(DataRef(name, root=str(tmp_path)), cache)
    damaged.unlink()
    with pytest.raises(DataError, match=r"missing.*--root.*--download"):
        open_data(DataRef(name, root=str(tmp_path)))


def test_cifar_archive_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = cifar_files(tv.CIFAR10, 4, ["ant", "bee"])
    accept(monkeypatch, tv.CIFAR10, files)
    with tarfile.open(tmp_path / tv.CIFAR10.filename, "w:gz") as archive:
        for file, content in files.items():
            entry = tarfile.TarInfo(f"{tv.CIFAR10.base_folder}/{file}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(tv.CIFAR10, "tgz_md5", md5((tmp_path / tv.CIFAR10.filename).read_bytes()))
    assert open_data(DataRef("cifar10", root=str(tmp_path))).train.n == 20


def test_damaged_class_names_of_cifar_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = cifar_files(tv.CIFAR10, 4, ["ant", "bee"])
    accept(monkeypatch, tv.CIFAR10, files)
    folder = tmp_path / tv.CIFAR10.base_folder
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    (folder / tv.CIFAR10.meta["filename"]).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(DataError, match=r"batches\.meta is damaged"):
        open_data(DataRef("cifar10", root=str(tmp_path)))


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists, pixels = {}, {}
    for part in ("train", "test"):
        file = tmp_path / f"{part}_32x32.mat"
        pixels[part] = RNG.integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
        scipy.io.savemat(file, {"X": pixels[part], "y": np.array([[1], [2], [10], [9], [10]], dtype=np.uint8)})
        lists[part] = ["", file.name, md5(file.read_bytes())]
    monkeypatch.setattr(tv.SVHN, "split_list", lists)
    data = open_data(DataRef("svhn", root=str(tmp_path)))
    assert data.train.y.tolist() == [1, 2, 0, 9, 0]
    assert data.augment == "crop"
    for i in range(5):
        assert np.array_equal(data.train.x[i].numpy(), pixels["train"][..., i].transpose(2, 0, 1))
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(DataError, match=r"svhn: .*test_32x32\.mat is missing"):
        open_data(DataRef("svhn", root=str(tmp_path)))


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def fashion(folder: Path, zipped: bool) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (7, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        for name, array in (
            (f"{part}-images-idx3-ubyte", pixels),
            (f"{part}-labels-idx1-ubyte", np.arange(7, dtype=np.uint8)),
        ):
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))
    return pixels


@pytest.mark.parametrize(("inside", "zipped"), [("FashionMNIST/raw", True), ("raw", False), (".", True)])
def test_fashion_mnist(tmp_path: Path, inside: str, zipped: bool) -> None:
    pixels = fashion(tmp_path / inside, zipped)
    data = open_data(DataRef("fashion-mnist", root=str(tmp_path)), tmp_path / "cache")
    assert np.array_equal(data.train.x.numpy(), pixels[:, None])
    assert data.train.y.tolist() == list(range(7))
    assert data.classes[9] == "Ankle boot"
    assert data.augment == "crop-flip"


def test_fashion_mnist_refuses_damaged_files(tmp_path: Path) -> None:
    fashion(tmp_path, True)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    for content, message in (
        (whole[:200], "cannot be read"),
        (b"nothing", "cannot be read"),
        (gzip.compress(b"\0\0\x0d\x03"), "no idx file"),
        (gzip.compress(idx(np.zeros((7, 28, 28), np.uint8))[:-5]), "ends early"),
        (gzip.compress(idx(np.zeros((6, 28, 28), np.uint8))), "not images with labels"),
    ):
        images.write_bytes(content)
        with pytest.raises(DataError, match=message):
            open_data(DataRef("fashion-mnist", root=str(tmp_path)))
