"""Executing schemes: each step once, the same result whatever the order, the worker or the cache."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from steps import RECIPE, A, B, C, executed, plain_accuracy, result, trim

from automc import methods
from automc.errors import DataError, EnvironmentFault
from automc.execution.jobs import execute, local_workers
from automc.execution.outcome import StepOutcome
from automc.execution.setup import Bench, Setup, open_bench
from automc.execution.step import model_after
from automc.models import structure
from automc.models.load import load
from kg.schema import Scheme, Strategy


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
        tickets = {workers.submit(scheme, 3600.0): scheme for scheme in reversed(schemes)}
        found: dict[Scheme, StepOutcome] = {}
        while len(found) < len(tickets):
            found.update((tickets[ticket], outcome) for ticket, outcome in workers.collect(600.0))
        several = "LFB[HP1=0.1,HP2=0.1,HP15=1,HP16=MSE] -> NS[HP1=0.1,HP2=0.1,HP6=0.9]"
        workers.submit(Scheme((*Scheme.parse(several).steps, trim(0.1, HP8="heavy"))), 3600.0)
        ((_, told),) = workers.collect(600.0)
    assert told.reason == "loaded: []", "each of these takes 40 to 100 MB in each worker, and a second"
    assert {scheme: result(outcome) for scheme, outcome in found.items()} == alone
    assert Counter(executed(log)[:5]) == {A.id: 1, B.id: 2, C.id: 2}


def test_what_a_method_does_wrong_is_a_status(bench: Bench, log: Path) -> None:
    expected = {
        "refuse": "infeasible",
        "orderless": "infeasible",
        "explode": "diverged",
        "overflow": "diverged",
        "break": "crashed",
        "starve": "out_of_memory",
    }
    for kind, status in expected.items():
        scheme = Scheme((trim(0.1, HP8=kind),))
        outcome = execute(bench, scheme)
        assert (outcome.status, outcome.accuracy, outcome.params) == (status, None, None)
        assert execute(bench, scheme).cached == (kind in {"refuse", "orderless", "explode", "overflow"})
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
        hang = workers.submit(scheme, 3600.0)
        while not executed(log):
            assert workers.collect(0.1) == []
        assert bench.cache.is_locked(bench.key(scheme))
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        (worker,) = [int(c) for c in children if b"automc.execution.worker" in Path(f"/proc/{c}/cmdline").read_bytes()]
        os.kill(worker, signal.SIGKILL)
        assert dict(workers.collect(600.0))[hang].status == "crashed"
    assert not bench.cache.is_locked(bench.key(scheme))


def test_images_are_opened_once_and_those_of_the_final_run_only_for_it(setup: Setup, log: Path) -> None:
    whole = open_bench(setup)
    assert whole.rest is whole.train, "all that is left of the training images: one copy"
    part = open_bench(replace(setup, recipe=replace(RECIPE, fraction=0.5)))
    execute(part, Scheme((A,)))
    assert "images" in vars(part.train)
    assert "images" in vars(part.validation)
    assert "images" not in vars(part.rest)


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


@pytest.mark.parametrize("order", [("NS", "LFB", "SFP"), pytest.param(("LFB", "SFP", "NS"), marks=pytest.mark.slow)])
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
