"""The table on digits that comes with the benchmark, and what a bigger one is said to cost."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from automc.search import get
from automc.training.recipe import Recipe
from benchmarks.tab.cost import carried_over, front_of, order, table_paces, trial_paces
from benchmarks.tab.generate import choose, schemes
from benchmarks.tab.table import Table, search
from kg.schema import Strategy

DIGITS = Path(__file__).parents[2] / "benchmarks" / "tab" / "digits-k8.json"
NS = Strategy.parse("NS[HP1=0.5,HP2=0.2,HP6=0.9]")


def test_the_table_is_whole_and_can_be_searched():
    table = Table.load(DIGITS)
    chosen = [Strategy.parse(name) for name in table.space.strategies]
    assert chosen == choose(8)
    assert set(table.mean) == set(schemes(chosen, 2))
    rounds = search(get("progressive-blind")(table.space, table.limits(0.3), 0), table, 12)
    assert sum(len(one.told) for one in rounds) == 12
    # Methods remove the share of the original that is planned.
    for scheme, (_, pr) in table.mean.items():
        assert pr == pytest.approx(table.space.hp2[list(scheme)].sum(), abs=0.02)
    lines = front_of(table)[2:]
    assert len(lines) >= 3
    assert "n = 28 pairs" in order(table)


def test_paces_are_seconds_per_iteration(tmp_path):
    # 0.5 · E0 = 5 epochs of 1,280 images in batches of 128: 50 iterations.
    assert table_paces([(NS, 5.0), (NS, 10.0), (NS, 100.0)], Recipe(), 1280) == {"NS": 0.2}
    rows = [
        {"status": "ok", "cached": "False", "scheme": f"LMA[HP2=0.1] -> {NS.id}", "seconds": "30", "iterations": "60"},
        {"status": "ok", "cached": "True", "scheme": NS.id, "seconds": "900", "iterations": "60"},
        {"status": "diverged", "cached": "False", "scheme": NS.id, "seconds": "900", "iterations": "60"},
    ]
    with (tmp_path / "trials.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert trial_paces([tmp_path / "trials.csv"]) == ({"NS": 0.5}, 1)


def test_what_was_not_measured_there_is_scaled():
    found = carried_over({"NS": 0.1, "LFB": 0.1, "HOS": 0.3}, {"NS": 0.4, "LFB": 0.9})
    assert found == {"NS": 0.4, "LFB": 0.9, "HOS": pytest.approx(0.3 * 6)}
    with pytest.raises(SystemExit, match="No method"):
        carried_over({"NS": 0.1}, {"SFP": 0.4})
