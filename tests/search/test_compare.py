"""The comparison of searchers, shortened: its measures, its page, its plots."""

import csv
import math

import numpy as np
import pytest

from benchmarks.tab.compare import compare, write
from benchmarks.tab.measures import Run, measure, size_misses
from benchmarks.tab.page import PROTOTYPE, ahead, notes, paired, paired_tests, spread
from benchmarks.tab.table import TREE, Table

SHORT = ("random", "evolution", "progressive-blind", "progressive-mean-own-size", "progressive-mean")


@pytest.fixture(scope="module")
def tree():
    return Table.load(TREE)


@pytest.fixture(scope="module")
def runs(tree):
    return compare(tree, SHORT, seeds=6, budget=40, gamma=0.3, jobs=1)


def run(volumes, seconds):
    return Run("one", 0, np.array(volumes), np.array(seconds), 0.5, 0.0, {})


def test_measures_of_a_curve_by_hand():
    one = run([0.0, 0.5, 0.96, 0.96], [1.0, 2.0, 4.0, 9.0])
    assert one.steps_to(0.95) == 3
    assert one.steps_to(0.97) == math.inf
    assert one.volume_at([0.5, 1.0, 2.0, 3.9, 4.0, 100.0]).tolist() == [0.0, 0.0, 0.5, 0.5, 0.96, 0.96]
    assert one.area() == pytest.approx((0.5 + 0.96 + 0.96) / 4)
    assert one.area(8.0) == pytest.approx((2 * 0.5 + 4 * 0.96) / 8, abs=0.01)


def test_a_run_is_what_its_steps_are_worth(tree):
    one = measure("random", 3, tree, 0.3, 40)
    assert len(one.volumes) == len(one.seconds) == 40
    assert (np.diff(one.volumes) >= 0).all()
    assert (np.diff(one.seconds) > 0).all()
    assert 0.5 < one.volumes[-1] <= 1
    assert one.spearman == {}


def test_a_search_that_ends_early_keeps_its_volume(tree):
    """All that can be asked of the tree is asked before the budget is spent."""
    one = measure("progressive-blind", 0, tree, 0.3, 600)
    assert one.volumes[-1] == pytest.approx(1.0)
    assert len(one.volumes) == 600
    assert one.seconds[-1] == one.seconds[-2]


def test_models_are_judged_on_chosen_and_on_random_steps(tree, runs):
    own = [r for r in runs if r.searcher == "progressive-mean-own-size"]
    for one in own:
        assert set(one.spearman) == {"chosen ar", "chosen pr", "random ar", "random pr"}
    # Sizes of these steps hardly depend on what came before, so means predict them well.
    assert np.median([one.spearman["random pr"] for one in own]) > 0.6


def test_a_searcher_with_a_model_of_steps_beats_chance(runs):
    areas = {name: np.mean([r.area() for r in runs if r.searcher == name]) for name in SHORT}
    assert areas["progressive-mean-own-size"] > max(areas["progressive-blind"], areas["random"])


def test_a_run_does_not_depend_on_the_others(tree, runs):
    alone = measure("evolution", 5, tree, 0.3, 40)
    (same,) = (r for r in runs if (r.searcher, r.seed) == ("evolution", 5))
    np.testing.assert_array_equal(alone.volumes, same.volumes)


