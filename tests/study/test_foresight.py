"""A study that predicts latencies: from a calibration with recorded times, on a real small network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_tools import Interrupt, create, run, stored

from automc.datasets import DataRef
from automc.errors import StudyError
from automc.execution.setup import Bench
from automc.latency import calibration
from automc.latency.calibration import Calibration
from automc.latency.kernels import torch_kernels
from automc.latency.sampling import drawn
from automc.models.measure import one_image
from automc.search.base import Space
from automc.search.pace import AIM, Pace
from automc.study import Listener, Study
from automc.study.foresight import COUNTED, in_words, open_foresight, paced
from automc.study.latency import Subject, calibration_command, folder, place
from automc.study.limits import Limit
from automc.study.space import StrategySpace
from automc.study.task import open_subject

LIMITS = (Limit("latency_ms", 0.8, of_base=True),)


class Heard(Listener):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def calibrate(bench: Bench, **changed: Any) -> None:
    """Keep a calibration of the study's model on a machine whose times follow from the work alone."""
    images = one_image(bench.model, bench.example)
    kernels = torch_kernels(bench.model, images)
    sample = drawn(kernels, share=0.1)
    times = [1e-6 + 1e-9 * k.macs + 1e-9 * (k.read + k.written) for k in sample]
    where = {**place("torch", 1), **changed}
    Calibration("digits", calibration.identity(kernels), where, sample, times).save(folder())


def test_a_study_with_a_calibration_aims_at_the_latency_and_records_predictions(full_home: Path) -> None:
    study = create(full_home, "3steps", gamma=None, limits=LIMITS)
    calibrate(study.setup.open())
    heard = Heard()
    run(study, heard)
    assert any("Predicted to meet --max-latency" in text for text in heard.said)
    trials = [t for t in stored(study) if t.status == "ok"]
    assert trials
    assert all(t.pace is not None and 0 < t.pace < 1.2 for t in trials)
    # The first trials go straight to the limit, as it is predicted: not to a fifth of the parameters.
    straight = [t.pace for t in trials if len(t.scheme) == 1 and not t.grid]
    assert straight
    assert all(abs(pace - AIM * 0.8) < 0.1 for pace in straight if pace is not None)


def test_a_study_with_a_limit_on_flops_goes_straight_to_it(full_home: Path) -> None:
    study = create(full_home, "4steps", gamma=None, limits=(Limit("flops", 0.6, of_base=True),))
    heard = Heard()
    run(study, heard)
    assert any("Predicted to meet --max-flops" in text for text in heard.said)
    trials = [t for t in stored(study) if t.status == "ok"]
    assert all(t.pace is None for t in trials), "of latency nothing is predicted"
    # Each method once, first: as near as steps without training tell.
    straight = {t.scheme.steps[0].method: 1 - (t.fr or 0.0) for t in sorted(trials, key=lambda t: t.ordinal)[:2]}
    assert straight.keys() == {"NS", "LeGR"}
    assert all(abs(share - COUNTED["aim"] * 0.6) < 0.03 for share in straight.values()), straight


def test_where_a_limit_on_flops_is_out_of_reach_nothing_is_executed_for_it(full_home: Path) -> None:
    study = create(full_home, "4steps", gamma=None, limits=(Limit("flops", 0.001, of_base=True),))
    heard = Heard()
    with pytest.raises(StudyError, match=r"--max-flops 0.1% is out of reach, .* of the model's FLOPs: .*NS \d") as told:
        run(study, heard)
    assert "No single step is predicted to meet --max-flops." in heard.said
    assert "%; and 5 steps do not come near. Ask for less." in str(told.value)
    assert stored(study) == []


def test_without_a_calibration_or_with_a_stale_one_it_says_so_and_predicts_nothing(full_home: Path) -> None:
    study = create(full_home, "1steps", gamma=None, limits=LIMITS)
    bench, heard = study.setup.open(), Heard()
    assert open_foresight(study.spec, bench.model, bench.example, heard.say) is None
    assert "automc latency calibrate" in heard.said[-1]
    calibrate(bench, threads=64)
    assert open_foresight(study.spec, bench.model, bench.example, heard.say) is None
    assert "threads was 64" in heard.said[-1]
    unlimited = create(full_home, "1steps")
    assert open_foresight(unlimited.spec, bench.model, bench.example, heard.say) is None
    assert len(heard.said) == 2


