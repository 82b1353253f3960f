"""The file format of artefacts: tensors and a JSON description, each under a hash that reading checks."""

from __future__ import annotations

import hashlib
import json
import warnings
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from automc.errors import ArtefactError, ModelError, Note
from automc.models import packing
from automc.models.description import CONTENT, FORMAT, KEY, PLAIN, digest_of, parsed

STORABLE = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool, torch.uint8}
    | {torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64}
)


class OldFormat(Note):
    """A file of an earlier version, which does not tell whether its description or its outputs have changed."""


def packed(about: Mapping[str, Any], tensors: Mapping[str, Tensor], coded: packing.Coded | None = None) -> bytes:
    """Return the content of a file.

    Args:
        coded: weights that the file holds as codes, see `packing.find`. The hash of tensors is that of the weights.

    Raises:
        ArtefactError: the description is not JSON, or a tensor is of a kind that the format does not know.
    """
    plain: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        own = _own(name, tensor)
        plain[name] = own.clone() if own.data_ptr() in taken else own
        taken.add(own.data_ptr() or -1)
    whole: dict[str, Any] = {"format": PLAIN, **about, "sha256": digest(plain.items())}
    if coded:
        content = to_bytes(packing.pack(plain, coded))
        whole |= {"format": FORMAT, "coded": coded, "content_bytes": len(content)}
        plain = {CONTENT: torch.frombuffer(bytearray(zlib.compress(content, 9)), dtype=torch.uint8)}
    try:
        whole["digest"] = digest_of(json.loads(json.dumps(whole)))
        text = json.dumps(whole)
    except (TypeError, ValueError) as error:
        raise ArtefactError(f"The metadata of a saved model cannot be written as JSON: {error}") from error
    return to_bytes(plain, metadata={KEY: text})


def unpack(path: Path, shown: Path, weights: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the description of an artefact, every key present and unchanged since it was written, and its tensors.

    Args:
        shown: what errors call the file.

    Raises:
        ModelError: there is no such file.
        ArtefactError: it is damaged, from elsewhere, or newer than this version.

    Warns:
        OldFormat: the file cannot tell whether it was changed.
    """
    if not path.is_file():
        raise ModelError(f"There is no file {shown}.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {k: file.get_tensor(k) for k in file.keys()} if weights else {}  # noqa: SIM118 - not a dict
    except Exception as error:  # what the library raises on garbage depends on where the garbage is
        raise ArtefactError(f"{shown} is damaged, or was not written by AutoMC: {error}") from error
    about = parsed(text, shown)
    if weights and about["format"] >= FORMAT:
        tensors = _opened(about, tensors, shown)
    if weights and digest(tensors.items()) != about["sha256"]:
        raise ArtefactError(f"{shown} is damaged: its weights are not those that were written.")
    if about["format"] < PLAIN and weights:
        warnings.warn(
            f"{shown} was written by an earlier version of AutoMC: nothing tells whether its description is still "
            "what it was, or whether its outputs are. Save it anew.",
            OldFormat,
            stacklevel=4,
        )
    return about, tensors


def _opened(about: Mapping[str, Any], tensors: Mapping[str, Tensor], shown: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of format 3."""
    try:
        inflate, deflated = zlib.decompressobj(), tensors[CONTENT].numpy().tobytes()
        content = inflate.decompress(deflated, about["content_bytes"])
        if not inflate.eof and inflate.unconsumed_tail:
            raise ValueError("there is more in it than it says")
        return packing.unpack(from_bytes(content), about["coded"])
    except Exception as error:  # what the libraries raise on garbage depends on where the garbage is
        raise ArtefactError(f"{shown} is damaged: its weights cannot be unpacked ({error}).") from error


def _own(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU with memory of its own, as a file can hold it.

    Raises:
        ArtefactError: it is of a kind that the file format does not know.
    """
    quantised, layout = tensor.is_quantized, tensor.layout
    if tensor.is_meta or quantised or layout != torch.strided or tensor.dtype not in STORABLE:
        kind = "quantised" if quantised else "without content (on the meta device)" if tensor.is_meta else ""
        kind = kind or (f"of layout {layout}" if layout != torch.strided else f"of type {tensor.dtype}")
        raise ArtefactError(f"{name} cannot be saved: the tensor is {kind}. A file holds plain dense tensors.")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    whole = plain.numel() * plain.element_size() == plain.untyped_storage().nbytes()
    return plain if whole else plain.clone()


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hash of tensors: names, types, shapes and content, wherever they are and however they lie."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()
