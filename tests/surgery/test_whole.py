"""Layers are replaced only where several equal ones in their place change nothing, whatever other code asks of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from group_nets import build
from torch import Tensor, nn
from user_nets import reading

from automc.errors import Infeasible
from automc.surgery import lowrank, tucker
from automc.surgery.whole import stays, unproved

EXAMPLE = torch.zeros(1, 3, 8, 8)


class Asking(nn.Module):
    """Three convolutions and a linear layer; `step` is other code that runs after each convolution, on the network."""

    def __init__(self, after: Callable[[Asking, nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Conv2d(8, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 10)
        self.after = after
        self.held = [self.one]

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.stem, self.one, self.two):
            x = self.after(self, layer, layer(x))
        return self.fc(F.relu(self.norm(x)).mean((2, 3)))


def convolutions(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.Conv2d)]


AFTER = {
    "isinstance": lambda net, layer, x: F.relu(x) if isinstance(layer, nn.Conv2d) else x,
    "type": lambda net, layer, x: F.relu(x) if type(layer) is nn.Conv2d else x,
    "name of the class": lambda net, layer, x: F.relu(x) if layer.__class__.__name__ == "Conv2d" else x,
    "a container": lambda net, layer, x: 2 * x if isinstance(layer, nn.Sequential) else x,
    "stride": lambda net, layer, x: x / layer.stride[0],
    "stride, if any": lambda net, layer, x: x * getattr(layer, "stride", (2,))[0],
    "shape of the weight": lambda net, layer, x: x * layer.weight.shape[1],
    "norm of the weight": lambda net, layer, x: x / layer.weight.norm(),
    "text": lambda net, layer, x: x * len(str(layer).splitlines()),
    "number of modules": lambda net, layer, x: x * len(list(net.modules())),
    "number of convolutions": lambda net, layer, x: F.leaky_relu(x, 1 / len(convolutions(net))),
    "order of convolutions": lambda net, layer, x: F.relu(x) if layer in convolutions(net)[:2] else x,
    "number of parameters": lambda net, layer, x: x * len(list(net.parameters())),
    "names": lambda net, layer, x: x + ("one.weight" in dict(net.named_parameters())),
    "in training": lambda net, layer, x: F.relu(x) if net.training and isinstance(layer, nn.Conv2d) else x,
}  # fmt: skip


def refusals(model: nn.Module) -> dict[str, str]:
    return unproved(model, EXAMPLE, lowrank.sites(model), lowrank.exact)


def triples(model: nn.Module) -> dict[str, str]:
    return unproved(model, EXAMPLE, tucker.sites(model), tucker.exact)


@pytest.mark.parametrize("asked", AFTER)
def test_layers_that_other_code_looks_at_stay(asked: str) -> None:
    model = Asking(AFTER[asked])
    before, text = copy.deepcopy(model.state_dict()), str(model)
    asked_of_both = asked not in ("names", "order of convolutions")
    assert ({"one", "two"} if asked_of_both else {"one"}) <= refusals(model).keys()
    assert "one" in triples(model)
    assert str(model) == text
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_layers_that_nobody_looks_at_are_proved() -> None:
    model = Asking(lambda net, layer, x: F.dropout(F.relu(x), training=net.training))
    assert [site.name for site in lowrank.sites(model)] == ["one", "two", "fc"]
    assert refusals(model) == triples(model) == {}
    for name in ("resnet-a", "resnet-b", "vgg", "factored"):
        assert refusals(build(name)) == triples(build(name)) == {}, name


def test_only_what_other_code_looks_at_stays() -> None:
    asked = Asking(lambda net, layer, x: F.relu(x) if layer is not net.two or type(layer) is nn.Conv2d else x)
    assert refusals(asked).keys() == triples(asked).keys() == {"two"}
    reasons = unproved(reading(), torch.zeros(1, 3, 32, 32), lowrank.sites(reading()), lowrank.exact)
    assert {"encoder.linear1", "encoder.linear2"} <= reasons.keys()
    assert "reads its weights" in reasons["encoder.linear1"]
    assert "last" not in reasons


def test_a_layer_that_is_held_elsewhere_stays() -> None:
    """A plain list is no place that surgery reaches: the old layer would go on working."""

    class Listed(Asking):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.norm(self.two(self.held[0](self.stem(x)))).mean((2, 3)))

    assert refusals(Listed(AFTER["type"])).keys() == {"one"}


def test_a_silent_branch_is_heard() -> None:
    """Norms whose scale is zero hide the branch before them, until training moves it."""
    model = Asking(AFTER["isinstance"])
    nn.init.zeros_(model.norm.weight)
    nn.init.zeros_(model.norm.bias)
    assert {"one", "two"} <= refusals(model).keys()


def test_pairs_and_linear_layers_are_proved_too() -> None:
    class Pair(nn.Module):
        def __init__(self, by: str) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
            self.pair = nn.Sequential(nn.Conv2d(8, 6, 3, bias=False), nn.Conv2d(6, 12, 1))
            self.fc = nn.Linear(12, 10)
            self.by = by

        def forward(self, x: Tensor) -> Tensor:
            x = self.pair(self.features(x)).mean((2, 3))
            if self.by == "width":
                x = x * self.pair[0].out_channels
            return F.relu(self.fc(x)) if self.by != "linear" or isinstance(self.fc, nn.Linear) else self.fc(x)

    assert refusals(Pair("nothing")) == {}
    assert refusals(Pair("width")).keys() == triples(Pair("width")).keys() == {"pair.0", "pair.1"}
    assert refusals(Pair("linear")).keys() == {"fc"}


def test_what_a_model_returns_may_be_anything() -> None:
    @dataclass
    class Output:
        logits: Tensor
        extra: tuple[Tensor, ...] | None = None

    class Rich(Asking):
        def forward(self, x: Tensor) -> object:
            logits = super().forward(x)
            return {"out": Output(logits, (logits,))} if self.training else [logits, Output(logits)]

    assert refusals(Rich(lambda net, layer, x: F.relu(x))) == {}
    assert {"one", "two"} <= refusals(Rich(AFTER["in training"])).keys()


def test_randomness_in_training_does_not_matter() -> None:
    import random

    chance = lambda net, layer, x: x * random.random() if net.training else F.relu(x)  # noqa: E731
    assert refusals(Asking(chance)) == {}


def test_a_model_of_chance_is_refused() -> None:
    import time

    reasons = refusals(Asking(lambda net, layer, x: x * (time.perf_counter_ns() % 1000)))
    assert reasons.keys() == {"one", "two", "fc"}
    assert "from run to run" in reasons["one"]


def test_a_model_that_insists_on_float32_or_on_one_image_is_proved_there() -> None:
    single = Asking(lambda net, layer, x: F.relu(x.float()))
    assert refusals(single) == {}
    assert {"one", "two"} <= refusals(Asking(lambda *a: AFTER["isinstance"](*a).float())).keys()
    alone = Asking(lambda net, layer, x: F.relu(x).reshape(1, -1, 8, 8))
    assert refusals(alone.eval()) == {}
    with pytest.raises(Infeasible, match="does not run on random images"):
        refusals(Asking(lambda net, layer, x: x.reshape(7)))


def test_what_would_be_lost_or_come_apart_stays() -> None:
    model = Asking(AFTER["type"])
    assert stays(model) == {}
    handle = model.one.register_forward_hook(lambda *_: None)
    assert stays(model) == {"one": "hooks on it would be lost"}
    handle.remove()
    model.two.register_buffer("mask", torch.ones(12, 8, 3, 3))
    assert stays(model) == {"two": "it holds more than a weight and a bias"}
    assert [site.name for site in lowrank.sites(model)] == ["one", "fc"]
    assert [site.name for site in tucker.sites(model)] == ["one"]


@pytest.mark.parametrize("how", ["parameter", "memory", "bias"])
def test_layers_that_share_a_tensor_stay(how: str) -> None:
    model = Asking(AFTER["type"])
    model.far = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
    if how == "memory":
        model.far.weight = nn.Parameter(model.one.weight.data)
    elif how == "bias":
        model.far.bias = model.one.bias
    else:
        model.far.weight = model.one.weight
    assert stays(model) == {"one": "it shares a tensor with far", "far": "it shares a tensor with one"}
    assert [site.name for site in lowrank.sites(model)] == ["two", "fc"]
    assert [site.name for site in tucker.sites(model)] == ["two"]
