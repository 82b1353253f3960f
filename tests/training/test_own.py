"""A loss and a metric of the user's: what they are given, and what is said where they are none."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from automc.datasets import TrainData
from automc.errors import AutoMCError
from automc.training.evaluate import accuracy, score
from automc.training.loop import fit
from automc.training.own import OwnCode, OwnCodeError, own_code, own_figure, own_loss
from automc.training.recipe import Recipe

FILE = """
import torch
from torch import nn
from torch.nn import functional as F

smooth = nn.CrossEntropyLoss(label_smoothing=0.2)

def plain(outputs, labels):
    return F.cross_entropy(outputs, labels)

def step(model, images, labels):
    return F.cross_entropy(model(images), labels)

def per_image(outputs, labels):
    return F.cross_entropy(outputs, labels, reduction="none")

def balanced(outputs, labels):
    hit = outputs.argmax(1) == labels
    return torch.stack([hit[labels == c].float().mean() for c in labels.unique()]).mean()

def number(outputs, labels): return %s

def fails(outputs, labels):
    return outputs[:, 99].mean()

class Loss:
    pass
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE % 1)
    return path


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


DATA = TrainData(
    torch.randint(0, 256, (60, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8),
    torch.arange(60) % 5 % 3, mean=(0.5,), std=(0.5,),
)  # fmt: skip


def trained(**own: object) -> torch.Tensor:
    model = net()
    fit(model, DATA, iterations=5, recipe=replace(Recipe(batch=20), **own), seed=1)  # type: ignore[arg-type]
    return model[1].weight.detach()  # type: ignore[index, union-attr, return-value]


def test_a_loss_takes_outputs_or_makes_the_step(file: Path) -> None:
    usual = trained()
    for name in ("plain", "step"):
        assert torch.equal(trained(loss=f"{file}:{name}"), usual), name
    assert not torch.equal(trained(loss=f"{file}:smooth"), usual)


def test_a_metric_is_given_all_outputs_at_once(file: Path) -> None:
    model = net()
    own = own_code(f"{file}:balanced", "metric")
    with torch.no_grad():
        found = model.eval()(DATA.normalised(slice(None))).argmax(1)
    recalls = [float((found[DATA.y == c] == c).float().mean()) for c in range(3)]
    assert score(model, DATA, own, batch=7) == pytest.approx(sum(recalls) / 3)
    assert score(model, DATA) == accuracy(model, DATA) != score(model, DATA, own)


def test_they_are_plain_values_of_the_recipe_and_leave_the_usual_one_alone(file: Path) -> None:
    recipe = Recipe(loss=f"{file}:plain", metric=f"{file}:balanced")  # type: ignore[arg-type]
    assert (recipe.figure, Recipe().figure) == ("balanced", "accuracy")
    assert Recipe(**json.loads(json.dumps(recipe.as_dict()))) == recipe
    assert set(recipe.as_dict()) - set(Recipe().as_dict()) == {"loss", "metric"}


def test_a_file_that_changed_is_another_metric(file: Path) -> None:
    own = own_code(f"{file}:balanced", "metric")
    assert own is not None
    own.check_unchanged("metric", "net-1")
    file.write_text(FILE % 2)
    with pytest.raises(OwnCodeError, match=r"The metric .*mine.py:balanced of the study net-1 has changed"):
        own.check_unchanged("metric", "net-1")
    file.unlink()
    with pytest.raises(OwnCodeError, match="There is no file"):
        own.check_unchanged("metric", "net-1")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("outputs", r"returned a Tensor of shape \(60, 3\), not a number"), ("None", "returned nothing, not a number"),
        ("'good'", "returned a str"), ("True", "returned a bool"), ("37.5", r"returned 37.5. It must lie in \[0, 1\]"),
        ("-0.1", r"It must lie in \[0, 1\]"), ("float('nan')", "returned nan"), ("1 / 0", r"failed: ZeroDivisionError"),
    ],
)  # fmt: skip
def test_a_metric_that_is_no_number_is_refused(file: Path, value: str, said: str) -> None:
    file.write_text(FILE % value)
    own = own_code(f"{file}:number", "metric")
    assert own is not None
    with pytest.raises(OwnCodeError, match=said):
        own_figure(own, torch.zeros(60, 3), DATA.y)


@pytest.mark.parametrize(
    "value", ["torch.tensor(0.5)", "torch.tensor([0.5])", "__import__('numpy').float32(0.5)", "0.5"]
)
def test_any_number_will_do(file: Path, value: str) -> None:
    file.write_text(FILE % value)
    own = own_code(f"{file}:number", "metric")
    assert own is not None
    assert own_figure(own, torch.zeros(60, 3), DATA.y) == 0.5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("per_image", r"The loss .*per_image returned a Tensor of shape \(20,\), not a tensor of one number"),
        ("number", "returned a int"),
        ("fails", r"The loss .*fails failed: IndexError: .*line"),
    ],
)
def test_a_loss_that_is_no_scalar_is_refused(file: Path, name: str, said: str) -> None:
    with pytest.raises(OwnCodeError, match=said):
        trained(loss=f"{file}:{name}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{file}:absent", "has no 'absent'. Functions in it: plain, step, per_image, balanced, number, fails"),
        ("{file}:Loss", "Loss is a class; name a function, or an object of it"),
        ("nowhere.py:loss", "There is no file"), ("cross_entropy", "Write file.py:name"),
        (lambda outputs, labels: 0, "The loss is a lambda, which other processes cannot import"),
        (F.cross_entropy, None), (3, "The loss is a int. Give a function"),
        (nn.CrossEntropyLoss(), "is a CrossEntropyLoss that no top level of a script names"),
    ],
)  # fmt: skip
def test_what_cannot_travel_is_refused(file: Path, given: object, said: str | None) -> None:
    wanted = given.format(file=file) if isinstance(given, str) else given
    if said is None:  # a function of an installed package can
        own = own_code(wanted, "loss")  # type: ignore[arg-type]
        assert isinstance(own, OwnCode)
        assert torch.equal(trained(loss=own), trained())
        return
    with pytest.raises(AutoMCError, match=said):
        own_loss(own_code(wanted, "loss"))  # type: ignore[arg-type]


def test_a_function_of_torch_is_a_loss_and_its_module_stays_there_for_others(file: Path, tmp_path: Path) -> None:
    own = own_code(F.cross_entropy, "loss")
    assert own is not None
    images, labels = torch.rand(8, 1, 4, 4), torch.arange(8) % 3
    model = net()
    assert own_loss(own)(model, images, labels) == F.cross_entropy(model(images), labels)
    other = tmp_path / "other.py"
    other.write_text(
        "import torch.nn.functional as F\n\ndef loss(outputs, labels):\n    return F.nll_loss(outputs, labels)\n"
    )
    assert own_code(f"{other}:loss", "loss") is not None
    assert sys.modules["torch.nn.functional"] is F
