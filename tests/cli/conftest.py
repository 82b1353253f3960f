"""A command line that runs in the test's own process."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

Run = Callable[..., Result]


@pytest.fixture
def automc() -> Run:
    """Run `automc WORDS…`; what is not caught there is raised here."""
    from automc.cli.main import app

    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
