"""Generating a table: what is executed, that it is stopped and continued without loss, and that it can be searched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from automc.datasets import DataRef
from automc.execution.jobs import local_workers
from automc.execution.setup import Setup
from automc.models import structure
from automc.models.load import load
from automc.training.recipe import Recipe
from benchmarks.tab.generate import Work, append, begin, choose, schemes, share
from benchmarks.tab.table import Table, read_rows, search
from kg.schema import Strategy

ROOT = Path(__file__).parents[2]
STRATEGIES = [Strategy.parse(s) for s in ("NS[HP1=0.1,HP2=0.2,HP6=0.9]", "SFP[HP2=0.36,HP9=0.1,HP10=1]")]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    loaded = load("resnet8", classes=10, channels=1)
    path = tmp_path_factory.mktemp("model") / "base.am"
    structure.save(path, loaded.model, loaded.source, metadata={})
    return path


def test_strategies_are_spread_over_methods_and_sizes():
    eight = choose(8)
    assert eight == choose(8) != choose(8, seed=1)
    assert len(set(eight)) == 8
    methods = [s.method for s in eight]
    turn = len(dict.fromkeys(methods))
    assert turn >= 3
    assert methods[turn : 2 * turn] == methods[: min(turn, 8 - turn)]
    for method in set(methods):
        sizes = [s.number("HP2") for s in eight if s.method == method]
        assert len(set(sizes)) == len(sizes)
    with pytest.raises(SystemExit, match="--k may be"):
        choose(1000)


def test_all_schemes_within_the_bound_depth_first():
    found = schemes(STRATEGIES, 4)
    assert found == sorted(found)
    sizes = (0.2, 0.36)
    assert all(sum(sizes[i] for i in s) <= 0.85 for s in found)
    assert (0, 0, 0, 0) in found
    assert (1, 1) in found
    assert (0, 1, 1) not in found
    # Counted by hand: 2 + 4 + 4 (all but two or more of the second) + 1.
    assert [sum(len(s) == n for s in found) for n in (1, 2, 3, 4)] == [2, 4, 4, 1]


def test_shards_divide_the_work_by_subtrees():
    every = schemes(STRATEGIES, 3)
    for seed in (0, 1):
        parts = [share(every, seed, (i, 3), 2) for i in range(3)]
        assert sorted(s for part in parts for s in part) == every
        assert all(len({s[0] for s in part}) <= 1 for part in parts)


def test_rows_are_whole_and_a_torn_line_is_repaired(tmp_path):
    path = tmp_path / "rows.jsonl"
    append(path, {"seq": [0]})
    with path.open("a") as stream:
        stream.write('{"seq": [1')
    append(path, {"seq": [1]})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"seq": [0]}, {"seq": [1]}]


def test_another_table_is_not_mixed_in(tmp_path):
    path = tmp_path / "name.json"
    about = {"base": 1, "depth": 2, "recipe": {}, "strategies": [], "device": "cpu"}
    begin(path, about)
    begin(path, {**about, "device": "cuda:0"})
    with pytest.raises(SystemExit, match="another table \\(depth differ"):
        begin(path, {**about, "depth": 3})


def test_a_table_that_was_stopped_goes_on_and_can_be_searched(model, tmp_path):
    recipe = Recipe(unit_epochs=0.2, fraction=0.3)
    setup = Setup(model, DataRef("digits"), recipe, tmp_path / "cache")
    out = tmp_path / "two.json"
    strategies = [{"id": s.id, "method": s.method, "hp2": s.number("HP2"), "cost": 1.0} for s in STRATEGIES]
    every = schemes(STRATEGIES, 2)

    def rows():
        return list(read_rows(out))

    def write(values):
        append(out.with_suffix(".jsonl"), values)
        if len(rows()) == stop:
            raise KeyboardInterrupt

    with local_workers(setup, 1) as workers:
        stop = 3
        with pytest.raises(KeyboardInterrupt):
            Work(STRATEGIES, 0, every, {}, write).fill(workers)
        known = {tuple(r["seq"]): r["status"] for r in rows()}
        assert len(known) == 3
        stop = 99
        Work(STRATEGIES, 0, [s for s in every if s not in known], known, write).fill(workers)
    assert sorted(tuple(r["seq"]) for r in rows()) == every
    assert all(r["status"] == "ok" and r["t"] > 0 for r in rows())
    bench = setup.open()
    about = {
        "title": "two",
        "base": {"accuracy": 0.1, "params": bench.original_params},
        "depth": 2,
        "max_removed": 0.85,
    }
    out.write_text(json.dumps({**about, "strategies": strategies}))
    table = Table.load(out)
    # What the rows say is what the steps did: planned sizes are met.
    assert table.outcome((0, 1), 0).pr == pytest.approx(0.56, abs=0.03)
    from automc.search.random_search import RandomSearch

    told = [o.scheme for r in search(RandomSearch(table.space, table.limits(0.3), 0), table, 9) for o in r.told]
    assert sorted(told) == every


def test_nothing_is_executed_below_a_failure(model, tmp_path):
    """A grandparent that failed in an earlier run stops everything below it."""
    every = schemes(STRATEGIES, 3)
    written = []
    known = {s: "ok" for s in every if s[0] == 0} | {(1,): "infeasible"}
    left = [s for s in every if s not in known]
    assert any(len(s) == 3 for s in left)
    workers = local_workers(Setup(model, DataRef("digits"), Recipe(), tmp_path / "cache"), 1)
    Work(STRATEGIES, 0, left, known, written.append).fill(workers)
    assert written == []


@pytest.mark.slow
def test_the_command_twice_in_shards_is_the_command_once(model, tmp_path):
    (tmp_path / "strategies.txt").write_text("".join(f"{s.id}\n" for s in STRATEGIES))

    def generate(name, *more):
        command = [sys.executable, "-m", "benchmarks.tab.generate", str(model), "--data", "digits", "--depth", "2"]
        command += ["--strategies", str(tmp_path / "strategies.txt"), "--unit-epochs", "0.2", "--fraction", "0.3"]
        command += ["--out", str(tmp_path / name), "--workers", "1", "--cache", str(tmp_path / f"{name}.cache"), *more]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    assert generate("whole.json").wait() == 0
    shards = [generate("shards.json", "--shard", f"{i}/2") for i in range(2)]
    assert [shard.wait() for shard in shards] == [0, 0]
    results = [
        sorted((r["seq"], r["acc"], r["par"]) for r in read_rows(tmp_path / name))
        for name in ("whole.json", "shards.json")
    ]
    assert results[0] == results[1]
    assert len(results[0]) == 6
    planned = generate("whole.json", "--plan")
    assert "h of one worker" in planned.communicate()[0]
