"""What a person keeps, and what a factory froze, stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from automc.errors import ModelError, Note
from automc.models.keeping import Held, frozen_parameters, held, hold, resting


class Backbone(nn.Module):
    """A frozen stem, a frozen table of positions beside a trained layer, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.positions = nn.Parameter(torch.randn(1, 8, 1, 1), requires_grad=False)
        self.fc = nn.Linear(8, 10)
        self.stem.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((self.body(self.stem(x)) + self.positions).mean((2, 3)))


FROZEN = ("positions", "stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias")


def test_what_the_factory_froze_is_neither_cut_nor_trained_and_said() -> None:
    model = Backbone()
    assert frozen_parameters(model) == FROZEN
    with pytest.warns(Note, match=r"froze 5 of 11 parameters, in .*stem.0, stem.1: they are neither cut nor trained"):
        found = hold(model, FROZEN)
    assert found == Held(("stem.0", "stem.1"), FROZEN)
    assert resting(model, found.still) == {model.stem[1]}


def test_frozen_parameters_can_be_trained(recwarn: pytest.WarningsRecorder) -> None:
    assert hold(Backbone(), FROZEN, keep_shape=["body"], train_frozen=True) == Held(("body",), ())
    assert not [one for one in recwarn if issubclass(one.category, Note)]


def test_kept_layers_rest_while_others_train() -> None:
    model = Backbone().requires_grad_(True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with held(model, ("body.*", "positions")):
        assert not model.body[1].training
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
        model(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    changed = {
        name.partition(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"stem", "fc"}
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep": ["stam.*"]}, r"--keep 'stam.\*' matches no layer of Backbone.*called like stem"),
        ({"keep_shape": ["layer1"]}, "--keep-shape 'layer1' matches no layer"),
        ({"keep": ["stem.0.weight"]}, "matches no layer"),
        ({"keep": ["*"]}, "No parameter of Backbone may be trained: --keep covers them"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(given: dict[str, list[str]], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        hold(Backbone(), (), **given)


def test_a_model_that_is_frozen_whole_is_refused_with_the_way_out() -> None:
    model = Backbone().requires_grad_(False)
    with pytest.raises(ModelError, match=r"its factory froze them \(requires_grad\): --train-frozen"):
        hold(model, frozen_parameters(model))
