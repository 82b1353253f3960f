"""Fixtures that every test may use."""

from __future__ import annotations

import fcntl
import functools
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import typer.testing

sys.path.insert(0, str(Path(__file__).parent / "study"))  # for its helpers, which other folders use too
torch.set_num_threads(1)
# The tree of all commands takes longer to build than most of them to run: once a process, not once a call.
typer.testing._get_command = functools.cache(typer.testing._get_command)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C and hands that down; tests that press it need the usual answer.
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONG_FIRST = ("methods", "study", "cli", "report", "board", "execution", "models")
"""Folders whose files take longest; at the end of a run no process should be left alone with one of those."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest folders first, for the Makefile hands out files in this order; skip what needs a card."""
    here = Path(__file__).parent
    places = {name: place for place, name in enumerate(LONG_FIRST)}
    items.sort(key=lambda item: places.get(item.path.relative_to(here).parts[0], len(places)))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip("there is no CUDA device here"))


def pytest_collection_finish() -> None:
    """Leave what imports and collection made out of every later search for garbage: it stays until the end."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the end find it: some libraries report what is left over then as leaked."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def soon_timed() -> None:
    """Networks are timed for as few turns as there may be: no test looks at a clock, and every study would wait."""
    from automc.models import runtimes
    from automc.study import gauge

    runtimes._LEAST_SECONDS = gauge._LEAST_SECONDS = 0.0


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real CIFAR-10 images and public checkpoints; the test skips where it is absent.

    Named by AUTOMC_TEST_DATA, else `shared` beside the checkout.
    """
    folder = Path(os.environ.get("AUTOMC_TEST_DATA") or Path(__file__).parents[2] / "shared")
    if not (folder / "models").is_dir():
        pytest.skip(f"no checkpoints or images under {folder}; set AUTOMC_TEST_DATA")
    return folder


@pytest.fixture
def automc_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An AutoMC home of this test alone, with the embedded store."""
    folder = tmp_path / "home"
    monkeypatch.setenv("AUTOMC_HOME", str(folder))
    monkeypatch.delenv("AUTOMC_GRAPH", raising=False)
    return folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Make a folder once for all processes of a test run: its name, and what fills it. Copy it."""
    from filelock import FileLock

    # Processes of one test run share the folder above their own.
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base

    def folder(name: str, fill: Callable[[Path], None]) -> Path:
        with FileLock(base / f"{name}.lock"):
            if not (base / name).exists():
                part = base / f"{name}.part"
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                fill(part)
                part.rename(base / name)
        return base / name

    return folder


def _prepare(folder: Path) -> None:
    from automc import api, knowledge

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOMC_HOME", str(folder))
        patch.delenv("AUTOMC_GRAPH", raising=False)
        knowledge.prepare()
        knowledge.vectors()
        api.train("resnet8", "digits", out=folder / "digits.am", epochs=4, precision="float32", device="cpu")


@pytest.fixture(scope="session")
def prepared_home(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A home with the whole graph, the vectors of the package, and `digits.am`, a small trained network. Copy it."""
    return made_once("prepared-home", _prepare)


@pytest.fixture(scope="session")
def searched_once(prepared_home: Path, made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A copy of the prepared home with `digits-digits-1`, a study of six steps that is done. Copy it."""

    def fill(folder: Path) -> None:
        from study_tools import copied, create, run

        with copied(prepared_home, folder / "home") as home:
            study = create(home, "6steps")
            assert study.spec.id == "digits-digits-1"
            run(study)

    return made_once("searched", fill) / "home"


@pytest.fixture(scope="module")
def home(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the prepared home for the tests of one file; those that write clean up."""
    folder = tmp_path_factory.mktemp("shared") / "home"
    shutil.copytree(prepared_home, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOMC_HOME", str(folder))
        patch.delenv("AUTOMC_GRAPH", raising=False)
        yield folder


@pytest.fixture
def full_home(prepared_home: Path, automc_home: Path) -> Path:
    """A copy of the prepared home for this test alone; `digits.am` lies in it."""
    shutil.copytree(prepared_home, automc_home)
    return automc_home


@pytest.fixture
def real_neo4j(tmp_path: Path) -> Iterator[str]:
    """The address of the Neo4j that AUTOMC_TEST_NEO4J names: empty, for one test at a time, and wiped after it."""
    from kg.store import connect

    url = os.environ.get("AUTOMC_TEST_NEO4J")
    if not url:
        pytest.skip("AUTOMC_TEST_NEO4J names no Neo4j server (tests/neo4j.sh starts one)")
    with (Path(tempfile.gettempdir()) / "automc-test-neo4j.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with connect(tmp_path, url) as graph:
            if graph.read("MATCH (n) RETURN count(n) AS n").rows != [(0,)]:
                pytest.fail(f"{url} holds data; these tests delete everything, so name an empty database")
        yield url
        with connect(tmp_path, url) as graph:
            graph.write("MATCH (n) DETACH DELETE n")


@pytest.fixture
def own_neo4j(automc_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that can start a Neo4j of its own, with the jars in AUTOMC_TEST_NEO4J_JARS; stopped after the test."""
    from kg.store import server

    jars = sorted(Path(os.environ.get("AUTOMC_TEST_NEO4J_JARS") or "nowhere").glob("lib-*"))
    if not jars:
        pytest.skip("AUTOMC_TEST_NEO4J_JARS names no folder with a server's jars (tests/neo4j.sh fetches them)")
    for name in ("AUTOMC_GRAPH_USER", "AUTOMC_GRAPH_PASSWORD", "AUTOMC_GRAPH_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    (automc_home / "neo4j").mkdir(parents=True)
    for lib in jars:
        (automc_home / "neo4j" / lib.name).symlink_to(lib)
    yield automc_home
    server.down(automc_home)
