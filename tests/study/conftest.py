"""Makes the helper modules of this folder importable, and a home in which a study was run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

SEARCHED = "digits-digits-1"


@pytest.fixture(scope="session")
def searched_once(prepared_home: Path, made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A copy of the prepared home with `digits-digits-1`, a study of six steps that is done. Copy it."""

    def fill(folder: Path) -> None:
        from study_tools import copied, create, run

        with copied(prepared_home, folder / "home") as home:
            study = create(home, "6steps")
            assert study.spec.id == SEARCHED
            run(study)

    return made_once("searched", fill) / "home"


@pytest.fixture
def searched(searched_once: Path, automc_home: Path) -> str:
    """The name of that study, in a copy of that home for this test alone."""
    shutil.copytree(searched_once, automc_home)
    return SEARCHED