def test_a_study_says_which_methods_meet_a_limit_and_which_come_near() -> None:
    left, three = np.linspace(0.1, 1.0, 91), np.arange(3)
    curves = np.stack([left, 0.5 + 0.5 * left, np.ones(91)])

    def said(limit: float) -> str:
        return in_words(Space(
            ("A[HP2=0.1]", "B[HP2=0.1]", "C[HP2=0.1]"), ("A", "B", "C"), three, np.zeros((3, 32)), np.full(3, 0.1),
            np.ones(3), np.ones(3, dtype=bool), np.zeros(7), pace=Pace(left, curves, limit),
        ))  # fmt: skip

    meets = "Predicted to meet --max-latency: one step that removes of the parameters with"
    assert said(0.8) == f"{meets} A 24%, B 48%; none with C."
    assert said(0.52) == f"{meets} A 51%; to come within 10%: B 90%; none with C."
    none = "No single step is predicted to meet --max-latency"
    assert said(0.095) == f"{none}; to come within 10%: A 90%; none with B, C."
    assert said(0.05) == f"{none}."


def test_where_no_single_step_comes_near_a_search_aims_at_the_smallest(full_home: Path) -> None:
    study = create(full_home, "1steps", gamma=None, limits=LIMITS)
    space = StrategySpace(study.vectors, study.subject.task(), {}, study.spec.recipe, 100)
    assert space.enough == {}

    def aims(time: float) -> tuple[float, float]:
        """With methods that all take so much of M's time with a fifth of its parameters."""
        curves = {name: [(1.0, 1.0), (0.2, time)] for name in space.space.methods}
        found = paced(space, "latency_ms", curves, replace(study.protocol, base={"latency_ms": 2.0})).enough
        return found["latency_ms"], study.protocol.aim(0.85, found)

    assert aims(0.5)[0] == pytest.approx(0.8 * (1 - AIM * 0.8) / 0.5, abs=0.01)
    assert aims(0.79) == (pytest.approx(0.8, abs=0.01), pytest.approx(0.8, abs=0.01))
    assert aims(0.95) == (1.0, 0.85)


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["latency_ms", "flops"])
def test_stopped_and_resumed_it_predicts_and_asks_the_same(full_home: Path, figure: str) -> None:
    def created(budget: str) -> Study:
        study = create(full_home, budget, gamma=None, limits=(Limit(figure, 0.8, of_base=True),))
        calibrate(study.setup.open())
        return study

    study = created("4steps")
    with pytest.raises(KeyboardInterrupt):
        run(study, Interrupt(2))
    resumed = run(Study.open(study.spec.id)).trials
    assert [t.scheme for t in resumed] == [t.scheme for t in run(created("4steps")).trials]
    assert len(resumed) == 4
    predicted = figure == "latency_ms"
    assert all((t.pace is not None) == (predicted and t.status == "ok") for t in resumed)
    whole = {t.scheme: t.pace for t in stored(study)}
    assert {t.scheme: t.pace for t in resumed} == whole


def test_the_command_that_it_asks_for_calibrates_the_study_s_own_model(full_home: Path) -> None:
    command = calibration_command("resnet8", "digits", None, "onnx")
    assert command == "automc latency calibrate resnet8 --data digits --runtime onnx"
    assert calibration_command("my net.am", "digits", (8, 20), "torch") == "automc latency calibrate 'my net.am'"
    assert calibration_command("a.py:b", "photos", (8, 20), "torch").endswith("a.py:b --data photos --size 8x20")
    study = open_subject("resnet8", DataRef("digits"), device="cpu")
    model = study.model.eval().to(memory_format=study.dataset.layout)
    images = one_image(model, study.example).to(memory_format=study.dataset.layout)
    ours = Subject.open("resnet8", None, None, 1, DataRef("digits"))
    assert ours.images.shape == images.shape == (1, 1, 8, 8)
    kernels = torch_kernels(ours.model, ours.images)
    assert calibration.identity(kernels) == calibration.identity(torch_kernels(model, images))
