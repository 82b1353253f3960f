"""Artefacts: a model as one safetensors file, rebuilt from its factory and plain edits, never from a pickle.

The file's metadata is JSON under the key "automc": {format, source, sources, edits, normalisation, metadata, aliases,
extra, carried, probe, channels_last, sha256, digest}. Reading is: build the source, apply the edits, load the weights
and what else the model held, and hold its outputs on fixed images against those in the file.
"""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from automc.errors import ArtefactError, EnvironmentFault
from automc.files import write_atomically
from automc.models import carried, packing, readback
from automc.models import edits as _edits
from automc.models.artefact import OldFormat, digest, packed, unpack
from automc.models.checkpoint import load_tensors
from automc.models.edits import Edit, insertable
from automc.models.factory import (
    FactoryRef,
    LoadedModel,
    SourceChanged,
    build,
    normalisation_of,
    sources,
    split_file,
)
from automc.models.graphs import dump
from automc.models.readback import Outputs, ReadsOtherwise, seeded
from automc.models.ties import aliases_of, tie
from automc.models.zoo.registry import Normalisation
from automc.temporary import prefix

__all__ = ["OldFormat", "check", "describe", "insertable", "pack", "read", "read_head", "save", "weights_hash"]

PROBE = ":probe"
"""Name of the tensor of outputs; no name of a state_dict has a colon."""

_SEEDS = 0x5A17, 0x5A18, 0x5A19, 0x5A20, 0x5A21
"""Random states for the builds that a model is compared with: whatever is drawn in a factory is drawn anew."""


_ELSEWHERE = """
import json, os, sys, warnings
import torch
sys.path[:] = json.loads(sys.argv[1])
torch.manual_seed(int.from_bytes(os.urandom(4)))  # a process of its own starts at the same state each time
warnings.simplefilter("ignore")
from automc.errors import AutoMCError
from automc.models import structure
try:
    structure.read(sys.argv[2])
except AutoMCError as error:
    sys.exit(str(error))
"""
"""What another process runs to read a file."""

_proved: set[str] = set()
"""Factories with the state of their files that another process has built alike."""


def describe(model: nn.Module, source: FactoryRef) -> list[Edit]:
    """List the edits that turn a fresh build of `source` into the structure of `model`; see `automc.models.edits`.

    Raises:
        ArtefactError: `model` holds what no edit can rebuild; the message names the module.
    """
    return _described(model, source)[0]


