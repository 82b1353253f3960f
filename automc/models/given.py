"""A model that comes as an object: kept as a file, so that workers, later days and other machines can build it.

How it is built anew is looked for in this order: as it is known (it was loaded here, or somebody said so); from plain
layers alone; by the torchvision builder that it resembles; by its class, with the arguments that its attributes tell;
by the graph of its forward pass. What is found is proved, as every file is: read back, nothing may differ.
"""

from __future__ import annotations

import copy
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn

from automc import userfiles
from automc.errors import ArtefactError, AutoMCError, ModelError, Note
from automc.models import structure
from automc.models.edits import PLAIN, plain_attributes
from automc.models.factory import AUXILIARY, FactoryRef, build, torchvision_builder
from automc.models.forms import plain, settled
from automc.models.keeping import frozen_parameters
from automc.models.readback import outputs, seeded
from automc.places import place_of
from automc.userfiles import UserFileError

EDITS = FactoryRef("edits", "nn.Module")
"""The source of what edits alone build."""

_known: WeakKeyDictionary[nn.Module, FactoryRef] = WeakKeyDictionary()


def remember(model: nn.Module, source: FactoryRef) -> nn.Module:
    """Note how a model is built anew, and return it."""
    _known[model] = source
    return model


def define(model: nn.Module, factory: str | Callable[..., nn.Module], arguments: dict[str, Any]) -> nn.Module:
    """Say how a model is built anew: by a function or a class at the top of a file, with arguments of plain values.

    Raises:
        ModelError: other processes cannot import it, or the arguments are not plain.
    """
    try:
        name = factory if isinstance(factory, str) else place_of(factory, "factory")
        path, _, function = name.rpartition(":")
        file = userfiles.load(Path(path).expanduser())
    except UserFileError as error:
        raise ModelError(str(error)) from None
    if strange := [n for n, v in arguments.items() if not isinstance(v, _PLAIN_VALUES)]:
        raise ModelError(
            f"The argument {strange[0]} of {function} is a {type(arguments[strange[0]]).__name__}; a file holds "
            "numbers, text, lists and dicts of them. Write a function that makes the rest."
        )
    return remember(model, FactoryRef("file", f"{file.path}:{function}", arguments, file.sha256, file.used()))


def keep(model: nn.Module, folder: Path) -> Path:
    """Write a model to a file of its class's name under `folder`, and return it; equal models share one.

    `model` is left as it was, wherever it lies and in whatever precision.

    Raises:
        ModelError: no way was found to build it anew; the message names what was tried, and the ways out.

    Warns:
        Note: it was unwrapped, moved or cast; parameters that it froze are trained.
    """
    with seeded():  # what is built anew draws numbers
        return _kept(model, folder)


def _kept(model: nn.Module, folder: Path) -> Path:
    name = type(model).__name__
    source = _known.get(model)
    try:
        own = plain(copy.deepcopy(settled(model)), f"the {name} given")
    except AutoMCError:
        raise
    except Exception as error:  # a module of the user's can say how it is copied
        raise ModelError(f"The {name} given cannot be copied: {type(error).__name__}: {error}") from error
    place = folder / structure.weights_hash(own)[:12] / f"{type(own).__name__}.am"
    _tell_frozen(own)
    place.parent.mkdir(parents=True, exist_ok=True)
    tried: list[str] = []
    for what, candidate in _candidates(own, source):
        try:
            twin, ref = candidate()
            structure.save(place, _twin(twin, ref), ref, metadata={"given": name})
        except (AutoMCError, UserFileError) as error:
            tried.append(f"{what}: {error}")
        else:
            return place
    reasons = "\n".join(f"  {reason}" for reason in tried)
    raise ModelError(
        f"A {name} cannot be handed to other processes, which must build it anew. Tried:\n{reasons}\nSay how it is "
        f"built: automc.define(model, {name}, width=…) with its class or a function at the top of a file and its "
        "arguments, or give 'file.py:function' and weights=."
    )


_PLAIN_VALUES = (bool, int, float, str, list, tuple, dict, type(None))
Made = tuple[nn.Module, FactoryRef]


