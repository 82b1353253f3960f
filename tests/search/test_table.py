"""Tables of executed steps: derived rates, the true front, and the environment's budget."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from automc.search import registered
from automc.search.base import Searcher
from benchmarks.tab.table import TREE, Table, read_rows, search

TABLES = sorted(TREE.parent.glob("*.json"))


@pytest.fixture(scope="module")
def tree():
    return Table.load(TREE)


class Fixed(Searcher):
    """Asks what it was given, round by round."""

    name = "fixed"

    def __init__(self, *rounds):
        self.rounds, self.heard = list(rounds), []

    def ask(self, k, pending=()):
        return self.rounds[len(self.heard)][:k] if len(self.heard) < len(self.rounds) else []

    def tell(self, outcomes):
        self.heard.append([o.scheme for o in outcomes])


def small(tmp_path, rows, seeds=1, packed=False):
    about = {
        "title": "small", "base": {"accuracy": 0.8, "params": 1000}, "depth": 2, "max_removed": 0.85,
        "strategies": [{"id": f"S{i}", "method": "AB"[i], "hp2": 0.2, "cost": 1.0} for i in range(2)],
    }  # fmt: skip
    path = tmp_path / "small.json"
    path.write_text(json.dumps(about))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if packed:
        path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(text.encode()))
    else:
        path.with_suffix(".jsonl").write_text(text)
    return path


def row(seq, acc, par, **more):
    return {"seq": seq, "acc": acc, "par": par, "t": 2.0, **more}


@pytest.mark.parametrize("packed", [True, False])
def test_rates_are_against_the_model_and_the_steps_input(tmp_path, packed):
    rows = [row([0], 0.72, 800), row([0, 1], 0.6, 600), row([1], 0, 0, status="diverged", reason="NaN")]
    table = Table.load(small(tmp_path, rows, packed=packed))
    outcome = table.outcome((0, 1), 0)
    assert (outcome.accuracy, outcome.seconds, outcome.status) == (0.6, 2.0, "ok")
    assert outcome.pr == pytest.approx(0.4)
    assert outcome.step_ar == pytest.approx(0.6 / 0.72 - 1)
    assert outcome.step_pr == pytest.approx(0.25)
    failed = table.outcome((1,), 0)
    assert (failed.status, failed.reason, failed.accuracy) == ("diverged", "NaN", None)
    with pytest.raises(KeyError, match="go on with generating"):
        table.outcome((1, 1), 0)


def test_a_search_sees_one_seed_and_is_judged_by_the_mean(tmp_path):
    rows = [row([0], 0.7 + 0.02 * s, 600, seed=s) for s in range(2)]
    rows += [row([1], 0.75, 600, seed=0), row([1], 0, 0, seed=1, status="crashed")]
    table = Table.load(small(tmp_path, rows))
    assert [table.outcome((0,), seed).accuracy for seed in (0, 1, 2)] == [0.7, 0.72, 0.7]
    assert table.mean[(0,)] == pytest.approx((0.71, 0.4))
    assert (1,) not in table.mean
    area = (0.71 - 0.4) * (0.4 - 0.3) / (0.4 * 0.7)
    assert table.volume([(0,), (1,)], 0.3) == pytest.approx(area)
    assert table.best_accuracy([(0,), (1,)], 0.3) == pytest.approx(0.71)
    assert math.isnan(table.best_accuracy([(0,)], 0.5))


def test_times_of_a_busy_machine_are_medians_of_the_strategy(tmp_path):
    rows = [row([0], 0.7, 800, t=9.0), row([1], 0.7, 700, t=1.0), row([1, 0], 0.6, 600, t=3.0), row([0, 0], 0.6, 600)]
    path = small(tmp_path, rows)
    assert Table.load(path).outcome((0,), 0).seconds == 9.0
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": "medians"}))
    table = Table.load(path)
    assert [table.outcome(s, 0).seconds for s in ((0,), (1, 0), (1,))] == [3.0, 3.0, 1.0]


def test_what_experience_says_is_known_of_our_own_methods_alone():
    """A dearer method, and one that trains for less, is expected to lose more; none of the tree's methods is ours."""
    assert Table.load(TREE).slopes is None
    table = Table.load(TREE.with_name("grey6-k12.json"))
    assert table.slopes is not None
    assert table.slopes.shape == (len(table.space.methods),)
    assert (table.slopes > 0).all()
    assert len(set(table.slopes)) > 1


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path):
    path = small(tmp_path, [row([0], 0.72, 800)])
    with path.with_suffix(".jsonl").open("a") as stream:
        stream.write('{"seq": [1], "acc"')
    assert [r["seq"] for r in read_rows(path)] == [[0]]


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_tables_are_complete(path: Path):
    """Every scheme that a searcher may ask for is there, once per seed."""
    table, rows = Table.load(path), list(read_rows(path))
    keys = [(r.get("seed", 0), *r["seq"]) for r in rows]
    assert len(set(keys)) == len(keys)
    n, hp2 = len(table.space.strategies), table.space.hp2
    limit = table.limits(0.3).max_removed + 1e-9

    def count(scheme, seed):
        if scheme and table.outcome(scheme, seed).status != "ok":
            return 1
        children = [(*scheme, i) for i in range(n)] if len(scheme) < table.depth else []
        return bool(scheme) + sum(count(s, seed) for s in children if hp2[list(s)].sum() <= limit)

    assert sum(count((), seed) for seed in range(len(table.seeds))) == len(rows)


def test_the_true_front_of_the_tree_is_known(tree):
    assert len(tree.mean) == 584
    assert tree.best_volume(0.3) == pytest.approx(0.7290, abs=5e-5)
    assert tree.best_accuracy(list(tree.mean), 0.3) == pytest.approx(0.5396)
    # Its files' own rates are of the step's input for some rows and must not be read.
    assert tree.outcome((0, 1), 0).pr == pytest.approx(1 - 33703 / 78042)


def test_parents_come_first_and_count_and_nothing_runs_twice(tree):
    fixed = Fixed([(0, 1, 2), (0, 1)], [(0, 1, 2), (0, 1, 3), (5,)])
    rounds = search(fixed, tree, 100)
    assert fixed.heard == [[(0,), (0, 1), (0, 1, 2)], [(0, 1, 3), (5,)]]
    assert [r.asked for r in rounds] == fixed.rounds


def test_the_budget_cuts_a_round(tree):
    fixed = Fixed([(0, 1, 2)], [(3, 4, 5), (6,)])
    assert sum(len(r.told) for r in search(fixed, tree, 5)) == 5
    assert fixed.heard[1] == [(3,), (3, 4)]


def test_nothing_is_executed_below_a_failure(tmp_path):
    rows = [row([0], 0, 0, status="crashed"), row([1], 0.7, 800)]
    fixed = Fixed([(0, 1), (1,)])
    search(fixed, Table.load(small(tmp_path, rows)), 9)
    assert fixed.heard == [[(0,), (1,)]]


@pytest.mark.parametrize("name", [name for name, kind in registered().items() if not kind.levels])
def test_a_search_is_reproducible_and_keeps_its_budget(tree, name):
    def told(seed):
        rounds = search(registered()[name](tree.space, tree.limits(0.3), seed), tree, 30)
        return [o.scheme for r in rounds for o in r.told]

    first = told(1)
    assert len(first) == len(set(first)) == 30
    assert first == told(1) != told(2)
    assert np.all([scheme[:-1] in [(), *first[:i]] for i, scheme in enumerate(first)])
