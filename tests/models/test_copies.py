"""What is done to a copy must be done to the network: models whose copies are others are refused."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from automc.errors import ModelError
from automc.models.load import prepare


class Holding(nn.Module):
    """Runs its layers through something that a copy shares with it."""

    def __init__(self, held: str) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)
        weak = weakref.ref(self.conv)
        self.run: Callable[[torch.Tensor], torch.Tensor] = {
            "lambda": lambda x: self.conv(x), "reference": lambda x: weak()(x), "method": self.step,
        }[held]  # fmt: skip

    def step(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.run(x).mean((2, 3)))


@pytest.mark.parametrize("held", ["lambda", "reference"])
def test_a_model_whose_copy_runs_the_original_is_refused(held: str) -> None:
    with pytest.raises(ModelError, match=r"copy of this Holding runs layers of the original \(conv\)"):
        prepare(Holding(held), torch.zeros(2, 3, 8, 8))


class Forgetful(nn.Module):
    """Answers by something that its copies do not have, or have otherwise."""

    tables: ClassVar[weakref.WeakKeyDictionary[nn.Module, torch.Tensor]] = weakref.WeakKeyDictionary()

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.gain = how, 1.0
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "gain": 0.0} if self.how == "state" else self.__dict__

    @functools.lru_cache  # noqa: B019
    def drawn(self) -> torch.Tensor:
        return torch.rand(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).mean((2, 3)) * self.gain
        if self.how == "cache":
            x = x * self.drawn()
        elif self.how == "beside":
            x = x * self.tables.setdefault(self, torch.rand(4))
        elif self.how == "attribute":
            if not hasattr(self, "kept"):
                self.kept = torch.rand(4)
            x = x * self.kept
        elif self.how == "each time":
            x = x * torch.rand(4)
        return self.fc(x)


@pytest.mark.parametrize(
    ("how", "said"),
    [("state", "A copy of it answers otherwise"), ("cache", "Numbers that"), ("beside", "Numbers that")],
)
def test_a_model_whose_copies_are_other_networks_is_refused(how: str, said: str) -> None:
    with pytest.raises(ModelError, match=f"Nothing can be done to this Forgetful. {said}"):
        prepare(Forgetful(how), torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("how", ["plain", "attribute", "each time"])
def test_what_goes_along_with_copies_or_is_drawn_each_time_is_not(how: str) -> None:
    model = Forgetful(how)
    prepared = prepare(model, torch.zeros(2, 3, 8, 8))
    assert torch.equal(prepared.conv.weight, model.conv.weight)
    assert prepared.conv.weight is not model.conv.weight


def test_a_method_that_is_kept_as_an_attribute_is_copied() -> None:
    model = Holding("method")
    prepared = prepare(model, torch.zeros(2, 3, 8, 8))
    with torch.no_grad():
        prepared.conv.weight.zero_()
        prepared.conv.bias.zero_()
        assert torch.equal(prepared(torch.ones(1, 3, 8, 8))[0], prepared.fc.bias)
    assert bool(model.conv.weight.any())
