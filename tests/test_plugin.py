"""`docs/adding-a-method.md`: a method of another package, in processes of their own, through its entry point."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kg.cards import packaged_cards

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "adding-a-method.md"
PACKAGE = ROOT / "docs" / "examples" / "automc-fpgm"
SUFFIXES = (".py", ".toml", ".yaml")
AFTER = """
import json
from automc import knowledge
said = []
knowledge.prepare()
vectors = knowledge.vectors(epochs=1, say=said.append)
ids = knowledge.query('MATCH (s:Strategy)-[:OF_METHOD]->(:Method {id: "FPGM"}) RETURN s.id AS id').column("id")
print(json.dumps([said, len(vectors.strategies), ids]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the package is installed: its modules and its metadata are on the path."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    site = tmp_path_factory.mktemp("site")
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in e.items()) for group, e in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("".join(lines))
    path = os.pathsep.join([str(site), str(PACKAGE / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}


def run(environment: dict[str, str], *words: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, *words], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_shows_the_files() -> None:
    shown = dict(re.findall(r"^```\w+ automc-fpgm/(\S+)\n(.*?)^```", PAGE.read_text(), re.M | re.S))
    empty = PACKAGE / "src/automc_fpgm/__init__.py"
    assert not empty.read_text()
    files = {p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".toml", ".yaml") and "tests" not in p.parts} - {
        empty
    }
    assert {str(p.relative_to(PACKAGE)): p.read_text() for p in files} == shown


def test_the_contract_runs_on_it(installed: dict[str, str]) -> None:
    command = re.search(r"^pytest (tests/methods/test_contract.py -k FPGM)$", PAGE.read_text(), re.M)
    assert command is not None
    own = str(PACKAGE.relative_to(ROOT) / "tests")
    said = run(installed, "-m", "pytest", "-p", "no:cacheprovider", *command.group(1).split())
    assert int(re.findall(r"(\d+) passed", said)[0]) >= 10, said
    assert "passed" in run(installed, "-m", "pytest", "-p", "no:cacheprovider", own)


@pytest.fixture(scope="module")
def facts(installed: dict[str, str], prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `plugin_session.py` found in a home whose graph and vectors are from before the package."""
    home = tmp_path_factory.mktemp("plugin") / "home"
    shutil.copytree(prepared_home, home)
    environment = {k: v for k, v in installed.items() if k != "AUTOMC_GRAPH"} | {"AUTOMC_HOME": str(home)}
    found: dict[str, Any] = json.loads(last_line(run(environment, str(ROOT / "tests/plugin_session.py"), cwd=home)))
    plain = {**environment, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    found["after"] = json.loads(last_line(run(plain, "-c", AFTER, cwd=home)))
    return found


def last_line(text: str) -> str:
    return text.splitlines()[-1]


def test_the_card_comes_in_and_replaces_the_one_without_a_grid(facts: dict[str, Any]) -> None:
    cards = {name: (strategies, executable) for name, strategies, executable in facts["cards"]}
    assert len(cards) == len(facts["cards"]) == len(packaged_cards())
    assert cards["FPGM"] == (100, True)
    assert (facts["created"], facts["stale"]) == (100, "stale")


def test_the_embedding_goes_on_and_says_so(facts: dict[str, Any]) -> None:
    said, guess = facts["said"]
    assert f"continuing from {facts['old']}, 2 epochs: 100 new strategies (FPGM 100), 0 gone" in said
    assert "First guess" in guess
    assert facts["vectors"] == 4750 + 100
    assert facts["run"]["continued_from"] == facts["old"] != facts["run"]["id"]
    assert facts["run"]["new_strategies"] == 100
    assert 0 < facts["moved"] < 0.05


def test_a_search_proposes_and_executes_it(facts: dict[str, Any]) -> None:
    assert facts["searchable"] == 20, "its five lengths of training are one here: of twins one is asked for"
    ours = [(status, pr) for scheme, status, pr in facts["trials"] if "FPGM[" in scheme]
    assert ours
    assert all(status == "ok" and pr > 0.3 for status, pr in ours), facts["trials"]


def test_without_the_package_its_strategies_are_gone_but_what_a_study_has_run(facts: dict[str, Any]) -> None:
    (said, _), strategies, left = facts["after"]
    assert "0 new strategies, 100 gone" in said
    assert strategies == 4750
    assert set(left) == {"FPGM[]", *(scheme for scheme, _, _ in facts["trials"] if scheme.startswith("FPGM["))}
