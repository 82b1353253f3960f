"""Targets that no scheme can meet are refused before anything is opened or learned."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
from study_tools import RECIPE, create, run

from automc.datasets import DataRef
from automc.errors import StudyError
from automc.study import Budget, Study
from automc.study import stored as studies
from automc.study import study as study_module
from automc.study.limits import Limit
from automc.study.reach import (
    grid_levels,
    insist_possible,
    insist_reachable,
    most_removed,
    rounded_down,
    unasked,
    wanted,
)
from automc.study.space import StrategySpace
from automc.study.spec import StudySpec
from automc.study.task import open_subject
from automc.training.recipe import Recipe

LEVELS = {"NS": (0.04, 0.12, 0.4), "LFB": (0.04, 0.2)}


def spec(gamma: float | None, length: int = 1, **more: object) -> StudySpec:
    options: dict[str, Any] = {"grid_only": True, **more}
    return StudySpec(
        "s", "m.am", DataRef("digits"), gamma, Budget.parse("1step"), Recipe(), max_length=length, **options
    )


@pytest.mark.parametrize(
    ("gamma", "length", "most"),
    [(0.41, 1, 0.4), (0.84, 2, 0.8), (0.5, 1, 0.4), (0.84, 1, 0.4), (0.84, 3, None), (0.4, 1, None), (0.8, 2, None)],
)
def test_the_most_that_is_named_can_be_asked_for(gamma, length, most):
    if most is None:
        insist_reachable(spec(gamma, length), LEVELS)
        return
    with pytest.raises(StudyError, match="allow longer schemes") as refused:
        insist_reachable(spec(gamma, length), LEVELS)
    named = float(re.search(r"at most ([\d.]+) of the parameters", str(refused.value))[1])
    assert named == pytest.approx(most)
    insist_reachable(spec(named, length), LEVELS)


def test_a_step_that_closes_gets_as_far_as_its_method():
    far = {"NS": 0.15, "LFB": 0.6}
    insist_reachable(spec(0.6, 1, grid_only=False), LEVELS, far=far)
    with pytest.raises(StudyError, match=r"at most 0\.6 of the parameters") as refused:
        insist_reachable(spec(0.7, 1, grid_only=False), LEVELS, far=far)
    assert "LFB 60%" in str(refused.value)
    with pytest.raises(StudyError, match=r"at most 0\.2 of the parameters"):
        insist_reachable(spec(0.6, 1), LEVELS, far=far)


def test_what_no_length_helps_is_not_told_to_be_longer():
    with pytest.raises(StudyError) as refused:
        insist_reachable(spec(0.3, 5, only=("NS",)), {"NS": (0.04, 0.12)}, far={"NS": 0.034})
    said = str(refused.value)
    assert "longer" not in said
    assert "at most 0 of the parameters can go with --max-length 5 --only NS. " in said
    assert "One step gets this far on this model: NS 3.4%." in said
    assert said.endswith("Ask for less, or leave out --only.")


@pytest.mark.parametrize(
    ("far", "length", "most"),
    [
        ({}, 5, 0.84), ({"NS": 0.0, "LFB": 0.0}, 5, 0.0), ({"NS": 0.15, "LFB": 0.0}, 1, 0.12),
        # What is left of a method's layers after one step it cannot remove in a second one, but for HP6.
        ({"NS": 0.15, "LFB": 0.0}, 5, 0.15 / 0.9), ({"NS": 0.15, "LFB": 0.25}, 5, 0.4 / 0.9),
        ({"NS": 0.85, "LFB": 0.03}, 2, 0.8),
    ],
)  # fmt: skip
def test_what_methods_remove_at_most_limits_schemes(far, length, most):
    assert most_removed(LEVELS, length, far) == pytest.approx(most)


def test_a_file_is_no_smaller_than_its_parameters():
    base = {"params": 1000.0, "file_bytes": 5000.0}
    assert wanted(spec(None, limits=(Limit("file_bytes", 0.5, True),)), base)[0] == pytest.approx(1 - 2500 / 4000)
    assert wanted(spec(0.7, limits=(Limit("file_bytes", 2500.0),)), base)[0] == 0.7
    tenth = (Limit("file_bytes", 0.1, True),)
    with pytest.raises(StudyError, match=r"--max-size 10%, at least 87\.50% of the bits removed, is out of"):
        insist_reachable(spec(None, limits=tenth, only=("NS", "LFB")), LEVELS, base)
    # Two bits a weight are a sixteenth; half a percent is less than these leave of 40% of the parameters.
    insist_reachable(spec(None, limits=tenth), LEVELS, base)
    with pytest.raises(StudyError, match=r"out of reach: .* UQ can store 2 bits of a weight, no fewer"):
        insist_reachable(spec(None, limits=(Limit("file_bytes", 0.005, True),)), LEVELS, base)
    insist_reachable(spec(None, max_drop=0.01), {}, base)


def test_rounding_never_names_more_than_there_is():
    assert rounded_down(0.4) == 0.4
    assert rounded_down(0.12349999) == 0.1234


def test_the_grids_of_the_six_methods_reach_the_largest_gamma():
    insist_reachable(spec(0.84, 5), grid_levels())
    insist_reachable(spec(0.84, 5), grid_levels(("LFB",)))
    assert grid_levels(("LFB",)).items() <= grid_levels().items()


def test_nothing_is_opened_for_an_impossible_wish(automc_home):
    """The model does not exist, which would be found first otherwise."""
    with pytest.raises(StudyError, match=r"--gamma 0\.5 is out of reach: at most 0\.4 .* --max-length 1\."):
        Study.create(
            "nowhere.am", DataRef("digits"), gamma=0.5, budget=Budget.parse("1step"), max_length=1, grid_only=True
        )
    assert not (automc_home / "graph").exists()


def test_the_papers_search_asks_for_its_six_methods_and_for_a_users(automc_home):
    names = ("LMA", "LeGR", "NS", "SFP", "HOS", "LFB", "TRP", "UQ", "Mine")
    reasons = unasked(spec(0.3), names)
    assert set(reasons) == {"TRP"}
    assert "--only TRP" in reasons["TRP"]
    assert not unasked(spec(0.3, only=("TRP",)), names)
    assert not unasked(spec(0.3, grid_only=False), names)


def test_a_study_that_cannot_go_anywhere_says_so_before_its_first_trial_and_when_resumed(full_home):
    """Of a time when nobody asked: the check at its creation is switched off."""
    with patch.object(study_module, "insist_reachable"), patch.object(study_module, "insist_possible"):
        study = create(full_home, "4steps", gamma=0.5, max_length=1, grid_only=True)
    for one in (study, Study.open(study.spec.id)):
        with pytest.raises(StudyError, match=r"--gamma 0.5 is out of reach: at most 0\.4 "):
            run(one)
    assert studies.load_trials(study.spec.id) == []


NET = """
from torch import nn

