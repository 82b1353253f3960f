"""The user's files as they are: their command lines, packages, neighbours and places, in every process."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from automc import userfiles
from automc.datasets import DataRef, open_data
from automc.errors import ModelError
from automc.models import structure
from automc.models.factory import SourceChanged, sources
from automc.models.load import load

LAYERS = "from torch import nn\nWIDTH = 6\ndef conv(i, o): return nn.Sequential(nn.Conv2d(i, o, 3), nn.ReLU())\n"
NET = """
from torch import nn
from {layers} import conv
def build(classes=4):
    {inside}
    return nn.Sequential(conv(3, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes))
"""
DATA = """
import numpy as np
from utils import load
def make(): return load(40), load(20)
"""
LOAD = """
import numpy as np
def load(n): return np.random.default_rng(n).integers(0, 256, (n, 3, 8, 8), dtype=np.uint8), np.arange(n) % 4
"""
READ = """
import sys
from automc.models import structure
for path in sys.argv[1:]:
    print(sum(p.numel() for p in structure.read(path).model.parameters()))
"""


def write(folder: Path, **files: str) -> Path:
    """Write files, named with __ for a folder's slash."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def elsewhere(folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Read artefacts in another process, in another working directory."""
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", READ, *map(str, paths)], capture_output=True, text=True, check=False, cwd=folder
    )


@pytest.mark.parametrize("packages", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_imports_within_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages: int) -> None:
    """Each way of importing, in folders that say that they are packages and, in turn, in those that do not."""
    saved: dict[Path, int] = {}
    ways = (".layers", "project.models.layers", "layers", "..common", "project.common")
    for number, how in enumerate(ways):
        folder = tmp_path / str(number)
        net = NET.format(layers=how, inside="")
        write(folder, project__models__net=net, project__models__layers=LAYERS, project__common=LAYERS)
        if number % 2 == packages:
            (folder / "project" / "__init__.py").touch()
            (folder / "project" / "models" / "__init__.py").touch()
        monkeypatch.chdir(folder)
        before = dict(sys.modules), list(sys.path), list(sys.argv)
        loaded = load("project/models/net.py:build")
        assert len(sources(loaded.source)) >= 2, how
        structure.save("net.am", loaded.model, loaded.source, metadata={})
        assert (list(sys.path), list(sys.argv)) == before[1:], how
        assert all(sys.modules[name] is module for name, module in before[0].items()), how
        saved[folder / "net.am"] = sum(p.numel() for p in loaded.model.parameters())
    done = elsewhere(tmp_path / "other", *saved)
    assert done.stdout.split() == list(map(str, saved.values())), done.stderr


def test_neighbours_of_the_same_name(tmp_path: Path) -> None:
    write(tmp_path, one__utils=LAYERS, one__net=NET.format(layers="utils", inside=""), two__utils=LOAD, two__data=DATA)
    for _ in range(2):
        loaded = load(f"{tmp_path / 'one' / 'net.py'}:build")
        assert open_data(DataRef(f"{tmp_path / 'two' / 'data.py'}:make")).train.n == 40
        assert set(sources(loaded.source)) == {"net.py", "utils.py"}


def test_imports_inside_of_the_factory(tmp_path: Path) -> None:
    late = NET.format(layers="utils", inside="from more import WIDTH")
    write(tmp_path, one__utils=LAYERS, one__more="WIDTH = 3", one__net=late, two__more="x = 1")
    write(tmp_path, two__net=NET.format(layers="more", inside=""))
    with pytest.raises(ModelError, match="cannot import name 'conv' from 'more'"):
        load(f"{tmp_path / 'two' / 'net.py'}:build")
    assert set(sources(load(f"{tmp_path / 'one' / 'net.py'}:build").source)) == {"net.py", "utils.py", "more.py"}


