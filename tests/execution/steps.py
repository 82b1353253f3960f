"""Strategies of the test method, and what must hold of a step whenever and wherever it ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from automc.execution.outcome import StepOutcome
from automc.execution.setup import Bench
from automc.training.recipe import Recipe
from kg.schema import Strategy

RECIPE = Recipe(unit_epochs=1.0)


def trim(hp2: float, hp1: float = 0.4, **settings: Any) -> Strategy:
    return Strategy("Trim", (("HP1", hp1), ("HP2", hp2), *settings.items()))


A, B, C = trim(0.12), trim(0.2), trim(0.3, 0.6)
"""On digits: 3, 3 and 5 iterations."""


def executed(log: Path) -> list[str]:
    return log.read_text().splitlines()


def result(outcome: StepOutcome) -> dict[str, Any]:
    """What must not depend on when and where a step ran."""
    measured = {"seconds", "cached", "details"}
    return {name: value for name, value in outcome.as_dict().items() if name not in measured}


@torch.no_grad()
def plain_accuracy(model: nn.Module, bench: Bench, x: torch.Tensor, y: torch.Tensor) -> float:
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (bench.dataset.mean, bench.dataset.std))
    return float((model.eval()((x / 255 - mean) / std).argmax(1) == y).float().mean())
