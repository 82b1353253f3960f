"""Layers that must stay whole: what cannot be replaced by several layers without changing what the model does."""

from __future__ import annotations

import copy
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from automc.errors import Infeasible
from automc.models.modes import unheard

TRIALS = 64
"""Trials of one proof at most; layers that are not proved by then stay."""
IMAGES = 2
"""Images of a proof: batch norm has no variance over one."""
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How far outputs may differ, as a share of their largest, by the type in which they are computed."""


class Replaced(Protocol):
    """A place of a model where several layers can stand for what is there."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that go."""
        ...


S = TypeVar("S", bound=Replaced)


def stays(model: nn.Module) -> dict[str, str]:
    """Name the modules whose looks alone say that they cannot be replaced, with the reason.

    Those at two places of the model, those that share a parameter with another module, those with hooks, and
    convolutions and linear layers that hold more than a weight and a bias: all of it would be lost or come apart.
    """
    places = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    several = shared(model)
    reasons: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if places[module] > 1:
            reasons[name] = "it is used at two places of the model"
        elif name in several:
            reasons[name] = f"it shares a tensor with {several[name]}"
        elif any(
            (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        ):
            reasons[name] = "hooks on it would be lost"
        elif isinstance(module, nn.Conv2d | nn.Linear) and _more_than_a_layer(module):
            reasons[name] = "it holds more than a weight and a bias"
    return reasons


def shared(model: nn.Module) -> dict[str, str]:
    """Modules that share a parameter, or its memory, each with the name of another that has it."""
    owners: dict[object, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None and parameter.numel():
                memory = id(parameter) if parameter.is_meta else parameter.data_ptr()
                owners.setdefault(memory, []).append(name)
    several = [names for names in owners.values() if len(names) > 1]
    return {name: next((n for n in names if n != name), name) or "the model" for names in several for name in names}


def _more_than_a_layer(module: nn.Module) -> bool:
    own = {name for name, value in (*module._parameters.items(), *module._buffers.items()) if value is not None}
    return bool(module._modules) or "weight" not in own or not own <= {"weight", "bias"}


def unproved(
    model: nn.Module, example: Tensor, found: Sequence[S], exact: Callable[[nn.Module, S], None]
) -> dict[str, str]:
    """Name the layers of the sites that were not proved to be replaceable, with the reason.

    Each site of a copy is replaced by layers that compute the same, and the copy must give the same, in evaluation and
    in training: all at once, and by halves where that fails, or without the one whose replacement raised. Code that
    asks for a layer's type, name, settings or place, counts layers, reads weights or holds on to the layer itself does
    something else then. The copy has lively norms (scales and shifts drawn anew) so that no branch is silent, random
    images, and float64 where the code allows.

    Args:
        model: stays as it is.
        example: a batch of images of which only shape and device count.
        found: what is to be replaced; a site's layers are all refused or none.
        exact: puts several layers that compute the same in the place of a site, at its copy.

    Raises:
        Infeasible: the model does not run on such images.
    """
    if not found:
        return {}
    trial = _Trial(model, example)
    proved: list[S] = []
    refused: dict[str, str] = {}

    def refuse(sites: Sequence[S], reason: str) -> None:
        refused.update((name, reason) for site in sites for name in site.layers)

    def prove(part: Sequence[S]) -> None:
        part = [site for site in part if site.layers[0] not in refused]
        if not part:
            return
        if trial.count == TRIALS:
            return refuse(part, f"it was not proved within {TRIALS} trials that equal layers can take its place")
        failure = trial.failure([*proved, *part], exact)
        if failure is None:
            proved.extend(part)
        elif failure.site in part:
            refuse(
                [site for site in found if site is failure.site or _alike(model, site, failure.site)], failure.reason
            )
            prove(part)
        elif len(part) == 1:
            refuse(part, failure.reason)
        else:
            prove(part[: len(part) // 2])
            prove(part[len(part) // 2 :])

    prove(found)
    return refused


def _alike(model: nn.Module, site: Replaced, other: Replaced) -> bool:
    """Whether two sites have the same place in modules of the same class: what reads one there reads the other."""
    (owner, name), (others, theirs) = (each.layers[0].rpartition(".")[::2] for each in (site, other))
    kinds = [type(model.get_submodule(place)) for place in (owner, others)]
    return name == theirs and kinds[0] is kinds[1] and not issubclass(kinds[0], nn.Sequential | nn.ModuleList)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a trial failed; `site` is whose replacement raised, None where that is not known."""

    reason: str
    site: Any = None


class _Trial:
    """A lively copy of a model, what it gives in either mode, and whether that stays."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.count = 0
        images = torch.randn((IMAGES, *example.shape[1:]), generator=torch.Generator().manual_seed(0))
        images = images.to(example.device)
        failure: Exception | None = None
        for dtype, batch in ((torch.float64, images), (torch.float32, images), (torch.float32, images[:1])):
            for lively in (True, False):
                self.dtype, self.images = dtype, batch.to(dtype)
                self.model = copy.deepcopy(model).to(dtype)
                if lively:
                    _enliven(self.model, torch.Generator().manual_seed(1))
                try:
                    self.wanted = self._repeatable()
                except Exception as error:  # any user code runs here
                    failure = error
                    break
                if self.wanted and all(bool(t.isfinite().all()) for t in self.wanted[False]):
                    return
        if failure is not None:
            raise Infeasible(f"The model does not run on random images: {_line(failure)}") from failure
        self.wanted = {}

    def failure(self, chosen: Sequence[S], exact: Callable[[nn.Module, S], None]) -> _Failure | None:
        """Why the model changes where these sites are replaced; None where it does not."""
        self.count += 1
        if not self.wanted:
            return _Failure("nothing can be proved: the model's outputs differ from run to run, or are no numbers")
        model = copy.deepcopy(self.model)
        new: dict[int, Any] = {}
        for site in chosen:
            old = [model.get_submodule(name) for name in site.layers]
            exact(model, site)
            new |= {id(module): site for name in site.layers for module in _at(model, name)}
            with torch.no_grad():
                for parameter in (p for layer in old for p in layer.parameters()):
                    parameter.fill_(torch.nan)  # nobody may go on using it
        for training, wanted in self.wanted.items():
            try:
                given = self._given(model, training)
            except Exception as error:  # any user code runs here
                frames = [id(frame.f_locals.get("self")) for frame, _ in traceback.walk_tb(error.__traceback__)]
                raised = next((new[owner] for owner in reversed(frames) if owner in new), None)
                return _Failure(f"other code reads its weights or settings ({_line(error)})", raised)
            if not self._same(given, wanted):
                return _Failure("other code asks for its type, or holds on to it")
        return None

    def _repeatable(self) -> dict[bool, list[Tensor]]:
        """Tensors that the model gives in evaluation (False) and in training, if it runs there; {} where they vary."""
        runs = []
        for _ in range(2):
            model = copy.deepcopy(self.model)
            found = {False: self._given(model, False)}
            with suppress(Exception):  # any user code runs here
                found[True] = self._given(model, True)
            runs.append(found)
        same = {mode: t for mode, t in runs[0].items() if mode in runs[1] and self._same(runs[1][mode], t)}
        return same if False in same else {}

    def _given(self, model: nn.Module, training: bool) -> list[Tensor]:
        """The tensors in what the model returns; everything random is drawn alike."""
        before = random.getstate(), np.random.get_state()
        devices = [self.images.device] if self.images.is_cuda else []
        try:
            with unheard(), torch.no_grad(), torch.random.fork_rng(devices):
                torch.manual_seed(0)
                random.seed(0)
                np.random.seed(0)
                return list(_tensors(model.train(training)(self.images)))
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])

    def _same(self, outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
        if [t.shape for t in outputs] != [t.shape for t in wanted]:
            return False
        pairs = [(a.to(self.dtype), b.to(self.dtype)) for a, b in zip(outputs, wanted, strict=True)]
        share = TOLERANCES[self.dtype]
        return all(torch.allclose(a, b, rtol=0, atol=share * _largest(b), equal_nan=True) for a, b in pairs)


def _at(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The module of that name, or what took its place one step above; nothing where both are gone."""
    with suppress(AttributeError):
        yield model.get_submodule(name)


def _largest(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0


def _tensors(value: Any) -> Iterator[Tensor]:
    """Tensors in whatever a model returns, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _tensors(inner)
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value))


@torch.no_grad()
def _enliven(model: nn.Module, generator: torch.Generator) -> None:
    """Draw scales and shifts, and weights that are all zero: what a trained model may have silenced speaks again."""
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            continue
        drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
        if parameter.numel() == max(parameter.shape, default=1):
            parameter.copy_(drawn - 0.5 if name.endswith("bias") else drawn + 0.5)
        elif not parameter.any():
            parameter.copy_((drawn - 0.5) / parameter[0].numel() ** 0.5)


def _line(error: Exception) -> str:
    """An exception in one line."""
    text = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {text}"
