"""The first guess by size, on records whose law is known."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kg.embedding.law import BENDS, MOST, USUAL_ITERATIONS, Law, fit, judge, lessons, teaches, weigh, weighted_median
from kg.experience import read_experience
from kg.schema import Experience, Strategy, Task

Make = Callable[..., Experience]
TASK = Task("t", "cifar10", "net", accuracy=0.9)


def rows(
    record: Make, source: str, cost: float, method: str = "B", *, iterations: int | None = None, factor: float = 1.0
):
    """Five steps of a law without noise; `iterations` makes them ours."""
    own = {"iterations": iterations, "code": "abc"} if iterations else {}
    return [
        record(f"{source}{n}", method, {"HP2": x}, ar=-cost * factor * x / (1 - x), pr=x, source=source, task=TASK,
               **own)
        for n, x in enumerate((0.1, 0.3, 0.5, 0.7, 0.8))
    ]  # fmt: skip


def test_finds_cost_length_and_the_factor_of_papers(record: Make) -> None:
    known = [
        *rows(record, "s1", 0.2, iterations=USUAL_ITERATIONS),
        *rows(record, "s2", 0.2, iterations=100 * USUAL_ITERATIONS, factor=100**-0.5),
        *rows(record, "p1", 0.2, factor=0.05),
    ]
    law = fit(known)
    assert law is not None
    assert (law.length, law.published) == (0.5, 0.05)
    assert law.cost == pytest.approx(0.2)
    np.testing.assert_allclose(law.predict(known), [item.ar for item in known])
    assert law.slope("B", USUAL_ITERATIONS, 0.9) == pytest.approx(0.2)
    assert law.slope("B", None, 0.9) == pytest.approx(0.01)
    assert law.slope("B", 10**12, 0.9) == pytest.approx(0.01), "no length does better than a paper's"
    assert law.slope("never seen", USUAL_ITERATIONS, None) == pytest.approx(law.cost)
    assert law.slope("B", USUAL_ITERATIONS, 0.975) == pytest.approx(0.1), "a quarter of the errors, half the cost"


def test_finds_that_papers_lose_more_slowly(record: Make) -> None:
    ours = rows(record, "s1", 0.2, iterations=USUAL_ITERATIONS)
    straight = rows(record, "p1", 0.2, factor=0.1)
    bent = [replace(item, ar=-0.02 * (x / (1 - x)) ** 0.5) for item in straight if (x := item.pr)]
    for papers, power in ((straight, 1.0), (bent, 0.5)):
        law = fit([*ours, *papers])
        assert law is not None
        assert (law.published, law.bend) == (0.1, power)
        np.testing.assert_allclose(law.predict([*ours, *papers]), [item.ar for item in [*ours, *papers]])


def test_a_method_is_told_apart_by_as_much_as_its_records_say(record: Make) -> None:
    cheap = [item for n in range(4) for item in rows(record, f"a{n}", 0.1, "A", iterations=100)]
    dear = [item for n in range(4) for item in rows(record, f"b{n}", 0.4, "B", iterations=100)]
    law = fit([*cheap, *dear[:5]])
    assert law is not None
    assert law.costs["A"] == pytest.approx(0.1)
    assert 0.1 < law.costs["B"] < 0.4
    more = fit([*cheap, *dear])
    assert more is not None
    assert more.costs["B"] > law.costs["B"]


def test_what_gains_is_free_and_nothing_teaches_nothing(record: Make) -> None:
    law = fit([record("g", "A", {}, ar=0.02, pr=0.5)])
    assert law is not None
    assert law.costs["A"] == law.cost == 0
    assert fit([]) is None


@given(
    st.floats(0.01, 1), st.floats(0, 0.6), st.floats(0.01, 1),
    st.lists(st.floats(0, 1), min_size=2, max_size=9), st.integers(1, 10**6) | st.none(), st.sampled_from(BENDS),
)  # fmt: skip
def test_monotone_in_size(
    cost: float, length: float, published: float, sizes: list[float], iterations: int | None, bend: float
) -> None:
    law = Law(cost, {}, length, published, bend)
    items = [
        Experience("x", Strategy("A", (("HP2", x),)), TASK, "s", pr=x, iterations=iterations) for x in sorted(sizes)
    ]
    said = law.predict(items)
    assert (np.diff(said) <= 1e-12).all()
    assert (said <= 0).all()
    assert np.isfinite(said).all()
    x, power = min(sorted(sizes)[0], MOST), bend if iterations is None else 1
    assert said[0] == pytest.approx(-law.slope("A", iterations, 0.9) * (x / (1 - x)) ** power)


def test_which_records_teach(record: Make) -> None:
    paper = record("1", "A", {}, ar=-0.1, pr=0.5)
    assert teaches(paper)
    assert not teaches(replace(paper, not_taught="a fault"))
    assert not teaches(replace(paper, ar=None))
    assert not teaches(replace(paper, pr=None))
    assert teaches(record("2", "A", {"HP2": 0.3}, ar=-0.1)), "the plan says the size"
    own = replace(paper, origin="trial")
    assert own.own
    assert not teaches(own), "nobody knows how long it trained"
    assert teaches(replace(own, iterations=40))
    assert not teaches(replace(paper, code="abc")), "likewise in a file"


def test_sources_weigh_alike_and_order_is_of_no_account(record: Make) -> None:
    items = [*rows(record, "p1", 0.1), *rows(record, "p2", 0.3)[:2]]
    assert weigh(items).tolist() == [0.2] * 5 + [0.5] * 2
    shuffled = random.Random(1).sample(items, len(items))
    assert fit(shuffled) == fit(items)
    assert weighted_median(np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 5.0])) == 2.0


def test_the_gate_lets_a_law_through_and_refuses_noise(record: Make) -> None:
    lawful = [item for n in range(4) for item in rows(record, f"p{n}", 0.1)]
    verdict = judge(lawful)
    assert verdict.used
    assert (verdict.rows, verdict.papers) == (20, 4)
    assert verdict.law[0] == pytest.approx(0, abs=1e-6)
    assert verdict.median[0] > 0.01
    assert "and is used" in verdict.text
    # The other way round: little is lost where much is removed.
    upside = [replace(a, ar=b.ar) for a, b in zip(lawful, reversed(lawful), strict=True)]
    refused = judge(upside)
    assert not refused.used
    assert "is NOT used" in refused.text
    assert not judge(rows(record, "p1", 0.1)).used, "one paper proves nothing"
    assert not judge([]).used


def test_no_record_of_a_paper_says_anything_of_it(record: Make) -> None:
    lawful = [item for n in range(3) for item in rows(record, f"p{n}", 0.1)]
    outlier = [replace(item, ar=-0.9) for item in rows(record, "q", 0.1)]
    # q's own median is −0.9; said of it is what the others say.
    assert judge([*lawful, *outlier]).law[0] > 0.15


def test_the_shipped_law_wins_on_unread_papers() -> None:
    experience, _ = read_experience()
    verdict = judge(experience)
    assert (verdict.rows, verdict.papers) == (521, 42)
    assert verdict.used
    law = fit(lessons(experience))
    assert law is not None
    # As in docs/results/single-methods: LFB, LMA and HOS before SFP, NS and LeGR.
    assert max(law.costs[name] for name in ("LFB", "LMA", "HOS")) < min(law.costs[n] for n in ("SFP", "NS", "LeGR"))
