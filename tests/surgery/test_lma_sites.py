"""Activations in networks that torch.fx cannot follow, or that look at more than an activation's output."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from automc.datasets.base import TrainData
from automc.errors import Infeasible
from automc.models import structure
from automc.models.load import load
from automc.surgery.lma import LMA
from automc.surgery.lma_sites import insert, told_apart
from automc.training.evaluate import recalibrate

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))

SOURCE = """
import torch, torch.nn.functional as F
from torch import nn

class NormAct(nn.BatchNorm2d):
    '''Normalises and activates in one, and looks at its mode.'''
    def __init__(self, width):
        super().__init__(width)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)
    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        seen = self.running_mean, self.running_var, self.weight, self.bias
        return self.act(self.drop(F.batch_norm(x, *seen, self.training, self.momentum, self.eps)))

class Branching(nn.Module):
    '''Depends on its data, and calls one activation twice, one once, and a function.'''
    def __init__(self, classes):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, classes)
        self.twice, self.once = nn.ReLU(), nn.SiLU()
    def forward(self, x):
        x = self.twice(self.a(x))
        if x.mean() > 1e9:
            return x
        return self.fc(F.gelu(self.twice(self.once(self.b(x)))).mean((2, 3)))

def norm_act(classes=10):
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), NormAct(8), nn.Conv2d(8, 12, 3, bias=False), NormAct(12),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, classes))

def branching(classes=10):
    return Branching(classes)
"""


def test_norms_that_activate_are_recalibrated(file: Path) -> None:
    model = load(f"{file}:norm_act").model
    pixels = torch.randint(0, 256, (60, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = TrainData(pixels, torch.zeros(60).long(), mean=[0.5] * 3, std=[0.25] * 3)
    assert recalibrate(model, data, batch=20) == 60
    wanted = model[0](data.normalised(slice(None))).mean((0, 2, 3))
    torch.testing.assert_close(model[1].running_mean, wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(
    ("net", "names", "note"),
    [("norm_act", ("1.act", "3.act"), ""), ("branching", ("once",), "Branching cannot be traced")],
)
def test_activations_without_a_graph_are_replaced_and_saved(
    file: Path, tmp_path: Path, net: str, names: tuple[str, ...], note: str
) -> None:
    loaded = load(f"{file}:{net}")
    model = loaded.model.eval()
    apart = told_apart(model, X)
    assert apart.names == names
    assert note in apart.note
    assert torch.equal(apart.model(X), model(X))
    insert(apart.model, names, 6, X)
    assert all(isinstance(apart.model.get_submodule(name), LMA) for name in names)
    assert not torch.equal(apart.model(X), model(X))
    structure.save(tmp_path / "m.am", apart.model, loaded.source, metadata={})
    assert torch.equal(structure.read(tmp_path / "m.am").model.eval()(X), apart.model(X))


class Net(nn.Module):
    """Two activations after two convolutions; `kind` says what is odd about the second."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 10)
        self.first, self.second = nn.ReLU(), nn.LeakyReLU(0.2, inplace=kind == "in place")

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.a(x))
        y = self.b(x)
        if self.kind == "in place":
            self.second(y)  # nothing takes what it returns
        elif self.kind == "type":
            y = self.second(y) if isinstance(self.second, nn.LeakyReLU) else y
        elif self.kind == "training":
            y = self.second(y) if self.training else y
        elif self.kind == "loop":
            for _ in range(2 if y.sum() < 1e9 else 1):
                y = self.second(y)
        return self.fc(y.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["in place", "type", "training", "loop"])
def test_an_activation_whose_code_counts_on_it_stays(kind: str) -> None:
    assert told_apart(Net(kind).eval(), X).names == ("first",)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return self.fc(x.mean((2, 3)) if x.sum() < 1e9 else x.amax((2, 3)))  # type: ignore[no-any-return]


def test_functions_in_code_that_cannot_be_followed_are_out_of_reach() -> None:
    with pytest.raises(Infeasible, match=r"No activation is a module that runs once.*Functional cannot be traced"):
        told_apart(Functional(), X)
