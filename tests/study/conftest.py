"""Makes the helper modules of this folder importable, and a home in which a study was run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def searched(searched_once: Path, automc_home: Path) -> str:
    """The name of the study that was run once, in a copy of its home for this test alone."""
    shutil.copytree(searched_once, automc_home)
    return "digits-digits-1"
