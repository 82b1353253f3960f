"""A study's figures as columns give the same front, and the same nearest trial, as its trials do."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from automc.study.limits import Limit
from automc.study.outline import Outline
from automc.study.protocol import Protocol
from automc.study.trial import Trial
from kg.schema import Scheme, Strategy

BASE = {"accuracy": 0.9, "params": 1000, "flops": 10_000, "file_bytes": 5000.0, "latency_ms": 2.0}


def made_up(n: int, seed: int, levels: tuple[int, ...] = (0,)) -> list[Trial]:
    """Trials with many ties, some without figures, some quantised, some of another level."""
    rng = np.random.default_rng(seed)
    found = []
    for ordinal in range(1, n + 1):
        scheme = Scheme((Strategy("NS", (("HP2", ordinal / 1000),)),)).at(int(rng.choice(levels)))
        pr, accuracy = float(rng.integers(1, 9)) / 10, float(rng.integers(70, 92)) / 100
        sr = pr if rng.random() < 0.8 else (1 + pr) / 2
        trial = Trial(
            ordinal, 1, scheme, "ok", accuracy=accuracy, params=round(1000 * (1 - pr)), pr=pr, sr=sr,
            flops=round(10_000 * (1 - pr)), bits=round(32_000 * (1 - sr)), file_bytes=int(rng.integers(2000, 5000)),
            latency_ms=None if rng.random() < 0.2 else float(rng.random() * 2), latency_iqr_ms=0.1, seconds=1.0,
        )  # fmt: skip
        found.append(trial if rng.random() < 0.9 else Trial(ordinal, 1, scheme, "crashed", "no memory", seconds=2.0))
    return found


ASKED = [
    {"gamma": 0.3}, {"gamma": 0.45, "gamma_of": "size"}, {"max_drop": 0.05}, {"gamma": 0.5, "max_drop": 0.01},
    {"limits": (Limit.parse("flops", "50%"),)}, {"gamma": 0.2, "limits": (Limit.parse("latency_ms", "30%"),)},
    {"gamma": 0.95}, {"gamma": 0.6, "max_drop": 0.0, "limits": (Limit.parse("file_bytes", "1kB"),)},
]  # fmt: skip


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: ", ".join(f"{k} {v}" for k, v in asked.items()))
def test_columns_give_the_front_and_what_is_nearest(asked):
    protocol = Protocol(
        **{"gamma": None, "limits": (), "max_drop": None, "base": BASE, "validation_images": 100} | asked
    )
    some = 0
    for seed, levels in product(range(6), ((0,), (0, 1, 2))):
        trials = made_up(60, seed, levels)
        outline = Outline.of(trials)
        assert [t.ordinal for t in outline.front(protocol)] == [t.ordinal for t in protocol.front(trials)]
        nearest, same = protocol.nearest(trials), outline.nearest(protocol)
        assert nearest is not None
        assert same is not None
        assert same.ordinal == nearest.ordinal
        some += bool(protocol.front(trials))
    assert (some == 0) == (asked.get("gamma") in (0.95, 0.6))


def test_a_study_without_a_measured_trial_has_no_front():
    protocol = Protocol(0.3, (), None, BASE, 100)
    for trials in ([], [replace(made_up(1, 0)[0], status="crashed", pr=None, sr=None, accuracy=None)]):
        outline = Outline.of(trials)
        assert len(outline) == len(trials)
        assert outline.front(protocol) == []
        assert outline.nearest(protocol) is None
