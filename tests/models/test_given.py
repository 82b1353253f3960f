"""Models that come as objects: how they are built anew, and what is said where they cannot be."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from automc.errors import ModelError, Note
from automc.models import given, structure

FILE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))

class Net(nn.Module):
    def __init__(self, width, depth=1, classes=4):
        super().__init__()
        self.width = width
        self.stem = Block(1, width)
        self.body = nn.Sequential(*(Block(width, width) for _ in range(depth)))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))

class Wild(Net):
    def forward(self, x):
        if x.sum() > 1e9:  # nothing that a graph can hold
            return self.head(self.stem(x).amax((2, 3)))
        return super().forward(x)

def build(width=8):
    return Wild(width, depth=3)

def local():
    class Hidden(Wild):
        pass
    return Hidden(4)

factories = {"one": lambda: Net(4)}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module of the user's, imported as users import it."""
    (tmp_path / "nets_of_mine.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("nets_of_mine")
    yield module
    sys.modules.pop("nets_of_mine", None)


def session(code: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """What a notebook or a prompt is: a `__main__` without a file."""
    module = types.ModuleType("__main__")
    exec(code, vars(module))
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def there_and_back(model: nn.Module, folder: Path) -> nn.Module:
    """The model as it is read from the file it is kept in; what it answers is what the given one does."""
    images = torch.rand(3, 1, 8, 8)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training = model.training
    back = structure.read(given.keep(model, folder)).model
    assert model.training == training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(back(images), model.eval()(images), rtol=0, atol=1e-6)
    return back


def test_plain_layers_need_no_definition(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )
    assert type(there_and_back(model, tmp_path)) is nn.Sequential


def test_a_class_is_built_with_the_arguments_that_its_attributes_tell(mine: types.ModuleType, tmp_path: Path) -> None:
    source = structure.read(given.keep(mine.Net(6), tmp_path / "kept")).source
    assert source.kind == "file"
    assert source.kwargs == {"width": 6}
    back = there_and_back(mine.Net(6, classes=3), tmp_path / "kept")
    assert type(back).__name__ == "Net"


def test_what_was_changed_after_the_building_is_kept(mine: types.ModuleType, tmp_path: Path) -> None:
    model = mine.Net(6)
    model.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(6, 9))
    assert there_and_back(model, tmp_path)(torch.rand(1, 1, 8, 8)).shape == (1, 9)


def test_a_model_that_hides_its_arguments_is_its_graph(mine: types.ModuleType, tmp_path: Path) -> None:
    model = mine.Net(6, depth=3)
    back = there_and_back(model, tmp_path)
    assert isinstance(back, torch.fx.GraphModule)
    assert any(isinstance(module, nn.Conv2d) for module in back.modules())


def test_the_definition_can_be_said(mine: types.ModuleType, tmp_path: Path) -> None:
    said = r"(?s)cannot be handed.*by its class: .*torch\.fx cannot trace.*automc\.define"
    with pytest.raises(ModelError, match=said):
        given.keep(mine.build(), tmp_path)
    for factory in (mine.build, str(tmp_path / "nets_of_mine.py:build")):
        model = given.define(mine.build(), factory, {})
        assert structure.read(given.keep(model, tmp_path / "kept")).source.name.endswith("nets_of_mine.py:build")


def test_what_is_loaded_is_known(mine: types.ModuleType, tmp_path: Path) -> None:
    model = given.define(mine.build(), mine.build, {})
    loaded = structure.read(given.keep(model, tmp_path))
    again = given.remember(loaded.model, loaded.source)
    there_and_back(again, tmp_path / "again")


@pytest.mark.parametrize(
    ("factory", "arguments", "said"),
    [
        (lambda mine: mine.factories["one"], {}, "The factory is a lambda, which other processes cannot import"),
        (lambda mine: type(mine.local()), {}, "The factory Hidden is defined inside local"),
        (lambda mine: __import__("functools").partial(mine.Net, 4), {}, "is a functools.partial"),
        (lambda mine: mine.build, {"width": torch.tensor(3)}, "The argument width of build is a Tensor"),
        (lambda mine: "absent.py:build", {}, "There is no file"),
    ],
)
def test_a_factory_that_cannot_travel_is_refused(
    mine: types.ModuleType, factory: Callable[..., object], arguments: dict[str, object], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        given.define(mine.build(), factory(mine), arguments)  # type: ignore[arg-type]


def test_a_class_of_a_session_is_its_graph_or_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = session(FILE, monkeypatch)
    there_and_back(cell.Net(5), tmp_path)
    with pytest.raises(ModelError, match=r"(?s)class Wild is defined in this session.*%%writefile"):
        given.keep(cell.Wild(5), tmp_path)


def test_torchvision_networks_are_known_by_their_tensors(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    model = models.squeezenet1_1(num_classes=7)
    found = structure.read(given.keep(model, tmp_path))
    assert (found.source.kind, found.source.name) == ("torchvision", "squeezenet1_1")
    assert found.model.classifier[1].out_channels == 7


def test_another_place_and_precision_are_brought_home(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).half()
    with pytest.warns(Note, match="becomes float32"):
        kept = structure.read(given.keep(model, tmp_path)).model
    assert next(model.parameters()).dtype == torch.float16
    assert next(kept.parameters()).dtype == torch.float32
    with pytest.raises(ModelError, match="is on the meta device, so it has no values"):
        given.keep(model.to("meta"), tmp_path)


def test_frozen_parameters_are_told(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    model[1].weight.requires_grad_(False)
    with pytest.warns(Note, match=r"keep=\('1',\)"):
        given.keep(model, tmp_path)
