"""Methods train without waiting for the device in each iteration: on a card that would leave it idle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from group_nets import build
from torch.utils._python_dispatch import TorchDispatchMode

from automc import knowledge, methods
from automc.datasets.base import TrainData
from automc.methods import step as steps
from automc.training import gradients
from automc.training.loop import fit
from kg.cards import enumerate_strategies
from kg.schema import Strategy

CARDS = {card.id: card for card in knowledge.methods()}
NAMES = [name for name in methods.registered() if name in CARDS]
ITERATIONS = 16
ALLOWED = 6
"""Waits of one training phase: looks at the loss and at the weights, and what a method does a few times in a phase."""
NUMBERS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal"}


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operations whose result the host must know: on a card each waits until all before it is done."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        places = args[1] if name in ("index", "index_put", "index_put_") else ()
        mask = any(place is not None and place.dtype == torch.bool for place in places)
        if mask or name in NUMBERS:
            self.found.append(f"{name} by a mask" if mask else name)
        return func(*args, **(kwargs or {}))


@contextmanager
def on_a_card() -> Iterator[list[str]]:
    """Collect what waits for the card."""
    with gradients.waits() as found:
        yield found


@contextmanager
def on_a_cpu() -> Iterator[list[str]]:
    """Collect what would wait for a card."""
    with Waits() as mode:
        yield mode.found


@pytest.mark.parametrize(
    "watch", [on_a_cpu, pytest.param(on_a_card, marks=pytest.mark.gpu)], ids=lambda watch: watch.__name__
)
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "SFP" else pytest.mark.slow) for n in NAMES])
def test_iterations_do_not_wait(
    name: str, watch: Callable[[], Any], context: Callable[..., Any], small_data: TrainData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    phases: list[list[str]] = []

    def watched(*args: Any, **options: Any) -> Any:
        with watch() as found:
            report = fit(*args, **options)
        phases.append(found if report.iterations >= ITERATIONS // 4 else [])
        return report

    monkeypatch.setattr(steps, "fit", watched)
    first = next(iter(enumerate_strategies(CARDS[name])))
    few = {"HP2": 0.2, "HP10": 1.0, "HP17": 10.0}
    strategy = Strategy(name, tuple((hp, few.get(hp, value)) for hp, value in first.settings))
    device = torch.device("cuda" if watch is on_a_card else "cpu")
    data = TrainData(small_data.x, small_data.y, mean=small_data.mean, std=small_data.std, device=device)
    model = build("vgg").to(device)
    size = sum(p.numel() for p in model.parameters())
    setting = context(size, data=data, device=device, max_iterations=ITERATIONS)
    methods.get(name).apply(model, strategy, setting)
    assert phases
    for found in phases:
        assert len(found) <= ALLOWED, sorted(set(found))


def test_the_watch_sees_what_waits() -> None:
    x = torch.arange(4.0)
    with on_a_cpu() as found:
        x[x > 1].sum().item()
        x[x > 1] = torch.zeros(2)
        x[torch.tensor([0, 1])] = 1.0
    assert found == ["index by a mask", "_local_scalar_dense", "index_put_ by a mask"]
