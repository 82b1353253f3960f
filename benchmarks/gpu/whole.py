"""A whole study on the device, and the tests that need one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from automc import api
from automc.study import Budget
from automc.study.study import Study
from automc.training.recipe import Recipe
from benchmarks.gpu import synthetic
from benchmarks.gpu.speed import Size, Timed

SYNTHETIC = f"{Path(synthetic.__file__).resolve()}:data"
TESTS = Path(__file__).resolve().parents[2] / "tests"


@dataclass(frozen=True)
class Search:
    """A study to be timed: how its network is made, and how its steps are executed."""

    network: str = "resnet56"
    data: str = SYNTHETIC
    weights: Path | None = None
    epochs: float = 4.0
    """The network is trained (on) for so long, so that there is something to lose."""
    lr: float = 0.05
    budget: str = "100s"
    workers: int = 4
    unit_epochs: float = 10.0
    fraction: float = 0.1


def study(search: Search, size: Size) -> Timed:
    """Train a network and search it with gamma 0.4; `images_per_second` holds the steps per minute.

    The AutoMC home is one of its own, and gone afterwards. The time is that of the search: probes are in it, graph and
    embeddings are there before. The memory is that of the step that took most.
    """
    with _home() as folder, patch.dict("os.environ", {synthetic.IMAGES: str(size.images)}):
        made = folder / "m.am"
        trained = api.train(
            search.network, search.data, out=made, epochs=search.epochs, lr=search.lr, weights=search.weights,
            precision="auto" if size.device.type == "cuda" else "float32", device=str(size.device), batch=size.batch,
        )  # fmt: skip
        recipe = Recipe(unit_epochs=search.unit_epochs, fraction=search.fraction, batch=size.batch)
        created = Study.create(
            str(made), api.data_ref(search.data), gamma=0.4, budget=Budget.parse(search.budget), recipe=recipe,
            precision="auto" if size.device.type == "cuda" else "float32", device=str(size.device),
            workers=search.workers, final=False, recover="none",
        )  # fmt: skip
        began = time.perf_counter()
        result = created.run()
        seconds = time.perf_counter() - began
        done = [trial for trial in result.trials if trial.status == "ok"]
        note = (
            f"{len(done)} of {len(result.trials)} steps ok, accuracy before {trained.accuracy:.2%}, "
            f"{search.fraction:g} of the images, unit of {search.unit_epochs:g} epochs"
        )
        outcomes = [json.loads(file.read_text()) for file in folder.glob("home/cache/outcomes/*/*.json")]
        most = max((one.get("details", {}).get("peak_memory_bytes", 0) for one in outcomes), default=0)
        return Timed(60 * len(result.trials) / seconds, seconds, most, note=note)


def tests(seconds: float) -> Timed:
    """Run the tests marked `gpu`; `images_per_second` holds how many passed."""
    began = time.perf_counter()
    files = sorted(str(file) for file in TESTS.rglob("test_*.py") if "mark.gpu" in file.read_text())
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *files],
            capture_output=True, text=True, timeout=seconds, cwd=TESTS.parent, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Timed(0.0, seconds, 0, note=f"not done after {seconds:.0f} s")
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"]
    passed = re.search(r"(\d+) passed", lines[-1])
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    note = "; ".join([lines[-1].strip("= "), *failed[:5]])
    return Timed(float(passed[1]) if passed else 0.0, time.perf_counter() - began, 0, note=note)


@contextmanager
def _home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place, patch.dict("os.environ", {"AUTOMC_HOME": f"{place}/home"}) as known:
        known.pop("AUTOMC_GRAPH", None)
        yield Path(place)
