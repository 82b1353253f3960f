"""Uniform quantisation: which layers get how many bits, and that training through the rounding helps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from group_nets import build

from automc import methods
from automc.errors import Infeasible, MethodError
from automc.surgery.quantised import QUANTISED
from automc.training.evaluate import accuracy, cross_entropy
from kg.schema import Strategy


def uq(bits: float, length: float = 0.5) -> Strategy:
    return Strategy("UQ", (("HP1", length), ("HP22", bits)))


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_bits_by_layer(bits: int, context) -> None:
    model = build("vgg")
    out, report = methods.get("UQ").apply(model, uq(bits), context(count(model), max_iterations=1))
    layers = {name: m for name, m in out.named_modules() if isinstance(m, QUANTISED)}
    widths = {name: layer.bits for name, layer in layers.items()}
    assert widths == report.details["bits"]
    assert (widths.pop("features.0"), widths.pop("fc")) == (8, 8)
    assert set(widths.values()) == {bits}
    assert count(out) == count(model) == report.params_out
    for layer in layers.values():
        assert torch.equal(layer.levels.nearest(layer.weight), layer.weight)
        assert max(len(row.unique()) for row in layer.weight) <= 2**layer.bits - 1


def test_training_through_the_rounding_repairs_what_the_rounding_breaks(context) -> None:
    step = context(1, epochs=100.0)
    model = build("vgg")
    trained, _ = methods.get("UQ").apply(model, uq(8, 2.0), step)
    assert accuracy(trained, step.data) > 0.5
    hurt, _ = methods.get("UQ").apply(trained_floats(trained), uq(2), replace(step, max_iterations=1))
    repaired, _ = methods.get("UQ").apply(trained_floats(trained), uq(2), step)
    assert cross_entropy(repaired, step.data) < 0.7 * cross_entropy(hurt, step.data)


def trained_floats(quantised: torch.nn.Module) -> torch.nn.Module:
    """The float model of these weights."""
    model = build("vgg")
    model.load_state_dict(quantised.state_dict(), strict=False)
    return model


def test_bits_are_whole_and_nothing_is_quantised_twice(context) -> None:
    model = build("vgg")
    with pytest.raises(MethodError, match="whole number of bits"):
        methods.get("UQ").apply(model, uq(4.5), context(count(model)))
    out, _ = methods.get("UQ").apply(model, uq(4), context(count(model), max_iterations=1))
    with pytest.raises(Infeasible, match=r"5 layers are quantised, features\.0 for one\. .*quantise once"):
        methods.get("UQ").apply(out, uq(3), context(count(model)))
    with pytest.raises(Infeasible, match=r"factor first, then quantise"):
        methods.get("LFB").apply(
            out, Strategy("LFB", (("HP1", 0.1), ("HP2", 0.2), ("HP15", 1), ("HP16", "MSE"))), context(count(model))
        )
