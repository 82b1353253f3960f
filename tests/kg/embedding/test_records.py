"""Records on the grid, against weights computed by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kg.cards import enumerate_strategies
from kg.embedding.records import coverage, locate, map_records
from kg.errors import ExperienceInvalid
from kg.schema import Experience, Method, setting_id

Make = Callable[..., Experience]


def by_id(method: Method, weights: np.ndarray) -> dict[str, float]:
    ids = [strategy.id for strategy in enumerate_strategies(method)]
    return {name: round(float(weight), 10) for name, weight in zip(ids, weights, strict=True) if weight}


def test_neighbours_unknown_and_category(methods: tuple[Method, ...], record: Make) -> None:
    # HP1 = 0.25 lies a quarter of the way from 0.2 to 0.4; HP2 := PR = 0.2 halfway from 0.1 to 0.3; HP8 is l2.
    place = locate(record("x", "A", {"HP1": 0.25, "HP8": "l2"}, pr=0.2), methods[0])
    assert by_id(methods[0], place.weights) == {
        "A[HP1=0.2,HP2=0.1,HP8=l2]": 0.375,
        "A[HP1=0.2,HP2=0.3,HP8=l2]": 0.375,
        "A[HP1=0.4,HP2=0.1,HP8=l2]": 0.125,
        "A[HP1=0.4,HP2=0.3,HP8=l2]": 0.125,
    }
    assert place.clamped == ()
    assert place.excess == 0


def test_unknown_weighs_all_values_alike(methods: tuple[Method, ...], record: Make) -> None:
    place = locate(record("x", "A", {"HP2": 0.1}, pr=0.7), methods[0])
    weights = by_id(methods[0], place.weights)
    assert set(weights.values()) == {round(1 / 6, 10)}
    assert all("HP2=0.1," in name for name in weights), "a set HP2 is not replaced by PR"
    unknown = locate(record("x", "A", {"HP2": 0.1, "HP8": "not_on_the_card"}, pr=0.7), methods[0])
    assert by_id(methods[0], unknown.weights) == weights


@pytest.mark.parametrize(("pr", "end", "excess"), [(0.8, 0.3, 0.5), (0.04, 0.1, -0.06), (0.3, 0.3, 0.0)])
def test_beyond_the_ends(methods: tuple[Method, ...], record: Make, pr: float, end: float, excess: float) -> None:
    place = locate(record("x", "A", {"HP1": 5, "HP8": "l1"}, pr=pr), methods[0])
    assert by_id(methods[0], place.weights) == {f"A[HP1=0.4,{setting_id('HP2', end)},HP8=l1]": 1.0}
    assert place.clamped == (("HP1", "HP2") if excess else ("HP1",))
    assert place.excess == pytest.approx(excess)


def test_wrong_kind_is_named(methods: tuple[Method, ...], record: Make) -> None:
    with pytest.raises(ExperienceInvalid, match="r9 of p1: HP8 is 3"):
        locate(record("r9", "A", {"HP8": 3}, pr=0.2), methods[0])


def test_rows_weights_and_columns(methods: tuple[Method, ...], experience: tuple[Experience, ...]) -> None:
    names = [s.id for method in methods for s in enumerate_strategies(method)] + ["A", "B", "K"]
    records = map_records(experience, methods, {name: row for row, name in enumerate(names)})
    assert [item.id for item in records.items] == ["r1", "r2", "r3", "r4", "r6"]
    np.testing.assert_allclose(np.asarray(records.mean.sum(axis=1)).ravel(), 1)
    np.testing.assert_allclose(records.weights, [0.5, 0.5, 0.5, 0.5, 1])
    assert records.mean[3].indices.tolist() == [names.index("K")], "a method without grid is its own entity"
    assert records.given.tolist() == [False, False, True, True, False]
    assert records.excess.tolist() == pytest.approx([0, 0.5, 0, 0, 0])
    assert np.isnan(records.targets[2, 0])
    assert np.isnan(records.features[3, 4:]).all()


def test_a_paper_and_a_study_of_one_name_are_two_sources(methods: tuple[Method, ...], record: Make) -> None:
    rows = [record("a", "K", {}, pr=0.1), record("b", "K", {}, pr=0.2, origin="trial")]
    assert map_records(rows, methods[2:], {"K": 0}).weights.tolist() == [1, 1]


def test_coverage_counts_what_is_left_out(methods: tuple[Method, ...], experience: tuple[Experience, ...]) -> None:
    counts = coverage(experience, methods)
    assert counts["A"] == {
        "records": 2, "used": 2, "with_ar": 2, "without_pr": 0, "without_pr_with_ar": 0, "clamped": 1,
    }  # fmt: skip
    assert (counts["B"]["records"], counts["B"]["used"], counts["B"]["without_pr_with_ar"]) == (3, 2, 1)
