"""Structure as data: what differs between a model and a fresh build of its factory, as a list of plain edits.

Nothing that changes a model has to record what it did: the edits are found afterwards by walking both module
trees. Edits, in the order they are applied:

    {"edit": "remove",  "path": P}                    the fresh build has P, the model has not
    {"edit": "replace", "path": P, "spec": {...}}     P is another module (or a new one) and is built from its spec
    {"edit": "share",   "path": P, "with": Q}         P is the same object as Q
    {"edit": "resize",  "path": P, "attributes": {...}, "shapes": {...}}   same class, other sizes
    {"edit": "graph",   "nodes": [...]}               the forward pass is this torch.fx graph (always last)
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import nn

from automc.errors import ArtefactError

Edit = dict[str, Any]


class Insertable(Protocol):
    """What `@insertable` asks of a module class."""

    def spec(self) -> dict[str, Any]:
        """Arguments that rebuild this module, as plain JSON values."""
        ...

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Any:
        """Rebuild the module, without its weights."""
        ...


Class = TypeVar("Class", bound=type)

PLAIN = {
    cls.__name__: cls
    for cls in (
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear, nn.Bilinear, nn.Embedding),
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d),
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh),
        *(nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softmax, nn.LogSoftmax),
        *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
        *(nn.AdaptiveMaxPool2d, nn.Upsample, nn.PixelShuffle, nn.ZeroPad2d, nn.ReflectionPad2d, nn.LocalResponseNorm),
        *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity, nn.Flatten, nn.Unflatten, nn.ChannelShuffle),
    )
}
"""Leaf modules whose constructor arguments can be read from their attributes."""

_inserted: dict[str, Any] = {}

_MOVED = {"automc.surgery.lma": "automc.models.lma"}
"""Modules that went elsewhere since files were first written: where they are -> what files call them."""


def insertable(name: str) -> Callable[[Class], Class]:
    """Make a module class one that artefacts can hold: it has `spec()` and `from_spec()`, see `Insertable`.

    Raises:
        ValueError: another class has this name.
    """

    def add(cls: Class) -> Class:
        known = _inserted.get(name)
        if name in PLAIN or (known is not None and known.__qualname__ != cls.__qualname__):
            raise ValueError(f"A module class named {name!r} is registered already.")
        _inserted[name] = cls
        return cls

    return add


def inserted_types() -> tuple[type[nn.Module], ...]:
    """All classes registered by `@insertable`."""
    return tuple(_inserted.values())


def module_in_files(cls: type) -> str:
    """Return what files and hashes call the module that defines a class: the name of its first release."""
    return _MOVED.get(cls.__module__, cls.__module__)


def spec_of(module: nn.Module, path: str = "") -> dict[str, Any]:
    """Describe how to build `module` anew, without weights.

    Raises:
        ArtefactError: its class is neither a plain layer, a container of such, nor registered; names `path`.
    """
    cls = type(module)
    for name, known in _inserted.items():
        if known is cls:
            return {"type": name, "from": module_in_files(cls), "args": _json(cast(Insertable, module).spec())}
    if cls in (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Module):  # the last are containers of a traced graph
        children = {n: spec_of(c, f"{path}.{n}" if path else n) for n, c in module.named_children()}
        return {"type": cls.__name__, "children": children}
    if PLAIN.get(cls.__name__) is cls:
        return {"type": cls.__name__, "args": _arguments(module)}
    raise ArtefactError(
        f"Module {path or 'of the root'} is a {cls.__module__}.{cls.__qualname__}, which was not there when the "
        "factory built the model, so it cannot be rebuilt from the file. Build it in the factory, or register the "
        "class with automc.models.edits.insertable and give it spec() and from_spec()."
    )


def from_spec(spec: Mapping[str, Any]) -> nn.Module:
    """Build the module that `spec_of` described.

    Raises:
        ArtefactError: the class is unknown here, or refuses its arguments.
    """
    name = spec.get("type")
    try:
        if "children" in spec:
            children = {n: from_spec(c) for n, c in spec["children"].items()}
            return _container(str(name), children)
        if name in PLAIN:
            return cast(nn.Module, PLAIN[name](**_tuples(spec["args"])))
        if name not in _inserted:
            _import_provider(str(spec.get("from", "")))
        if name in _inserted:
            return cast(nn.Module, _inserted[name].from_spec(spec["args"]))
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise ArtefactError(f"A module of type {name!r} cannot be built from {dict(spec)}: {error}") from error
    raise ArtefactError(
        f"The file needs a module of type {name!r} (from {spec.get('from', 'nowhere')!r}), which is not registered "
        "here. Install or update the package that defines it."
    )


def same_class(a: type, b: type) -> bool:
    """Tell whether two classes are one by name and ancestry: one made inside a factory is another object each time."""
    if a is b:
        return True
    names = (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)
    return names and len(a.__bases__) == len(b.__bases__) and all(map(same_class, a.__bases__, b.__bases__))


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Public attributes of plain values (numbers, text, None, nested lists of them), JSON-like; never `training`."""
    found = {}
    for name, value in vars(module).items():
        if not name.startswith("_") and name != "training" and _is_plain(value):
            found[name] = _json(value)
    return found


