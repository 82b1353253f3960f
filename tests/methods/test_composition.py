"""Steps in any order: pairs of the registered methods, and whole schemes; slowly every pair, on many networks."""

from __future__ import annotations

import pytest
from composing import (
    MODELS,
    NAMES,
    SHRINKING,
    TINY,
    Bench,
    Composed,
    broken_size,
    pairs,
    random_schemes,
    refused,
    unclear,
)

from automc.methods import StepReport
from kg.schema import Scheme

PAIRS = pairs()
SCHEMES = random_schemes(4, seed=0)


def names(scheme: Scheme) -> str:
    return "-".join(step.method for step in scheme.steps)


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest) -> Bench:
    """The model of this name; all its tests run together."""
    return Bench(request.param)


def expect_promises(done: Composed) -> None:
    """A smaller model, or a refusal that a person understands; no third."""
    assert not done.broken, done
    assert done.status in ("ok", "infeasible"), done
    assert done.reached or done.reason, done
    assert done.params_after <= done.params_before


def test_all_pairs_are_tried() -> None:
    assert len(PAIRS) == len(NAMES) ** 2
    at_once = [param.values for param in ON_BOTH if not param.marks]
    assert {scheme for _, scheme in (param.values for param in ON_BOTH)} == set(PAIRS)
    assert {net for net, _ in at_once} == set(TINY)
    # Each method comes first, and second; methods of different kinds meet.
    for position in (0, 1):
        assert {scheme.steps[position].method for _, scheme in at_once} == set(NAMES)
    assert {names(scheme) for _, scheme in at_once} >= {
        "NS-LFB", "LFB-NS", "SFP-SFP", "LFB-UQ", "UQ-LFB", "LMA-UQ",
    }  # fmt: skip
    assert all(len(scheme.steps) == 5 for scheme in SCHEMES)


def test_a_broken_promise_is_seen() -> None:
    kept = StepReport(100, 78, 80, True, details={"unit": 3})
    assert not list(broken_size(100, 78, 80, kept))
    assert list(broken_size(100, 81, 80, kept))
    assert list(broken_size(100, 77, 80, kept))
    missed = StepReport(100, 90, 80, False, "rank 1 everywhere leaves 90 parameters", {"unit": 3})
    assert not list(broken_size(100, 90, 80, missed))
    assert list(broken_size(100, 101, 80, missed))
    assert list(broken_size(100, 90, 80, StepReport(100, 90, 80, False, "")))
    assert list(unclear("NS: 'NoneType' object has no attribute 'weight' of it"))
    assert not list(unclear("NS: no removable channel of the model has a batch norm to rank it by."))


KINDS = ("NS", "LFB", "LMA", "UQ")
"""One method of each kind: channels, factors, activations, bits."""


def at_once(i: int, scheme: Scheme) -> bool:
    """Whether a pair is tried on network i each time: it then costs as much for a new method, however many there are.

    Kinds meet each other, and each method comes behind itself.
    """
    first, second = (step.method for step in scheme.steps)
    a, b = NAMES.index(first), NAMES.index(second)
    return (a + b // 2) % len(TINY) == i and (a == b or {first, second} <= set(KINDS))


ON_BOTH = [
    pytest.param(net, scheme, id=f"{names(scheme)}-{net}", marks=[] if at_once(i, scheme) else [pytest.mark.slow])
    for i, net in enumerate(TINY)
    for scheme in PAIRS
]
"""Every pair on both networks."""


@pytest.mark.parametrize(("bench", "scheme"), ON_BOTH, indirect=["bench"])
def test_every_pair(bench: Bench, scheme: Scheme) -> None:
    done = bench.run(scheme)
    expect_promises(done)
    shrinking = sum(step.method in SHRINKING for step in scheme.steps)
    if refused(scheme):
        assert done.status == "infeasible", done
        assert "layers are quantised" in done.reason
        return
    assert done.status == "ok", done
    assert done.reached, done
    assert done.params_after < (1.02 - 0.2 * shrinking) * done.params_before


@pytest.mark.parametrize(
    ("bench", "scheme"),
    [pytest.param(list(TINY)[n % len(TINY)], scheme, id=names(scheme)) for n, scheme in enumerate(SCHEMES)],
    indirect=["bench"],
)
def test_random_schemes(bench: Bench, scheme: Scheme) -> None:
    done = bench.run(scheme)
    expect_promises(done)
    assert done.status == "ok", done


@pytest.mark.slow
@pytest.mark.parametrize("bench", MODELS, indirect=True)
@pytest.mark.parametrize("scheme", [*PAIRS, *random_schemes(10, seed=1)], ids=names)
def test_every_model(bench: Bench, scheme: Scheme) -> None:
    done = bench.run(scheme)
    expect_promises(done)
    if bench.loaded.source.name.endswith("transformer") and "NS" in {step.method for step in scheme.steps}:
        assert "no batch norm" in done.reason
        return
    if any(step.method in SHRINKING for step in scheme.steps[: 1 if refused(scheme) else None]):
        assert done.params_after < done.params_before, done
