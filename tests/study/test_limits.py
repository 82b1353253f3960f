"""Limits as a user writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automc.errors import StudyError
from automc.study.limits import DEFAULT_GAMMA, KINDS, Limit, asked, drop_text, parse_drop


@pytest.mark.parametrize(
    ("figure", "text", "amount", "of_base"),
    [
        ("flops", "40%", 0.4, True),
        ("flops", "20M", 20e6, False),
        ("flops", "1.5 GFLOPs", 1.5e9, False),
        ("flops", "300k", 3e5, False),
        ("file_bytes", "500KB", 500_000, False),
        ("file_bytes", "1.5 MiB", 1.5 * 2**20, False),
        ("file_bytes", "12.5%", 0.125, True),
        ("latency_ms", "3ms", 3.0, False),
        ("latency_ms", "0.5s", 500.0, False),
        ("latency_ms", ".5ms", 0.5, False),
        ("latency_ms", "250us", 0.25, False),
    ],
)
def test_limits_are_read(figure, text, amount, of_base):
    limit = Limit.parse(figure, text)
    assert limit.amount == pytest.approx(amount)
    assert limit.of_base == of_base
    assert limit.most(200.0) == pytest.approx(amount * 200 if of_base else amount)


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        ("flops", "40"), ("flops", "20 parsecs"), ("flops", "20ms"), ("flops", ""), ("flops", "M"), ("flops", "1e6"),
        ("file_bytes", "500"), ("file_bytes", "500k"), ("latency_ms", "3"), ("latency_ms", "3 %%"),
    ],
)  # fmt: skip
def test_unreadable_limits_are_refused_with_an_example(figure, text):
    with pytest.raises(StudyError, match=f"{KINDS[figure].option} '{text}' is not understood.*{KINDS[figure].example}"):
        Limit.parse(figure, text)


@pytest.mark.parametrize("text", ["0%", "0M", "-20M", "-40%", "0.0M"])
def test_a_limit_is_above_zero(text):
    with pytest.raises(StudyError, match="--max-flops must be above 0 and finite, it is"):
        Limit.parse("flops", text)


@given(
    st.sampled_from(sorted(KINDS)),
    st.floats(1e-3, 1e12) | st.integers(1, 10**12).map(float),
    st.booleans(),
)
def test_a_printed_limit_is_read_again(figure, amount, of_base):
    limit = Limit(figure, amount, of_base)
    again = Limit.parse(figure, str(limit))
    assert again.of_base == of_base
    assert again.amount == pytest.approx(amount, rel=1e-9)


def test_drops_are_points():
    assert parse_drop("0.5pp") == pytest.approx(0.005)
    assert parse_drop(" 2 PP") == pytest.approx(0.02)
    assert parse_drop("0pp") == 0.0
    assert drop_text(parse_drop("0.25pp")) == "0.25pp"
    for text in ("0.5", "0.5%", "pp", "", "half a point", "1 p p p"):
        with pytest.raises(StudyError, match=f"--max-drop '{text}' is not understood.*0.5pp"):
            parse_drop(text)


def test_gamma_is_the_default_only_where_nothing_else_is_asked_for():
    nothing = {"gamma_of": "params", "limits": (), "max_drop": None}
    assert asked() == {**nothing, "gamma": DEFAULT_GAMMA}
    assert asked(gamma=0.5) == {**nothing, "gamma": 0.5}
    assert asked(max_drop="1pp") == {**nothing, "gamma": None, "max_drop": 0.01}
    both = asked(gamma=0.2, max_flops="40%", max_size="1MB", max_latency="3ms")
    assert both["gamma"] == 0.2
    assert both["limits"] == (Limit("flops", 0.4, True), Limit("file_bytes", 1e6), Limit("latency_ms", 3.0))
