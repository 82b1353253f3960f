"""The prefix cache's key and a step's seed: what decides a result, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from steps import RECIPE, A, B, executed, result, trim
from trim_method import Trim

from automc import methods
from automc.datasets import DataRef
from automc.errors import MethodError
from automc.execution.jobs import execute
from automc.execution.monitor import Monitor
from automc.execution.setup import Bench, Setup, open_bench
from automc.execution.step import model_after
from automc.models import structure
from automc.models.load import load
from automc.training.recipe import Recipe
from kg.schema import Scheme, Strategy


def test_the_key_follows_everything_that_decides_a_result(
    setup: Setup, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    other = load("resnet8", classes=10, channels=1)
    structure.save(tmp_path / "other.am", other.model, other.source, metadata={})
    scheme = Scheme((A,))
    setups = [
        replace(setup, base=tmp_path / "other.am"),
        replace(setup, data=DataRef("digits", augment="crop-flip")),
        replace(setup, data=DataRef("digits", mean=(0.5,), std=(0.5,))),
        replace(setup, recipe=replace(RECIPE, lr=0.02)),
        replace(setup, recipe=replace(RECIPE, fraction=0.5)),
        replace(setup, run_seed=1),
        replace(setup, keep=("conv*",)),
        replace(setup, keep=("conv*",), still=("conv*",)),
    ]
    keys = [bench.key(scheme), bench.key(Scheme((B,))), bench.key(Scheme())] + [s.key(scheme) for s in setups]
    assert replace(setup, cache=tmp_path / "x", cache_bytes=5, imports=()).key(scheme) == keys[0]
    assert replace(setup, deterministic=True).key(scheme) == keys[0], "on a CPU it changes nothing"
    monkeypatch.setattr(Trim, "version", 2)
    keys.append(bench.key(scheme))
    assert len(set(keys)) == len(keys)
    with pytest.raises(MethodError, match="Nonsense"):
        execute(bench, Scheme((Strategy("Nonsense"),)))


def test_twins_are_executed_once_and_the_second_is_answered_from_the_first(bench: Bench, log: Path) -> None:
    # 0.4 and 0.41 of an epoch of these images round to the same number of iterations; 0.6 does not.
    twin, other = trim(0.12, 0.41), trim(0.12, 0.6)
    first = execute(bench, Scheme((A, B)))
    again = execute(bench, Scheme((twin, B)))
    assert (first.cached, again.cached) == (False, True)
    assert result(again) == result(first)
    assert executed(log) == [A.id, B.id]
    monitor = Monitor()
    schemes = [Scheme((A,)), Scheme((twin,)), Scheme((other,))]
    seeds = [bench.context(scheme, monitor).seed for scheme in schemes]
    assert seeds[0] == seeds[1] != seeds[2]
    assert len({bench.key(scheme) for scheme in schemes}) == 2
    # On more images they are no twins, and the final run gives each a seed of its own.
    wider = replace(bench, rest=bench.train.take(bench.train.n // 4))
    before = bench.train.x
    wider.final_context(schemes[0], monitor)
    assert "images" not in vars(bench.train), "a device holds the images of the final run, not the fraction beside"
    assert torch.equal(bench.train.x, before)
    lengths = {methods.get("Trim").iterations(s.steps[-1], RECIPE, wider.rest.n) for s in schemes[:2]}
    assert len({wider.final_context(s, monitor).seed for s in schemes[:2]}) == len(lengths)


def test_a_seed_changes_what_is_learned(setup: Setup, bench: Bench) -> None:
    models = [model_after(b, Scheme((A,))) for b in (bench, open_bench(replace(setup, run_seed=1)))]
    first, second = (next(model.parameters()) for model in models)
    assert first.shape == second.shape
    assert not torch.equal(first, second)


MODEL = """
from torch import nn
from mynet import Net
def build(classes=10): return Net(classes)
"""
MYNET = """
import torch
from torch import nn
from blocks import act
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(64, classes)
    def forward(self, x): return self.fc(act(x.flatten(1)))
"""


def test_the_key_covers_what_an_outcome_rests_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that an imported file imports, the shared code's version, packages, and the kind of device."""
    for name, text in {"model": MODEL, "mynet": MYNET, "blocks": "import torch\nact = torch.relu\n"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    spec = f"{tmp_path / 'model.py'}:build"

    def key() -> str:
        torch.manual_seed(0)
        loaded = load(spec)
        structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})
        return open_bench(Setup(tmp_path / "m.am", DataRef("digits"), Recipe(), tmp_path / "cache")).key(Scheme())

    first = key()
    assert key() == first
    (tmp_path / "blocks.py").write_text("import torch\nact = torch.sin\n")
    second = key()
    assert second != first
    for name, value in (("CORE_VERSION", 10_000), ("RESTS_ON", ("numpy",))):
        with monkeypatch.context() as patch:
            patch.setattr(f"automc.execution.setup.{name}", value)
            assert key() != second, name
    assert key() == second
