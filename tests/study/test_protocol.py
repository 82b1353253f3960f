"""Which trial a study recommends, by the definitions of both protocols, on trials made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automc.execution.outcome import StepOutcome
from automc.study.limits import Limit
from automc.study.protocol import LEAST_AIM, Protocol
from automc.study.trial import Figures, Trial
from kg.schema import Scheme

BASE = Figures(accuracy=0.8, params=1000, flops=5_000_000)
FIGURES = {"accuracy": 0.8, "params": 1000, "flops": 5_000_000, "file_bytes": 8000, "latency_ms": 4.0}
STEP = Scheme.parse("NS[HP1=0.1,HP2=0.2]")
LIMITS = {
    "flops": Limit("flops", 0.5, of_base=True),
    "file_bytes": Limit("file_bytes", 5000),
    "latency_ms": Limit("latency_ms", 3.0),
}


def protocol(gamma: float | None = None, *limited: str, drop: float | None = None, images: int = 400) -> Protocol:
    return Protocol(gamma, tuple(LIMITS[name] for name in limited), drop, FIGURES, images)


def trial(ordinal: int, accuracy: float, params: int, status: str = "ok", **more: Any) -> Trial:
    """A trial with FLOPs in proportion to its parameters unless `more` says otherwise."""
    outcome = StepOutcome(status, "no")
    if status == "ok":
        flops = more.pop("flops", 5000 * params)
        outcome = StepOutcome(status, accuracy=accuracy, params=params, flops=flops, reached=True, seconds=1.0)
    return replace(Trial.of(ordinal, 1, Scheme.parse(f"NS[HP2=0.{ordinal}]"), outcome, BASE, BASE), **more)


trials = st.lists(
    st.tuples(
        st.integers(0, 8), st.integers(1, 11), st.sampled_from(["ok", "ok", "ok", "crashed"]), st.integers(1, 5),
        st.integers(1, 8), st.none() | st.integers(1, 5),
    ),
    max_size=12,
).map(
    lambda drawn: [
        trial(i, a / 10, 100 * p, status, flops=10**6 * f, file_bytes=1000 * size, latency_ms=ms, latency_iqr_ms=0.2)
        for i, (a, p, status, f, size, ms) in enumerate(drawn, 1)
    ]
)  # fmt: skip


@given(trials, st.sampled_from([0.1, 0.3, 0.5, 0.84]))
def test_front_is_what_nothing_beats(made, gamma):
    able = [t for t in made if t.status == "ok" and t.params <= round(1000 * (1 - gamma))]

    def beaten(t: Trial) -> bool:
        return any(
            o.accuracy >= t.accuracy and o.params <= t.params and (o.accuracy, o.params) != (t.accuracy, t.params)
            for o in able
        )

    expected = {(t.accuracy, t.params) for t in able if not beaten(t)}
    found = protocol(gamma).front(made)
    assert [(t.accuracy, t.params) for t in found] == sorted(expected, key=lambda point: -point[1])
    # Of equal points, the first one measured.
    for t in found:
        alike = [o for o in able if (o.accuracy, o.params) == (t.accuracy, t.params)]
        assert t is min(alike, key=lambda o: o.ordinal)


@given(
    trials,
    st.none() | st.sampled_from([0.1, 0.3, 0.5]),
    st.sets(st.sampled_from(sorted(LIMITS))),
    st.none() | st.sampled_from([0.0, 0.1, 0.35]),
)
def test_the_choice_is_what_a_plain_look_at_all_trials_chooses(made, gamma, limited, drop):
    if gamma is None and not limited and drop is None:
        gamma = 0.3

    def able(t: Trial) -> bool:
        if t.status != "ok":
            return False
        allowed = [t.params <= 1000 * (1 - gamma)] if gamma is not None else []
        allowed += [t.flops <= 2_500_000] if "flops" in limited else []
        allowed += [t.file_bytes <= 5000] if "file_bytes" in limited else []
        # Half the spread on top: 2.9 of 3 is met by luck only.
        allowed += [t.latency_ms is not None and t.latency_ms + 0.1 <= 3] if "latency_ms" in limited else []
        allowed += [round(10 * t.accuracy) >= round(10 * (0.8 - drop))] if drop in (0.0, 0.1) else []
        allowed += [t.accuracy >= 0.8 - drop] if drop == 0.35 else []
        allowed += [t.params < 1000] if gamma is None and not limited else []
        return all(allowed)

    asked = protocol(gamma, *sorted(limited), drop=drop)
    met = [t for t in made if able(t)]
    choice = asked.recommended(made)
    assert {id(t) for t in made if asked.feasible(t)} == {id(t) for t in met}
    if not met:
        assert choice is None
        nearest = asked.nearest(made)
        assert (nearest is None) == all(t.status != "ok" for t in made)
        assert nearest is None or asked.misses(nearest)
        return
    assert choice.trial in met
    if drop is not None:
        expected = min(met, key=lambda t: (t.params, -t.accuracy, t.ordinal))
    else:
        expected = min(met, key=lambda t: (-t.accuracy, t.params, t.ordinal))
    assert choice.trial is expected
    assert asked.gamma_alone or asked.asked in choice.why


def test_target_forgives_the_rounding_to_whole_parameters():
    # 0.3 of 269,722 parameters is no whole number.
    base = Figures(0.9, 269_722, 1)
    outcome = StepOutcome("ok", accuracy=0.9, params=269_722 - 80_916, flops=1)
    assert len(protocol(0.3).front([Trial.of(1, 1, STEP, outcome, base, base)])) == 1
    outcome = StepOutcome("ok", accuracy=0.9, params=269_722 - 80_000, flops=1)
    assert not protocol(0.3).front([Trial.of(1, 1, STEP, outcome, base, base)])


def test_recommended_is_the_most_accurate_at_the_limits():
    made = [
        trial(1, 0.90, 700),
        trial(2, 0.89, 500),
        trial(3, 0.90, 690),
        trial(4, 0.99, 900),
        trial(5, 0.95, 650, "crashed"),
    ]
    # Of two equal ones the smaller; 4 is too large.
    choice = protocol(0.3).recommended(made)
    assert choice.trial is made[2]
    assert choice.why == "the most accurate scheme that removes at least 30% of the parameters"


def test_the_smallest_within_a_guaranteed_accuracy():
    made = [trial(1, 0.80, 700), trial(2, 0.795, 500), trial(3, 0.79, 300), trial(4, 0.795, 500)]
    choice = protocol(drop=0.005).recommended(made)
    assert choice.trial is made[1]
    assert "at most 0.5pp of validation accuracy lost (80.00% -> 79.50%, n = 400)" in choice.why
    assert protocol(drop=0.0).recommended(made).trial is made[0]
    # What is not smaller is no answer, also where it loses nothing.
    assert protocol(drop=0.005).recommended([trial(1, 0.8, 1000)]) is None


def test_nothing_to_recommend():
    assert protocol(0.3).recommended([]) is None
    assert protocol(0.3).recommended([trial(1, 0.9, 800), trial(2, 0, 0, "crashed")]) is None
    assert protocol(0.3).nearest([trial(1, 0.9, 800), trial(2, 0.5, 750), trial(3, 0, 0, "crashed")]).ordinal == 2
    assert protocol(0.3).nearest([trial(3, 0, 0, "crashed")]) is None
    assert protocol(0.3).nearest_text([]) == ""


def test_the_nearest_miss_says_what_it_misses_and_by_how_much():
    asked = protocol(0.3, "flops", "latency_ms", drop=0.01)
    close = trial(1, 0.77, 680, flops=2_600_000)
    made = [close, trial(2, 0.8, 900), trial(3, 0.4, 300)]
    assert asked.nearest(made) is close
    head, misses = asked.nearest_text(made).splitlines()
    assert head.startswith("Nearest: trial 1 removed 32.00% at 77.00%: NS: remove ")
    assert misses == (
        "It misses: FLOPs 2.600 MFLOPs, 4.0% over the limit of 2.500 MFLOPs; "
        "3.00pp of validation accuracy lost, 2.00pp more than allowed."
    )
    assert "10.00% of the parameters removed, 20.00pp short of 30%" in asked.nearest_text([made[1]])
    # A latency is only missed where it was measured, or where nothing else is missed.
    late = trial(4, 0.8, 500, latency_ms=2.95, latency_iqr_ms=0.2)
    assert [m.text for m in asked.misses(late)] == [
        "latency 2.950 ms (with half of its spread 3.050 ms), 1.7% over the limit of 3.000 ms"
    ]
    # A share is one of what the base model took at the same time.
    share = replace(asked, limits=(Limit("latency_ms", 0.75, of_base=True),))
    assert share.misses(late)
    assert not share.misses(replace(late, base_latency_ms=4.1))
    assert [m.text for m in asked.misses(trial(5, 0.8, 500))] == ["its latency was not measured"]


def test_searchers_aim_at_parameters():
    assert protocol(0.3).aim() == 0.3
    assert protocol(0.3).aim(reachable=0.1) == 0.3, "what the user says holds"
    assert protocol(drop=0.01).aim() == LEAST_AIM
    # Half of the FLOPs, 5000 of 8000 bytes, 3 of 4 ms.
    assert protocol(None, "flops", "latency_ms").aim() == pytest.approx(0.5)
    # Of the file's 8,000 bytes 4,000 are parameters, of which 1,000 may stay.
    assert protocol(None, "file_bytes").aim() == pytest.approx(0.75)
    assert protocol(None, "flops").aim(reachable=0.4) == pytest.approx(0.4)
    assert protocol(0.6, "flops").aim() == 0.6
    assert replace(protocol(), limits=(Limit("flops", 0.01, True),)).aim() == pytest.approx(0.84)
    loose = replace(protocol(), limits=(Limit("flops", 6e6),))
    assert loose.aim() == LEAST_AIM
    assert loose.loose == ["--max-flops 6M is looser than the model itself: 5.000 MFLOPs."]
    assert protocol(None, *LIMITS).loose == []
    assert protocol(drop=0.01).least_accuracy == pytest.approx(0.79)
    assert protocol(0.3).least_accuracy is None
