"""What a model holds besides its state_dict, as plain data: tensors and values in attributes, lists, objects, closures.

A fixed random projection kept as a plain attribute decides the outputs as much as a weight, and a fresh build of the
factory draws another. So everything of this kind that a fresh build has too, and that differs or is a tensor, goes
into the file by its place: the module's name, and the steps from there.
"""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from automc.errors import ArtefactError
from automc.models.edits import inserted_types

Step = tuple[str, Any]
"""("attribute", name), ("item", index or key), ("nth", n) of a dict's values, ("cell", n) of a closure, or
("cell of", name) of a class's function."""

LIMIT_BYTES = 64 << 20
"""Of all that a model may hold besides its state_dict: data sets and recordings are no part of a network."""

_DEPTH = 8
_HOOKS = "_forward_hooks", "_forward_pre_hooks"
_INTERNAL = frozenset({*vars(nn.Module()), "_compiled_call_impl", "_is_full_backward_hook", "__annotations__"})
_CLOSED = (ModuleType, type, BuiltinFunctionType, torch.device, torch.dtype, torch.Generator, torch.jit.ScriptModule)
_OUTSIDE = ("torch.", "threading", "logging", "_thread", "weakref", "concurrent.", "multiprocessing.", "inspect")


@dataclass(frozen=True)
class Place:
    """Where something is: a module's name, and the steps from there."""

    module: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        shown = self.module
        for kind, key in self.steps:
            shown += f"[{key!r}]" if kind == "item" else f" ({kind} {key})" if "cell" in kind else f".{key}"
        return shown.removeprefix(".")

    def as_list(self) -> list[Any]:
        """Plain values, for the file."""
        return [self.module, [list(step) for step in self.steps]]

    @classmethod
    def from_list(cls, value: Any) -> Place:
        """Read `as_list()`."""
        module, steps = value
        return cls(str(module), tuple((str(kind), key) for kind, key in steps))


def find(model: nn.Module) -> dict[Place, Any]:
    """Return all plain data that `model` holds besides its parameters and saved buffers, by place.

    Private values of torch itself are left out, and so is what shares its memory with a parameter or a buffer.
    """
    return _walked(model).found


def opaque(model: nn.Module) -> list[str]:
    """Name what `model` holds besides its state_dict and no file can carry: generators, sparse tensors."""
    return [f"{place} (a {kind})" for place, kind in _walked(model).opaque.items()]


def differing(fresh: nn.Module, model: nn.Module, late: bool = False) -> dict[Place, Any]:
    """Return what `model` holds, by place, where `fresh` holds something else or tensors: what a file has to carry.

    Among these is a tensor that in `fresh` shares its memory with a weight, and in `model` has its own, as what
    `torch.nn.utils.spectral_norm` computes before each forward pass.

    Args:
        late: with the tensors that came after the building, into a place that was empty. Mostly they record what
            went through, but a first forward pass can also draw what decides all later ones.

    Raises:
        ArtefactError: it is more than a network needs; the message names the largest.
    """
    walk, after = _walked(fresh), find(model)
    before = walk.found

    def needed(place: Place, value: Any) -> bool:
        if place not in before:
            return place in walk.shared
        return late or has_tensors(before[place]) if has_tensors(value) else not equal(value, before[place])

    chosen = {place: value for place, value in after.items() if needed(place, value)}
    sizes = {place: sum(t.numel() * t.element_size() for t in _tensors(v)) for place, v in chosen.items()}
    if sum(sizes.values()) > LIMIT_BYTES:
        largest = max(sizes, key=lambda place: sizes[place])
        raise ArtefactError(
            f"{largest} holds {sizes[largest] / 1e6:,.0f} MB besides the weights; a saved model carries at most "
            f"{LIMIT_BYTES >> 20} MiB of such data. Register it as a buffer, or keep it out of the model."
        )
    return chosen


def restore(model: nn.Module, values: Mapping[Place, Any]) -> None:
    """Put values back to their places in `model`.

    Raises:
        ArtefactError: the model has no such place.
    """
    modules = dict(model.named_modules())
    for place, value in values.items():
        try:
            _placed(modules[place.module], place.steps, value)
        except (LookupError, AttributeError, TypeError, ValueError, RuntimeError, StopIteration) as error:
            raise ArtefactError(f"{place} cannot be set in what the factory builds: {error}.") from error


