"""The public calls with modules and data as objects, as PyTorch users have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import automc
from automc import userfiles
from automc.errors import DataError, ModelError

SCHEME = "NS[HP1=0.1,HP2=0.2,HP6=0.9]"
QUICK = {"precision": "float32", "device": "cpu"}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1),
        nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip


def bright(count: int, seed: int) -> TensorDataset:
    """Images of three brightnesses, normalised as a user would."""
    labels = torch.arange(count) % 3
    noise = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset((noise / 3 + labels.view(-1, 1, 1, 1) / 3 - 0.5) / 0.3, labels)


@pytest.fixture
def data() -> tuple[TensorDataset, TensorDataset]:
    return bright(240, 0), bright(60, 1)


def share(model: nn.Module, data: TensorDataset) -> float:
    """Accuracy by hand."""
    images, labels = data.tensors
    with torch.no_grad():
        return float((model.eval()(images).argmax(1) == labels).float().mean())


def test_a_module_goes_in_and_one_comes_out(data, automc_home: Path, tmp_path: Path) -> None:
    model = net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = automc.train(model, data, out=tmp_path / "a.am", epochs=8, lr=0.05, batch=32, **QUICK)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert trained.test_accuracy is not None
    assert trained.test_accuracy == pytest.approx(share(trained.module, data[1]), abs=0.02)
    assert trained.test_accuracy > 0.6

    done = automc.compress(
        trained.module, data, SCHEME, out=tmp_path / "b.am", recipe=automc.api.Recipe(unit_epochs=2, batch=32), **QUICK
    )
    assert sum(p.numel() for p in done.module.parameters()) == done.after.params < done.before.params
    assert done.test_after == pytest.approx(share(done.module, data[1]), abs=0.02)
    measured = automc.measure(done.module, data, device="cpu")
    assert (measured.params, measured.test_accuracy) == (done.after.params, done.test_after)
    assert automc.measure(net(), size=8, device="cpu").accuracy is None
    exported = automc.export(done.module, out=tmp_path / "b.pt2", kind="torch", size=8)
    assert exported.path.is_file()


def test_what_is_neither_is_refused(data, automc_home: Path) -> None:
    for model, said in ((nn.ReLU, "A type is no model. Give an object of it"), (3, "A int is no model")):
        with pytest.raises(ModelError, match=said):
            automc.measure(model, data)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has 3 classes, but the model has 2 outputs"):
        automc.measure(nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 2)), data)
    with pytest.raises(ModelError, match="Give --size"):
        automc.measure(net())
    with pytest.raises(TypeError, match=r"search\(\) has no argument 'gama'. Did you mean gamma\?"):
        automc.search(net(), data, gama=0.3)
    with pytest.raises(DataError, match="names are data as they are"):
        automc.dataset("digits")


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda data, out: automc.compress(net(), data, SCHEME, out=out, precision="fp8"), "--precision must be auto"),
        (lambda data, out: automc.train(net(), data, out=out, precision="bf16"), "--precision must be auto"),
        (lambda data, out: automc.search(net(), data, max_flops=0.4), "--max-flops '0.4' is not understood"),
        (lambda data, out: automc.search(net(), data, max_drop=0.005), "--max-drop '0.005' is not understood"),
        (lambda data, out: automc.search(net(), data, only="NOTHING"), "no code for a method 'NOTHING'"),
        (lambda data, out: automc.search(net(), data, recipe={"unit_epochs": 1}), r"recipe= takes an automc\.Recipe"),
        (lambda data, out: automc.compress(net(), data, "", out=out), "'' is neither"),
        (lambda data, out: automc.compress(net(), data, [], out=out), "'' is neither"),
        (lambda data, out: automc.compress(net(), data, None, out=out), "None is neither"),
        (lambda data, out: automc.load(None), r"load\(\) takes the name or file of a model"),
        (lambda data, out: automc.export(net(), out=out, size=8), r"ends in \.am is for a model that AutoMC"),
        (lambda data, out: automc.export(net(), out=out.with_suffix(".onnx"), kind="torch", size=8, force=True),
         r"ends in \.onnx is for ONNX, and this is a program of torch\.export"),
    ],
)  # fmt: skip
def test_mistakes_are_said_as_on_the_command_line(mistake, said: str, data, automc_home: Path, tmp_path: Path) -> None:
    with pytest.raises(automc.AutoMCError, match=said):
        mistake(data, tmp_path / "out.am")
    assert not list(tmp_path.glob("out.*"))


def test_one_name_is_a_name_a_path_is_a_file_and_random_numbers_go_on(data, automc_home: Path, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Identity(), *net())
    last = nn.Sequential(*model[:-1], *(nn.Identity() for _ in range(2)), nn.Linear(12, 3))  # its name is "11"
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    recipe = automc.Recipe(unit_epochs=1, batch=32)
    done = automc.compress(last, data, [SCHEME], out=tmp_path / "b.am", keep="11", recipe=recipe, **QUICK)
    assert torch.equal(torch.rand(3), expected)
    saved = automc.load(done.path)
    assert done.after.params < done.before.params
    assert torch.equal(saved[11].weight, last[11].weight)
    assert not torch.equal(saved[1].bias, last[1].bias)


def test_a_script_that_runs_when_it_is_imported_is_stopped(tmp_path: Path, automc_home: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import automc\nautomc.measure('resnet8')\n")
    with pytest.raises(userfiles.UserFileError, match=r"script.py calls AutoMC while.*__main__.*line 2"):
        userfiles.load(script)