def save(
    path: str | Path,
    model: nn.Module,
    source: FactoryRef,
    *,
    metadata: dict[str, Any],
    normalisation: Normalisation | None = None,
    shape: Sequence[int] | None = None,
) -> None:
    """Write `model` to `path`, all or nothing: the old file stays until the new one is complete and proved.

    Proved means: read back with other random states, every tensor is the same bit by bit, and so are the outputs on
    the CPU for two random images. The global random states are left as they were.

    Args:
        metadata: JSON values: recipe, figures, graph ids; `image_shape` (height, width) is what `default_shape` reads.
        normalisation: what the weights expect; by default `metadata["normalisation"]`, else the source's own.
        shape: of an image (channels, height, width); by default one that the model runs on is looked for.

    Raises:
        ArtefactError: the model cannot be rebuilt from its source, reads back as another, or the metadata are not
            JSON; the message names the layer, tensor or attribute.
        EnvironmentFault: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    answers = readback.outputs(model, shape)

    def prove(written: Path) -> None:
        with seeded(_SEEDS[0]):
            back = _read(written, path, hold=False)
        readback.compare(model, back.model, answers)

    def attempt(seed: int, late: bool) -> None:
        content = pack(
            model, source, metadata=metadata, normalisation=normalisation, answers=answers, late=late, seed=seed
        )
        write_atomically(path, content, check=prove)

    first: ReadsOtherwise | None = None
    # A fresh build may by chance draw what the model has; the next one is unlikely to.
    for late in (False, True):
        for seed in _SEEDS[1:]:
            try:
                return attempt(seed, late)
            except ReadsOtherwise as error:
                first = first or error
    raise ReadsOtherwise(
        f"A {type(model).__name__} cannot be saved: it would not read back as it is. {first}"
    ) from first


def check(model: nn.Module, source: FactoryRef, shape: Sequence[int] | None = None) -> None:
    """Refuse a model that `save` would refuse, before any work is put into it.

    Raises:
        ArtefactError: as `save`.
    """
    # A temporary folder that is full says nothing of the place where the result will go.
    with suppress(EnvironmentFault), tempfile.TemporaryDirectory(prefix=prefix()) as folder:
        path = Path(folder) / "trial.am"
        save(path, model, source, metadata={}, shape=shape)
        prove_elsewhere(path, source)


def prove_elsewhere(path: Path, source: FactoryRef) -> None:
    """Read a saved model in another process: what a user's file draws when it is imported, this one has drawn already.

    Once for each state of the files: what they draw does not depend on what is saved.

    Raises:
        ArtefactError: it would be another network there.
    """
    files = json.dumps([source.as_dict(), sources(source)], sort_keys=True)
    if source.kind == "file" and files not in _proved:
        done = subprocess.run(
            [sys.executable, "-c", _ELSEWHERE, json.dumps(sys.path), str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or ["it ended without a word"]
            raise ReadsOtherwise(
                f"The model of {source.name} cannot be saved: another process would read another network. There, "
                f"{reason[0].replace(f'{path}: ', '')}"
            )
        _proved.add(files)


def pack(
    model: nn.Module,
    source: FactoryRef,
    *,
    metadata: dict[str, Any],
    normalisation: Normalisation | None = None,
    answers: Outputs | None = None,
    late: bool = False,
    seed: int = 0x5A18,
) -> bytes:
    """Return the content of an artefact.

    Args:
        answers: outputs of the model that every reading is held against.
        late: as for `carried.differing`.
        seed: of the fresh build that the model is compared with.

    Raises:
        ArtefactError: as `save`, but what reads back is not looked at.
    """
    structure, rebuilt = _described(model, source, seed)
    state = model.state_dict()
    aliases = aliases_of({k: t for k, t in state.items() if isinstance(t, Tensor)})
    tensors = {k: t for k, t in state.items() if isinstance(t, Tensor) and k not in aliases}
    extra = {k: _encoded(k, v, tensors) for k, v in state.items() if not isinstance(v, Tensor)}
    held = carried.differing(rebuilt, model, late)
    about = {
        "source": source.as_dict(),
        "sources": sources(source),
        "edits": structure,
        "normalisation": normalisation or metadata.get("normalisation") or normalisation_of(source),
        "metadata": metadata,
        "aliases": aliases,
        "extra": extra,
        "carried": [[place.as_list(), _encoded(str(place), value, tensors)] for place, value in held.items()],
        "probe": answers and list(answers.shape),
        "channels_last": [k for k, t in tensors.items() if _is_channels_last(t)],
    }
    if answers:
        tensors[PROBE] = answers.values
    return packed(about, tensors, packing.find(model, tensors))


def read(path: str | Path) -> LoadedModel:
    """Read an artefact; the model is on the CPU, in eval mode, its parameters trainable.

    The random states are left as they were, and do not matter.

    Raises:
        ModelError: there is no such file, or its factory is gone.
        ArtefactError: the file is damaged, from elsewhere, newer than this version, does not fit its factory, or
            gives other outputs than when it was saved.

    Warns:
        SourceChanged: the factory's file has changed since; the model is read where its outputs are the same.
        OldFormat: the file cannot tell whether it was changed.
    """
    return _read(Path(path), Path(path))


def _read(path: Path, shown: Path, hold: bool = True) -> LoadedModel:
    """Read `path`, which errors call `shown`; `hold` its outputs against those in the file."""
    about, tensors = unpack(path, shown)
    source = FactoryRef.from_dict(about["source"])
    try:
        with seeded():
            model = _edits.apply(build(source, beside=path.parent), about["edits"])
            _tell_changes(source, about, path.parent)
            _fill(model, about, tensors)
        stored = about["normalisation"]
        normalisation = None if stored is None else (tuple(stored[0]), tuple(stored[1]))
        if hold:
            _hold(model.eval(), about, tensors)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{shown} does not fit the model that {source.name} builds: {error}") from error
    except ArtefactError as error:
        raise ArtefactError(f"{shown}: {error}") from error
    return LoadedModel(model.eval(), source, normalisation, about["metadata"])


def _tell_changes(source: FactoryRef, about: dict[str, Any], folder: Path) -> None:
    """Warn of changed files that the factory imports; of its own file `build` does."""
    now, then = sources(source, beside=folder), about.get("sources", {})
    own = split_file(source.name)[0].name
    changed = [name for name, known in now.items() if name != own and then.get(name, known) != known]
    if changed:
        warnings.warn(
            f"{', '.join(changed)} changed since the model was saved; {own} imports it, and the model is rebuilt from "
            "the files as they are now.",
            SourceChanged,
            stacklevel=5,
        )


def _hold(model: nn.Module, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Refuse a model whose outputs are not those that were saved, as a changed source gives them."""
    if about.get("probe") is None:
        return
    saved = Outputs(tuple(about["probe"]), tensors[PROBE])
    try:
        trial = copy.deepcopy(model)
    except Exception:  # what a user's module cannot copy, it raises in its own way
        trial = model
    difference = saved.differ(trial, readback.TOLERANCE)
    if difference:
        raise ArtefactError(
            f"it is not the network that was saved: {difference}. The factory's files have changed, or numbers are "
            "drawn where they are imported. Bring back the files as they were."
        )


