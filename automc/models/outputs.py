"""Running a user's model: its scores, whatever they are wrapped in, and where its code failed when it did."""

from __future__ import annotations

import copy
import dataclasses
import os
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automc.errors import AutoMCError, ModelError
from automc.models.forms import settled
from automc.models.modes import evaluating, unheard

NAMED = ("logits", "output", "outputs", "out", "scores", "pred", "preds", "prediction", "predictions", "main")
"""Names under which networks hand out their scores, the usual one first."""

_OURS = str(Path(__file__).parents[1]) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep
_STEADY = 1e-4
"""Two passes that differ by less, as a share of the largest score, gave the same."""


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the scores (n, classes) of a batch (n, c, h, w), see `scores`; the model's mode stays as it is."""
    return scores(model(images), images.shape[0])


class Scores(nn.Module):
    """A model that returns its scores alone, whatever else it returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, classes)."""
        return logits(self.model, images)


def scores(output: Any, n: int) -> Tensor:
    """Return the scores (n, classes) for n images from what a model returned.

    Of a tuple or list it is the first, of a dict or a dataclass the field called `logits` (or one of `NAMED`), else
    its first. A model that squeezes the batch away returns (classes,) for one image.

    Raises:
        ModelError: there is no such tensor; says what came out.
    """
    found = output
    while not isinstance(found, Tensor) and (inner := _first(found)) is not None:
        found = inner[1]
    if isinstance(found, Tensor) and found.ndim == 1 and n == 1:
        found = found.unsqueeze(0)
    if not isinstance(found, Tensor) or found.ndim != 2 or found.shape[0] != n or not found.is_floating_point():
        raise ModelError(
            f"for {n} image{'s' if n > 1 else ''} it returns {described(output)} instead of scores of shape "
            f"({n}, classes)"
        )
    return found


def which(output: Any) -> str:
    """Say which part of an output its scores are: "the first of 2", "'logits' of a dict"; nothing for a tensor."""
    inner = None if isinstance(output, Tensor) else _first(output)
    if inner is None:
        return ""
    place, value = inner
    many = f"the first of {len(output)}" if place == 0 else f"'{place}' of a {type(output).__name__}"
    deeper = which(value)
    return f"{deeper} in {many}" if deeper else many


def described(output: Any) -> str:
    """Say what a model returned, in a few words."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}" + (
            "" if output.is_floating_point() else f" of {output.dtype}"
        )
    if isinstance(output, Mapping):
        return f"a dict of {', '.join(map(str, list(output)[:5])) or 'nothing'}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}" + (f" ({described(output[0])} first)" if output else "")
    return f"a {type(output).__name__}"


def alone(model: nn.Module, example: Tensor) -> nn.Module:
    """Return the model as it is where it returns plain scores, else wrapped to return them alone."""
    return model if isinstance(_evaluated(model, example)[0], Tensor) else Scores(model)


def examine(model: nn.Module, example: Tensor) -> Tensor:
    """Return the scores (n, classes) of `example` in evaluation mode; the model's flags stay as they are.

    Args:
        example: at least two images, so that code that squeezes the batch away shows what it is.

    Raises:
        ModelError: the forward pass fails, which names the layer and the line, or its output holds no scores.
    """
    return _evaluated(model, example)[1]


def check_training(model: nn.Module, example: Tensor) -> str:
    """Try one pass forward and back in training mode, on a copy; return a note on the outputs, "" for plain scores.

    Args:
        example: two images (2, c, h, w) as `examine` takes them.

    Raises:
        ModelError: training fails, its scores have another shape than in evaluation, no gradient reaches a parameter,
            or the scores are not the part that evaluation returns.
    """
    probe = copy.deepcopy(settled(model)).train()
    batch = torch.rand(example.shape, generator=torch.Generator().manual_seed(0)).to(example.device)
    plain, expected = _evaluated(model, batch)
    try:
        with _dice_kept(batch), torch.enable_grad(), unheard():
            output = probe(batch)
            found = _understood(probe, output, len(batch), "in training ")
            if found.requires_grad:
                torch.autograd.backward(F.cross_entropy(found.float(), found.argmax(1)))
    except AutoMCError:
        raise
    except Exception as error:  # the user's forward pass can raise anything
        raise failed(probe, example, error, "train") from error
    notes = []
    if not isinstance(output, Tensor):
        _check_part(probe, model, batch)
    _check_trained(model, found, expected)
    if not isinstance(output, Tensor):
        notes.append(
            f"In training {type(model).__name__} returns {described(output)}: {which(output)} is trained, the other "
            "parts are left out of the loss, so what only they need stays as it is."
        )
    elif not isinstance(plain, Tensor):
        notes.append(f"Of {described(plain)}, {which(plain)} are the model's scores.")
    if bool((expected >= 0).all()) and bool(((expected.sum(1) - 1).abs() < _STEADY).all()):
        notes.append(
            f"In evaluation {type(model).__name__} returns probabilities, not logits: what learns from its outputs "
            "(LMA, HOS, --teacher) sees a teacher that is sure of nothing. Leave the softmax to the loss."
        )
    if not torch.allclose(_evaluated(model, batch)[1], expected, rtol=0.0, atol=_share(expected), equal_nan=True):
        notes.append(
            f"{type(model).__name__} gives other scores for the same images: its evaluation is random, so accuracies "
            "vary from one measurement to the next."
        )
    return " ".join(notes)


def check_batches(model: nn.Module, example: Tensor) -> None:
    """Refuse a model that runs on two images and not on three: trained and measured are batches of any size.

    Raises:
        ModelError: says where its code fixes the number of images.
    """
    try:
        examine(model, example[:1].expand(3, *example.shape[1:]))
    except ModelError as error:
        raise ModelError(
            f"It runs on {len(example)} images, but not on 3: its code fixes the number. {error}"
        ) from error


def other_part(model: nn.Module, example: Tensor, classes: int) -> str:
    """Say which part of an output has so many columns where the first has not; nothing where none does."""
    output, found = _evaluated(model, example)
    for number, part in enumerate(_parts(output), 1):
        if isinstance(part, Tensor) and part.shape == (len(example), classes) != found.shape:
            return (
                f"{type(model).__name__} returns {described(output)}, of which number {number} has the data's "
                f"{classes} classes, not the first. Let the scores come first, or call them 'logits' in a dict."
            )
    return ""


def _parts(output: Any) -> list[Any]:
    if isinstance(output, Mapping):
        return list(output.values())
    return list(output) if isinstance(output, tuple | list) else []


def _check_trained(model: nn.Module, found: Tensor, expected: Tensor) -> None:
    name = type(model).__name__
    if found.shape != expected.shape:
        raise ModelError(
            f"The model {name} returns scores of shape {tuple(found.shape)} in training and {tuple(expected.shape)} in "
            f"evaluation for the same {len(expected)} images: it cannot be trained as it is used."
        )
    if not found.requires_grad:
        raise ModelError(
            f"The model {name} cannot be trained: no gradient reaches its parameters from its scores. Does its forward "
            "pass run without gradients (torch.no_grad, detach, or values that leave torch)?"
        )


def _share(scores: Tensor) -> float:
    """How far scores may lie from these and be called the same."""
    return _STEADY * max(1.0, float(scores.abs().max()))


def failed(model: nn.Module, example: Tensor, error: Exception, what: str = "run") -> ModelError:
    """Return the error of a forward pass as a message: the layer, the line of the user's file, the cause."""
    layer, line = place(model, error)
    places = [f"in layer {layer}" if layer else "", f"at {line}" if line else ""]
    where = " ".join(p for p in places if p)
    said = str(error).strip().splitlines()
    cause = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    return ModelError(
        f"The model {type(model).__name__} does not {what} on images of shape {tuple(example.shape[1:])} "
        f"(channels, height, width){f', {where}' if where else ''}: {cause}"
    )


