"""Artefacts: a model as one safetensors file, rebuilt from its factory and plain edits, never from a pickle.

The file's metadata is JSON under the key "automc": {format, source, edits, normalisation, metadata, aliases,
channels_last, sha256}. Reading is: build the source, apply the edits, load the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from automc.errors import ArtefactError, EnvironmentFault, ModelError
from automc.models import edits as _edits
from automc.models.checkpoint import load_tensors
from automc.models.edits import Edit, insertable
from automc.models.factory import FactoryRef, LoadedModel, build, normalisation_of
from automc.models.graphs import dump
from automc.models.zoo.registry import Normalisation

__all__ = ["describe", "insertable", "read", "read_head", "save", "weights_hash", "write_atomically"]

FORMAT = 1
KEY = "automc"


def describe(model: nn.Module, source: FactoryRef) -> list[Edit]:
    """List the edits that turn a fresh build of `source` into the structure of `model`; see `automc.models.edits`.

    Raises:
        ArtefactError: `model` holds what no edit can rebuild; the message names the module.
    """
    with torch.random.fork_rng(devices=[]):
        fresh = build(source)
        found = _edits.describe(fresh, model)
        rebuilt = _edits.apply(fresh, json.loads(json.dumps(found)))
    _compare(rebuilt, model)
    return found


def save(
    path: str | Path,
    model: nn.Module,
    source: FactoryRef,
    *,
    metadata: dict[str, Any],
    normalisation: Normalisation | None = None,
) -> None:
    """Write `model` to `path`, all or nothing: the old file stays intact until the new one is complete on disk.

    Reading it back gives the same logits, bit by bit, on the same device. The structure is found by comparing with
    a fresh build of `source`. The global random state is left as it was.

    Args:
        metadata: JSON values: recipe, figures, graph ids; `image_shape` is what `default_size` reads.
        normalisation: what the weights expect; by default `metadata["normalisation"]`, else the source's own.

    Raises:
        ArtefactError: the model cannot be rebuilt from its source, or the metadata are not JSON.
        EnvironmentFault: the folder cannot be written or the disk is full.
    """
    structure = describe(model, source)
    tensors, aliases = _unshared(model.state_dict())
    packed = {k: t.detach().cpu().contiguous() for k, t in tensors.items()}
    about = {
        "format": FORMAT,
        "source": source.as_dict(),
        "edits": structure,
        "normalisation": normalisation or metadata.get("normalisation") or normalisation_of(source),
        "metadata": metadata,
        "aliases": aliases,
        "channels_last": [k for k, t in tensors.items() if _is_channels_last(t)],
        "sha256": _digest(packed.items()),
    }
    try:
        text = json.dumps(about)
    except (TypeError, ValueError) as error:
        raise ArtefactError(f"The metadata of {path} cannot be written as JSON: {error}") from error
    write_atomically(Path(path), to_bytes(packed, metadata={KEY: text}))


def read(path: str | Path) -> LoadedModel:
    """Read an artefact; the model is on the CPU, in eval mode, its parameters trainable.

    Raises:
        ModelError: there is no such file, or its factory is gone.
        ArtefactError: the file is damaged, from elsewhere, newer than this version, or does not fit its factory.

    Warns:
        SourceChanged: the factory's file has changed since; the model is read all the same if everything fits.
    """
    path = Path(path)
    about, tensors = _open(path)
    if _digest(tensors.items()) != about["sha256"]:
        raise ArtefactError(f"{path} is damaged: its weights are not those that were written.")
    source = FactoryRef.from_dict(about["source"])
    try:
        with torch.random.fork_rng(devices=[]):
            model = _edits.apply(build(source, beside=path.parent), about["edits"])
        state = {**tensors, **{k: tensors[v] for k, v in about["aliases"].items()}}
        _fill(model, state, set(about["channels_last"]))
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(f"{path} does not fit the model that {source.name} builds: {error}") from error
    except ArtefactError as error:
        raise ArtefactError(f"{path}: {error}") from error
    stored = about["normalisation"]
    normalisation = None if stored is None else (tuple(stored[0]), tuple(stored[1]))
    return LoadedModel(model.eval(), source, normalisation, about["metadata"])


def read_head(path: Path) -> tuple[FactoryRef, dict[str, Any]]:
    """Read only how the artefact's model is built, and the metadata it was saved with.

    Raises:
        ModelError, ArtefactError: as `read`.
    """
    about = _open(path, weights=False)[0]
    return FactoryRef.from_dict(about["source"]), about["metadata"]


def weights_hash(model: nn.Module) -> str:
    """Return a sha256 (hexadecimal) of structure and weights: classes, sizes, graph, and every tensor's content.

    Independent of device, memory format and train/eval mode; the same in every process.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules(remove_duplicate=False):
        cls = type(module)
        known: Any = [name, cls.__module__, cls.__name__, _edits.plain_attributes(module)]
        if isinstance(module, _edits.inserted_types()):
            known.append(_edits.spec_of(module, name))
        if isinstance(module, torch.fx.GraphModule):
            known = [name, "graph", dump(module.graph)]
        digest.update(json.dumps(known, sort_keys=True).encode())
    digest.update(_digest(model.state_dict(keep_vars=False).items()).encode())
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` so that a reader, or a power cut, sees the old file or the new one.

    Missing folders are made.

    Raises:
        EnvironmentFault: the folder cannot be written, or the disk (or a file-size limit) is full.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
        temporary = None
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        kept = " The file that was there is unchanged." if path.is_file() else ""
        reason = error.strerror or str(error)
        if isinstance(error, FileExistsError | NotADirectoryError):
            reason = "its folder, or one above, is a file"
        raise EnvironmentFault(f"{path} cannot be written: {reason}.{kept}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def _open(path: Path, weights: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON metadata, with every key present, and the tensors."""
    if not path.is_file():
        raise ModelError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {k: file.get_tensor(k) for k in file.keys()} if weights else {}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtefactError(f"{path} is damaged, or was not written by AutoMC: {error}") from error
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
    return about, tensors


def _fill(model: nn.Module, state: dict[str, Tensor], channels_last: set[str]) -> None:
    """Load the weights, with their number types and memory formats."""
    own = model.state_dict(keep_vars=True)
    for name, tensor in own.items():
        if name not in state or not isinstance(tensor, Tensor):
            continue
        if tensor.dtype != state[name].dtype:
            tensor.data = tensor.data.to(state[name].dtype)
        if name in channels_last:
            tensor.data = torch.empty_like(tensor.data, memory_format=torch.channels_last)
    load_tensors(model, state, strict=True)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)


def _compare(rebuilt: nn.Module, model: nn.Module) -> None:
    """Refuse to save what would not load: every tensor must be there with its shape."""
    for kind in ("named_parameters", "named_buffers"):
        have = {n: tuple(t.shape) for n, t in getattr(rebuilt, kind)(remove_duplicate=False)}
        want = {n: tuple(t.shape) for n, t in getattr(model, kind)(remove_duplicate=False)}
        for name in [*want, *have]:
            if have.get(name) != want.get(name):
                raise ArtefactError(
                    f"Module {name.rpartition('.')[0] or '(root)'} cannot be rebuilt: {name.rpartition('.')[2]} has "
                    f"shape {want.get(name, 'none')} in the model and {have.get(name, 'none')} after its edits. "
                    "A tensor that is changed besides the layers must be a parameter or a buffer that is saved."
                )


def _unshared(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split a state_dict into tensors of their own and aliases: name → name of the same tensor."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in state.items():
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            tensors[name] = tensor
    return tensors, aliases


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_channels_last(tensor: Tensor) -> bool:
    """By the strides themselves: 1×1 weights are contiguous in either layout, and what computes looks at strides."""
    if tensor.ndim != 4:
        return False
    return tensor.stride() == torch.empty(tensor.shape, device="meta", memory_format=torch.channels_last).stride()
