"""What all quantisers share: sizes by arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from group_nets import build

from automc import methods
from automc.methods import StepContext
from automc.methods.quantising import Quantiser, quantisable
from automc.models.bits import count_bits, stored
from kg.cards import enumerate_strategies, on_grid, read_cards
from kg.schema import Strategy

QUANTISERS = sorted(name for name, method in methods.registered().items() if isinstance(method, Quantiser))


def widths(name: str) -> list[Strategy]:
    """A strategy of each width of a quantiser's grid."""
    (card,) = [m for m in on_grid(read_cards(), QUANTISERS) if m.id == name]
    return list({s.number("HP22"): s for s in enumerate_strategies(card)}.values())


@pytest.mark.parametrize("name", QUANTISERS)
@pytest.mark.parametrize("net", ["vgg", "resnet-a"])
def test_bits_are_what_arithmetic_says_before(name: str, net: str, context: Callable[..., StepContext]) -> None:
    model = build(net)
    params = sum(p.numel() for p in model.parameters())
    before = stored(model, quantisable(model).values())
    method = methods.get(name)
    assert isinstance(method, Quantiser)
    strategy = min(widths(name), key=lambda s: s.number("HP22"))
    after, _ = method.apply(copy.deepcopy(model), strategy, context(params, epochs=0.1, max_iterations=1))
    told = method.bits_after(strategy, before)
    assert count_bits(after) <= told
    # A policy that divides bits may leave less than the width of one layer of them.
    assert count_bits(after) > 0.97 * told if name == "DNQ" else count_bits(after) == told
    left = stored(after, quantisable(after).values())
    assert (left.layers, left.bits) == (0, count_bits(after)), "it can be quantised once"
    assert all(method.bits_after(s, before) < 0.5 * before.bits for s in widths(name))