def read_head(path: Path) -> tuple[FactoryRef, dict[str, Any]]:
    """Read only how the artefact's model is built, and the metadata it was saved with.

    Raises:
        ModelError, ArtefactError: as `read`.
    """
    about = unpack(path, path, weights=False)[0]
    return FactoryRef.from_dict(about["source"]), about["metadata"]


def weights_hash(model: nn.Module) -> str:
    """Return a sha256 (hexadecimal) of structure and weights: classes, sizes, graph, and every tensor's content.

    Independent of device, memory format and train/eval mode; the same in every process.
    """
    found = hashlib.sha256()
    for name, module in model.named_modules(remove_duplicate=False):
        cls = type(module)
        known: Any = [name, _edits.module_in_files(cls), cls.__name__, _edits.plain_attributes(module)]
        if isinstance(module, _edits.inserted_types()):
            known.append(_edits.spec_of(module, name))
        if isinstance(module, torch.fx.GraphModule):
            known = [name, "graph", dump(module.graph)]
        found.update(json.dumps(known, sort_keys=True).encode())
    tensors = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    others: dict[str, Any] = {k: v for k, v in model.state_dict().items() if k not in tensors}
    others |= {f":{place}": value for place, value in carried.find(model).items()}
    encoded = {name: _encoded(name, others[name], tensors) for name in sorted(others)}
    found.update(json.dumps(encoded).encode())
    found.update(digest(tensors.items()).encode())
    return found.hexdigest()


def _described(model: nn.Module, source: FactoryRef, seed: int = 0x5A18) -> tuple[list[Edit], nn.Module]:
    """Return the edits, and a fresh build of the source with them."""
    with seeded(seed):
        fresh = build(source)
        found = _edits.describe(fresh, model)
        rebuilt = _edits.apply(fresh, json.loads(json.dumps(found)))
    _compare(rebuilt, model)
    return found, rebuilt


def _fill(model: nn.Module, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Load weights, with their number types and memory formats, and what else the model held."""
    aliases, places = about["aliases"], about.get("carried", [])
    extra = {k: carried.decode(v, tensors) for k, v in about.get("extra", {}).items()}
    own = {k: t for k, t in tensors.items() if not k.startswith(":")}
    state: dict[str, Any] = {**own, **{k: tensors[v] for k, v in aliases.items()}, **extra}
    tie(model, aliases)
    channels_last = set(about["channels_last"])
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name not in state or not isinstance(tensor, Tensor):
            continue
        if tensor.dtype != state[name].dtype:
            tensor.data = tensor.data.to(state[name].dtype)
        if name in channels_last:
            tensor.data = torch.empty_like(tensor.data, memory_format=torch.channels_last)
    load_tensors(model, state, strict=True)
    carried.restore(model, {carried.Place.from_list(at): carried.decode(value, tensors) for at, value in places})


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


def _encoded(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """Turn what is no weight into JSON values; its tensors join the others under names of their own."""

    def store(tensor: Tensor) -> str:
        key = f":{sum(name.startswith(':') for name in tensors)}"
        tensors[key] = tensor
        return key

    try:
        return carried.encode(value, store)
    except (TypeError, RecursionError) as error:
        raise ArtefactError(
            f"{name} cannot be saved: {error}. Extra state may be tensors, numbers, text, lists and dicts."
        ) from error


def _is_channels_last(tensor: Tensor) -> bool:
    """By the strides themselves: 1×1 weights are contiguous in either layout, and what computes looks at strides."""
    if tensor.ndim != 4:
        return False
    return tensor.stride() == torch.empty(tensor.shape, device="meta", memory_format=torch.channels_last).stride()
