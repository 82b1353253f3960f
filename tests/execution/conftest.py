"""Makes the helper modules importable, here and in worker processes, which inherit sys.path; a small trained net."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from automc.datasets import DataRef
from automc.execution.setup import Bench, Setup, open_bench
from automc.models import structure
from automc.models.load import load
from automc.training.loop import fit
from automc.training.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-8 that knows the digits a little."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    loaded = load("resnet8", classes=10, channels=1)
    path = folder / "base.am"
    structure.save(path, loaded.model, loaded.source, metadata={})
    bench = open_bench(Setup(path, DataRef("digits"), Recipe(unit_epochs=1.0), folder / "cache"))
    fit(bench.model, bench.train, iterations=60, recipe=replace(Recipe(unit_epochs=1.0), lr=0.1), seed=0)
    structure.save(path, bench.model, bench.source, metadata={})
    return path


@pytest.fixture
def setup(base: Path, tmp_path: Path) -> Setup:
    return Setup(base, DataRef("digits"), Recipe(unit_epochs=1.0), tmp_path / "cache", imports=("trim_method",))


@pytest.fixture
def bench(setup: Setup) -> Bench:
    return open_bench(setup)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("AUTOMC_TEST_LOG", str(path))
    return path


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A cluster of Ray's on this machine, for all tests of a file: it takes processor time while nobody uses it."""
    import ray  # takes a second, and most tests have no cluster

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
