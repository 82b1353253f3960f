"""A command line that runs in the test's own process, small cards, and the helpers of the studies' tests."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from automc import knowledge
from kg.resources import experience_dir, methods_dir

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))

Run = Callable[..., Result]
MadeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture
def automc() -> Run:
    """Run `automc WORDS…`; what is not caught there is raised here."""
    from automc.cli.main import app

    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


PAPERS = (
    "chatzikonstantinou2020_hos", "chin2020_legr", "foolwood_slimming", "he2018_sfp", "li2019_lfb",
    "liu2017_slimming", "wang_automc", "xu2020_lma",
)  # fmt: skip
"""Those of the six methods that are searched: every kind of record, at a tenth of the number."""


def _write_small(folder: Path) -> None:
    shutil.copytree(methods_dir(), folder / "methods")
    for path in (folder / "methods").glob("*.yaml"):
        if "hyperparameters:" in path.read_text():
            card = yaml.safe_load(path.read_text())
            for knob in card.get("hyperparameters", ()):
                knob["values"] = knob["values"][1:3] if knob["id"] == "HP2" else knob["values"][:2]
            path.write_text(yaml.safe_dump(card))
    (folder / "experience").mkdir()
    for paper in PAPERS:
        shutil.copy(experience_dir() / f"{paper}.yaml", folder / "experience")


@contextmanager
def _known(folder: Path) -> Iterator[None]:
    """What comes with the package is what lies in this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kg.cards.methods_dir", lambda: folder / "methods")
        patch.setattr("kg.experience.experience_dir", lambda: folder / "experience")
        yield


@pytest.fixture(scope="module")
def small_cards(prepared_home: Path, made_once: MadeOnce) -> Iterator[int]:
    """The real cards with no more than two values of each hyperparameter, and a few papers; how many strategies.

    The home that all tests share is made before, with all values.
    """
    with _known(made_once("small-knowledge", _write_small)):
        yield sum(knowledge.grid_size(method) for method in knowledge.methods() if method.default_grid)


def _fill(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOMC_HOME", str(folder))
        patch.delenv("AUTOMC_GRAPH", raising=False)
        knowledge.prepare()
        knowledge.vectors(epochs=2)


@pytest.fixture(scope="module")
def filled(small_cards: int, made_once: MadeOnce, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with the graph of the small cards and vectors; tests leave it as it was, up to retired additions."""
    folder = tmp_path_factory.mktemp("filled") / "home"
    shutil.copytree(made_once("filled", _fill), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOMC_HOME", str(folder))
        patch.delenv("AUTOMC_GRAPH", raising=False)
        yield folder
