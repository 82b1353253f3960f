"""The proof that a file holds a model: it is read again under other random states, and nothing may differ.

A few outputs for images that NumPy's frozen generator draws stand in the file too, so that every later reading, in
any process, can tell whether it is the network that was saved.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from automc.errors import ArtefactError
from automc.models import carried
from automc.models.modes import evaluating, unheard

SIZES = (32, 224, 64, 28, 8)
"""Sides in pixels that are tried where nobody says what images a model takes."""

SHOWN = 5

TOLERANCE = 0.02
"""Largest difference of an output on another machine or version, as a share of the largest output; another network
differs by more."""


class ReadsOtherwise(ArtefactError):
    """A model that a file would give back as another."""


@contextmanager
def seeded(seed: int | None = None) -> Iterator[None]:
    """Leave the random states of torch (on the CPU), NumPy and Python as they were; inside, start them at `seed`."""
    ours, theirs, plain = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    try:
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
        yield
    finally:
        torch.default_generator.set_state(ours)
        np.random.set_state(theirs)
        random.setstate(plain)


@dataclass(frozen=True)
class Outputs:
    """What a model answers to fixed random images of `shape` (n, c, h, w): its output's tensors, as one vector."""

    shape: tuple[int, ...]
    values: Tensor

    def differ(self, model: nn.Module, tolerance: float = 0.0) -> str | None:
        """Say how far `model`, on the CPU, answers otherwise; None where it does not."""
        found = _run(model, self.shape)
        if found is None:
            return f"it does not run on images of shape {self.shape[1:]}"
        if carried.same_bits(found, self.values):
            return None
        if found.shape != self.values.shape:
            return f"it gives {found.numel()} numbers instead of {self.values.numel()}"
        largest = _largest(self.values)
        gap = _largest(torch.nan_to_num(found) - torch.nan_to_num(self.values))
        same = torch.equal(found.isfinite(), self.values.isfinite()) and gap <= tolerance * max(largest, 1e-30)
        return None if same else f"outputs differ by up to {gap:.3g} (the largest is {largest:.3g})"


def outputs(model: nn.Module, shape: Sequence[int] | None = None) -> Outputs | None:
    """Return what `model` answers, evaluating, on the CPU; it is left as it was.

    Args:
        shape: of one image (c, h, w); by default the first of `SIZES` that it runs on.

    Returns None where it runs on none, or answers otherwise each time.
    """
    try:
        model = copy.deepcopy(model).cpu()
    except Exception:  # what a user's module cannot copy, it raises in its own way
        if any(p.device.type != "cpu" for p in model.parameters()):
            return None
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    shapes = [tuple(shape)] if shape else [(channels, side, side) for side in SIZES]
    for images in ((2, *one) for one in shapes):
        values = _run(model, images)
        if values is not None:
            again = _run(model, images)
            steady = again is not None and carried.same_bits(values, again)
            return Outputs(images, values) if steady else None
    return None


def copied_otherwise(model: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Say why what is done to a deep copy of `model` would be done to another network; None where nothing is amiss.

    Both run on fixed random images of `shape` (n, c, h, w). What a module keeps of a first pass goes along with its
    copies; what its code keeps elsewhere, by the module, does not, and no file holds it. A model that answers otherwise
    each time is not looked at.
    """
    one, again = _run(model, shape), _run(model, shape)
    if one is None or again is None or not _alike(one, again):
        return None
    with suppress(Exception):  # how it is copied is up to a user's code, and whoever copies it says so
        twin = copy.deepcopy(model)
        first, second, drawn = _run(twin, shape), _run(twin, shape, seed=2), _run(copy.deepcopy(twin), shape, seed=2)
        if first is None or second is None or drawn is None:
            return None
        if _alike(first, second) and not _alike(second, drawn):
            return (
                "Numbers that its code draws in a first pass, or when it is copied, decide its outputs, and are kept "
                "outside of the module, as a cached function keeps them: each copy, and whoever reads its file, would "
                "draw others. Draw them in __init__ and make them a buffer (register_buffer)"
            )
        if not _alike(one, first):
            return (
                "A copy of it answers otherwise: the way in which its code is copied or pickled (__deepcopy__, "
                "__getstate__) leaves something out"
            )
    return None


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether outputs are the same but for rounding."""
    if one.shape != other.shape or not torch.equal(one.isfinite(), other.isfinite()):
        return False
    return _largest(torch.nan_to_num(one) - torch.nan_to_num(other)) <= 1e-3 * max(_largest(one), 1e-30)


def compare(saved: nn.Module, back: nn.Module, answers: Outputs | None) -> None:
    """Hold a model as it reads back to be the one that was saved, bit by bit.

    Raises:
        ArtefactError: it is not; the message names the tensor, attribute or output.
    """
    want, have = saved.state_dict(), back.state_dict()
    for name in [*want, *have]:
        a, b = want.get(name), have.get(name)
        same = carried.same_bits(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else _plainly_equal(a, b)
        if not same:
            raise ReadsOtherwise(f"{name} has another content.")
    held, found = carried.find(saved), carried.find(back)
    late = [str(place) for place, value in held.items() if carried.has_tensors(value) and place not in found]
    for place, value in held.items():
        if place in found and not carried.equal(value, found[place]):
            if not carried.has_tensors(found[place]):
                late.append(str(place))
                continue
            raise ReadsOtherwise(f"{place} is not saved with the weights and has another content.")
    difference = answers.differ(back) and answers.differ(back, 1e-6) if answers else None
    if difference:
        suspects = [*carried.opaque(saved), *(f"{name} (set after the building)" for name in late)][:SHOWN]
        named = f"What no file holds: {', '.join(suspects)}. " if suspects else ""
        raise ReadsOtherwise(
            f"{difference[0].upper()}{difference[1:]}. {named}Something besides weights and attributes decides the "
            "outputs, such as numbers drawn when a file is imported, a global variable, or what a first forward pass "
            "leaves behind. Make it a buffer of the module (register_buffer)."
        )


def _plainly_equal(a: object, b: object) -> bool:
    with suppress(Exception):  # extra state can be anything
        return carried.equal(a, b)
    return False


def _run(model: nn.Module, shape: tuple[int, ...], seed: int = 1) -> Tensor | None:
    """Answer to fixed images, as float32 numbers; None where the model does not run on them."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    images = torch.from_numpy(np.random.RandomState(0).standard_normal(shape).astype(np.float32)).to(weight)
    try:
        with seeded(seed), evaluating(model), torch.no_grad(), unheard(), redirect_stdout(sys.stderr):
            answer = model(images)
        found = [t.detach().cpu().float().reshape(-1) for t in tree_leaves(answer) if isinstance(t, Tensor)]
    except Exception:  # the user's forward pass can raise anything
        return None
    return torch.cat(found) if found else None


def _largest(values: Tensor) -> float:
    finite = values[values.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0
