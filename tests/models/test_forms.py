"""Models as training and serving leave them: unwrapped and said, or refused with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from automc.errors import ModelError, Note
from automc.models import structure
from automc.models.forms import settled
from automc.models.load import load, prepare
from automc.models.outputs import check_training

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))

SOURCE = """
import torch
from torch import nn

def Pool(): return nn.AdaptiveAvgPool2d(1)

def body():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), Pool(), nn.Flatten(), nn.Linear(8, 10))

def plain(): return body()
def parallel(): return nn.DataParallel(body())
def compiled(): return torch.compile(body())
def twice(): return nn.DataParallel(torch.compile(body()))
def averaged(): return torch.optim.swa_utils.AveragedModel(body())
def in_place():
    model = body(); model.compile(); return model
def half(): return body().half()
def double(): return body().double()
def inside():
    model = body(); model[0] = torch.compile(model[0]); return model
def scripted(): return torch.jit.script(body())
def part():
    model = body(); model[0] = torch.jit.script(model[0]); return model
def meta():
    with torch.device("meta"): return body()
def lazy():
    torch.manual_seed(0)
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), Pool(), nn.Flatten(), nn.LazyLinear(10))
def normed():
    model = body(); model[5] = nn.utils.weight_norm(model[5]); return model
def spectral():
    model = body(); model[0] = nn.utils.parametrizations.spectral_norm(model[0]); return model
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forms") / "nets.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("parallel", "nets.py:parallel: DataParallel is taken off"),
        ("compiled", "torch.compile is taken off"),
        ("twice", "DataParallel is taken off; torch.compile is taken off"),
        ("averaged", "AveragedModel is taken off"),
        ("in_place", "it runs without torch.compile"),
        ("inside", "torch.compile of 0 is taken off"),
        ("half", "its float16 becomes float32"),
        ("double", "its float64 becomes float32"),
    ],
)
def test_wrappers_are_taken_off_and_said(file: Path, form: str, said: str) -> None:
    wanted = load(f"{file}:plain").model.eval()
    with pytest.warns(Note, match=said):
        model = load(f"{file}:{form}").model.eval()
    assert list(model.state_dict()) == list(wanted.state_dict())
    torch.testing.assert_close(model(X), wanted(X), atol=2e-3 if form == "half" else 0, rtol=0)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("scripted", "it is TorchScript.*--weights"),
        ("part", "its layer 0 is TorchScript"),
        ("meta", "0.weight is on the meta device"),
    ],
)
def test_what_nothing_can_be_done_to_is_refused_with_the_way_out(file: Path, form: str, said: str) -> None:
    with pytest.raises(ModelError, match=f"nets.py:{form}: {said}"):
        load(f"{file}:{form}")


@pytest.mark.parametrize("form", ["lazy", "normed", "spectral"])
def test_weights_that_come_late_are_copied_trained_and_saved(file: Path, tmp_path: Path, form: str) -> None:
    loaded = load(f"{file}:{form}")
    model = prepare(loaded.model, X)
    assert check_training(model, X) == ""
    model.train()(X).sum().backward()
    again = prepare(settled(model), X).eval()
    structure.save(tmp_path / "m.am", again, loaded.source, metadata={})
    assert torch.equal(structure.read(tmp_path / "m.am").model.eval()(X), again(X))


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.fc, self.kind = nn.Conv2d(3, 8, 3), nn.Linear(8, 10), kind

    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        y = self.fc(self.conv(x).mean((2, 3)) * scale)
        if self.kind == "detached":
            return y.detach()
        return y + torch.randn_like(y) if self.kind == "random" else y  # type: ignore[no-any-return]


def test_scores_without_gradients_are_refused_and_random_ones_said() -> None:
    assert check_training(Net("plain"), X) == ""
    assert "its evaluation is random" in check_training(Net("random"), X)
    with pytest.raises(ModelError, match="no gradient reaches its parameters"):
        check_training(Net("detached"), X)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ModelError, match="has no parameters"):
        prepare(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), X)
