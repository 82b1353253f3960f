"""A model's mode for a while: evaluation inside, every module's own flag restored afterwards; and looks inside."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle


@contextmanager
def flags_kept(model: nn.Module) -> Iterator[None]:
    """Restore the training flag of every module at the end, also after an error."""
    flags = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, flag in flags.items():
            if module.training != flag:
                module.training = flag


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch every module to evaluation, and back to its own flag at the end."""
    with flags_kept(model):
        model.eval()
        yield


def unheard() -> AbstractContextManager[Any]:
    """For runs that may fail: a traced module prints where it failed on stderr before it raises."""
    return redirect_stderr(io.StringIO())


@contextmanager
def quiet() -> Iterator[None]:
    """Keep other libraries' advice to developers off the terminal: what they log, up to warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def observe(model: nn.Module, batch: Tensor, hooks: Iterable[RemovableHandle]) -> None:
    """Run one forward pass, evaluating and without gradients, for the sake of `hooks`, which it takes off again."""
    hooks = list(hooks)
    try:
        with evaluating(model), torch.no_grad():
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()


class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode without torch's compiler, which torch loads to say that it leaves a mode alone.

    That takes 70 MB and a second and a half in each process, and nothing is compiled under a mode of ours.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def watch_alike(mode: type[TorchDispatchMode]) -> None:
    """Let a mode of torch's own do without the compiler too; where torch keeps that elsewhere, all is as ever."""
    raw = getattr(mode.__torch_dispatch__, "__wrapped__", None)
    if raw is not None:
        setattr(raw, "__dynamo_disable", raw)  # a name of torch's, which a class would mangle


def set_mode(model: nn.Module, training: bool) -> None:
    """Switch the code of a model to training or evaluation, its normalising and dropping layers to evaluation."""
    model.train(training)
    for module in model.modules():
        if isinstance(module, _NormBase | _DropoutNd):
            module.training = False


def tensors_in(output: Any) -> list[Tensor]:
    """The tensors in whatever a model returned."""
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif isinstance(leaf, Mapping):  # before the next: a class of dicts has a __dict__ as well
            found += tensors_in(dict(leaf))
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, type):
            found += [t for t in vars(leaf).values() if isinstance(t, Tensor)]
    return found


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Bring buffers back to what they were, as a pass in training mode moves statistics."""
    before = [(buffer, buffer.clone(), buffer._version) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, old, version in before:
                if buffer._version != version:
                    buffer.copy_(old)
