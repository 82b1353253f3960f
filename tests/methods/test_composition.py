"""Steps in any order: every ordered pair, and slowly every triple, of the registered methods."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from group_nets import build
from test_contract import NAMES, count, strategy
from torch import nn

from automc import methods
from automc.errors import Infeasible


def expect_sizes(names: tuple[str, ...], net: str, context, hp2: float, exhausted: tuple[str, ...] = ()) -> None:
    model = build(net)
    step = context(count(model), max_iterations=1)
    x = torch.randn(2, 3, 16, 16)
    for position, name in enumerate(names):
        if net in exhausted and names[:position].count("LFB") == 2 and name == "LFB":
            with pytest.raises(Infeasible):
                methods.get(name).apply(model, strategy(name, HP2=hp2), step)
            return
        expected = step.target(count(model), hp2)
        smaller, report = methods.get(name).apply(model, strategy(name, HP2=hp2), step)
        assert report.target == expected
        assert report.params_out == count(smaller) <= count(model)
        if report.reached:
            assert 0 <= expected - report.params_out < report.details["unit"]
        else:
            assert net in exhausted
            assert "rank 1 everywhere" in report.reason
        assert smaller.eval()(x).shape == (2, 10)
        assert torch.isfinite(smaller(x)).all()
        model = smaller


@pytest.mark.parametrize("net", ["resnet-a", "vgg"])
@pytest.mark.parametrize("names", list(product(NAMES, repeat=2)), ids="-".join)
def test_every_pair(names: tuple[str, ...], net: str, context) -> None:
    expect_sizes(names, net, context, 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("net", ["resnet-a", "resnet-b", "vgg", "concat", "grouped"])
@pytest.mark.parametrize("names", list(product(NAMES, repeat=3)), ids="-".join)
def test_every_triple(names: tuple[str, ...], net: str, context) -> None:
    # half of the grouped net is one layer that cannot be factored: two steps of LFB use up the rest
    expect_sizes(names, net, context, 0.12, exhausted=("grouped",))


@pytest.mark.slow
@pytest.mark.parametrize("net", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("names", list(product(NAMES, repeat=2)), ids="-".join)
def test_pairs_on_torchvision_models(names: tuple[str, ...], net: str, context) -> None:
    import torchvision

    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(net, weights=None, num_classes=10)
    step = context(count(model), max_iterations=1)
    for name in names:
        smaller, report = methods.get(name).apply(model, strategy(name, HP2=0.2), step)
        assert report.reached, report
        assert 0 <= report.target - count(smaller) < report.details["unit"]
        assert report.target == count(model) - round(0.2 * step.original_params)
        model = smaller
