"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real CIFAR-10 images and public checkpoints; the test skips where it is absent.

    Named by AUTOMC_TEST_DATA, else `shared` beside the checkout.
    """
    folder = Path(os.environ.get("AUTOMC_TEST_DATA") or Path(__file__).parents[2] / "shared")
    if not (folder / "models").is_dir():
        pytest.skip(f"no checkpoints or images under {folder}; set AUTOMC_TEST_DATA")
    return folder


@pytest.fixture
def automc_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An AutoMC home of this test alone, with the embedded store."""
    folder = tmp_path / "home"
    monkeypatch.setenv("AUTOMC_HOME", str(folder))
    monkeypatch.delenv("AUTOMC_GRAPH", raising=False)
    return folder
