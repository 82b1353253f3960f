"""Executing schemes: each step once, the same result whatever the order, the worker or the cache."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from trim_method import Trim

from automc import methods
from automc.datasets import DataRef
from automc.errors import DataError, EnvironmentFault, MethodError
from automc.execution import probe as probing
from automc.execution.jobs import Final, accuracy_on_test, execute, final, local_workers, probe, probe_with, run_job
from automc.execution.monitor import Monitor
from automc.execution.outcome import StepOutcome
from automc.execution.setup import Bench, Setup, open_bench
from automc.execution.step import model_after
from automc.models import structure
from automc.models.load import load
from automc.training.loop import fit
from automc.training.recipe import Recipe
from kg.schema import Scheme, Strategy

RECIPE = Recipe(unit_epochs=1.0)


def trim(hp2: float, hp1: float = 0.4, **settings: Any) -> Strategy:
    return Strategy("Trim", (("HP1", hp1), ("HP2", hp2), *settings.items()))


A, B, C = trim(0.12), trim(0.2), trim(0.3, 0.6)
"""On digits: 3, 3 and 5 iterations."""


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-8 that knows the digits a little."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    loaded = load("resnet8", classes=10, channels=1)
    path = folder / "base.am"
    structure.save(path, loaded.model, loaded.source, metadata={})
    bench = open_bench(Setup(path, DataRef("digits"), RECIPE, folder / "cache"))
    fit(bench.model, bench.train, iterations=60, recipe=replace(RECIPE, lr=0.1), seed=0)
    structure.save(path, bench.model, bench.source, metadata={})
    return path


@pytest.fixture
def setup(base: Path, tmp_path: Path) -> Setup:
    return Setup(base, DataRef("digits"), RECIPE, tmp_path / "cache", imports=("trim_method",))


@pytest.fixture
def bench(setup: Setup) -> Bench:
    return open_bench(setup)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("AUTOMC_TEST_LOG", str(path))
    return path


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


def test_start_measures_the_original(bench: Bench) -> None:
    outcome = execute(bench, Scheme())
    held = bench.splits.validation
    expected = plain_accuracy(bench.model, bench, held.x, held.y)
    assert outcome.accuracy == pytest.approx(expected, abs=1e-6)
    assert outcome.accuracy > 0.5
    assert outcome.params == sum(p.numel() for p in bench.model.parameters())
    assert execute(bench, Scheme()).cached


def test_a_step_measures_the_smaller_model_and_leaves_the_original(bench: Bench) -> None:
    before = {name: tensor.clone() for name, tensor in bench.model.state_dict().items()}
    start = execute(bench, Scheme())
    outcome = execute(bench, Scheme((A, B)))
    assert outcome.status == "ok"
    assert outcome.reached
    assert start.params is not None
    assert start.flops is not None
    assert outcome.params is not None
    assert outcome.flops is not None
    assert outcome.params <= start.params * (1 - 0.12 - 0.2) + 1
    assert outcome.flops < start.flops
    assert outcome.iterations == 3
    assert outcome.details["blocks"] == 3
    assert 50 << 20 < outcome.details["peak_memory_bytes"] < 8 << 30
    held = bench.splits.validation
    model = model_after(bench, Scheme((A, B)))
    assert outcome.accuracy == pytest.approx(plain_accuracy(model, bench, held.x, held.y), abs=1e-6)
    assert all(torch.equal(before[name], tensor) for name, tensor in bench.model.state_dict().items())


def test_a_step_costs_one_step_and_is_never_executed_twice(setup: Setup, bench: Bench, log: Path) -> None:
    first = execute(bench, Scheme((A,)))
    execute(bench, Scheme((A, B)))
    execute(bench, Scheme((A, C)))
    assert executed(log) == [A.id, B.id, C.id]
    again = execute(open_bench(setup), Scheme((A,)))
    assert again.cached
    assert replace(again, cached=False) == first
    assert executed(log) == [A.id, B.id, C.id]


def test_an_evicted_prefix_is_run_again_with_the_same_result(bench: Bench, log: Path) -> None:
    scheme = Scheme((A, B, C))
    first = execute(bench, scheme)
    recorded = bench.cache.outcome(bench.key(Scheme((A, B))))
    bench.cache.prune(0)
    for path in bench.cache.folder.glob(f"outcomes/*/{bench.key(scheme)}.json"):
        path.unlink()
    log.write_text("")
    again = execute(bench, scheme)
    assert executed(log) == [A.id, B.id, C.id]
    assert not again.cached
    assert result(again) == result(first)
    assert bench.cache.outcome(bench.key(Scheme((A, B)))) == recorded


def test_damaged_weights_are_run_again(bench: Bench, log: Path) -> None:
    first = execute(bench, Scheme((A,)))
    path = bench.cache.model_path(bench.key(Scheme((A,))))
    assert path is not None
    whole = path.read_bytes()
    other = execute(bench, Scheme((A, B)))
    for number, damaged in enumerate((whole[:-100], b"", b"x" * 1000, whole[:8] + b"{" * 200 + whole[208:])):
        path.write_bytes(damaged)
        log.write_text("")
        strategy = trim(0.2, HP14=number)
        assert execute(bench, Scheme((A, strategy))).params == other.params
        assert executed(log) == [A.id, strategy.id]
        assert path.read_bytes() == whole
    assert execute(bench, Scheme((A,))) == replace(first, cached=True)


def test_without_any_room_the_result_is_the_same(setup: Setup, bench: Bench, log: Path, tmp_path: Path) -> None:
    roomless = open_bench(replace(setup, cache=tmp_path / "small", cache_bytes=1000))
    with_room = [result(execute(bench, Scheme(steps))) for steps in ((A,), (A, B))]
    log.write_text("")
    assert [result(execute(roomless, Scheme(steps))) for steps in ((A,), (A, B))] == with_room
    assert executed(log) == [A.id, A.id, B.id]
    assert not list((tmp_path / "small" / "weights").iterdir())


def test_a_model_that_is_written_anew_is_opened_anew(setup: Setup, tmp_path: Path) -> None:
    again = replace(setup, base=tmp_path / "base.am")
    shutil.copy(setup.base, again.base)
    before = again.open()
    assert again.open() is before
    # What a deleted study leaves to the next one of its name: the folder, the settings, but another model.
    shutil.rmtree(again.cache)
    torch.manual_seed(1)
    other = load("resnet8", classes=10, channels=1)
    structure.save(again.base, other.model, other.source, metadata={})
    after = again.open()
    assert after.identity != before.identity
    assert result(execute(after, Scheme((A,))))["status"] == "ok"


def test_order_and_workers_change_nothing(setup: Setup, log: Path, tmp_path: Path) -> None:
    schemes = [Scheme(steps) for steps in ((A,), (A, B), (C,), (C, B), (A, B, C))]
    here = open_bench(setup)
    alone = {scheme: result(execute(here, scheme)) for scheme in schemes}
    log.write_text("")
    elsewhere = replace(setup, cache=tmp_path / "elsewhere")
    with local_workers(elsewhere, 2) as workers:
        # Children first, so that both workers want the same parents at the same time.
        tickets = {workers.submit(scheme, 60.0): scheme for scheme in reversed(schemes)}
        found: dict[Scheme, StepOutcome] = {}
        while len(found) < len(tickets):
            found.update((tickets[ticket], outcome) for ticket, outcome in workers.collect(60.0))
    assert {scheme: result(outcome) for scheme, outcome in found.items()} == alone
    assert Counter(executed(log)) == {A.id: 1, B.id: 2, C.id: 2}


def test_what_a_method_does_wrong_is_a_status(bench: Bench, log: Path) -> None:
    expected = {
        "refuse": "infeasible",
        "explode": "diverged",
        "overflow": "diverged",
        "break": "crashed",
        "starve": "out_of_memory",
    }
    for kind, status in expected.items():
        scheme = Scheme((trim(0.1, HP8=kind),))
        outcome = execute(bench, scheme)
        assert (outcome.status, outcome.accuracy, outcome.params) == (status, None, None)
        assert execute(bench, scheme).cached == (kind in {"refuse", "explode", "overflow"})
    crashed = execute(bench, Scheme((trim(0.1, HP8="break"),)))
    assert crashed.reason == "ValueError: a bug in a method"
    assert "trim_method.py" in crashed.traceback
    child = execute(bench, Scheme((A, trim(0.1, HP8="refuse"), B)))
    assert child.status == "infeasible"
    assert "step 2" in child.reason
    assert "no batch norm" in child.reason
    assert B.id not in executed(log)


def test_a_worker_killed_inside_a_step_leaves_its_key_free(setup: Setup, bench: Bench, log: Path) -> None:
    scheme = Scheme((trim(0.1, HP8="hang"),))
    with local_workers(setup, 1) as workers:
        hang = workers.submit(scheme, 1.0)
        until = time.monotonic() + 60.0
        while not executed(log) and time.monotonic() < until:
            workers.collect(0.1)
        assert bench.cache.is_locked(bench.key(scheme))
        assert dict(workers.collect(60.0))[hang].status == "timeout"
    assert not bench.cache.is_locked(bench.key(scheme))


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
    lengths = {methods.get("Trim").iterations(s.steps[-1], RECIPE, wider.rest.n) for s in schemes[:2]}
    assert len({wider.final_context(s, monitor).seed for s in schemes[:2]}) == len(lengths)


def test_images_are_opened_once_and_those_of_the_final_run_only_for_it(setup: Setup, log: Path) -> None:
    whole = open_bench(setup)
    assert whole.rest is whole.train, "all that is left of the training images: one copy"
    part = open_bench(replace(setup, recipe=replace(RECIPE, fraction=0.5)))
    execute(part, Scheme((A,)))
    assert "images" in vars(part.train)
    assert "images" in vars(part.validation)
    assert "images" not in vars(part.rest)


def test_a_seed_changes_what_is_learned(setup: Setup, bench: Bench) -> None:
    models = [model_after(b, Scheme((A,))) for b in (bench, open_bench(replace(setup, run_seed=1)))]
    first, second = (next(model.parameters()) for model in models)
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_a_cache_that_cannot_be_written_costs_no_result(setup: Setup, bench: Bench) -> None:
    shutil.rmtree(setup.cache / "tmp")
    (setup.cache / "tmp").write_text("in the way")
    outcome = execute(bench, Scheme((A,)))
    assert outcome.status == "ok"
    assert "not_cached" in outcome.details


def test_what_does_not_open_says_why(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="cuda:99"):
        open_bench(replace(setup, device="cuda:99"))
    colour = load("resnet8", classes=10, channels=3)
    structure.save(tmp_path / "colour.am", colour.model, colour.source, metadata={})
    with pytest.raises(DataError, match="grey"):
        open_bench(replace(setup, base=tmp_path / "colour.am"))
    seven = load("resnet8", classes=7, channels=1)
    structure.save(tmp_path / "seven.am", seven.model, seven.source, metadata={})
    with pytest.raises(DataError, match="7 outputs"):
        open_bench(replace(setup, base=tmp_path / "seven.am"))


def test_the_final_run_uses_all_but_validation_and_saves_what_it_measured(setup: Setup, tmp_path: Path) -> None:
    halved = replace(setup, recipe=replace(RECIPE, fraction=0.25))
    bench = halved.open()
    seen: list[tuple[int, int]] = []
    scheme = Scheme((A, C))
    out = tmp_path / "final.am"
    outcome = final(halved, scheme, out, {"study": "s-1"}, lambda done, of: seen.append((done, of)))
    # 1,438 training images, 359 of them validation: 8.43 batches of 128; HP1 is 0.4 and 0.6.
    assert outcome.iterations == 3 + 5
    assert seen == [(done, 8) for done in range(1, 9)]
    assert outcome.status == "ok"
    loaded = structure.read(out)
    held = bench.splits.validation
    assert outcome.accuracy == pytest.approx(plain_accuracy(loaded.model, bench, held.x, held.y), abs=1e-6)
    assert sum(p.numel() for p in loaded.model.parameters()) == outcome.params
    about = loaded.metadata
    assert about["study"] == "s-1"
    assert Scheme.parse(about["scheme"]) == scheme
    assert Recipe(**about["recipe"]) == RECIPE
    assert about["figures"] == {"accuracy": outcome.accuracy, "params": outcome.params, "flops": outcome.flops}
    test = bench.splits.test
    assert test is not None
    tested = accuracy_on_test(halved, out)
    assert tested == pytest.approx(plain_accuracy(loaded.model, bench, test.x, test.y), abs=1e-6)
    json.dumps(about)


def test_a_final_run_that_fails_writes_nothing(setup: Setup, tmp_path: Path) -> None:
    out = tmp_path / "final.am"
    outcome = run_job(setup.open(), Final(Scheme((A, trim(0.1, HP8="refuse"))), out), Monitor())
    assert (outcome.status, out.exists()) == ("infeasible", False)
    assert "step 2" in outcome.reason


def test_a_probe_waits_for_the_device_before_it_reads_the_clock(
    bench: Bench, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(probing, "synchronise", waited.append)
    found = probing.probe_method(bench, probing.Probe(A))
    assert found.status == "ok"
    assert len(waited) >= probing.ITERATIONS + 1, "each iteration, and the evaluation that is timed"
    assert set(waited) == {bench.device}


def test_a_probe_finds_what_cannot_work_and_how_long_iterations_take(setup: Setup, log: Path) -> None:
    tokens = {"Trim": trim(0.04), "Refuse": trim(0.04, HP8="refuse"), "Break": trim(0.04, HP8="break")}
    reports = [probe(setup, tokens)]
    with local_workers(setup, 1) as workers:
        reports.append(probe_with(workers, tokens))
    for report in reports:
        assert report.reasons["Trim"] is None
        assert report.infeasible["Refuse"] == "there is no batch norm here"
        assert report.infeasible["Break"].startswith("crashed: ValueError")
        assert list(report.seconds_per_iteration) == ["Trim"]
        assert 1e-4 < report.seconds_per_iteration["Trim"] < 5.0
        assert 1e-3 < report.overhead_seconds < 20.0
    assert not list(setup.cache.glob("outcomes/*/*.json"))
    assert not list((setup.cache / "weights").iterdir())


@pytest.mark.parametrize("order", [("NS", "LFB", "SFP"), ("LFB", "SFP", "NS")])
def test_real_methods_compose_in_any_order(bench: Bench, order: tuple[str, ...]) -> None:
    settings = {
        "NS": (("HP1", 0.2), ("HP2", 0.12), ("HP6", 0.9)),
        "SFP": (("HP2", 0.12), ("HP9", 0.2), ("HP10", 1)),
        "LFB": (("HP1", 0.2), ("HP2", 0.12), ("HP15", 1), ("HP16", "CE")),
    }
    scheme = Scheme(tuple(Strategy(name, settings[name]) for name in order))
    sizes = [bench.original_params]
    for length in range(1, 4):
        outcome = execute(bench, Scheme(scheme.steps[:length]))
        assert outcome.status == "ok", outcome.reason or outcome.traceback
        assert outcome.reached, outcome.reason
        assert outcome.params is not None
        assert outcome.params <= sizes[-1] - round(0.12 * bench.original_params)
        assert outcome.iterations == methods.get(order[length - 1]).iterations(scheme.steps[length - 1], RECIPE, 1079)
        sizes.append(outcome.params)
    first = execute(bench, scheme)
    bench.cache.prune(0)
    for path in bench.cache.folder.glob("outcomes/*/*.json"):
        path.unlink()
    assert result(execute(bench, scheme)) == result(first)


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
