"""Trying each method once: what cannot work, and how long iterations take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from steps import A, trim

from automc.execution import probe as probing
from automc.execution.jobs import local_workers, probe, probe_with
from automc.execution.setup import Bench, Setup


def test_a_probe_waits_for_the_device_before_it_reads_the_clock(
    bench: Bench, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(probing, "synchronise", waited.append)
    found = probing.probe_method(bench, probing.Probe(A))
    assert found.status == "ok"
    assert len(waited) >= probing.ITERATIONS + 1, "each iteration, and the evaluation that is timed"
    assert set(waited) == {bench.device}


def test_a_probe_finds_what_cannot_work_and_how_long_iterations_take(setup: Setup, log: Path) -> None:
    tokens = {"Trim": trim(0.04), "Refuse": trim(0.04, HP8="refuse"), "Break": trim(0.04, HP8="break")}
    reports = [probe(setup, tokens)]
    with local_workers(setup, 1) as workers:
        reports.append(probe_with(workers, tokens))
    for report in reports:
        assert report.reasons["Trim"] is None
        assert report.infeasible["Refuse"].endswith(": there is no batch norm here")
        assert report.infeasible["Break"].startswith("crashed: ValueError")
        assert list(report.seconds_per_iteration) == ["Trim"]
        assert 1e-4 < report.seconds_per_iteration["Trim"] < 5.0
        assert 1e-3 < report.overhead_seconds < 20.0
    assert not list(setup.cache.glob("outcomes/*/*.json"))
    assert not list((setup.cache / "weights").iterdir())
