from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_nets import USER_FILE, factored, randomise, shrink_pair
from torch import fx, nn

from automc.errors import Infeasible
from automc.models import structure, zoo
from automc.models.load import load, prepare
from automc.models.shortcuts import GatherShortcut
from automc.surgery.sites import activation_sites, split_activations

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))


class Mixed(nn.Module):
    """One shared ReLU, functions and methods, a dropout by function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.act = nn.ReLU()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.conv1(x))
        x = self.act(self.conv2(x)) + F.leaky_relu(x, 0.2)
        x = torch.relu(x - 0.1).relu()
        x = F.dropout(x, 0.5, training=self.training)
        return self.fc(F.gelu(x.mean((2, 3)), approximate="tanh"))


def counted_calls(model: nn.Module, x: torch.Tensor) -> dict[str, int]:
    calls: dict[str, int] = {}
    for name in activation_sites(model):
        model.get_submodule(name).register_forward_hook(
            lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1})
        )
    model(x)
    return calls


def test_every_call_gets_a_module_of_its_own() -> None:
    model = Mixed().eval()
    parameters = {k: v.clone() for k, v in model.state_dict().items()}
    split = split_activations(model)
    assert torch.equal(split(X), model(X))
    calls = counted_calls(copy.deepcopy(split), X)
    assert set(calls.values()) == {1}
    assert len(calls) == 6
    assert list(split.state_dict()) == list(parameters)
    assert activation_sites(model) == ("act",), "the argument is left as it was"


def test_dropout_still_follows_the_mode() -> None:
    split = split_activations(Mixed().train())
    assert split.training
    assert not torch.equal(split(X), split(X))
    split.eval()
    assert torch.equal(split(X), split(X))


def test_swapping_one_site_changes_that_call_only() -> None:
    model = Mixed().eval()
    split = split_activations(model)
    split.act = nn.Identity()
    h = model.conv1(X)
    expected = F.relu(model.conv2(h)) + F.leaky_relu(h, 0.2)
    expected = model.fc(F.gelu(F.relu(expected - 0.1).mean((2, 3)), approximate="tanh"))
    torch.testing.assert_close(split(X), expected)


@pytest.mark.parametrize("name", ["resnet8", "automc-resnet20", "vgg13"])
def test_zoo_models_need_no_splitting(name: str) -> None:
    model = zoo.build(name).eval()
    split = split_activations(model)
    assert type(split) is type(model)
    assert split is not model


def test_gather_shortcuts_are_leaves(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER_FILE)
    model = prepare(randomise(load(f"{tmp_path / 'mine.py'}:build").model).eval(), X)
    split = split_activations(model)
    assert isinstance(split, fx.GraphModule)
    assert isinstance(split.block2.shortcut, GatherShortcut)
    assert len(activation_sites(split)) == 5
    assert torch.equal(split(X), model(X))


def test_split_models_round_trip_through_files(tmp_path: Path) -> None:
    """Pruned and factored before and after the split, with one activation swapped."""
    (tmp_path / "mine.py").write_text(USER_FILE)
    loaded = load(f"{tmp_path / 'mine.py'}:build")
    model: Any = prepare(randomise(loaded.model), X).eval()
    shrink_pair(model.block1.conv1, model.block1.bn1, model.block1.conv2, [1, 2, 5])
    model.block2.conv2 = randomise(factored(model.block2.conv2, 4), 5)
    split: Any = split_activations(model)
    assert torch.equal(split(X), model(X))
    shrink_pair(split.block2.conv1, split.block2.bn1, split.get_submodule("block2.conv2.0"), [0, 7, 8, 9])
    split.block1.conv2 = randomise(factored(split.block1.conv2, 2), 6)
    sites = activation_sites(split)
    split.set_submodule(sites[2], nn.Hardswish())
    path = tmp_path / "m.am"
    structure.save(path, split, loaded.source, metadata={})
    again = structure.read(path).model
    assert isinstance(again, fx.GraphModule)
    assert torch.equal(again(X), split(X))
    assert structure.weights_hash(again) == structure.weights_hash(split)
    assert activation_sites(again)[2] == sites[2] or isinstance(again.get_submodule(sites[2]), nn.Hardswish)
    # the second generation: split again, which changes nothing, and save
    twice = split_activations(again)
    structure.save(path, twice, loaded.source, metadata={})
    assert torch.equal(structure.read(path).model(X), split(X))


def test_raw_parameters_and_shapes_survive_the_graph(tmp_path: Path) -> None:
    (tmp_path / "raw.py").write_text(
        "import torch, torch.nn.functional as F\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 6, 3)\n"
        "        self.scale = nn.Parameter(torch.rand(6, 1, 1))\n"
        "        self.register_buffer('shift', torch.rand(6, 1, 1))\n"
        "        self.unused = nn.Linear(2, 2)\n"
        "    def forward(self, x):\n"
        "        x = F.relu(self.conv(x) * self.scale + self.shift)[:, :, ::2]\n"
        "        return F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)\n"
        "def build(): return Net()\n"
    )
    loaded = load(f"{tmp_path / 'raw.py'}:build")
    split: Any = split_activations(loaded.model.eval())
    keep = [0, 1, 4, 5]
    split.conv.weight = nn.Parameter(split.conv.weight.data[keep].clone())
    split.conv.bias = nn.Parameter(split.conv.bias.data[keep].clone())
    split.conv.out_channels = 4
    split.scale = nn.Parameter(split.scale.data[keep].clone())
    split.shift = split.shift[keep].clone()
    structure.save(tmp_path / "m.am", split, loaded.source, metadata={})
    again = structure.read(tmp_path / "m.am").model
    assert torch.equal(again(X), split(X))
    assert again(X).shape == (2, 4)


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu() if x.sum() > 0 else x


class ModeDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x) if self.training else F.relu(x) * 2


@fx.wrap
def users_function(x: torch.Tensor) -> torch.Tensor:
    return x + 1


class Wrapped(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(users_function(x))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Branch(), "Branch cannot be traced.*control flow"),
        (ModeDependent(), "ModeDependent differs between training and evaluation"),
        (Wrapped(), "users_function"),
    ],
)
def test_what_cannot_be_split_says_why(model: nn.Module, said: str) -> None:
    with pytest.raises(Infeasible, match=said):
        split_activations(model)


def test_torchvision_models_split_and_round_trip(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    loaded = load("torchvision:resnet18", classes=3)
    x = torch.randn(1, 3, 32, 32)
    split = split_activations(loaded.model.eval())
    assert torch.equal(split(x), loaded.model(x))
    assert len(activation_sites(split)) == 17
    structure.save(tmp_path / "m.am", split, loaded.source, metadata={})
    assert torch.equal(structure.read(tmp_path / "m.am").model(x), split(x))
