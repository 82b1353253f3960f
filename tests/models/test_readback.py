"""What is read is what was saved: what a model holds besides its weights is in the file, or refused by name."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from automc.errors import ArtefactError
from automc.models import structure
from automc.models.load import load

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))

HEAD = """
import functools, random
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
import numpy as np, torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

class Base(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 12, 3, 2, 1), nn.Linear(12, classes)
        self.draw()
    def draw(self): pass
    def mix(self, x): return x
    def forward(self, x): return self.fc(self.mix(F.relu(self.conv(x))).mean((2, 3)))
Pair = namedtuple("Pair", "tensor number")
@dataclass(frozen=True)
class Fixed:
    tensor: object
"""

CARRIED = {
    "a tensor": ("self.p = torch.randn(12, 1, 1)", "x * self.p"),
    "nested": ("self.p = [torch.randn(12, 1, 1), {'k': torch.randn(12, 1, 1)}]", "x * self.p[0] + self.p[1]['k']"),
    "an object": ("self.p = SimpleNamespace(q=SimpleNamespace(t=torch.randn(12, 1, 1)))", "x * self.p.q.t"),
    "an array": ("self.p = np.random.randn(12, 1, 1).astype(np.float32)", "x * torch.from_numpy(self.p)"),
    "a buffer that is not saved": ("self.register_buffer('p', torch.randn(12, 1, 1), persistent=False)", "x * self.p"),
    "a private list": ("self._order = random.sample(range(12), 12)", "x[:, self._order]"),
    "a list": ("self.order = torch.randperm(12).tolist()", "x[:, self.order]"),
    "a closure": ("p = torch.randperm(12); self.f = lambda x: x[:, p]", "self.f(x)"),
    "a partial": ("self.f = functools.partial(torch.mul, torch.randn(12, 1, 1))", "self.f(x)"),
    "a hidden layer": ("self.layers = [nn.Conv2d(12, 12, 1)]", "self.layers[0](x)"),
    "a named tuple": ("self.p = Pair(torch.randn(12, 1, 1), 2)", "x * self.p.tensor"),
    "a frozen dataclass": ("self.p = Fixed(torch.randn(12, 1, 1))", "x * self.p.tensor"),
    "a hook": ("p = torch.randn(12, 1, 1); self.conv.register_forward_hook(lambda m, i, o: o * p)", "x"),
    "a random activation": ("self.act = random.choice([nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU])()", "self.act(x)"),
    "what a first pass draws": (
        "self.p = None",
        "x * self.p if self.p is not None else setattr(self, 'p', torch.randn(12, 1, 1)) or x * self.p",
    ),
    "complex numbers": ("self.p = torch.randn(12, 1, 1, dtype=torch.complex64)", "(x * self.p).real"),
    "weight norm": ("self.fc = parametrizations.weight_norm(self.fc)", "x"),
    "weight norm as it was": ("self.fc = weight_norm(self.fc)", "x"),
    "spectral norm": ("self.fc = parametrizations.spectral_norm(self.fc)", "x"),
    "spectral norm as it was": ("self.fc = spectral_norm(self.fc)", "x"),
}  # fmt: skip

READ = """
import sys, torch
from automc.models import structure
torch.set_num_threads(int(sys.argv[1]))  # sums of several threads differ in the last bit
for path in sys.argv[2:]:
    x, y = torch.load(path + ".xy")
    with torch.no_grad():
        assert torch.equal(structure.read(path).model(x), y), path
"""


def net(folder: Path, draw: str, mix: str = "x", more: str = "pass") -> str:
    """Write a user's file with one network, whose class is made anew in each call; return what to load."""
    file = folder / "net.py"
    folder.mkdir(parents=True, exist_ok=True)
    body = f"def draw(self): {draw}\n        def mix(self, x): return {mix}\n        {more}"
    file.write_text(f"{HEAD}\ndef build(classes=4):\n    class Net(Base):\n        {body}\n    return Net(classes)\n")
    return f"{file}:build"


def test_what_no_state_dict_holds_comes_back(tmp_path: Path) -> None:
    paths = []
    for n, (name, (draw, mix)) in enumerate(CARRIED.items()):
        loaded = load(net(tmp_path / str(n), draw, mix))
        model = loaded.model.eval()
        with torch.no_grad():
            y = model(X)
            path = tmp_path / f"{n}.am"
            structure.save(path, model, loaded.source, metadata={})
            assert torch.equal(structure.read(path).model(X), y), name
        torch.save((X, y), f"{path}.xy")
        paths.append(str(path))
        again = load(str(path))
        assert structure.weights_hash(again.model) == structure.weights_hash(load(str(path)).model), name
        assert sum(p.numel() for p in again.model.parameters()) == sum(p.numel() for p in model.parameters()), name
    # The random state of a new process is another one.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, str(torch.get_num_threads()), *paths],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("draw", "mix"),
    [
        CARRIED["weight norm as it was"], CARRIED["spectral norm as it was"],
        ("self.double = self.conv.weight.data", "setattr(self, 'double', 2 * self.conv.weight.data) or x"),
    ],
)  # fmt: skip
def test_what_a_pass_computes_of_a_weight_comes_back_after_training(draw: str, mix: str, tmp_path: Path) -> None:
    loaded = load(net(tmp_path, draw, mix))
    model = loaded.model.train()
    model(X).square().sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()  # what the pass computed is of the weights before it
    structure.save(tmp_path / "m.am", model, loaded.source, metadata={}, shape=X.shape[1:])
    with torch.no_grad():
        assert torch.equal(structure.read(tmp_path / "m.am").model.eval()(X), model.eval()(X))


