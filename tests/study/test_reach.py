"""Targets that no scheme can meet are refused before anything is opened or learned."""

from __future__ import annotations

import re
from unittest.mock import patch

import pytest
from study_tools import create, run

from automc.datasets import DataRef
from automc.errors import StudyError
from automc.study import Budget, Study
from automc.study import study as studies
from automc.study.limits import Limit
from automc.study.reach import grid_levels, insist_reachable, rounded_down, wanted
from automc.study.spec import StudySpec
from automc.training.recipe import Recipe

LEVELS = (0.04, 0.12, 0.4)


def spec(gamma: float | None, length: int = 1, **more: object) -> StudySpec:
    return StudySpec("s", "m.am", DataRef("digits"), gamma, Budget.parse("1step"), Recipe(), max_length=length, **more)  # type: ignore[arg-type]


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


def test_what_no_length_helps_is_not_told_to_be_longer():
    with pytest.raises(StudyError) as refused:
        insist_reachable(spec(0.3, 5, only=("NS",)), (), because=", and without NS")
    assert "longer" not in str(refused.value)
    assert "at most 0 of the parameters can go with --max-length 5 --only NS, and without NS." in str(refused.value)


def test_a_file_is_no_smaller_than_its_parameters():
    base = {"params": 1000.0, "file_bytes": 5000.0}
    assert wanted(spec(None, limits=(Limit("file_bytes", 0.5, True),)), base)[0] == pytest.approx(1 - 2500 / 4000)
    assert wanted(spec(0.7, limits=(Limit("file_bytes", 2500.0),)), base)[0] == 0.7
    with pytest.raises(StudyError, match=r"--max-size 10%, at least 87\.50% of the .* is out of"):
        insist_reachable(spec(None, limits=(Limit("file_bytes", 0.1, True),)), LEVELS, base)
    insist_reachable(spec(None, max_drop=0.01), (), base)


def test_rounding_never_names_more_than_there_is():
    assert rounded_down(0.4) == 0.4
    assert rounded_down(0.12349999) == 0.1234


def test_the_grids_of_the_six_methods_reach_the_largest_gamma():
    insist_reachable(spec(0.84, 5), grid_levels())
    insist_reachable(spec(0.84, 5), grid_levels(("LFB",)))
    assert grid_levels(("LFB",)) <= grid_levels()


def test_nothing_is_opened_for_an_impossible_wish(automc_home):
    """The model does not exist, which would be found first otherwise."""
    with pytest.raises(StudyError, match=r"--gamma 0\.5 is out of reach: at most 0\.4 .* --max-length 1\."):
        Study.create("nowhere.am", DataRef("digits"), gamma=0.5, budget=Budget.parse("1step"), max_length=1)
    assert not (automc_home / "graph").exists()


def test_a_study_that_cannot_go_anywhere_says_so_before_its_first_trial_and_when_resumed(full_home):
    """Of a time when nobody asked: the check at its creation is switched off."""
    with patch.object(studies, "insist_reachable"):
        study = create(full_home, "4steps", gamma=0.5, max_length=1)
    for one in (study, Study.open(study.spec.id)):
        with pytest.raises(StudyError, match=r"--gamma 0.5 is out of reach: at most 0\.4 "):
            run(one)
    assert studies.load_trials(study.spec.id) == []
