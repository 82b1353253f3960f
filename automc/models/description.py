"""What an artefact says of itself: its description, and the shapes of its layers, without the tensors or torch."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

from safetensors import safe_open

from automc.errors import ArtefactError

FORMAT = 3
"""The newest that is read: weights on levels are codes, and the tensors a deflated safetensors file of their own."""
PLAIN = 2
"""What is written where nothing is coded, so that earlier versions read it; 1 had no digest of the description."""
KEY = "automc"
CONTENT = ":deflated"
"""Name of the one tensor of format 3: the bytes of the others."""
_WEIGHT = re.compile(r"(.+)\.(?:weight|weight_v|weight_orig|parametrizations\.weight\.original1?)")
"""A layer's weight; under other names where it is normalised."""


def layer_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of the weight of each convolution and linear layer of an artefact, by the layer's name, sorted.

    Raises:
        ArtefactError: it is damaged, from elsewhere, or newer than this version.
    """
    try:
        with safe_open(path, framework="np") as file:
            about = parsed((file.metadata() or {}).get(KEY), path)
            if about["format"] >= FORMAT:
                shapes = _deflated(file.get_tensor(CONTENT).tobytes())
                shapes |= {name: coded["shape"] for name, coded in about["coded"].items()}
            else:
                shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a dict
    except ArtefactError:
        raise
    except Exception as error:  # what the library raises on garbage depends on where the garbage is
        raise ArtefactError(f"{path} is damaged, or was not written by AutoMC: {error}") from error
    shapes |= {name: shapes[known] for name, known in about["aliases"].items() if known in shapes}
    layers = ((found[1], tuple(shape)) for name, shape in shapes.items() if (found := _WEIGHT.fullmatch(name)))
    return dict(sorted(((name, shape) for name, shape in layers if len(shape) > 1), key=lambda layer: _parts(layer[0])))


def _parts(name: str) -> list[tuple[int, str]]:
    """A name as it is sorted: 10 comes after 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _deflated(content: bytes) -> dict[str, list[int]]:
    """Return the shapes in a deflated safetensors file: the length of its header, the header as JSON, and tensors."""
    inflate = zlib.decompressobj()
    (length,) = struct.unpack("<Q", inflate.decompress(content, 8))
    header = json.loads(inflate.decompress(inflate.unconsumed_tail, length))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def parsed(text: str | None, path: Path) -> dict[str, Any]:
    """Read and check the description in a file's metadata."""
    if text is None:
        raise ArtefactError(f"{path} holds tensors, but was not written by AutoMC. Give it with --weights instead.")
    try:
        about: Any = json.loads(text)
    except ValueError as error:
        raise ArtefactError(f"{path} is damaged: its description cannot be read ({error}).") from error
    if not isinstance(about, dict) or not isinstance(about.get("format"), int):
        raise ArtefactError(f"{path} is damaged: its description has no format.")
    if about["format"] > FORMAT:
        raise ArtefactError(
            f"{path} has format {about['format']}; this version of AutoMC reads up to {FORMAT}. Update it."
        )
    kinds = {"source": dict, "edits": list, "metadata": dict, "aliases": dict, "channels_last": list, "sha256": str}
    wrong = [k for k, kind in kinds.items() if not isinstance(about.get(k), kind)]
    if wrong or "normalisation" not in about:
        raise ArtefactError(f"{path} is damaged: its description lacks {', '.join(wrong) or 'normalisation'}.")
    if ("digest" in about or about["format"] >= PLAIN) and about.get("digest") != digest_of(about):
        raise ArtefactError(f"{path} is damaged: its description is not the one that was written.")
    return about


def digest_of(about: dict[str, Any]) -> str:
    """Hash of a description, which has the tensors' own hash in it."""
    rest = {k: v for k, v in about.items() if k != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
