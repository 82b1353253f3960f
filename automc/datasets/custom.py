"""The user's own data: `file.py:factory`, a function without arguments that returns training and test data."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from automc import userfiles
from automc.datasets.base import Images, Progress, Raw
from automc.datasets.decoded import shared
from automc.datasets.items import WANTED, asked, images_of, kind, named
from automc.datasets.ref import DataRef
from automc.errors import DataError


def read(ref: DataRef, cache: Path | None = None, progress: Progress | None = None) -> Raw:
    """Call the user's `file.py:factory` and read what it returns.

    The factory takes no argument and returns (train, test). Each is a map-style torch Dataset whose items are
    (image, label), or a pair (x, y) of tensors or arrays: x (n, c, h, w) or (n, h, w), y (n,). Images are uint8
    0 … 255, floats in [0, 1] (rounded to 8 bits), or PIL images; *before* normalisation and augmentation, which are
    AutoMC's. Class names: `ref.classes`, else a `classes` attribute of train, else the labels' numbers.

    The file is run as Python: use only one you trust. The factory is called in every process; what is
    large is then kept once, under `cache` and by its content, and mapped by all processes.

    Raises:
        DataError: the file or factory is missing or fails, or returns something else; the message names what came.
    """
    file, factory = _factory(ref.spec)
    with userfiles.running(file):
        result = asked(ref.spec, factory)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise DataError(f"{ref.spec} returned {kind(result)}. {WANTED}.")
        train = images_of(result[0], f"{ref.spec}, train", progress)
        test = images_of(result[1], f"{ref.spec}, test", progress)
    return Raw(shared(train, cache), shared(test, cache), _classes(ref, result[0], train, test))


def _classes(ref: DataRef, source: Any, train: Images, test: Images) -> tuple[str, ...]:
    highest = max(int(train.y.max()), int(test.y.max()))
    return ref.classes or tuple(named(source, highest, f"{ref.spec}, train"))


def _factory(spec: str) -> tuple[userfiles.UserFile, Callable[[], Any]]:
    place, _, name = spec.rpartition(":")
    if not place:
        raise DataError(f"--data {spec}: name the function too, as {spec}:FUNCTION. {WANTED}.")
    file = Path(os.path.expanduser(place)).absolute()
    if not file.is_file():
        raise DataError(f"--data {spec}: there is no file {file}.")
    try:
        loaded = userfiles.load(file)
    except userfiles.UserFileError as error:
        raise DataError(f"--data {spec}: {error}") from error
    module = loaded.module
    factory = getattr(module, name, None)
    if not callable(factory):
        names = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_")]
        raise DataError(f"--data {spec}: {file} has no function {name!r}. It has: {', '.join(names) or 'none'}.")
    return loaded, factory
