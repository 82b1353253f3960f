"""Where a model comes from: the zoo, a factory in the user's own file, or torchvision."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from torch import nn

from automc import userfiles
from automc.errors import EnvironmentFault, ModelError, Note
from automc.models import zoo
from automc.models.forms import plain
from automc.models.zoo import IMAGENET
from automc.models.zoo.registry import Normalisation

CLASSES = ("classes", "num_classes")
CHANNELS = ("channels", "in_channels")
PLANES = 4
"""Planes of an image at most, where `channels` has a default: what is more there is a layer's width."""
# torchvision networks whose training output is a tuple unless told otherwise
AUXILIARY = ("googlenet", "inception_v3")


class SourceChanged(Note):
    """The file that a saved model is rebuilt from is not what it was when the model was saved."""


@dataclass(frozen=True)
class FactoryRef:
    """How to build a model anew, without its weights.

    `name` is a zoo or torchvision name, or for "file" an absolute path, a colon and the factory; `sha256` is the
    hash of that file when it was read, empty for the other kinds. "edits": nothing is built but what edits say.
    """

    kind: Literal["zoo", "file", "torchvision", "edits"]
    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    folders: tuple[str, ...] = ()
    """Where the file's imports were found, besides its own folder or package."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for artefacts."""
        return {k: v for k, v in asdict(self).items() if k != "folders" or v}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FactoryRef:
        """Read `as_dict()`.

        Raises:
            ModelError: a value is missing or of the wrong kind.
        """
        folders = values.get("folders", [])
        ref = cls(values.get("kind", ""), values.get("name", ""), values.get("kwargs", {}), values.get("sha256", ""))
        well = isinstance(ref.name, str) and isinstance(ref.kwargs, dict) and isinstance(ref.sha256, str)
        well = well and isinstance(folders, list | tuple) and all(isinstance(folder, str) for folder in folders)
        if not well or ref.kind not in ("zoo", "file", "torchvision", "edits"):
            raise ModelError(f"{values} does not say how to build a model.")
        return replace(ref, folders=tuple(folders))


@dataclass(frozen=True)
class LoadedModel:
    """A model on the CPU, with how to build it again and what is known about it."""

    model: nn.Module
    source: FactoryRef
    normalisation: Normalisation | None = None
    """Mean and standard deviation its weights expect; None where nothing is recorded."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What the artefact says: recipe, figures, graph ids; empty for models that are not artefacts."""


def build(source: FactoryRef, *, beside: Path | None = None) -> nn.Module:
    """Build the model of a source with fresh weights, in train mode, on the CPU.

    Args:
        beside: a folder where the factory's file is looked for when it is no longer at its path.

    Raises:
        ModelError: the factory is gone, fails, or returns no module.

    Warns:
        SourceChanged: the factory's file has another content than `source` says.
        Note: the model was wrapped, on another device or not in float32, see `forms.plain`.
    """
    if source.kind == "zoo":
        return zoo.build(source.name, **source.kwargs)
    if source.kind == "edits":
        return nn.Module()
    if source.kind == "torchvision":
        return _call(torchvision_builder(source.name), source.name, source.kwargs, None)
    path, function = _place(source, beside)
    # What this process imported stays valid for it when the file is edited meanwhile.
    file = userfiles.known(path, source.sha256) or _user_file(path, source.folders)
    if source.sha256 and file.sha256 != source.sha256:
        warnings.warn(
            f"{path} has changed since the model was saved; it is rebuilt from the file as it is now.",
            SourceChanged,
            stacklevel=2,
        )
    return _call(_function(file, function), f"{path}:{function}", source.kwargs, file)


def sources(source: FactoryRef, *, beside: Path | None = None) -> dict[str, str]:
    """Return the sha256 of every file of the user's that building `source` pulled in, by its path from the factory's.

    Empty for models that are no file's, and before they were built in this process.

    Args:
        beside: as for `build`.
    """
    if source.kind != "file":
        return {}
    file = userfiles.known(_place(source, beside)[0])
    return {} if file is None else {os.path.relpath(p, file.path.parent): known for p, known in file.sources.items()}


def _place(source: FactoryRef, beside: Path | None) -> tuple[Path, str]:
    """Return a factory's file, where it is now, and its name in it."""
    path, function = split_file(source.name)
    if not path.is_file() and beside is not None and (beside / path.name).is_file():
        path = beside / path.name
    return path, function


def locate(spec: str, classes: int | None, channels: int | None) -> FactoryRef:
    """Turn what the user wrote (zoo name, `file.py:factory`, `torchvision:NAME`) into a source.

    `classes` and `channels` are passed on where the factory takes them, as `classes` or `num_classes` and
    `channels` or `in_channels`.

    Raises:
        ModelError: there is no such model, file or factory; the message offers what there is.
    """
    if spec.startswith("torchvision:"):
        return _locate_torchvision(spec.partition(":")[2], classes, channels)
    if ".py:" in spec or spec.endswith(".py"):
        path, name = split_file(spec)
        if not path.is_file():
            raise ModelError(f"There is no file {path}.")
        file = _user_file(path)
        kwargs = _accepted(_function(file, name), f"{path.name}:{name}", classes, channels)
        return FactoryRef("file", f"{path.absolute()}:{name}", kwargs, file.sha256, file.used())
    entry = zoo.get(spec)
    return FactoryRef("zoo", entry.name, {"classes": classes or 10, "channels": channels or 3})


