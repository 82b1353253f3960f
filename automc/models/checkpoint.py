"""The user's own weights: files of tensors, never of code."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from automc.errors import ModelError, Note
from automc.models.ties import aliases_of

FIRST = ("", "state_dict", "model_state_dict", "model", "net")
"""Entries that are preferred where the weights under several fit: averaged ones stand beside those of the training."""
LAST = re.compile(r"^opt|grad|moment|exp_avg|velocity|sched", re.IGNORECASE)
"""Entries that hold what an optimiser keeps of each weight, under the weight's name; taken where nothing else fits."""
WRAPPINGS = ("module", "_orig_mod")
"""What DataParallel and torch.compile put into names, anywhere."""
PLAIN = (argparse.Namespace, np.dtype, np.ndarray, *(type(np.dtype(kind)) for kind in "?bhilBHILefd"))
"""What trainers keep beside the weights: values without code of their own."""
SHOWN = 5
DEPTH = 8


@dataclass
class _Fit:
    """How the weights under one entry of a file match a model: what is taken, and what stands against it."""

    entry: str
    taken: dict[str, Any]
    notes: list[str]
    lacks: list[str]
    unknown: list[str]
    shapes: list[str]

    @property
    def misses(self) -> int:
        """How much stands against it."""
        return len(self.lacks) + len(self.unknown) + len(self.shapes)

    @property
    def rank(self) -> tuple[int, bool, int]:
        """What is preferred comes first: what fits, what is no optimiser's, what is called as most call it."""
        others = any(LAST.search(part) for part in self.entry.split("."))
        return self.misses, others, FIRST.index(self.entry) if self.entry in FIRST else len(FIRST)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into `model`, in place.

    Understood: the one mapping of tensors in the file that fits the model, however it is nested and called; one prefix
    before all names, `module.` and `_orig_mod.` anywhere; single numbers that no layer has, as profilers and averages
    leave them; other number types, sparse tensors; safetensors by content. Batch counters of BN may be missing, as in
    checkpoints of old versions. Nothing but tensors and plain values is unpickled, and no code is run.

    Raises:
        ModelError: the file is missing, damaged, holds code, or its tensors do not fit; the message names them.

    Warns:
        Note: what was chosen, taken off, left out or converted.
    """
    content = _read(path)
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}, not a state_dict.")
    found = dict(_mappings(content))
    if not found:
        raise ModelError(
            f"{path} holds {'no tensors' if content else 'nothing'}. Expected a state_dict, or a dict with one in it."
        )
    fits = [fit for entry, state in found.items() for fit in _fits(model, entry, state)]
    fits.sort(key=lambda fit: fit.rank)
    fitting = [fit for fit in fits if not fit.misses]
    if not fitting:
        raise ModelError(_refusal(fits[0], path))
    best, state = _usable(model, fitting, path)
    others = [f"{fit.entry!r}" for fit in fitting if fit.entry != best.entry]
    if best.entry not in FIRST or others:
        also = f"; {_some(others)} would fit too" if others else ""
        best.notes.insert(0, f"the weights under {best.entry or 'no name'!r} are read{also}")
    load_tensors(model, state, strict=False)
    if best.notes:
        warnings.warn(f"{path}: {'; '.join(best.notes)}.", Note, stacklevel=2)


def _usable(model: nn.Module, fits: list[_Fit], path: Path) -> tuple[_Fit, dict[str, Any]]:
    """Return the first of those that fit whose tensors can be used, and these.

    Raises:
        ModelError: none can; the message is of the first.
    """
    first: ModelError | None = None
    for fit in fits:
        try:
            return fit, {name: _dense(name, tensor, model, fit, path) for name, tensor in fit.taken.items()}
        except ModelError as error:
            first = first or error
    assert first is not None
    raise first


def load_tensors(model: nn.Module, state: Mapping[str, Tensor], *, strict: bool) -> None:
    """Load tensors of the current version of every layer: some classes refuse a state_dict that does not tell it.

    Raises:
        RuntimeError: as `torch.nn.Module.load_state_dict`.
    """
    known = OrderedDict(state)
    own = getattr(model.state_dict(), "_metadata", None)  # a class of its own may return a plain dictionary
    if own is not None:
        known._metadata = own  # type: ignore[attr-defined]
    model.load_state_dict(known, strict=strict)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"There is no weights file {path}.")
    try:
        if _is_safetensors(path):
            return load_file(path)
        # Opened here: by its name alone torch would take it for something else.
        with torch.serialization.safe_globals([*PLAIN, *_numpy_makers()]), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise ModelError(f"{path} is damaged, or no PyTorch checkpoint.") from error
        raise ModelError(
            f"{path} holds a pickled Python object ({found[1]}), not just weights. Loading it could run any code, so "
            "it is refused. Save the weights alone: torch.save(model.state_dict(), path)."
        ) from error
    except PermissionError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (
        SafetensorError,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
    ) as error:
        if "torch.jit" in str(error) or "TorchScript" in str(error):
            raise ModelError(
                f"{path} is a TorchScript program. Save its weights: "
                f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pt')."
            ) from error
        # What torch raises on garbage depends on where the garbage is.
        raise ModelError(f"{path} is damaged, or no PyTorch checkpoint ({type(error).__name__}).") from error


def _is_safetensors(path: Path) -> bool:
    """By content: a length, and JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _numpy_makers() -> list[Any]:
    """NumPy's own makers of numbers and arrays, under the names that either major version writes."""
    core = np._core.multiarray  # type: ignore[attr-defined]
    return [
        (getattr(core, name), f"{module}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for module in ("numpy._core", "numpy.core")
    ]


def _mappings(content: Mapping[Any, Any], entry: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every mapping in a file that has tensors, by its name: `a.b` is what stands under b under a."""
    tensors = {
        str(key): torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" else value
        for key, value in content.items()
    }
    if any(isinstance(value, Tensor) for value in tensors.values()):
        yield entry, tensors
    for key, value in content.items():
        if isinstance(value, Mapping) and depth < DEPTH and key not in ("optimizer", "optimizer_state_dict"):
            yield from _mappings(value, f"{entry}.{key}" if entry else str(key), depth + 1)


def _fits(model: nn.Module, entry: str, state: dict[str, Any]) -> Iterator[_Fit]:
    """Yield how a mapping matches the model, with each prefix that its names may have."""
    own = model.state_dict()
    parts = {part for name in own for part in name.split(".")}
    plain = {".".join(p for p in k.split(".") if p not in WRAPPINGS or p in parts): v for k, v in state.items()}
    unwrapped = [] if list(plain) == list(state) else ["'module.' and '_orig_mod.' are taken off the names"]
    ends = [(k, name) for name in own for k in plain if k == name or k.endswith(f".{name}")]
    prefixes = Counter(k[: len(k) - len(name)] for k, name in ends) or Counter({"": 0})
    for prefix, _ in prefixes.most_common(SHOWN):
        taken = {k.removeprefix(prefix): v for k, v in plain.items() if k.startswith(prefix)}
        fit = _fit(model, own, entry, taken)
        fit.notes[:0] = [*unwrapped, *([f"the prefix {prefix!r} is taken off the names"] if prefix else [])]
        outside = [k for k in plain if not k.startswith(prefix)]
        if outside:
            fit.notes.append(f"left out, being outside of {prefix!r}: {_some(outside)}")
        yield fit


def _fit(model: nn.Module, own: dict[str, Any], entry: str, state: dict[str, Any]) -> _Fit:
    first = aliases_of({k: v for k, v in own.items() if isinstance(v, Tensor)})
    for name in own:  # a file may hold one of several names of a tensor
        same = [k for k in own if first.get(k, k) == first.get(name, name) and k in state]
        if name not in state and same:
            state[name] = state[same[0]]
    extra = {k: v for k, v in state.items() if k not in own}
    idle = [k for k, v in extra.items() if _is_idle(model, k, v)]
    shapes = [
        f"{k} is {_shape(state[k])} in the file and {_shape(v)} in the model"
        for k, v in own.items()
        if isinstance(v, Tensor) and isinstance(state.get(k), Tensor) and state[k].shape != v.shape
    ]
    lacks = [k for k, v in own.items() if k not in state and not k.endswith("num_batches_tracked")]
    lacks += [k for k, v in own.items() if k in state and isinstance(v, Tensor) != isinstance(state[k], Tensor)]
    notes = [f"left out, as no layer has them: {_some(idle)}"] if idle else []
    taken = {k: v for k, v in state.items() if k in own}
    return _Fit(entry, taken, notes, lacks, [k for k in extra if k not in idle], shapes)


def _is_idle(model: nn.Module, name: str, value: Any) -> bool:
    """Whether the model is the same without an entry that it has no place for: a counter, what it computes itself."""
    path, _, last = name.rpartition(".")
    if not isinstance(value, Tensor):
        return not last.endswith("_extra_state")
    if last in ("weight", "bias"):
        return False
    try:
        held = getattr(model.get_submodule(path), last, None)
    except AttributeError:
        return value.numel() == 1
    if isinstance(held, Tensor):  # a buffer that is not saved by now
        return held.shape == value.shape and torch.equal(held.to(value.dtype), value)
    return value.numel() == 1


def _dense(name: str, value: Any, model: nn.Module, fit: _Fit, path: Path) -> Any:
    """Return a plain tensor of the model's number type.

    Raises:
        ModelError: it cannot be had.
    """
    if not isinstance(value, Tensor):
        return value
    own = model.state_dict()[name]
    if _counts(name, value) and not (own.is_floating_point() or own.is_complex()):
        return value.float().round().to(own.dtype)  # as where everything was cast or averaged, counters included
    kind = "quantised" if value.is_quantized else "without content (on the meta device)" if value.is_meta else ""
    numbers = [t.is_floating_point() + 2 * t.is_complex() for t in (value, own)]
    if not kind and numbers[0] != numbers[1]:
        kind = f"of {str(value.dtype).removeprefix('torch.')} numbers; the model's are {str(own.dtype)[6:]}"
    if kind:
        raise ModelError(f"The weights in {path} cannot be used: {name} is {kind}. Save the weights as float32.")
    if value.layout != torch.strided:
        _note(fit, f"tensors of layout {str(value.layout).removeprefix('torch.')} are made dense")
        value = value.to_dense()
    if value.dtype != own.dtype:
        _note(fit, f"{str(value.dtype).removeprefix('torch.')} numbers become {str(own.dtype).removeprefix('torch.')}")
    value = value.to(own.dtype)
    broken = _broken(name, value, model)
    if broken:
        raise ModelError(
            f"The weights in {path} cannot be used: {broken}, so outputs would be NaN. The training that saved them "
            "diverged, or the file is damaged: take an earlier checkpoint."
        )
    return value


def _broken(name: str, value: Tensor, model: nn.Module) -> str:
    """Say which values no network can compute with, "" for none: of parameters, and of statistics of batches."""
    if not value.is_floating_point():
        return ""
    last = name.rpartition(".")[2]
    wrong = {"NaN": value.isnan(), "infinite": value.isinf()}
    if last == "running_var":
        wrong["negative"] = value < 0
    what = next((what for what, where in wrong.items() if where.any()), "")
    if not what:
        return ""
    trained = {own for own, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    counts = last in ("running_mean", "running_var") or name in trained
    return f"{int(wrong[what].sum()):,} values of {name} are {what}" if counts else ""


def _counts(name: str, value: Tensor) -> bool:
    """Whether these are floating-point numbers, dense and with content, that are whole, or averages of a counter."""
    if not value.is_floating_point() or value.is_meta or value.layout != torch.strided:
        return False
    plain = value.float()
    averaged = name.endswith("num_batches_tracked")
    return bool((plain.isfinite() & ((plain == plain.round()) | averaged)).all())


def _note(fit: _Fit, text: str) -> None:
    if text not in fit.notes:
        fit.notes.append(text)


def _refusal(fit: _Fit, path: Path) -> str:
    parts = [f"it lacks {_some(fit.lacks)}"] if fit.lacks else []
    parts += [f"the model has no {_some(fit.unknown)}"] if fit.unknown else []
    parts += [_some(fit.shapes)] if fit.shapes else []
    if fit.shapes and len(fit.shapes) <= 2 and not fit.lacks and not fit.unknown:
        parts.append("the number of classes or channels seems to differ")
    where = f" under {fit.entry!r}" if fit.entry else ""
    return f"The weights in {path}{where} do not fit the model: {'; '.join(parts)}."


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"