def _candidates(model: nn.Module, known: FactoryRef | None) -> Iterator[tuple[str, Callable[[], Made]]]:
    if known is not None:
        yield "as it was made", lambda: (model, known)
        return
    cls = type(model)
    if cls is nn.Sequential or PLAIN.get(cls.__name__) is cls or isinstance(model, fx.GraphModule):
        yield "from plain layers", lambda: (model, EDITS)
    if cls.__module__.startswith("torchvision.models."):
        yield "by torchvision's builder", lambda: (model, _torchvision(model))
    if not cls.__module__.startswith("torch."):
        yield "by its class", lambda: (model, _by_class(model))
    yield "by the graph of its forward pass", lambda: (_traced(model), EDITS)


def _torchvision(model: nn.Module) -> FactoryRef:
    """The builder of the model's family whose network has most of its tensors; edits do the rest."""
    from torchvision import models

    mine = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    best, most = "", 0
    for name in models.list_models(module=models):
        if torchvision_builder(name).__module__ != type(model).__module__:
            continue
        with torch.device("meta"):
            other = torchvision_builder(name)(**_torchvision_arguments(name))
        same = sum(mine.get(n) == tuple(t.shape) for n, t in other.state_dict().items())
        if same > most:
            best, most = name, same
    if not best:
        raise ModelError(f"torchvision has no classifier with the tensors of this {type(model).__name__}.")
    return FactoryRef("torchvision", best, _torchvision_arguments(best))


def _torchvision_arguments(name: str) -> dict[str, Any]:
    return {"aux_logits": False, "init_weights": False} if name in AUXILIARY else {}


def _by_class(model: nn.Module) -> FactoryRef:
    """The model's class as a factory, with what attributes of its arguments' names say."""
    cls = type(model)
    place = place_of(cls, "class")
    known, kwargs, missing = plain_attributes(model), {}, []
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in known and parameter.kind is not parameter.POSITIONAL_ONLY:
            kwargs[name] = known[name]
        elif parameter.default is parameter.empty:
            missing.append(name)
    if missing:
        raise ModelError(
            f"{cls.__name__} takes {', '.join(missing)}, which no attribute of that name tells; keep them, as in "
            f"self.{missing[0]} = {missing[0]}"
        )
    file = userfiles.load(Path(place.rpartition(":")[0]))
    return FactoryRef("file", f"{file.path}:{cls.__name__}", kwargs, file.sha256, file.used())


def _twin(model: nn.Module, source: FactoryRef) -> nn.Module:
    """The model in the classes of the file as AutoMC imports it: a script's own are called otherwise there."""
    if source.kind != "file":
        return model
    build(source)
    file = userfiles.known(Path(source.name.rpartition(":")[0]), source.sha256)
    assert file is not None
    for module in model.modules():
        cls = type(module)
        mine = sys.modules.get(cls.__module__)
        again = getattr(file.module, cls.__qualname__, None)
        same_file = Path(str(getattr(mine, "__file__", None) or "")).resolve() == file.path
        if same_file and isinstance(again, type) and again is not cls:
            module.__class__ = again
    return model


def _traced(model: nn.Module) -> nn.Module:
    """The model as the graph of its forward pass, proved to answer alike.

    Tried as it trains first: what code does in training alone, such as a functional dropout, then stays in.
    """
    answers = outputs(model)
    reason = "it does not run on images, or answers otherwise each time"
    was = model.training
    for training in (True, False) if answers else ():
        try:
            traced = fx.symbolic_trace(model.train(training))
        except Exception as error:  # what cannot be traced, torch.fx says in its own ways
            raise ModelError(f"torch.fx cannot trace it: {' '.join(str(error).split())[:300]}") from error
        finally:
            model.train(was)
        assert answers is not None
        reason = answers.differ(traced.eval(), 1e-6) or ""
        if not reason:
            return traced.train(was)
    raise ArtefactError(f"the graph of its forward pass is another network: {reason}.")


def _tell_frozen(model: nn.Module) -> None:
    frozen = frozen_parameters(model)
    if frozen:
        layers = ", ".join(repr(name) for name in dict.fromkeys(n.rpartition(".")[0] or n for n in frozen))
        warnings.warn(
            f"{len(frozen)} parameters of the {type(model).__name__} given do not require gradients; AutoMC cuts and "
            f"trains them all the same. keep=({layers[:300]},) leaves their layers as they are.",
            Note,
            stacklevel=4,
        )
