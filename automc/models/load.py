"""Load a model by what the user calls it, and prepare it for compression."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from automc.errors import ModelError
from automc.models.checkpoint import load_weights
from automc.models.factory import FactoryRef, LoadedModel, SourceChanged, build, locate, normalisation_of
from automc.models.forms import settled
from automc.models.modes import evaluating, unheard
from automc.models.outputs import examine
from automc.models.readback import copied_otherwise
from automc.models.shortcuts import adapt_shortcuts

__all__ = [
    "FactoryRef",
    "LoadedModel",
    "SourceChanged",
    "build",
    "default_shape",
    "example_for",
    "input_channels",
    "layout",
    "load",
    "output_classes",
    "prepare",
]


def load(
    spec: str, *, weights: Path | None = None, classes: int | None = None, channels: int | None = None
) -> LoadedModel:
    """Load a model: a zoo name, `file.py:factory`, `torchvision:NAME`, or a saved `x.am`.

    Args:
        weights: a checkpoint for the first three; see `checkpoint.load_weights`. Without it weights are fresh.
        classes: number of outputs, passed to factories that take it (zoo: 10 where None). Ignored for a `.am`.
        channels: of the images, likewise (zoo: 3 where None).

    Raises:
        ModelError: there is no such model, it cannot be built, or the weights do not fit.
        ArtefactError: the `.am` is damaged or from elsewhere.
    """
    if spec.endswith(".am"):
        if weights is not None:
            raise ModelError(f"{spec} holds its weights; --weights {weights} cannot be loaded into it.")
        from automc.models import structure

        return structure.read(Path(spec))
    source = locate(spec, classes, channels)
    model = build(source)
    if weights is not None:
        load_weights(model, weights)
    return LoadedModel(model, source, normalisation_of(source))


def prepare(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a deep copy of a classifier that methods can work on: gradients on, option-A shortcuts adapted.

    The copy gives bit-identical outputs and keeps its train or eval mode; `model` is left as it was, but for
    layers that wait for a first batch to know their sizes.

    Args:
        example: an input batch (n, c, h, w) of at least two images.

    Raises:
        ModelError: the model cannot be copied, its copy runs layers of the original or answers otherwise, it does not
            run on the example, or is no classifier.
    """
    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        output_classes(model, example)  # gets its sizes with the first batch
    try:
        prepared = copy.deepcopy(settled(model))
    except Exception as error:  # a module of the user's can say how it is copied
        raise ModelError(f"The model {type(model).__name__} cannot be copied: {error}") from error
    _check_copy(model, prepared, example)
    if not any(p.numel() for p in prepared.parameters()):
        raise ModelError(f"The model {type(model).__name__} has no parameters, so nothing of it can be made smaller.")
    for parameter in prepared.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return adapt_shortcuts(prepared, example)


def _check_copy(model: nn.Module, prepared: nn.Module, example: Tensor) -> None:
    """Run a copy, and refuse one that runs the original's layers, or answers otherwise: what is done would not show."""
    held: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, __, name=name: held.append(name))
        for name, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        output_classes(prepared, example)
    finally:
        for hook in hooks:
            hook.remove()
    if held:
        raise ModelError(
            f"A copy of this {type(model).__name__} runs layers of the original "
            f"({', '.join(dict.fromkeys(held))[:200]}), so nothing can be done to it. Its code holds on to them: in a "
            "lambda or a function made inside another, a weak reference, or a global variable. Let a method of the "
            "module reach its layers as self.name."
        )
    if otherwise := copied_otherwise(model, tuple(example.shape)):
        raise ModelError(f"Nothing can be done to this {type(model).__name__}. {otherwise}.")


def layout(model: nn.Module, example: Tensor) -> torch.memory_format:
    """Return how batches should lie in memory: channels last, which is faster, where the model's code can read it.

    Code such as `x.view(len(x), -1)` cannot: it needs pixels innermost, and so contiguous batches and weights. Nor
    can a model with a parameter of five dimensions, which torch lays out in no such way.

    Args:
        example: an input batch (n, c, h, w).
    """
    batch = example.expand(2, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    try:
        probe = copy.deepcopy(model).to(memory_format=torch.channels_last)  # refused where a parameter has 5 dimensions
        with evaluating(probe), torch.no_grad(), unheard():
            probe(batch)
    except RuntimeError:
        return torch.contiguous_format
    return torch.channels_last


def output_classes(model: nn.Module, example: Tensor) -> int:
    """Return the number of classes: the width of the model's scores (n, classes), in eval mode.

    Raises:
        ModelError: the model does not run on `example`, or its output is not of that shape; says what came out.
    """
    return int(examine(model, example).shape[1])


def input_channels(model: nn.Module) -> int | None:
    """Return the channels that the first convolution takes, None for a model without convolutions.

    A hint, no more: models add planes to the images, or take their mean, before it.
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    return None if first is None else first.in_channels


def example_for(model: nn.Module, height: int, width: int, channels: int | None = None) -> Tensor:
    """Return two images of zeros (2, c, h, w) that a model runs on, for one whose data are not at hand.

    Args:
        channels: what is recorded of its images; else colour is tried first, then what its first convolution takes.

    Raises:
        ModelError: it runs on none, or is no classifier.
    """
    tried = (channels,) if channels else dict.fromkeys((3, input_channels(model) or 3, 1, 4, 2))
    first: ModelError | None = None
    for count in tried:
        example = torch.zeros(2, count, height, width)
        try:
            examine(model, example)
        except ModelError as error:
            first = first or error
        else:
            return example
    assert first is not None
    raise first


def default_shape(spec: str) -> tuple[int, int]:
    """Return (height, width) of the images a model is made for: what an .am was trained on, 32 × 32 for the zoo,
    torchvision's own.

    Raises:
        ModelError: a user's model does not tell.
    """
    if spec.endswith(".am"):
        from automc.models import structure

        source, about = structure.read_head(Path(spec))
        shape = about.get("image_shape", [])
        if len(shape) == 2:
            return int(shape[0]), int(shape[1])
    else:
        source = locate(spec, None, None)
    if source.kind in ("file", "edits"):
        raise ModelError(f"{spec} does not tell what image size it is made for. Give --size, or --data.")
    if source.kind == "torchvision":
        from torchvision.models import get_model_weights

        sizes = [w.transforms().crop_size[0] for w in get_model_weights(source.name)]
        side = min(sizes, default=224)
        return side, side
    return 32, 32