def normalisation_of(source: FactoryRef) -> Normalisation | None:
    """Return what the public weights of this model were trained with; None where unknown or not for these channels."""
    if source.kind == "torchvision":
        return IMAGENET
    if source.kind == "zoo" and source.kwargs.get("channels", 3) == 3:
        return zoo.get(source.name).normalisation
    return None


def split_file(spec: str) -> tuple[Path, str]:
    """Split `path/to/file.py:factory`; the factory is empty where none is named."""
    path, _, name = spec.rpartition(":") if not spec.endswith(".py") else (spec, "", "")
    return Path(os.path.expanduser(path)), name


def _user_file(path: Path, folders: Sequence[str] = ()) -> userfiles.UserFile:
    try:
        return userfiles.load(path, folders)
    except userfiles.UserFileError as error:
        raise ModelError(str(error)) from error


def _function(file: userfiles.UserFile, name: str) -> Callable[..., Any]:
    """Return the function (or class) `name` of an imported file."""
    offered = _offered(file.module)
    found = getattr(file.module, name, None) if name else None
    if isinstance(found, nn.Module):
        raise ModelError(
            f"{file.path}: {name} is a model, not a function that builds one. Write "
            f"def build(): return {type(found).__name__}(…)"
        )
    if not callable(found):
        missing = f"has no function {name!r}" if name else "needs a function: file.py:function"
        listed = ", ".join(offered) or "none"
        raise ModelError(f"{file.path} {missing}.{_near(name, offered)} Functions and classes in it: {listed}.")
    return found  # type: ignore[no-any-return]


def torchvision_builder(name: str) -> Callable[..., nn.Module]:
    """Return torchvision's builder of this classifier.

    Raises:
        ModelError: torchvision has no such classifier.
        EnvironmentFault: torchvision is not installed, or not for this version of torch.
    """
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        raise EnvironmentFault(
            f"torchvision cannot be imported: {error}. Install the version made for your torch."
        ) from None
    classifiers = models.list_models(module=models)
    if name in classifiers:
        return models.get_model_builder(name)  # type: ignore[no-any-return]
    if name in models.list_models():
        raise ModelError(f"torchvision:{name} is no image classifier; only classifiers can be compressed.")
    raise ModelError(
        f"torchvision has no classifier {name!r}.{_near(name, classifiers)} It has: {', '.join(classifiers)}."
    )


def _locate_torchvision(name: str, classes: int | None, channels: int | None) -> FactoryRef:
    torchvision_builder(name)
    if channels not in (None, 3):
        raise ModelError(
            f"torchvision:{name} takes colour images (3 channels), these have {channels}. Use a zoo model, or your own "
            "file.py:factory that changes the first layer."
        )
    kwargs: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if name in AUXILIARY:
        kwargs |= {"aux_logits": False, "init_weights": True}
    return FactoryRef("torchvision", name, kwargs)


def _accepted(factory: Callable[..., Any], where: str, classes: int | None, channels: int | None) -> dict[str, Any]:
    """Choose the keyword arguments this factory takes; refuse one that needs others."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
    kwargs: dict[str, Any] = {}
    for names, value in ((CLASSES, classes), (CHANNELS, channels)):
        taken = next((n for n in names if n in parameters), None)
        if taken is None or value is None:
            continue
        own = parameters[taken].default
        if taken == "channels" and isinstance(own, int) and own > PLANES and own != value:
            warnings.warn(
                f"{where}: {taken}={own} is left as it is: a width, by its number, not the {value} channels of images.",
                Note, stacklevel=2,
            )  # fmt: skip
            continue
        kwargs[taken] = value
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    open_ones = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in fixed and n not in kwargs]
    needed = [n for n in open_ones if n not in CLASSES + CHANNELS]
    if needed:
        raise ModelError(
            f"{where} needs the arguments {', '.join(needed)}. A factory is called without arguments, or with "
            "classes= and channels=: give the others defaults."
        )
    if open_ones:
        raise ModelError(
            f"{where} needs {', '.join(open_ones)}, which only data can tell: name the data, or give defaults."
        )
    return kwargs


def _call(
    factory: Callable[..., Any], where: str, kwargs: dict[str, Any], file: userfiles.UserFile | None
) -> nn.Module:
    try:
        with contextlib.nullcontext() if file is None else userfiles.running(file):
            model = factory(**kwargs)
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        reason = userfiles.said(error, file.path) if file else f"{type(error).__name__}: {error}"
        raise ModelError(f"{where}({_shown(kwargs)}) failed: {reason}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{where} returned a {type(model).__name__}, not a torch.nn.Module.")
    return plain(model, where if file is None else f"{file.path.name}:{where.rpartition(':')[2]}")


def _offered(module: ModuleType) -> list[str]:
    """Functions and classes that the file itself defines."""
    return [
        n for n, v in vars(module).items()
        if callable(v) and not n.startswith("_") and getattr(v, "__module__", None) == module.__name__
    ]  # fmt: skip


def _shown(kwargs: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in kwargs.items())


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""
