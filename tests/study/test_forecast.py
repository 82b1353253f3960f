"""Forecasts: planned iterations times measured seconds, corrected by what steps took."""

from __future__ import annotations

from itertools import pairwise

import pytest

from automc import methods
from automc.study.forecast import Forecast
from automc.training.recipe import Recipe
from kg.schema import Scheme, Strategy

RECIPE = Recipe(unit_epochs=2, batch=100)
NS = Strategy.parse("NS[HP1=0.5,HP2=0.2,HP6=0.9]")
SFP = Strategy.parse("SFP[HP2=0.2,HP9=0.5,HP10=1]")


def made() -> Forecast:
    return Forecast({"NS": 0.1, "SFP": 0.3}, overhead=2.0, recipe=RECIPE, n_train=1000)


def test_iterations_times_seconds_and_the_overhead():
    for strategy, each in ((NS, 0.1), (SFP, 0.3)):
        iterations = methods.get(strategy.method).iterations(strategy, RECIPE, 1000)
        assert made().step(strategy) == pytest.approx(2.0 + each * iterations)
    more = methods.get("NS").iterations(NS, RECIPE, 5000)
    assert made().step(NS, 5000) == pytest.approx(2.0 + 0.1 * more)
    assert made().mean([NS, SFP]) == pytest.approx((made().step(NS) + made().step(SFP)) / 2)


def test_only_the_last_step_of_a_scheme_counts():
    assert made().seconds(Scheme((SFP, NS))) == made().step(NS)


def test_a_method_without_a_probe_takes_the_mean():
    lfb = Strategy.parse("LFB[HP1=0.5,HP2=0.2,HP15=1,HP16=CE]")
    iterations = methods.get("LFB").iterations(lfb, RECIPE, 1000)
    assert made().step(lfb) == pytest.approx(2.0 + 0.2 * iterations)


def test_learns_by_the_median_of_what_steps_took():
    forecast = made()
    planned = forecast.step(NS)
    for factor in (3.0, 3.0, 100.0):
        forecast.observe(Scheme((NS,)), factor * planned)
    assert forecast.step(NS) == pytest.approx(3 * planned)
    assert forecast.step(SFP) == pytest.approx(3 * made().step(SFP))


def test_old_observations_are_forgotten():
    forecast = made()
    planned = forecast.step(NS)
    for factor in [9.0] * 30 + [2.0] * 20:
        forecast.observe(Scheme((NS,)), factor * planned)
    assert forecast.step(NS) == pytest.approx(2 * planned)


def test_timeout_is_five_times_the_forecast_at_least_a_minute_or_what_is_given():
    forecast, scheme = made(), Scheme((NS,))
    assert forecast.timeout(scheme, None) == 60.0
    forecast.observe(scheme, 100.0)
    assert forecast.timeout(scheme, None) == pytest.approx(500.0)
    assert forecast.timeout(scheme, 7.5) == 7.5


def test_a_timeout_counts_as_at_least_as_long_and_lets_its_method_run_longer():
    forecast, scheme, other = made(), Scheme((NS,)), Scheme((SFP,))
    planned = forecast.step(NS)
    limits = [forecast.timeout(scheme, None)]
    for _ in range(5):
        forecast.observe(scheme, limits[-1], "timeout")
        limits.append(forecast.timeout(scheme, None))
    assert all(later > before for before, later in pairwise(limits[:4]))
    assert limits[1] >= 2 * limits[0], "the next step of the method may take at least twice as long"
    assert forecast.step(NS) > planned
    # It ends: what hangs for ever costs a bounded multiple of the forecast.
    assert limits[-1] <= 8 * max(60.0, 5 * forecast.seconds(scheme))
    assert forecast.timeout(other, None) == max(60.0, 5 * forecast.seconds(other)), "another method waits no longer"
    assert forecast.timeout(scheme, 7.5) == 7.5


@pytest.mark.parametrize("status", ["crashed", "infeasible", "diverged", "out_of_memory"])
def test_other_failures_tell_no_time(status):
    forecast = made()
    forecast.observe(Scheme((NS,)), 0.001, status)
    assert forecast.step(NS) == made().step(NS)


def test_nothing_known_is_no_crash():
    nothing = Forecast({}, overhead=0.0, recipe=RECIPE, n_train=1000)
    assert nothing.step(NS) == 0.0
    nothing.observe(Scheme((NS,)), 3.0)
    assert nothing.mean([]) == 0.0
