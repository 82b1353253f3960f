"""A command line that runs in the test's own process, small cards, and the helpers of the studies' tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from automc import knowledge
from kg.resources import methods_dir

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))

Run = Callable[..., Result]


@pytest.fixture
def automc() -> Run:
    """Run `automc WORDS…`; what is not caught there is raised here."""
    from automc.cli.main import app

    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def small_cards(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The real cards with no more than two values of each hyperparameter; how many strategies that makes.

    The home that all tests share is made before, with all values.
    """
    folder = tmp_path_factory.mktemp("cards")
    for path in methods_dir().glob("*.yaml"):
        card = yaml.safe_load(path.read_text())
        for knob in card.get("hyperparameters", ()):
            knob["values"] = knob["values"][1:3] if knob["id"] == "HP2" else knob["values"][:2]
        (folder / path.name).write_text(yaml.safe_dump(card))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kg.cards.methods_dir", lambda: folder)
        yield sum(knowledge.grid_size(method) for method in knowledge.methods() if method.default_grid)


@pytest.fixture(scope="module")
def filled(small_cards: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with the graph of the small cards and vectors; tests leave it as it was, up to retired additions."""
    folder = tmp_path_factory.mktemp("filled") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOMC_HOME", str(folder))
        patch.delenv("AUTOMC_GRAPH", raising=False)
        knowledge.prepare()
        knowledge.vectors(epochs=2)
        yield folder
