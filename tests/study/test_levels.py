"""A study with levels: what is recorded says at which length it was measured, and nothing else is compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from inline import Inline
from study_tools import RECIPE, Interrupt, create, run, same
from typer.testing import CliRunner

from automc import knowledge
from automc.cli.main import app
from automc.report.why import text, why
from automc.study import Study
from automc.study.forecast import Forecast
from automc.study.protocol import highest
from automc.study.stored import load_trials
from automc.study.trial import Trial
from kg.schema import Scheme, Strategy

NS = Strategy.parse("NS[HP1=0.3,HP2=0.2,HP6=0.9]")


def test_a_study_with_levels(full_home: Path) -> None:
    """Stopped and resumed with other workers equals never stopping; every trial and record says its level."""
    asked = {"searcher": "eco", "recipe": replace(RECIPE, unit_epochs=0.6), "gamma": 0.04, "max_length": 2}
    reference = run(create(full_home, "16steps", workers=1, window=3, **asked)).trials
    (full_home / "cache").rename(full_home / "old-cache")
    study = create(full_home, "16steps", workers=3, window=3, **asked)
    with pytest.raises(KeyboardInterrupt):
        run(study, Interrupt(14))
    workers: list[Inline] = []
    result = run(Study.open(study.spec.id, workers=2), workers=workers)
    assert same(result.trials) == same(reference)
    assert len(workers[0].executed) == 2
    levels = {t.scheme.level for t in result.trials}
    assert levels == {1, 2, 3}
    for t in result.trials:
        if t.scheme.level > 1:
            below = next(b for b in result.trials if b.scheme == t.scheme.before)
            assert (t.params, t.pr) == (below.params, below.pr)
            assert t.step_pr == below.step_pr, "against the step's input, not against the level below"
    assert load_trials(study.spec.id) == list(result.trials)
    top = max(t.scheme.level for t in result.trials if study.protocol.feasible(t))
    assert {t.scheme.level for t in result.front} == {top}
    assert result.final is not None
    _check_graph(study.spec.id, result.trials)
    _check_what_is_shown(study.spec.id, result.trials)


def _check_graph(study: str, trials: tuple[Trial, ...]) -> None:
    with knowledge.graph() as store:
        rows = store.read(
            "MATCH (t:Trial)-[:IN_STUDY]->(:Study {id: $id}), (t)-[:OF_SCHEME]->(s:Scheme) "
            "RETURN t.ordinal AS ordinal, t.level AS level, s.id AS scheme ORDER BY ordinal",
            {"id": study},
        ).rows
        taught = store.read(
            "MATCH (e:Experience)-[:OBSERVED_IN]->(:Study {id: $id}) RETURN e.details AS d", {"id": study}
        ).column("d")
    assert rows == [(t.ordinal, t.scheme.level, t.scheme.full.id) for t in trials]
    ok = [t for t in trials if t.status == "ok" and t.scheme.level == 1]
    assert len(taught) == len(ok), "what is trained on teaches nothing about steps"
    assert all('"unit_epochs": "0.2"' in details for details in taught)


def _check_what_is_shown(study: str, trials: tuple[Trial, ...]) -> None:
    last = next(t for t in trials if t.scheme.level == 3)
    account = why(study, str(last.ordinal))
    assert [step["trial"] for step in account["steps"]][-1] == last.ordinal
    assert "trained on" in account["steps"][-1]["how"]
    assert "trained 3/3 of its length" in text(account)
    shown = CliRunner().invoke(app, ["show", study, "--trials", "--format", "csv"]).output
    assert "@3/3" in shown
    assert ",level" in shown.splitlines()[0]
    everything = CliRunner().invoke(app, ["show", study, "--trials"]).output.replace("\n", " ")
    assert "of its length" in " ".join(everything.split())


def test_a_front_is_of_one_level() -> None:
    trials = [
        Trial(n, n, Scheme((NS,), level), "ok", accuracy=a, params=8, flops=8) for n, level, a in
        [(1, 1, 0.9), (2, 2, 0.5), (3, 2, 0.6)]
    ]  # fmt: skip
    assert [t.ordinal for t in highest(trials)] == [2, 3]
    assert highest(trials[:1]) == trials[:1]
    assert highest([]) == []


def test_a_third_is_forecast_as_a_third() -> None:
    forecast = Forecast({"NS": 0.1}, overhead=0.0, recipe=replace(RECIPE, unit_epochs=30.0), n_train=1000)
    whole = forecast.seconds(Scheme((NS,)))
    assert [forecast.seconds(Scheme((NS,), level)) for level in (1, 2, 3)] == pytest.approx([whole / 3] * 3)
    forecast.observe(Scheme((NS,), 2), whole / 3)
    assert forecast.seconds(Scheme((NS,))) == pytest.approx(whole)
