"""What Python hands over as objects, models and data, brought into the names that everything else is given.

A model becomes a file and data a folder, both under the home and named by their content: so worker processes, a resumed
study and the command line read the same.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from automc import userfiles
from automc.datasets import DataRef
from automc.datasets import given as _data
from automc.errors import DataError, ModelError
from automc.home import home
from automc.models import given as _models

Model = str | PathLike[str] | nn.Module
"""A zoo name, `file.py:factory`, `torchvision:NAME`, a saved `.am`, or a module."""
Data = Any
"""A name, an image folder, `file.py:factory`, a DataRef; a torch Dataset of (image, label), a pair (x, y) of arrays or
tensors, or a pair (train, test) of such."""


def model_name(model: Model) -> str:
    """Return the name of a model: itself, or that of the file in which an object is kept.

    Raises:
        ModelError: it is no model, or other processes could not build it; says what to do.
    """
    if (file := userfiles.under_way()) is not None:
        raise ModelError(
            f"{file.name} calls AutoMC while AutoMC imports it, as other processes do too. Put what it does under "
            'if __name__ == "__main__": and leave definitions outside.'
        )
    if isinstance(model, nn.Module):
        return str(_models.keep(model, home() / "given"))
    if isinstance(model, str | PathLike):
        return str(model)
    hint = " Give an object of it." if isinstance(model, type) else ""
    raise ModelError(f"A {type(model).__name__} is no model.{hint} Give a torch.nn.Module, or its name as a text.")


def data_ref(data: Data) -> DataRef:
    """Return how data are read.

    Raises:
        DataError: they are none that a classifier could be trained on; says which part, and why.
    """
    if isinstance(data, DataRef):
        return data
    if isinstance(data, str | PathLike):
        return DataRef(str(data))
    return _data.keep(data, home() / "given")


def dataset(
    train: Data, test: Data = None, *, val: Data = None, mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None, classes: tuple[str, ...] | None = None, augment: str | None = None,
) -> DataRef:  # fmt: skip
    """Return data that come as objects, with what is to be known of them, for everywhere data are asked for.

    Floats are taken as what the model sees, to 8 bits of each channel's range; uint8 images and pictures are pixels
    (value / 255), normalised by mean and std. Images are read once, without augmentation, which is AutoMC's.

    Args:
        train: a torch Dataset of (image, label) with a length, or a pair (x, y) of arrays or tensors: x (n, c, h, w) or
            (n, h, w), y (n,) whole numbers from 0.
        test: likewise; read for reported figures only.
        val: likewise; else validation is split off the training images.
        mean: per channel, of pixels in [0, 1]; for uint8 images.
        classes: names in the order of the model's outputs.
        augment: "none", "crop" or "crop-flip"; None: chosen by the size of the images.

    Raises:
        DataError: they are no such data; says which part, and why.
    """
    if isinstance(train, str | PathLike | DataRef):
        raise DataError("dataset() is for objects; names are data as they are, with DataRef(name, mean=…) for options.")
    return _data.keep(
        (train, test), home() / "given", val=val, mean=mean, std=std, classes=classes, augment=augment
    )  # fmt: skip


def define(model: nn.Module, factory: Any, **arguments: Any) -> nn.Module:
    """Say how a model is built anew, where AutoMC cannot tell: other processes must.

    Args:
        factory: a class or a function at the top of a file, or 'file.py:name'.
        arguments: plain values that it is called with.

    Returns:
        The model.

    Raises:
        ModelError: other processes cannot import the factory, or an argument is not plain.
    """
    return _models.define(model, factory, arguments)


def inputs(model: Model, data: Data) -> tuple[str | Path | None, ...]:
    """Return the files that are read, where names say so: results must not be written over them."""
    name = model if isinstance(model, str | PathLike) else None
    spec = data.spec if isinstance(data, DataRef) else data if isinstance(data, str | PathLike) else None
    return (None if name is None else Path(name), None if spec is None else Path(spec))
