"""The final run of a scheme: on all images but those of validation, saved and tested."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from steps import RECIPE, A, C, plain_accuracy, trim

from automc.execution.jobs import Final, accuracy_on_test, final, run_job
from automc.execution.monitor import Monitor
from automc.execution.setup import Setup
from automc.models import structure
from automc.training.recipe import Recipe
from kg.schema import Scheme


def test_the_final_run_uses_all_but_validation_and_saves_what_it_measured(setup: Setup, tmp_path: Path) -> None:
    halved = replace(setup, recipe=replace(RECIPE, fraction=0.25))
    bench = halved.open()
    seen: list[tuple[int, int]] = []
    scheme = Scheme((A, C))
    out = tmp_path / "final.am"
    outcome = final(halved, scheme, out, {"study": "s-1"}, lambda done, of: seen.append((done, of)))
    # 1,438 training images, 359 of them validation: 8.43 batches of 128; HP1 is 0.4 and 0.6.
    assert outcome.iterations == 3 + 5
    assert seen == [(done, 8) for done in range(1, 9)]
    assert outcome.status == "ok"
    loaded = structure.read(out)
    held = bench.splits.validation
    assert outcome.accuracy == pytest.approx(plain_accuracy(loaded.model, bench, held.x, held.y), abs=1e-6)
    assert sum(p.numel() for p in loaded.model.parameters()) == outcome.params
    about = loaded.metadata
    assert about["study"] == "s-1"
    assert Scheme.parse(about["scheme"]) == scheme
    assert Recipe(**about["recipe"]) == RECIPE
    figures = {"accuracy": outcome.accuracy, "params": outcome.params, "flops": outcome.flops}
    assert about["figures"] == {**figures, "bits": 32 * (outcome.params or 0)}
    test = bench.splits.test
    assert test is not None
    tested = accuracy_on_test(halved, out)
    assert tested == pytest.approx(plain_accuracy(loaded.model, bench, test.x, test.y), abs=1e-6)
    json.dumps(about)


def test_a_final_run_that_fails_writes_nothing(setup: Setup, tmp_path: Path) -> None:
    out = tmp_path / "final.am"
    outcome = run_job(setup.open(), Final(Scheme((A, trim(0.1, HP8="refuse"))), out), Monitor())
    assert (outcome.status, out.exists()) == ("infeasible", False)
    assert outcome.reason.startswith("step 2, ")
    assert outcome.reason.count("HP8=refuse") == 1