def encode(value: Any, store: Callable[[Tensor], str]) -> Any:
    """Turn plain data into JSON values, tensors through `store`, which names them.

    Raises:
        TypeError: the value is not plain data.
    """
    match value:
        case None | bool() | int() | float() | str() if type(value) in (type(None), bool, int, float, str):
            return value
        case Tensor():
            return {"tensor": store(value.detach())}
        case np.ndarray() if value.dtype.kind in "biuf":
            return {"array": store(_as_tensor(value)), "dtype": value.dtype.str}
        case np.generic() if value.dtype.kind in "biuf":
            return {"number": value.item(), "dtype": value.dtype.str}
        case bytes():
            return {"bytes": value.hex()}
        case complex():
            return {"complex": [value.real, value.imag]}
    for kind in (list, tuple, set, frozenset, torch.Size):
        if type(value) is kind:
            items = sorted(value, key=repr) if kind in (set, frozenset) else value
            return {kind.__name__: [encode(item, store) for item in items]}
    if type(value) is dict:
        return {"dict": [[encode(k, store), encode(v, store)] for k, v in value.items()]}
    raise TypeError(f"a {type(value).__module__}.{type(value).__qualname__} is not plain data")


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Read `encode()`.

    Raises:
        KeyError, ValueError, TypeError: it was not written by `encode`.
    """
    if not isinstance(value, dict):
        return value
    kind = next(iter(value))
    content = value[kind]
    if kind == "tensor":
        return tensors[content].clone()
    if kind == "array":
        return tensors[content].numpy().astype(np.dtype(value["dtype"]))
    if kind == "number":
        return np.dtype(value["dtype"]).type(content)
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        return complex(*content)
    if kind == "dict":
        return {decode(k, tensors): decode(v, tensors) for k, v in content}
    makers = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "Size": torch.Size}
    return makers[kind](decode(item, tensors) for item in content)


def equal(a: Any, b: Any) -> bool:
    """Tell whether two pieces of plain data are the same, tensors bit by bit."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and same_bits(a, b)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        same = isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and (a.dtype, a.shape) == (b.dtype, b.shape)
        return bool(same and a.tobytes() == b.tobytes())
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(equal, a.values(), b.values()))
    return bool(a == b) or (a != a and b != b)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors have one type, shape and content, wherever they are; NaNs are equal to themselves."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    a, b = (t.detach().cpu().contiguous().reshape(-1) for t in (a, b))
    return not a.numel() or bool(torch.equal(a.view(torch.uint8), b.view(torch.uint8)))


def _walked(model: nn.Module) -> _Walk:
    walk = _Walk(model)
    for name, module in model.named_modules():
        walk.module(name, module)
    return walk


class _Walk:
    """Collects plain data; knows what it has met, and which memory belongs to parameters and buffers."""

    def __init__(self, model: nn.Module) -> None:
        self.found: dict[Place, Any] = {}
        self.opaque: dict[Place, str] = {}
        self.shared: set[Place] = set()
        """Where there are tensors in the memory of parameters and buffers."""
        self.met: set[int] = {id(module) for module in model.modules()}
        self.alive: list[Any] = []  # an object that is freed would lend its id to the next
        transient = {
            id(b)
            for module in model.modules()
            for name, b in module._buffers.items()
            if name in module._non_persistent_buffers_set
        }
        own = [*model.parameters(), *(b for b in model.buffers() if id(b) not in transient)]
        self.weights = {t.untyped_storage().data_ptr() for t in own if _has_memory(t)} - {0}

    def module(self, name: str, module: nn.Module) -> None:
        if isinstance(module, (torch.jit.ScriptModule, *inserted_types())):
            return  # the former keeps its values to itself; the latter follow from their specs
        for kind in _HOOKS:
            for n, hook in enumerate(vars(module)[kind].values()):
                self.descend(Place(name, (("attribute", kind), ("nth", n))), hook)
        for buffer in module._non_persistent_buffers_set:
            self.visit(Place(name, (("attribute", "_buffers"), ("item", buffer))), module._buffers.get(buffer))
        for attribute, value in _attributes(module):
            self.visit(Place(name, (("attribute", attribute),)), value)
        for cls in type(module).__mro__:
            for function, value in vars(cls).items():
                if isinstance(value, FunctionType) and "<locals>" in value.__qualname__:
                    self.closure(Place(name, (("cell of", function),)), value)

    def visit(self, place: Place, value: Any) -> None:
        if isinstance(value, Tensor) and self.shares(value):
            self.shared.add(place)
            return
        try:
            encode(value, self.plain)
        except (TypeError, RecursionError):
            self.descend(place, value)
        else:
            self.found[place] = value

    def plain(self, tensor: Tensor) -> str:
        if self.shares(tensor) or not _has_memory(tensor):
            raise TypeError("a weight, or a tensor without memory of its own")
        return ""

    def shares(self, tensor: Tensor) -> bool:
        return _has_memory(tensor) and tensor.untyped_storage().data_ptr() in self.weights

    def descend(self, place: Place, value: Any) -> None:
        """Look into what is not plain as a whole."""
        if id(value) in self.met or len(place.steps) > _DEPTH:
            return
        self.met.add(id(value))
        self.alive.append(value)
        if isinstance(value, torch.Generator | np.random.Generator | random.Random | Tensor):
            sparse = isinstance(value, Tensor) and not _has_memory(value)
            if sparse or not isinstance(value, Tensor):
                self.opaque[place] = f"{value.layout} tensor" if isinstance(value, Tensor) else type(value).__name__
            return
        for step, inner in _parts(value):
            self.visit(Place(place.module, (*place.steps, step)), inner)
        if isinstance(value, FunctionType) and "<locals>" in value.__qualname__:
            self.closure(place, value)

    def closure(self, place: Place, function: FunctionType) -> None:
        for n, cell in enumerate(function.__closure__ or ()):
            try:
                content = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            if not isinstance(content, type):
                self.visit(Place(place.module, (*place.steps, ("cell", n))), content)