@pytest.mark.parametrize(
    ("draw", "mix", "said"),
    [
        ("self.g = torch.Generator(); self.g.manual_seed(random.randrange(99))",
         "x * torch.randn(12, 1, 1, generator=self.g.manual_seed(self.g.initial_seed()))", r"g \(a Generator\)"),
        ("self.p = torch.diag(torch.randn(12)).to_sparse()",
         "(self.p.to_dense() @ x.flatten(2)).unflatten(2, (8, 8))", r"p \(a torch.sparse_coo tensor\)"),
    ],
)  # fmt: skip
def test_what_no_file_can_hold_is_refused_by_name(draw: str, mix: str, said: str, tmp_path: Path) -> None:
    loaded = load(net(tmp_path, draw, mix))
    old = tmp_path / "m.am"
    old.write_text("what was there")
    with pytest.raises(ArtefactError, match=f"would not read back as it is.*{said}"):
        structure.save(old, loaded.model, loaded.source, metadata={}, shape=X.shape[1:])
    assert old.read_text() == "what was there"
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["m.am", "net.py"]


EXTRA = "\n".join(
    [
        "def get_extra_state(self): return self.scale",
        "        def set_extra_state(self, state): self.scale = state",
    ]
)


def test_extra_state(tmp_path: Path) -> None:
    drawn = "self.scale = {'by': torch.rand(12, 1, 1), 'n': [1, 2.5, None, 'x']}"
    loaded = load(net(tmp_path / "plain", drawn, "x * self.scale['by']", EXTRA))
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})
    again = structure.read(tmp_path / "m.am").model
    assert again.scale["n"] == [1, 2.5, None, "x"]
    assert torch.equal(again(X), loaded.model.eval()(X))
    loaded = load(net(tmp_path / "object", "self.scale = SimpleNamespace(by=2)", "x * self.scale.by", EXTRA))
    with pytest.raises(ArtefactError, match=r"_extra_state cannot be saved: a types\.SimpleNamespace"):
        structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})


def test_a_recording_is_not_carried(tmp_path: Path) -> None:
    loaded = load(net(tmp_path, "self.seen = None", "setattr(self, 'seen', x) or x"))
    with torch.no_grad():
        loaded.model.eval()(torch.randn(64, 3, 16, 16))
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})
    assert structure.read(tmp_path / "m.am").model.seen is None
    assert (tmp_path / "m.am").stat().st_size < 20_000


def test_data_in_a_model_are_refused(tmp_path: Path) -> None:
    loaded = load(net(tmp_path, "self.images = torch.randn(20_000_000)"))
    with pytest.raises(ArtefactError, match=r"images holds 80 MB besides the weights.*at most 64 MiB"):
        structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})


TIED = "self.near = nn.Conv2d(12, 12, 3, padding=1); self.far = nn.Conv2d(12, 12, 3, padding=2, dilation=2)"


@pytest.mark.parametrize("tied", [True, False])
def test_tied_layers(tied: bool, tmp_path: Path) -> None:
    tie = "; self.far.weight = self.near.weight"
    loaded = load(net(tmp_path, TIED + (tie if tied else ""), "self.near(x) + self.far(x)"))
    model = loaded.model.eval()
    structure.save(tmp_path / "m.am", model, loaded.source, metadata={})
    again = structure.read(tmp_path / "m.am").model
    assert (again.far.weight is again.near.weight) == tied
    # What the factory ties a method may untie, and the other way round; a smaller pair stays one.
    if tied:
        model.far.weight = torch.nn.Parameter(model.far.weight.detach() * 2)
    else:
        model.far.weight = model.near.weight
    structure.save(tmp_path / "m.am", model, loaded.source, metadata={})
    again = structure.read(tmp_path / "m.am").model
    assert (again.far.weight is again.near.weight) != tied
    assert torch.equal(again(X), model(X))


def test_smaller_tied_layers_stay_tied(tmp_path: Path) -> None:
    tied = f"{TIED}; self.far.weight = self.near.weight"
    loaded = load(net(tmp_path, tied, "self.near(x) + self.far(x)"))
    model = loaded.model.eval()
    weight = torch.nn.Parameter(model.near.weight.detach()[:6, :6].clone())
    for layer in (model.near, model.far):
        layer.weight, layer.bias = weight, torch.nn.Parameter(layer.bias.detach()[:6].clone())
        layer.in_channels = layer.out_channels = 6
    model.conv.weight = torch.nn.Parameter(model.conv.weight.detach()[:6].clone())
    model.conv.bias = torch.nn.Parameter(model.conv.bias.detach()[:6].clone())
    model.fc.weight = torch.nn.Parameter(model.fc.weight.detach()[:, :6].clone())
    structure.save(tmp_path / "m.am", model, loaded.source, metadata={})
    again = structure.read(tmp_path / "m.am").model
    assert again.far.weight is again.near.weight
    assert torch.equal(again(X), model(X))


def test_a_changed_forward_is_not_the_network_that_was_saved(tmp_path: Path) -> None:
    loaded = load(net(tmp_path, "pass"))
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})
    file = tmp_path / "net.py"
    file.write_text(file.read_text().replace("F.relu", "torch.sin"))
    code = f"""
    from automc.errors import ArtefactError
    from automc.models import structure
    try:
        structure.read({str(tmp_path / "m.am")!r})
    except ArtefactError as error:
        print(error)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert "it is not the network that was saved: outputs differ by up to" in done.stdout