SCRIPT = """
import argparse, os, sys, threading
from torch import nn
print("loading")
parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, default=6)
args = parser.parse_args()
os.chdir("/")
def build(classes=4):
    print("building")
    assert sys.argv[1:] == []
    return nn.Sequential(nn.Flatten(), nn.Linear(12, args.width), nn.Linear(args.width, classes))
if __name__ == "__main__":
    sys.exit("training begins")
"""


def test_a_script_that_reads_its_options_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, train=SCRIPT)
    monkeypatch.setattr(sys, "argv", ["automc", "train", "--epochs", "3"])
    monkeypatch.chdir(tmp_path)
    load("train.py:build")
    assert sys.argv[1:] == ["train", "--epochs", "3"]
    assert Path.cwd() == tmp_path
    printed = capsys.readouterr()
    assert printed.out == "", "stdout is for data"
    assert printed.err.split() == ["loading", "building"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys\nsys.exit(3)", r"net\.py cannot be imported: SystemExit: 3 \(line 2\)"),
        ("import nowhere_to_be_found", r"No module named 'nowhere_to_be_found'.*looked for in .*PYTHONPATH"),
        ("def build():\n    raise SystemExit('no')", r"build\(\) failed: SystemExit: no \(line 2\)"),
        ("import utils", r"ZeroDivisionError: division by zero \(.*utils\.py, line 1\)"),
    ],
)
def test_files_that_fail_are_said(text: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, net=text, utils="1 / 0")
    with pytest.raises(ModelError, match=said):
        load(f"{tmp_path / 'net.py'}:build")


def test_threads_that_never_end_are_noticed(tmp_path: Path) -> None:
    write(tmp_path, net="import threading\nstop = threading.Event()\nthreading.Thread(target=stop.wait).start()")
    assert not userfiles.left_running()
    file = userfiles.load(tmp_path / "net.py")
    assert userfiles.left_running()
    file.module.stop.set()
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            thread.join()
    assert not userfiles.left_running()


def test_a_changed_neighbour_is_imported_anew_and_told_of(tmp_path: Path) -> None:
    write(tmp_path, utils=LAYERS, net=NET.format(layers="utils", inside=""))
    spec = f"{tmp_path / 'net.py'}:build"
    loaded = load(spec)
    structure.save(tmp_path / "net.am", loaded.model, loaded.source, metadata={})
    known = sources(loaded.source)
    assert load(spec).source == loaded.source
    (tmp_path / "utils.py").write_text(f"{LAYERS}# a comment\n")
    changed = sources(load(spec).source)
    assert changed["net.py"] == known["net.py"]
    assert changed["utils.py"] != known["utils.py"]
    with pytest.warns(SourceChanged, match=r"utils\.py changed since the model was saved; net\.py imports it"):
        structure.read(tmp_path / "net.am")
    (tmp_path / "utils.py").write_text(LAYERS.replace("ReLU", "Tanh"))
    load(spec)
    with pytest.warns(SourceChanged), pytest.raises(structure.ArtefactError, match="not the network that was saved"):
        structure.read(tmp_path / "net.am")


DRAWN = (
    "import torch\nfrom torch import nn\nORDER = torch.randperm(12)\n"
    + """
class Net(nn.Linear):
    def forward(self, x): return super().forward(x.flatten(1)[:, ORDER])
def build(classes=4): return Net(12, classes)
"""
)


def test_what_is_drawn_on_import_is_refused_before_training(tmp_path: Path) -> None:
    write(tmp_path, net=DRAWN)
    loaded = load(f"{tmp_path / 'net.py'}:build")
    with pytest.raises(structure.ArtefactError, match="another process would read another network"):
        structure.check(loaded.model, loaded.source, (3, 2, 2))
    write(tmp_path, net=DRAWN.replace("torch.randperm(12)", "torch.arange(12)"))
    loaded = load(f"{tmp_path / 'net.py'}:build")
    structure.check(loaded.model, loaded.source, (3, 2, 2))
