"""The quality report, on a graph where the answers can be known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kg.embedding.finer import finer
from kg.embedding.records import map_records
from kg.embedding.report import global_mean, method_mean, report, ridge
from kg.schema import Experience, Method

Make = Callable[..., Experience]
Triple = tuple[str, str, str]


def test_report_counts_and_errors(
    methods: tuple[Method, ...], triples: list[Triple], experience: tuple[Experience, ...]
) -> None:
    steps: list[tuple[int, int]] = []
    found = report(methods, triples, experience, seed=1, epochs=40, progress=lambda e, n, _: steps.append((e, n)))
    assert steps == [(step, 43) for step in range(1, 44)]
    links = found["links"]
    assert links["held_out"] == sum(row["n"] for row in links["relations"].values()) > 0
    of_strategies = [t for t in triples if t[1] in ("HAS_SETTING", "OF_METHOD")]
    assert links["held_out"] == round(0.05 * len(of_strategies))
    assert links["trained_on"] < len(finer(triples))
    assert 0 < links["mrr"] <= 1
    assert list(found)[:3] == ["settings", "neighbours", "links"]
    assert set(found["settings"]) == {"HP1", "HP2", "HP8"}
    ar = found["ar"]
    assert (ar["n"], ar["papers"]) == (4, 3), "r3 has no AR, r5 no PR"
    # Left out p3, the means of p1 and p2 are (−0.01 − 0.2)/2 and −0.03; equal weight of the two sources' rows:
    # p1's rows weigh 1/2 each, p2's one AR row 1/2.
    expected = abs((0.5 * -0.01 + 0.5 * -0.2 + 0.5 * -0.03) / 1.5 - -0.005)
    assert ar["papers_detail"]["p3"]["global mean"] == pytest.approx(expected)
    trivial = {"global median", "global mean", "mean per method", "ridge"}
    assert set(ar["mae"]) == {"NN_exp", "law", "law + NN_exp / 4", *trivial}
    assert set(found["pr"]["mae"]) == {"NN_exp", *trivial}, "a law by size says nothing of sizes"
    assert found["first_guess"]["papers"] == ar["papers"]
    # The weighted median of p1's two rows and p2's one is −0.03.
    assert ar["papers_detail"]["p3"]["global median"] == pytest.approx(0.025)
    assert all(np.isfinite(list(ar["mae"].values())))
    assert found["pr"]["n"] == 2, "r3 set its HP2 itself, and K has none; the others' HP2 is their PR"
    again = report(methods, triples, experience, seed=1, epochs=40)
    assert again["ar"] == ar
    assert again["links"] == links
    assert again["neighbours"] == found["neighbours"]


def test_trials_are_no_papers(methods: tuple[Method, ...], triples: list[Triple], record: Make) -> None:
    trial = record("t", "B", {"HP2": 0.1}, ar=-0.5, pr=0.1, origin="trial", source="study")
    found = report(methods, triples, [trial], epochs=1)
    assert found["ar"]["n"] == 0
    assert found["coverage"] == {}


def test_trivial_predictors(methods: tuple[Method, ...], record: Make) -> None:
    other = Method("L", "l", "", methods[2].techniques)
    cards = (methods[2], other)
    place = {"K": 0, "L": 1}
    training = map_records(
        [
            record("1", "K", {}, ar=-0.1, pr=0.1),
            record("2", "K", {}, ar=None, pr=0.2, source="p2"),
            record("3", "L", {}, ar=-0.4, pr=0.3, source="p3"),
        ],
        cards,
        place,
    )
    held = map_records([record("4", "K", {}, pr=0.5), record("5", "L", {}, pr=0.5)], cards, place)
    assert global_mean(training, held, 0).tolist() == pytest.approx([-0.25, -0.25])
    assert method_mean(training, held, 0).tolist() == pytest.approx([-0.1, -0.4])
    assert method_mean(training, held, 1).tolist() == pytest.approx([0.15, 0.3])
    alone = map_records([record("6", "K", {}, pr=0.5)], cards, place)
    assert global_mean(alone, held, 0).tolist() == [0, 0]


def test_ridge_finds_a_line(methods: tuple[Method, ...], record: Make) -> None:
    names = {f"B[HP2={value}]": row for row, value in enumerate((0.1, 0.3))} | {"B": 2}
    points = np.linspace(0.1, 0.9, 12)
    rows = [record(str(n), "B", {}, ar=-0.2 * x, pr=x, source=f"p{n}") for n, x in enumerate(points)]
    training = map_records(rows, methods[1:2], names)
    held = map_records([record("x", "B", {"HP2": 0.5}, pr=0.9)], methods[1:2], names)
    # HP2 := PR in training; the held row sets 0.5 itself, and its PR must not leak in.
    assert ridge(training, held, 0)[0] == pytest.approx(-0.1, abs=0.01)
