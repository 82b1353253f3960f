"""Decoded images on disk: written once under the cache folder, memory-mapped by every process afterwards."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from automc.datasets.base import Images
from automc.datasets.splits import content_hash, digests
from automc.errors import EnvironmentFault
from automc.temporary import prefix

SHARED_BYTES = 256 << 20
"""Pixels from which on processes share what each of them made."""
Allocate = Callable[[tuple[int, ...]], NDArray[np.uint8]]
"""Shape → a uint8 array to be filled: on disk, or in memory where there is no cache."""


def signature(files: Iterable[Path | str], *settings: object) -> str:
    """Key of decoded files: their paths, sizes, times of change, and the settings of decoding.

    The time of the last change of the file as such, too: whoever unpacks or copies may set the time of its content.
    """
    key = hashlib.sha256(repr(settings).encode())
    for file in files:
        stat = os.stat(file)
        key.update(os.fsencode(f"\n{os.path.abspath(file)}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"))
    return key.hexdigest()[:32]


def decoded(
    cache: Path | None, key: str, produce: Callable[[Allocate], tuple[NDArray[np.uint8], NDArray[np.int64]]]
) -> Images:
    """Return the images under `key`, calling `produce` only where the cache does not hold them.

    `produce` fills an array from the given allocator with (n, c, h, w) uint8 and returns it with the (n,) labels.
    An entry is complete or absent; when two processes decode the same images, the first one's entry is kept.

    Raises:
        EnvironmentFault: the cache cannot be written.
    """
    if cache is None:
        x, y = produce(lambda shape: np.empty(shape, dtype=np.uint8))
        return Images(torch.from_numpy(x), torch.from_numpy(y))
    entry = cache / key
    if entry.is_dir():
        try:
            return load_entry(entry)
        except (OSError, ValueError, EOFError):  # cut short, as by a power failure: decoded anew
            shutil.rmtree(entry, ignore_errors=True)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _fill(entry, produce)
    except OSError as error:
        raise EnvironmentFault(
            f"Decoded images cannot be kept in {cache}: {error.strerror or error}. "
            "Free some space, or set AUTOMC_HOME to another folder."
        ) from None
    return load_entry(entry)


def shared(images: Images, cache: Path | None) -> Images:
    """Return images that every process made for itself as one copy under `cache`, where they are large.

    Found by content: whatever made them may change between two runs, and what it made then is not taken for this.

    Raises:
        EnvironmentFault: the cache cannot be written.
    """
    if cache is None or images.n * images.store[0].numel() < SHARED_BYTES:
        return images

    def copied(allocate: Allocate) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        x = allocate((images.n, *images.store.shape[1:]))
        x[:] = images.x.numpy()
        return x, images.y.numpy()

    return decoded(cache, f"content-{content_hash(images)[:32]}", copied)


def save_entry(entry: Path, images: Images) -> None:
    """Write images into a new folder, as `load_entry` reads them."""
    entry.mkdir()
    np.save(entry / "x.npy", images.x.numpy())
    np.save(entry / "y.npy", images.y.numpy())
    np.save(entry / "digests.npy", digests(images))


def load_entry(entry: Path) -> Images:
    """Return the images of a folder, memory-mapped."""
    # Copy-on-write: writable for torch, yet pages stay shared between processes and never reach the file.
    x = np.load(entry / "x.npy", mmap_mode="c")
    images = Images(torch.from_numpy(x), torch.from_numpy(np.load(entry / "y.npy")))
    images.digests = np.load(entry / "digests.npy")
    return images


def _reserve(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A mapped array whose space on disk is taken now: a disk that fills up later would kill the process."""
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # absent on macOS
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
    return array


def _fill(entry: Path, produce: Callable[[Allocate], tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> None:
    temporary = Path(tempfile.mkdtemp(dir=entry.parent, prefix=prefix()))
    try:
        x, y = produce(lambda shape: _reserve(temporary / "x.npy", shape))
        if isinstance(x, np.memmap):
            x.flush()
        np.save(temporary / "y.npy", y)
        np.save(temporary / "digests.npy", digests(Images(torch.from_numpy(x), torch.from_numpy(y))))
        try:
            os.rename(temporary, entry)
        except OSError:
            if not entry.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