def test_the_page_says_what_was_measured(tree, runs, tmp_path):
    about = {
        "table": "the tree", "is_tree": False, "front": 0.729, "gamma": 0.3, "base": 0.549, "table_seeds": 1,
        "jobs": 1, "minutes": 0.1, "cpu_minutes": 0.1, "sizes": size_misses(tree), "device": "a CPU",
        "versions": "Python 3",
    }  # fmt: skip
    write(runs, tmp_path, about)
    with (tmp_path / "runs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(SHORT) * 6
    by_key = {(r["searcher"], int(r["seed"])): r for r in rows}
    for one in runs:
        assert float(by_key[one.searcher, one.seed]["volume_40_steps"]) == pytest.approx(one.volumes[-1], abs=1e-4)
    page = (tmp_path / "README.md").read_text()
    for name in SHORT:
        assert f"| {name} |" in page
    middle = sorted(r.volumes[19] for r in runs if r.searcher == "random")
    assert f"| random | {spread([r.volumes[9] for r in runs if r.searcher == 'random'], 40)} | {middle[2]:.3f}" in page
    assert "nan" not in page
    for image in ("hypervolume-steps.png", "hypervolume-seconds.png"):
        assert (tmp_path / image).read_bytes().startswith(b"\x89PNG")


def test_steps_of_the_tree_remove_a_share_of_their_input(tree):
    lengths, absolute, relative, planned, miss = map(list, zip(*size_misses(tree), strict=True))
    assert lengths == [1, 2, 3]
    # First steps are what the plan was taken from.
    assert (absolute[0], miss[0]) == (pytest.approx(relative[0]), pytest.approx(0.0))
    assert max(relative) - min(relative) < 0.02
    assert absolute[2] < 0.5 * absolute[0]
    assert planned[2] > 2 * relative[2] - 0.2
    # By hand, for one step: 10% of the channels after 25% of the channels.
    before, step = tree.outcome((1,), 0), tree.outcome((1, 0), 0)
    one = min(1.0, tree.space.hp2[0] / (1 - before.pr))
    assert abs(one - step.step_pr) > 0.1


def test_notes_name_what_is_far_from_the_prototype():
    near, far = PROTOTYPE["random"][2], PROTOTYPE["evolution"][2] + 0.05
    made = {
        name: [Run(name, 0, np.full(100, mean), np.arange(100.0), 0.5, 0.0, {})]
        for name, mean in (("random", near), ("evolution", far))
    }
    first = notes(made)[0]
    assert first.endswith("by more than 0.02: `evolution` (+0.0500).")


def test_it_is_told_what_part_of_anothers_steps_and_seconds_is_needed():
    def made(name, steps):
        return [Run(name, 0, np.where(np.arange(100) < steps - 1, 0.5, 0.96), 2.0 * np.arange(1, 101), 0.5, 0.0, {})]

    lines = ahead({"progressive": made("progressive", 20), "good": made("good", 40), "never": made("never", 200)})
    assert lines[2:] == [
        "| progressive | 20 | 40 | 100%, 100% |",
        "| good | 40 | 80 | 50%, 50% |",
        "| never | > budget |  |  |",
    ]
    assert ahead({"good": made("good", 40)}) == []


def test_quartiles_are_values_that_occurred_and_unreached_ones_say_so():
    assert spread([0.1, 0.2, 0.3, 0.4, 0.5], 100) == "0.300 [0.200, 0.400]"
    assert spread([20.0, 30.0, 40.0, math.inf, math.inf], 100) == "40 [30, > 100]"


def test_paired_differences():
    difference, p = paired([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], [0.4, 0.5, 0.6, 0.7, 0.8, 0.8])
    assert difference == pytest.approx(0.1)
    assert p == pytest.approx(2 / 2**6)
    assert paired([0.5, 0.6], [0.5, 0.6]) == (0.0, 1.0)


def test_ps_are_corrected_for_all_tests_of_the_page():
    rng = np.random.default_rng(0)

    def made(name, mean):
        return [
            Run(name, s, np.full(8, mean) + 0.01 * rng.normal(size=8), np.arange(8.0), 0.5, 0.0, {}) for s in range(30)
        ]

    lines = paired_tests({"good": made("good", 0.9), "random": made("random", 0.5), "alike": made("alike", 0.5)})
    cells = {line.split(" | ")[0].strip("| "): line for line in lines[2:]}
    assert cells["good"].count("< 0.001") == 4
    assert "< 0.001" not in cells["alike"]
