"""The user's own weights: files of tensors, never of code."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from automc.errors import ModelError

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.")
SHOWN = 5


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state_dict into `model`, in place.

    Understood: a state_dict; a dict that holds one under `state_dict`, `model_state_dict`, `model` or `net`; keys
    prefixed by `module.` (DataParallel) or `_orig_mod.` (torch.compile); safetensors. Batch counters of BN may be
    missing, as in checkpoints of old versions. Nothing but tensors and plain values is unpickled: torch's own
    allow-list of `weights_only=True` suffices for the public checkpoints, so it is not widened.

    Raises:
        ModelError: the file is missing, damaged, holds code, or its tensors do not fit; the message names them.
    """
    state = _strip(_unwrap(_read(path), path))
    _check(model, state, path)
    load_tensors(model, state, strict=False)


def load_tensors(model: nn.Module, state: Mapping[str, Tensor], *, strict: bool) -> None:
    """Load tensors of the current version of every layer: some classes refuse a state_dict that does not tell it.

    Raises:
        RuntimeError: as `torch.nn.Module.load_state_dict`.
    """
    known = OrderedDict(state)
    known._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(known, strict=strict)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"There is no weights file {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
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
        # What torch raises on garbage depends on where the garbage is.
        raise ModelError(f"{path} is damaged, or no PyTorch checkpoint ({type(error).__name__}).") from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}, not a state_dict.")
    odd = [str(k) for k, v in content.items() if not isinstance(k, str) or not isinstance(v, Tensor)]
    if odd or not content:
        what = f"besides tensors also {_some(odd)}" if odd else "nothing"
        raise ModelError(f"{path} holds {what}. Expected a state_dict, or a dict with one under {', '.join(WRAPPERS)}.")
    return dict(content)


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _check(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in own]
    shapes = [
        f"{k} is {_shape(state[k])} in the file and {_shape(own[k])} in the model"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    if not (missing or unknown or shapes):
        return
    parts = [f"it lacks {_some(missing)}"] if missing else []
    parts += [f"the model has no {_some(unknown)}"] if unknown else []
    parts += [_some(shapes)] if shapes else []
    if len(shapes) <= 2 and not missing and not unknown:
        parts.append("the number of classes or channels seems to differ")
    raise ModelError(f"The weights in {path} do not fit the model: {'; '.join(parts)}.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"
