"""A model's mode for a while: evaluation inside, every module's own flag restored afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def flags_kept(model: nn.Module) -> Iterator[None]:
    """Restore the training flag of every module at the end, also after an error."""
    flags = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch every module to evaluation, and back to its own flag at the end."""
    with flags_kept(model):
        model.eval()
        yield