def describe(fresh: nn.Module, model: nn.Module) -> list[Edit]:
    """List the edits that turn `fresh`, the factory's build, into the structure of `model` (weights aside).

    Raises:
        ArtefactError: `model` holds a module that cannot be rebuilt; the message names it.
    """
    graph: list[Edit] = []
    if isinstance(model, torch.fx.GraphModule):
        from automc.models.graphs import dump

        graph = [{"edit": "graph", "nodes": dump(model.graph)}]
    walk = _Walk(traced=bool(graph))
    walk.compare("", fresh, model)
    return walk.edits + graph


def apply(model: nn.Module, edits: list[Edit]) -> nn.Module:
    """Apply edits to a fresh build and return the model; `model` itself is used up.

    Raises:
        ArtefactError: an edit does not fit, e.g. because the factory builds something else by now.
    """
    for edit in edits:
        kind, path = edit.get("edit"), str(edit.get("path", ""))
        try:
            if kind == "graph":
                from automc.models.graphs import load

                model = load(edit["nodes"], model)
            elif kind == "resize":
                _resize(model.get_submodule(path), edit)
            elif path == "":
                model = from_spec(edit["spec"])
            else:
                parent, _, name = path.rpartition(".")
                _set(model.get_submodule(parent), name, kind, edit, model)
        except (AttributeError, KeyError, TypeError) as error:
            raise ArtefactError(
                f"The edit {kind!r} of module {path or '(root)'} does not fit what the factory builds: {error}. "
                "The factory's source has changed since the file was written."
            ) from error
    return model


class _Walk:
    """Compares two module trees and collects edits; knows which objects it has met where."""

    def __init__(self, traced: bool) -> None:
        self.traced = traced  # the model is an fx graph: its containers are plain modules, unused parts are gone
        self.edits: list[Edit] = []
        self.model_paths: dict[int, str] = {}
        self.fresh_paths: dict[int, str] = {}
        self.replaced: set[str] = set()

    def compare(self, path: str, fresh: nn.Module, model: nn.Module) -> None:
        met, fresh_met = self.model_paths.get(id(model)), self.fresh_paths.get(id(fresh))
        self.fresh_paths.setdefault(id(fresh), path)
        if met is not None:
            if met != fresh_met or met in self.replaced:
                self.edits.append({"edit": "share", "path": path, "with": met})
            return
        # A module that was shared and no longer is needs an object of its own.
        if fresh_met is not None:
            self.replace(path, model)
            return
        self.model_paths[id(model)] = path
        if self.traced and (type(model) is nn.Module or isinstance(model, torch.fx.GraphModule)):
            self.resize(path, fresh, model, attributes=False)
            self.children(path, fresh, model)
        elif not same_class(type(model), type(fresh)) or not self.reaches(fresh, model):
            self.replace(path, model)
        elif type(model) in inserted_types():
            if spec_of(model) != spec_of(fresh):
                self.replace(path, model)
        else:
            self.resize(path, fresh, model)
            self.children(path, fresh, model)

    def reaches(self, fresh: nn.Module, model: nn.Module) -> bool:
        """Whether removing children of a fresh Sequential gives the model's names in the model's order."""
        if type(model) is not nn.Sequential:
            return True
        names = [n for n, _ in model.named_children()]
        return [n for n, _ in fresh.named_children() if n in names] == names

    def children(self, path: str, fresh: nn.Module, model: nn.Module) -> None:
        before, after = _children(fresh), _children(model)
        for name in before:
            if name not in after and not self.traced:
                self.edits.append({"edit": "remove", "path": _join(path, name), "none": name in model._modules})
        for name, child in after.items():
            if name in before:
                self.compare(_join(path, name), before[name], child)
            elif id(child) in self.model_paths:
                self.edits.append({"edit": "share", "path": _join(path, name), "with": self.model_paths[id(child)]})
            else:
                self.replace(_join(path, name), child)

    def replace(self, path: str, model: nn.Module) -> None:
        self.edits.append({"edit": "replace", "path": path, "spec": spec_of(model, path)})
        for name, module in model.named_modules(remove_duplicate=False):
            inner = _join(path, name) if name else path
            first = self.model_paths.setdefault(id(module), inner)
            if first == inner:
                self.replaced.add(inner)
            else:
                self.edits.append({"edit": "share", "path": inner, "with": first})

    def resize(self, path: str, fresh: nn.Module, model: nn.Module, attributes: bool = True) -> None:
        before, after = plain_attributes(fresh), plain_attributes(model) if attributes else {}
        other = {k: v for k, v in after.items() if k not in before or before[k] != v}
        if PLAIN.get(type(model).__name__) is type(model) and {"padding", "padding_mode"} & set(other):
            self.replace(path, model)  # a convolution derives private values from its padding
            return
        old, new = _shapes(fresh), _shapes(model)
        shapes = {k: v for k, v in new.items() if k not in old or old[k] != v}
        if other or shapes:
            self.edits.append({"edit": "resize", "path": path, "attributes": other, "shapes": shapes})


