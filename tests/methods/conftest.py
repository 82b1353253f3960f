"""Tiny training data, tiny networks, and a step on both."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from automc.datasets.base import TrainData
from automc.methods import StepContext
from automc.training.recipe import Recipe

sys.path[:0] = [str(Path(__file__).parent), *(str(Path(__file__).parents[1] / name) for name in ("models", "surgery"))]

Make = Callable[..., StepContext]


@pytest.fixture(scope="session")
def small_data() -> TrainData:
    """64 random colour images of 16 × 16, with labels that depend on their brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (64,), generator=generator)
    pixels = torch.randint(0, 60, (64, 3, 16, 16), generator=generator) + 19 * labels.view(-1, 1, 1, 1)
    return TrainData(pixels.to(torch.uint8), labels, mean=[0.5] * 3, std=[0.25] * 3)


@pytest.fixture
def context(small_data: TrainData) -> Make:
    """Make a context; `epochs` is E0, and a batch is 16, so one epoch is 4 iterations."""

    def make(params: int, *, epochs: float = 5.0, seed: int = 1, **options: object) -> StepContext:
        recipe = Recipe(unit_epochs=epochs, batch=16, recalibration_images=64)
        fields = {"data": small_data, "recipe": recipe, "device": torch.device("cpu"), **options}
        return StepContext(original_params=params, seed=seed, **fields)  # type: ignore[arg-type]

    return make
