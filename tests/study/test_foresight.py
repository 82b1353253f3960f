"""A study that predicts latencies: from a calibration with recorded times, on a real small network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from study_tools import create, run, stored

from automc.execution.setup import Bench
from automc.latency import calibration
from automc.latency.calibration import Calibration
from automc.latency.kernels import torch_kernels
from automc.latency.sampling import drawn
from automc.models.measure import one_image
from automc.search.pace import AIM
from automc.study import Listener
from automc.study.foresight import open_foresight
from automc.study.latency import folder, place
from automc.study.limits import Limit

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