def _set(parent: nn.Module, name: str, kind: Any, edit: Edit, root: nn.Module) -> None:
    if kind == "remove":
        if name not in parent._modules:
            raise AttributeError(f"there is no module {name!r}")
        if edit.get("none"):
            setattr(parent, name, None)
        else:
            delattr(parent, name)
    elif kind == "share":
        setattr(parent, name, root.get_submodule(edit["with"]))
    elif kind == "replace":
        setattr(parent, name, from_spec(edit["spec"]))
    else:
        raise KeyError(f"unknown kind of edit {kind!r}")


def _resize(module: nn.Module, edit: Edit) -> None:
    for name, value in edit["attributes"].items():
        setattr(module, name, _tuples(value))
    for name, shape in edit["shapes"].items():
        current = getattr(module, name, None)
        dtype = current.dtype if isinstance(current, torch.Tensor) else torch.get_default_dtype()
        tensor = None if shape is None else torch.zeros(shape, dtype=dtype)
        if name in module._buffers:
            module._buffers[name] = tensor
        else:
            module.register_parameter(name, None if tensor is None else nn.Parameter(tensor))


def _shapes(module: nn.Module) -> dict[str, list[int] | None]:
    own = {**module._parameters, **module._buffers}
    return {n: None if t is None else list(t.shape) for n, t in own.items()}


def _arguments(module: nn.Module) -> dict[str, Any]:
    """Constructor arguments that differ from their defaults, read from attributes of the same names."""
    found = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        if name in ("self", "device", "dtype") or not hasattr(module, name):
            continue
        if name == "bias" and not (getattr(module, "affine", True) and getattr(module, "elementwise_affine", True)):
            continue  # follows from the other, and older versions do not know it
        value = getattr(module, name)
        if isinstance(value, torch.Tensor) or (name == "bias" and value is None):
            value = value is not None
        if name in vars(module) or parameter.default is inspect.Parameter.empty or name == "bias":
            value = _json(value)
            if parameter.default is inspect.Parameter.empty or value != _json(parameter.default):
                found[name] = value
    return found


def _container(name: str, children: dict[str, nn.Module]) -> nn.Module:
    made: nn.Module = {"Sequential": nn.Sequential, "ModuleList": nn.ModuleList, "ModuleDict": nn.ModuleDict}.get(
        name, nn.Module
    )()
    for key, child in children.items():
        made.add_module(key, child)
    return made


def _import_provider(module: str) -> None:
    """Import the module that registers a class: AutoMC's own, or one that an installed package announced."""
    announced = {point.module for point in entry_points(group="automc.methods")}
    module = next((now for now, then in _MOVED.items() if then == module), module)
    if module.startswith("automc.") or module in announced:
        importlib.import_module(module)


def _children(module: nn.Module) -> dict[str, nn.Module]:
    return {n: c for n, c in module._modules.items() if c is not None}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def _json(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_json(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    return value


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return value