def _attributes(holder: Any) -> Iterator[tuple[str, Any]]:
    """Attributes of an object, of a module only those that torch does not keep for itself."""
    own = dict(vars(holder)) if hasattr(holder, "__dict__") else {}
    for cls in type(holder).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(holder, name) and not name.startswith("__"):
                own.setdefault(name, getattr(holder, name))
    for name, value in own.items():
        if isinstance(holder, fx.GraphModule) and not isinstance(value, Tensor):
            continue
        if not (isinstance(holder, nn.Module) and name in _INTERNAL):
            yield name, value


def _parts(value: Any) -> Iterator[tuple[Step, Any]]:
    """What a list, a dict, or an object of the user's holds."""
    if isinstance(value, list | tuple | deque):
        yield from ((("item", n), item) for n, item in enumerate(value))
    elif isinstance(value, dict):
        yield from ((("item", k), v) for k, v in value.items() if type(k) in (str, int))
    elif isinstance(value, nn.Module) and not isinstance(value, _CLOSED):
        # A module that is not registered, in a list for instance: nothing of it is in the state_dict.
        for group in ("_parameters", "_buffers", "_modules"):
            yield from ((("attribute", n), v) for n, v in vars(value)[group].items())
        yield from ((("attribute", n), v) for n, v in _attributes(value))
    elif isinstance(value, MethodType):
        yield ("attribute", "__func__"), value.__func__
        yield ("attribute", "__self__"), value.__self__
    elif isinstance(value, _CLOSED) or type(value).__module__.startswith(_OUTSIDE):
        return
    elif isinstance(value, functools.partial):
        yield from ((("attribute", n), getattr(value, n)) for n in ("func", "args", "keywords"))
    elif not isinstance(value, FunctionType):
        yield from ((("attribute", n), v) for n, v in _attributes(value))


def _get(holder: Any, step: Step) -> Any:
    kind, key = step
    if kind == "item":
        return holder[key]
    if kind == "nth":
        return list(holder.values())[key]
    if kind == "cell":
        return holder.__closure__[key].cell_contents
    if kind == "cell of":
        return next(vars(cls)[key] for cls in type(holder).__mro__ if key in vars(cls))
    # A file reaches data of the model, never what Python keeps behind it.
    if kind != "attribute" or (key.startswith("__") and key not in ("__func__", "__self__")):
        raise ValueError(f"there is no way by {kind} {key!r}")
    return getattr(holder, key)


def _placed(holder: Any, steps: tuple[Step, ...], value: Any) -> Any:
    """Put a value where the steps lead; return the holder, or what takes its place where it cannot be changed."""
    step, rest = steps[0], steps[1:]
    current = _get(holder, step)
    new = _placed(current, rest, value) if rest else _fitted(current, value)
    if new is current:
        return holder
    kind, key = step
    if isinstance(holder, tuple):
        items = [new if n == key else item for n, item in enumerate(holder)]
        return type(holder)(*items) if hasattr(holder, "_fields") else type(holder)(items)
    if isinstance(holder, functools.partial):
        parts = {"func": holder.func, "args": holder.args, "keywords": holder.keywords} | {key: new}
        return functools.partial(parts["func"], *parts["args"], **parts["keywords"])
    if kind == "item":
        holder[key] = new
    elif kind == "cell":
        holder.__closure__[key].cell_contents = new
    elif isinstance(holder, nn.Module):
        setattr(holder, key, new)
    else:
        object.__setattr__(holder, key, new)  # a frozen dataclass refuses the ordinary way
    return holder


def _fitted(current: Any, value: Any) -> Any:
    """Return what takes the place of `current`: a parameter of a hidden layer stays one."""
    if isinstance(current, nn.Parameter) and isinstance(value, Tensor):
        if current.shape == value.shape:
            current.data = value
            return current
        return nn.Parameter(value, requires_grad=current.requires_grad)
    return value


def _as_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _has_memory(tensor: Tensor) -> bool:
    try:
        return tensor.device.type != "meta" and tensor.layout == torch.strided and not tensor.is_quantized
    except (RuntimeError, NotImplementedError):
        return False


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, np.ndarray):
        value = _as_tensor(value)
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def has_tensors(value: Any) -> bool:
    """Tell whether plain data has tensors or arrays in it."""
    return next(_tensors(value), None) is not None
