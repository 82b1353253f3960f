"""Size of a step on networks of random widths and depths: at the target within one unit, or a reason why not."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from composing import CARDS, SHRINKING, broken_size, context, count, first_strategy, labelled_noise, unclear
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from automc import methods
from automc.errors import Infeasible

DATA = labelled_noise(8)
SHARES = {name: next(hp.values for hp in CARDS[name].hyperparameters if hp.id == "HP2") for name in SHRINKING}


class Residual(nn.Module):
    """Two convolutions around which the input runs, projected where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def plain(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU())


@st.composite
def nets(draw: st.DrawFn) -> nn.Module:
    """One to five blocks, plain or residual, of 3 to 24 channels, some with a hidden layer before the classifier."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    widths = draw(st.lists(st.integers(3, 24), min_size=1, max_size=5))
    residual = draw(st.booleans())
    layers: list[nn.Module] = [plain(3, widths[0], 3)]
    for inputs, outputs in pairwise(widths):
        layers.append(Residual(inputs, outputs) if residual else plain(inputs, outputs, draw(st.sampled_from((1, 3)))))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    last = widths[-1]
    if hidden := draw(st.sampled_from((0, 0, 8, 20))):
        layers += [nn.Linear(last, hidden), nn.ReLU()]
        last = hidden
    return nn.Sequential(*layers, nn.Linear(last, 10)).eval()


def expect_size(name: str, net: nn.Module, hp2: float, shrunk: float) -> None:
    """One step on `net`, which is what earlier steps left of a model of 1/shrunk its size."""
    before = count(net)
    original = round(before / shrunk)
    wanted = max(before - round(hp2 * original), math.ceil(15 * original / 100))
    refused = None
    try:
        out, report = methods.get(name).apply(net, first_strategy(name, hp2), context(original, DATA))
    except Infeasible as error:
        refused = str(error)
    if refused is not None:
        assert not list(unclear(refused))
        return
    assert report.target == wanted
    assert (report.params_in, report.params_out) == (before, count(out))
    assert not list(broken_size(before, count(out), wanted, report)), report


RANDOM = {
    "net": nets(),
    "pick": st.integers(0, 99),
    "shrunk": st.sampled_from((1.0, 1.0, 0.7, 0.3, 0.1)),
}


@pytest.mark.parametrize("name", SHRINKING)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(**RANDOM)
def test_a_step_meets_its_budget_or_says_why_not(name: str, net: nn.Module, pick: int, shrunk: float) -> None:
    expect_size(name, net, SHARES[name][pick % len(SHARES[name])], shrunk)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHRINKING)
@settings(max_examples=100, deadline=None)
@given(**RANDOM)
def test_a_step_meets_its_budget_on_many_nets(name: str, net: nn.Module, pick: int, shrunk: float) -> None:
    expect_size(name, net, SHARES[name][pick % len(SHARES[name])], shrunk)


@pytest.mark.parametrize("name", SHRINKING)
def test_ordinary_nets_reach_both_ends_of_the_grid(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        plain(3, 16, 3), Residual(16, 24), Residual(24, 24), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)
    ).eval()
    for hp2 in (SHARES[name][0], SHARES[name][-1]):
        report = methods.get(name).apply(net, first_strategy(name, hp2), context(count(net), DATA))[1]
        assert report.reached, report
        assert 0 <= count(net) - round(hp2 * count(net)) - report.params_out < report.details["unit"]


@pytest.mark.skipif("LMA" not in SHRINKING, reason="LMA has no code here")
def test_lma_never_makes_a_model_larger() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(plain(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 10)).eval()
    with pytest.raises(Infeasible, match=r"would add .* parameters .* the model would grow"):
        methods.get("LMA").apply(net, first_strategy("LMA", 0.04), context(count(net), DATA))
