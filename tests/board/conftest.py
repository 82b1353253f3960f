"""A home with a study that is done, and a client of its board."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "study"))

import study_tools
from board_tools import STUDY, Client


@pytest.fixture(scope="module")
def board(home: Path) -> Iterator[Client]:
    """A client of the board of a home with the study STUDY, for the tests of one file."""
    study = study_tools.create(home, "5steps")
    assert study.spec.id == STUDY
    study_tools.run(study)
    with Client() as client:
        yield client
