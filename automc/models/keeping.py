"""Layers that stay as they are: those a person names, and those whose factory froze them."""

from __future__ import annotations

import difflib
import glob
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from automc.errors import ModelError, Note

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Held:
    """What stays, as patterns (fnmatch) on names of modules and parameters; see `kept`."""

    uncut: tuple[str, ...] = ()
    """Layers whose shape stays: neither pruned nor factored nor replaced."""
    still: tuple[str, ...] = ()
    """Of these, what is not trained either, and whose statistics stay."""


def several(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return names or patterns as a tuple, a single one of its own: a text is a sequence, too, of its letters."""
    return (names,) if isinstance(names, str) else tuple(names)


def kept(name: str, patterns: Sequence[str]) -> bool:
    """Whether a module name, or one of its parents' names, matches a keep pattern (fnmatch)."""
    parts = name.split(".")
    prefixes = [".".join(parts[: n + 1]) for n in range(len(parts))]
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes for pattern in patterns)


def frozen_parameters(model: nn.Module) -> tuple[str, ...]:
    """Name the parameters that are not to be trained: those of a fresh model that its factory froze."""
    named = model.named_parameters(remove_duplicate=False)
    return tuple(name for name, p in named if p.is_floating_point() and not p.requires_grad)


def hold(
    model: nn.Module, frozen: Sequence[str], keep: Sequence[str] = (), keep_shape: Sequence[str] = (),
    train_frozen: bool = False,
) -> Held:  # fmt: skip
    """Return what must stay of a model.

    Args:
        frozen: names of parameters, see `frozen_parameters`; layers that own them are not cut.
        keep: patterns of layers that are neither cut nor trained.
        keep_shape: patterns of layers that are not cut, but trained.
        train_frozen: treat frozen parameters like all others.

    Raises:
        ModelError: a pattern matches no layer, or nothing is left to train.

    Warns:
        Note: the factory froze parameters.
    """
    check_patterns(model, "--keep", keep)
    check_patterns(model, "--keep-shape", keep_shape)
    cold = () if train_frozen else tuple(frozen)
    owners = dict.fromkeys(name.rpartition(".")[0] for name in cold)
    leaves = [name for name in owners if name and not list(model.get_submodule(name).children())]
    still = (*keep, *map(glob.escape, cold))
    names = [name for name, p in model.named_parameters() if p.is_floating_point()]
    if names and all(kept(name, still) for name in names):
        why = "its factory froze them (requires_grad): --train-frozen trains them" if cold else "--keep covers them"
        raise ModelError(f"No parameter of {type(model).__name__} may be trained: {why}.")
    if cold:
        shown = ", ".join(list(owners)[:_SHOWN]) + (f" and {len(owners) - _SHOWN} more" if len(owners) > _SHOWN else "")
        warnings.warn(
            f"The factory froze {len(cold)} of {len(names)} parameters, in {shown or 'the model itself'}: they are "
            "neither cut nor trained. --train-frozen treats them like all others.",
            Note,
            stacklevel=2,
        )
    return Held((*keep, *keep_shape, *map(glob.escape, leaves)), still)


def check_patterns(model: nn.Module, option: str, patterns: Sequence[str]) -> None:
    """Refuse a pattern that matches no layer: a slip would change what is to be kept, and nobody would see it.

    Raises:
        ModelError: names the pattern and the layers whose names are near.
    """
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern.rstrip(".*"), names, n=3, cutoff=0.5) or names[:3]
            raise ModelError(
                f"{option} {pattern!r} matches no layer of {type(model).__name__}. "
                f"Its layers are called like {', '.join(near)}; automc doctor lists them."
            )


@contextmanager
def held(model: nn.Module, still: Sequence[str]) -> Iterator[None]:
    """Keep what matches from being trained inside the block: no gradients, and statistics stay.

    To be entered once the model is in training mode; flags of gradients are restored at the end.
    """
    cold = [p for name, p in model.named_parameters(remove_duplicate=False) if kept(name, still) and p.requires_grad]
    try:
        for parameter in cold:
            parameter.requires_grad_(False)
            parameter.grad = None
        for module in resting(model, still):
            module.training = False
        yield
    finally:
        for parameter in cold:
            parameter.requires_grad_(True)


def resting(model: nn.Module, still: Sequence[str]) -> set[nn.Module]:
    """The modules with statistics (buffers) of which nothing is trained."""
    return {
        module
        for name, module in model.named_modules(remove_duplicate=False)
        if next(module.buffers(recurse=False), None) is not None
        and (
            kept(name, still)
            or any(kept(f"{name}.{own}" if name else own, still) for own, _ in module.named_parameters(recurse=False))
        )
    }
