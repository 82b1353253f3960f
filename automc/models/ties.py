"""Tensors with more than one name: found in a state_dict, and made one again in a fresh build."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def aliases_of(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return name → first name, for every tensor of a state_dict that has an earlier name."""
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in state.items():
        if tensor.numel() and not tensor.is_meta:
            key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if first.setdefault(key, name) != name:
                aliases[name] = first[key]
    return aliases


def tie(model: nn.Module, aliases: Mapping[str, str]) -> None:
    """Make tensors one where `aliases` says so, and different ones where they are one and it does not."""
    tensors = {k: t for k, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    chosen: dict[str, Tensor] = {}
    taken: dict[int, str] = {}
    for name, tensor in tensors.items():
        first = aliases.get(name, name)
        if first != name and first in chosen:
            chosen[name] = chosen[first] if not _same_memory(tensor, chosen[first]) else tensor
            continue
        if taken.setdefault(id(tensor), name) != name:
            tensor = nn.Parameter(tensor.detach().clone()) if isinstance(tensor, nn.Parameter) else tensor.clone()
        chosen[name] = tensor
    for name, tensor in chosen.items():
        if tensor is not tensors[name]:
            _put(model, name, tensor)


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return (a.data_ptr(), a.shape, a.stride()) == (b.data_ptr(), b.shape, b.stride())


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    group: dict[str, Any] = module._parameters if last in module._parameters else module._buffers
    group[last] = tensor