def build(classes=10, channels=1):
    grouped = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), grouped, nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes),
    )
"""
"""Only its small classifier can be factored: convolutions of one input channel are not."""


@pytest.fixture(scope="module")
def subject(tmp_path_factory, home):
    folder = tmp_path_factory.mktemp("net")
    (folder / "net.py").write_text(NET)
    return open_subject(f"{folder / 'net.py'}:build", DataRef("digits"), device="cpu")


@pytest.mark.parametrize(
    ("gamma", "more", "said"),
    [
        (0.5, {"only": ("LFB",)}, r"at most [\d.]+ .* --only LFB\. .*: LFB \d"),
        (0.5, {"keep": ("0", "3", "7")}, r"--keep '0' --keep '3' --keep '7'\. .*HOS 0%.* LFB: no convolution"),
        (0.5, {"only": ("SFP",), "recipe": Recipe(round_to=16)}, r"at most 0 .* --round-to 16\. .*: SFP 0%"),
        (0.5, {"only": ("SFP",)}, None), (0.5, {}, None),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_made_so_small_is_told_from_one_that_can(subject, gamma, more, said):
    recipe = more.pop("recipe", RECIPE)
    wish = replace(spec(gamma, 5, grid_only=False, **more), recipe=recipe)
    held = subject.hold(wish.keep, (), False)
    if said is None:
        insist_possible(wish, subject, held)
        return
    with pytest.raises(StudyError, match=said):
        insist_possible(wish, subject, held)


def test_strategies_beyond_reach_are_masked_and_counted(home):
    study = create(home, "1step", methods=("NS", "LFB"))
    n = study.subject.splits.train.n
    far = {"LFB": 0.15, "NS": 0.0}
    space = StrategySpace(study.vectors, study.subject.task(), {}, RECIPE, n, reach=far)
    whole = StrategySpace(study.vectors, study.subject.task(), {}, RECIPE, n)
    hp2 = {s: s.number("HP2") for s in space.strategies}
    for strategy, now, before in zip(space.strategies, space.space.mask, whole.space.mask, strict=True):
        assert now == (before and hp2[strategy] <= far.get(strategy.method, 1.0) + 1e-4)
    assert space.report.beyond["NS"] == 50
    assert set(space.report.beyond) == {"LFB", "NS"}
    assert space.report.searchable < whole.report.searchable
