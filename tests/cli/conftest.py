"""A command line that runs in the test's own process, and the helpers of the studies' tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))

Run = Callable[..., Result]


@pytest.fixture
def automc() -> Run:
    """Run `automc WORDS…`; what is not caught there is raised here."""
    from automc.cli.main import app

    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