def _evaluated(model: nn.Module, example: Tensor) -> tuple[Any, Tensor]:
    """(what comes out in evaluation mode, the scores in it)."""
    try:
        with evaluating(model), torch.no_grad(), unheard():
            output = model(example)
    except Exception as error:  # the user's forward pass can raise anything
        raise failed(model, example, error) from error
    return output, _understood(model, output, len(example))


def place(model: nn.Module, error: Exception) -> tuple[str, str]:
    """(innermost layer, line of the user's own file) in which an error arose; empty where unknown."""
    names = {id(module): name for name, module in model.named_modules()}
    layer = line = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and names.get(id(owner)):
            layer = f"{names[id(owner)]} ({type(owner).__name__})"
        file = frame.f_code.co_filename
        if not file.startswith((_OURS, _TORCH, "<")):
            line = f"line {number} of {Path(file).name}"
    return layer, line


def _first(output: Any) -> tuple[Any, Any] | None:
    """(its place, the part) where the scores are looked for first; None where there are no parts."""
    if isinstance(output, Mapping):
        fields: dict[Any, Any] = dict(output)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        fields = {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    elif hasattr(output, "_asdict"):
        fields = output._asdict()
        if not any(name in fields for name in NAMED):
            return (0, output[0]) if fields else None
    elif isinstance(output, tuple | list) and output:
        return 0, output[0]
    else:
        return None
    fields = {name: value for name, value in fields.items() if value is not None}
    name = next((n for n in NAMED if n in fields), next(iter(fields), None))
    return None if name is None else (name, fields[name])


def _understood(model: nn.Module, output: Any, n: int, when: str = "") -> Tensor:
    try:
        return scores(output, n)
    except ModelError as error:
        raise ModelError(
            f"The model {type(model).__name__} is no classifier: {when}{error}. Only classifiers can be compressed."
        ) from None


def _check_part(probe: nn.Module, model: nn.Module, batch: Tensor) -> None:
    """Refuse a training output whose first part is not what evaluation returns, where another part is.

    Layers evaluate (no dropout, running statistics) while the code around them trains: then the same head gives the
    same scores.
    """
    probe.load_state_dict(model.state_dict())
    for layer in probe.modules():
        if layer is not probe and type(layer).__module__.startswith("torch.nn"):
            layer.training = False
    with torch.no_grad(), _dice_kept(batch), unheard():
        wanted, output = examine(model, batch), probe(batch)
    limit = _share(wanted)

    def same(part: Any) -> bool:
        return isinstance(part, Tensor) and part.shape == wanted.shape and bool((part - wanted).abs().max() <= limit)

    if same(scores(output, len(batch))):
        return
    number = next((number for number, part in enumerate(_parts(output), 1) if same(part)), None)
    if number is not None:
        raise ModelError(
            f"In training {type(model).__name__} returns {described(output)}, of which number {number} is what "
            f"evaluation returns, not {which(output)}. Let the scores come first, or call them 'logits' in a dict."
        )


def _dice_kept(batch: Tensor) -> AbstractContextManager[None]:
    """Leave random numbers as they were: a look at a model must not change what is drawn later."""
    return torch.random.fork_rng([batch.device] if batch.device.type == "cuda" else [])
