"""The .am file: data only, and refused in words when it is damaged, foreign or cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from model_nets import resnet8
from safetensors import safe_open
from safetensors.torch import save_file

from automc.errors import ArtefactError, EnvironmentFault
from automc.models import artefact, structure
from automc.models.description import layer_shapes
from automc.models.load import FactoryRef, load
from benchmarks import fuzz_am


def test_the_file_is_data(tmp_path: Path) -> None:
    loaded = resnet8()
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={"a": 1})
    with safe_open(tmp_path / "m.am", framework="pt") as file:
        about = json.loads(file.metadata()["automc"])
        assert set(file.keys()) == {*loaded.model.state_dict(), ":probe"}
    assert about["format"] == 2
    assert about["source"] == {
        "kind": "zoo", "name": "resnet8", "kwargs": {"classes": 10, "channels": 3}, "sha256": "",
    }  # fmt: skip


def test_shapes_of_layers_are_read_without_the_model(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    tied = nn.Linear(6, 6)\n"
        "    other = nn.Linear(6, 6)\n"
        "    other.weight = tied.weight\n"
        "    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3))\n"
        "    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "    return nn.Sequential(normed, nn.BatchNorm2d(6), pool, tied, nn.PReLU(), other)\n"
    )
    loaded = load(f"{tmp_path}/net.py:build")
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})
    (tmp_path / "net.py").unlink()
    assert layer_shapes(tmp_path / "m.am") == {"0": (6, 3, 3, 3), "3": (6, 6), "5": (6, 6)}
    (tmp_path / "m.am").write_bytes((tmp_path / "m.am").read_bytes()[:200])
    with pytest.raises(ArtefactError, match="damaged"):
        layer_shapes(tmp_path / "m.am")


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    loaded = resnet8()
    path = tmp_path / "m.am"
    structure.save(path, loaded.model, loaded.source, metadata={})
    whole = path.read_bytes()
    for content in (b"", b"not a model", whole[:100], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(ArtefactError, match="damaged"):
            structure.read(path)
    flipped = bytearray(whole)
    flipped[-1000] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ArtefactError, match="its weights are not those that were written"):
        structure.read(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ArtefactError, match="not written by AutoMC"):
        structure.read(path)
    torch.save(loaded.model.state_dict(), path)
    with pytest.raises(ArtefactError, match="damaged, or was not written by AutoMC"):
        structure.read(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 4}, "format 4.*Update"),
        ({"format": None}, "has no format"),
        ({"edits": None}, "lacks edits"),
        ({"source": {"kind": "pickle", "name": "x"}}, "does not say how to build"),
        ({"edits": [{"edit": "replace", "path": "a.b", "spec": {"type": "ReLU", "args": {}}}]}, "does not fit"),
        ({"edits": [{"edit": "replace", "path": "conv1", "spec": {"type": "Evil", "args": {}}}]}, "'Evil'"),
        ({"edits": [{"edit": "replace", "path": "conv1", "spec": {"type": "Evil", "from": "os"}}]}, "'Evil'"),
        ({"edits": [{"edit": "explode", "path": "conv1"}]}, "explode"),
        ({"edits": [{"edit": "resize", "path": "conv1", "attributes": {}, "shapes": {"weight": [1]}}]}, "does not fit"),
        (
            {"edits": [{"edit": "graph", "nodes": [
                {"op": "call_function", "name": "n", "target": "os.system", "args": {"tuple": []}, "kwargs": {}}
            ]}]},
            r"os\.system, which a file cannot name",
        ),
        (
            {"edits": [{"edit": "graph", "nodes": [
                {"op": "call_function", "name": "n", "target": "torch.load", "args": {"tuple": []}, "kwargs": {}}
            ]}]},
            r"torch\.load, which a file cannot name",
        ),
    ],
)  # fmt: skip
def test_descriptions_that_do_not_fit(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    from automc.errors import AutoMCError

    loaded = resnet8()
    path = tmp_path / "m.am"
    structure.save(path, loaded.model, loaded.source, metadata={})
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["automc"])
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    # As an earlier version wrote it, whose description has no digest.
    old = {k: v for k, v in about.items() if k != "digest"} | {"format": 1} | change
    save_file(tensors, path, metadata={"automc": json.dumps(old)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", structure.OldFormat)
        with pytest.raises(AutoMCError, match=said):
            structure.read(path)


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from automc.errors import EnvironmentFault
from automc.models import structure
from automc.models.load import load
loaded = load("resnet8")
torch.nn.init.ones_(loaded.model.linear.weight)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    structure.save(Path(sys.argv[1]), loaded.model, loaded.source, metadata={})
except EnvironmentFault as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.am"
    loaded = resnet8()
    structure.save(path, loaded.model, loaded.source, metadata={})
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "cannot be written: File too large. The file that was there is unchanged." in done.stdout
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.am"], "no half-written file is left"


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    loaded = resnet8()
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written: its folder, or one above, is a file"):
        structure.save(tmp_path / "file" / "m.am", loaded.model, loaded.source, metadata={})
    structure.save(tmp_path / "new" / "folder" / "m.am", loaded.model, loaded.source, metadata={})
    assert structure.read_head(tmp_path / "new" / "folder" / "m.am")[0] == loaded.source


def test_sources_survive_json() -> None:
    ref = FactoryRef("file", "/a/b.py:build", {"classes": 3}, "ab")
    assert FactoryRef.from_dict(json.loads(json.dumps(ref.as_dict()))) == ref


def test_changed_files_are_refused_or_the_same_model(tmp_path: Path) -> None:
    counts, wrong = fuzz_am.run(400, 0, tmp_path)
    assert not wrong
    assert counts["refused"] > 350


def test_a_file_of_an_earlier_version_reads_with_a_note(tmp_path: Path) -> None:
    loaded = resnet8()
    path = tmp_path / "m.am"
    structure.save(path, loaded.model, loaded.source, metadata={"a": 1})
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["automc"])
        tensors = {k: file.get_tensor(k) for k in loaded.model.state_dict()}
    old = {k: v for k, v in about.items() if k not in ("digest", "extra", "carried", "probe")}
    # Its hash was of the tensors alone, as it is now.
    old |= {"format": 1, "sha256": artefact.digest(tensors.items())}
    save_file(tensors, path, metadata={"automc": json.dumps(old)})
    with pytest.warns(structure.OldFormat, match="was written by an earlier version of AutoMC"):
        again = structure.read(path)
    assert structure.weights_hash(again.model) == structure.weights_hash(loaded.model)
    assert again.metadata == {"a": 1}
