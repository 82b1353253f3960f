"""`automc compress --scheme STUDY:3`: what is said before and after, and what is refused."""

from __future__ import annotations

import json

from study_tools import RECIPE, create, run

QUICK = ("--data", "digits", "--device", "cpu", "--precision", "float32", "--unit-epochs", "0.05", "--fraction", "0.2")


def test_a_scheme_of_a_study_on_another_model(automc, full_home, tmp_path):
    study = run(create(full_home, "2steps", recipe=RECIPE))
    trial = study.trials[-1]
    assert automc("train", "resnet8-b", *QUICK[:6], "--epochs", "1", "--out", tmp_path / "other.am").exit_code == 0
    words = ("compress", tmp_path / "other.am", *QUICK, "--out", tmp_path / "small.am", "--format", "json")

    done = automc(*words, "--scheme", "digits-digits-1:2")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["scheme"] == trial.scheme.id
    assert record["forecast_removed"] == trial.pr
    assert record["forecast_validation_experience"] is not None
    assert f"Scheme of digits-digits-1/2, {full_home / 'digits.am'} on digits: {trial.scheme.id}" in done.stderr
    assert f"Forecast: {trial.pr:.1%} removed; validation accuracy " in done.stderr
    assert "as in the study or" in done.stderr
    assert "Another recipe" not in done.stderr

    found = automc("kg", "query", "--saved", "replays", "--format", "json")
    (row,) = json.loads(found.stdout)
    assert (row["study"], row["scheme"]) == ("digits-digits-1", trial.scheme.id)
    assert row["measured"] == record["validation_after"]
    assert row["expected_as_in_study"] == record["forecast_validation_study"]

    small = (tmp_path / "small.am").read_bytes()
    for scheme, said in (
        ("digits-digit-1:2", "Did you mean digits-digits-1?"),
        ("digits-digits-1:7", "has no trial 7. Its trials are 1 to 2"),
    ):
        refused = automc(*words, "--scheme", scheme)
        assert (refused.exit_code, refused.stdout) == (2, ""), refused.output
        assert said in refused.stderr
    assert (tmp_path / "small.am").read_bytes() == small
