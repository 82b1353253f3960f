"""Weights that lie on few levels, as the numbers of those levels: a few bits each.

A layer whose weights lie on levels is an insertable module that has, beside its `weight` (outputs, …), `bits` of 1 to 8
and either a `scale` (outputs,) of levels −Q…Q, Q = 2^(bits−1) − 1, or a `codebook` (levels,). A file holds the codes:
level + Q, or the place in the codebook; `bits` of each, the first code in the lowest bits of the first byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from automc.models.carried import same_bits
from automc.models.edits import inserted_types

SUFFIX = ".codes"
"""What stands in the place of `layer.weight` is called `layer.weight.codes`."""
_AT_ONCE = 1 << 20
"""Codes of one turn; a multiple of 8, so that each turn ends with a byte."""

Coded = dict[str, dict[str, Any]]
"""Name of a weight → {"bits", "shape", "table": name of its scale or codebook, "centre": Q, or None of a codebook}."""


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Put codes below 2^bits side by side: (⌈n·bits/8⌉,) uint8."""
    flat = codes.reshape(-1).to(torch.uint8).cpu().numpy()
    turns = (flat[at : at + _AT_ONCE, None] for at in range(0, len(flat), _AT_ONCE))
    single = [np.unpackbits(turn, axis=1, count=bits, bitorder="little").ravel() for turn in turns]
    return torch.from_numpy(np.concatenate([np.packbits(s, bitorder="little") for s in single] or [flat]))


def unpack_bits(packed: Tensor, bits: int, number: int) -> Tensor:
    """Undo `pack_bits`: (number,) uint8.

    Raises:
        ValueError: these are not so many bytes.
    """
    if packed.dtype != torch.uint8 or packed.shape != (-(-number * bits // 8),):
        raise ValueError(f"{number} codes of {bits} bits do not take {packed.numel()} bytes")
    found = []
    for at in range(0, number, _AT_ONCE):
        turn = packed.numpy()[at * bits // 8 : (at + _AT_ONCE) * bits // 8]
        single = np.unpackbits(turn, count=min(_AT_ONCE, number - at) * bits, bitorder="little").reshape(-1, bits)
        found.append(np.packbits(single, axis=1, bitorder="little").ravel())
    return torch.from_numpy(np.concatenate(found or [np.zeros(0, np.uint8)]))


def find(model: nn.Module, tensors: Mapping[str, Tensor]) -> Coded:
    """Say which of a model's tensors are held as codes: weights of layers on levels, given back by them bit by bit."""
    found: Coded = {}
    for name, module in model.named_modules():
        bits = getattr(module, "bits", None)
        if not isinstance(module, inserted_types()) or not isinstance(bits, int) or not 1 <= bits <= 8:
            continue
        weight = f"{name}.weight" if name else "weight"
        tables = [f"{name}.{table}" if name else table for table in ("scale", "codebook")]
        table = next((table for table in tables if table in tensors), None)
        if weight not in tensors or table is None:
            continue
        centre = 2 ** (bits - 1) - 1 if table == tables[0] else None
        how = {"bits": bits, "shape": list(tensors[weight].shape), "table": table, "centre": centre}
        if _on_levels(tensors[weight], tensors[table], how):
            found[weight] = how
    return found


def pack(tensors: Mapping[str, Tensor], coded: Coded) -> dict[str, Tensor]:
    """Return the tensors as a file holds them: codes in the place of the weights named by `find`."""
    held = {name: tensor for name, tensor in tensors.items() if name not in coded}
    for name, how in coded.items():
        held[name + SUFFIX] = pack_bits(codes(tensors[name], tensors[how["table"]], how["centre"]), how["bits"])
    return held


def unpack(held: Mapping[str, Tensor], coded: Coded) -> dict[str, Tensor]:
    """Undo `pack`.

    Raises:
        KeyError, TypeError, ValueError, IndexError: what is held, or said of it, does not fit.
    """
    tensors = {name: tensor for name, tensor in held.items() if name.removesuffix(SUFFIX) not in coded}
    for name, how in coded.items():
        if not 1 <= how["bits"] <= 8:
            raise ValueError(f"{name} has {how['bits']} bits a weight")
        numbers = unpack_bits(held[name + SUFFIX], how["bits"], prod(how["shape"]))
        tensors[name] = _weight(numbers, held[how["table"]], how)
    return tensors


def codes(weight: Tensor, table: Tensor, centre: int | None) -> Tensor:
    """Codes of a weight's nearest levels, on the CPU, of its shape; see `Coded`."""
    weight, table = weight.detach().cpu(), table.detach().cpu()
    if centre is None:
        return torch.bucketize(weight.contiguous(), (table[1:] + table[:-1]) / 2).to(torch.uint8)
    return ((weight / table.view(-1, *[1] * (weight.ndim - 1))).round() + centre).clamp(0, 2 * centre).to(torch.uint8)


def _on_levels(weight: Tensor, table: Tensor, how: Mapping[str, Any]) -> bool:
    """Whether codes give a weight back bit by bit."""
    fits = 0 < len(table) <= 2 ** how["bits"] if how["centre"] is None else table.shape == weight.shape[:1]
    if not fits:
        return False
    again = _weight(codes(weight, table, how["centre"]), table.detach().cpu(), how)
    return same_bits(again, weight.detach().cpu().contiguous())


def _weight(numbers: Tensor, table: Tensor, how: Mapping[str, Any]) -> Tensor:
    if how["centre"] is None:
        return table[numbers.long()].reshape(how["shape"])
    steps = numbers.reshape(how["shape"]).to(table.dtype) - how["centre"]
    weight: Tensor = steps * table.view(-1, *[1] * (steps.ndim - 1))
    return weight
