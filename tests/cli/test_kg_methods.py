"""`automc method` on the command line."""

from __future__ import annotations

import csv
import json
import re
from io import StringIO
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from automc import knowledge
from automc.cli.methods import app
from automc.knowledge.known import known_method
from kg.errors import CardInvalid
from kg.resources import methods_dir

pytestmark = pytest.mark.usefixtures("automc_home")


def test_list():
    result = CliRunner().invoke(app, ["list", "--format", "csv"])
    assert result.exit_code == 0, result.output
    rows = {row["method"]: row for row in csv.DictReader(StringIO(result.stdout))}
    assert len(rows) == len(list(methods_dir().glob("*.yaml")))
    assert {name: int(row["strategies"]) for name, row in rows.items() if row["label"]} == {
        "LMA": 1200, "LeGR": 800, "NS": 50, "SFP": 75, "HOS": 2025, "LFB": 375,
    }  # fmt: skip
    assert [name for name, row in rows.items() if row["executable"] == "True"] == sorted(
        (name for name in rows if knowledge.executable(name)), key=list(rows).index
    )
    assert {"NS", "SFP", "LFB"} <= {name for name, row in rows.items() if row["executable"] == "True"}
    assert rows["NS"]["techniques"] == "TE4, TE3"
    assert "4,750 strategies of 7 methods" in result.stderr
    assert int(rows["UQ"]["strategies"]) == 30
    assert re.search(r"Off the default grid, .*: .*UQ", result.stderr)
    assert "Slimming" in CliRunner().invoke(app, ["list"]).stdout


def test_show():
    result = CliRunner().invoke(app, ["show", "legr", "--format", "json"])
    shown = json.loads(result.stdout)
    assert (shown["method"], shown["label"], shown["strategies"]) == ("LeGR", "C2", 800)
    assert {knob["id"]: knob["values"] for knob in shown["hyperparameters"]}["HP8"] == [
        "l1_weight", "l2_weight", "l2_bn", "l2_bn_param",
    ]  # fmt: skip
    table = CliRunner().invoke(app, ["show", "LeGR"]).stdout
    assert "CVPR 2020" in table
    assert "l2_bn_param" in table
    assert "values of HP6" in CliRunner().invoke(app, ["show", "LeGR", "--format", "csv"]).stdout


def test_unknown_method():
    result = CliRunner().invoke(app, ["show", "Magic"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: There is no method Magic. Known: LMA, LeGR,")


def test_card_with_a_duplicate_setting_is_exit_2(tmp_path, monkeypatch):
    for path in methods_dir().glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    card = yaml.safe_load((tmp_path / "ns.yaml").read_text())
    card["hyperparameters"][0]["values"] = [0.1, 0.1]
    (tmp_path / "ns.yaml").write_text(yaml.safe_dump(card))
    monkeypatch.setattr("kg.cards.methods_dir", lambda: tmp_path)
    result = CliRunner().invoke(app, ["list"])
    assert result.exit_code == 2
    assert "ns.yaml: hyperparameters.HP1.values: duplicate setting 0.1" in result.stderr
    assert "Traceback" not in result.stderr


class Point:
    """What importlib.metadata gives for an entry point, as far as it is used."""

    def __init__(self, module: str) -> None:
        self.name, self.module = "mine", module


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed module `mine_method`, named by an entry point, still without its card."""
    (tmp_path / "mine_method.py").write_text("raise RuntimeError('a card is read without importing the module')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("automc.knowledge.cards.entry_points", lambda group: [Point("mine_method")])
    return tmp_path


def test_another_package_brings_a_method(package):
    card = {"format": 1, "method": "Mine", "title": "Mine", "citation": "Me.", "techniques": [{"id": "TE3"}]}
    (package / "mine_method.yaml").write_text(yaml.safe_dump(card))
    assert known_method("Mine").techniques[0].title == "fine tune"


def test_entry_point_without_a_card(package):
    with pytest.raises(CardInvalid, match=r"mine_method\.yaml is missing"):
        knowledge.methods()


def test_entry_point_without_a_module(monkeypatch):
    monkeypatch.setattr("automc.knowledge.cards.entry_points", lambda group: [Point("no_such_package.module")])
    with pytest.raises(CardInvalid, match="not installed"):
        knowledge.methods()
