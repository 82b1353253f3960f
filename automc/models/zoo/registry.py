"""The registry behind the zoo: one decorator adds a family of architectures."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from automc.errors import ModelError

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of pixels in [0, 1]."""

IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class Entry:
    """One architecture of the zoo; `builder(classes=10, channels=3)` makes it with fresh weights."""

    name: str
    builder: Callable[..., nn.Module]
    normalisation: Normalisation | None
    """What the images of its public checkpoints were normalised with; None: no such checkpoint, use the data's."""
    about: str


_entries: dict[str, Entry] = {}


def register(
    variants: Mapping[str, Mapping[str, Any]], *, about: str, normalisation: Normalisation | None = None
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Add every variant (name → keyword arguments) of the decorated builder to the zoo.

    The builder takes those arguments and `classes` and `channels`. Decorators can be stacked.

    Raises:
        ValueError: a name is taken.
    """

    def add(builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        for name, arguments in variants.items():
            if name in _entries:
                raise ValueError(f"The zoo already has a model named {name!r}.")
            _entries[name] = Entry(name, partial(builder, **arguments), normalisation, about)
        return builder

    return add


def names() -> tuple[str, ...]:
    """All names, in the order they were registered."""
    return tuple(_entries)


def get(name: str) -> Entry:
    """Return the entry of this name.

    Raises:
        ModelError: there is none; the message offers the nearest names.
    """
    if name in _entries:
        return _entries[name]
    if os.path.exists(name):
        what = "a folder" if os.path.isdir(name) else "a file of another kind"
        raise ModelError(
            f"{name!r} is {what}. A model is a saved .am, file.py:factory, a zoo name or torchvision:NAME."
        )
    near = difflib.get_close_matches(name.lower(), _entries, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ModelError(
        f"There is no model {name!r} in the zoo.{hint} The zoo has: {', '.join(_entries)}. "
        "A model of your own is given as file.py:factory, one of torchvision as torchvision:NAME."
    )


def build(name: str, *, classes: int = 10, channels: int = 3) -> nn.Module:
    """Build a zoo model with fresh weights for `classes` classes and images of `channels` channels.

    Raises:
        ModelError: the name is unknown, or a number is below 1.
    """
    entry = get(name)
    if classes < 1 or channels < 1:
        raise ModelError(f"{name} needs at least 1 class and 1 channel; got {classes} and {channels}.")
    return entry.builder(classes=classes, channels=channels)
