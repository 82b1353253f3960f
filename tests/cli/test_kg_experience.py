"""`automc experience` on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from automc.cli.experience import app
from kg.resources import experience_dir

pytestmark = pytest.mark.usefixtures("automc_home")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def sfp(tmp_path: Path) -> tuple[Path, dict]:
    """A copy of the SFP paper's file, to break."""
    content = yaml.safe_load((experience_dir() / "he2018_sfp.yaml").read_text())
    return tmp_path / "he2018_sfp.yaml", content


def test_list():
    listed = json.loads(run("list", "--format", "json").stdout)
    assert sum(not row["source"].startswith("automc_") for row in listed) == 2765
    ns = run("list", "--method", "ns", "--format", "json")
    known = json.loads(ns.stdout)
    assert sum(not row["source"].startswith("automc_") for row in known) == 69
    assert f"{len(known)} records of" in ns.stderr
    both = json.loads(run("list", "--method", "NS", "--source", "wang_automc", "--format", "json").stdout)
    assert {row["source"] for row in both} == {"wang_automc"}
    assert len(both) == 8
    assert "sfp_001" in run("list", "--method", "SFP").stdout
    assert run("list", "--method", "Magic").exit_code == 2


def test_check_of_the_packaged_files_counts_the_architectures():
    result = run("check")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"\d+ records of 122 sources hold: \d+ with AR, \d+ with PR, \d+ with FR.\n", result.stderr)
    assert result.stdout == ""


def test_impossible_accuracy_is_exit_2(sfp):
    path, content = sfp
    content["records"][0]["top1_percent"] = 192.2
    path.write_text(yaml.safe_dump(content))
    result = run("check", str(path))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {path}: records.sfp_001.top1_percent: ")
    assert "Traceback" not in result.stderr


def test_wrong_architecture_is_exit_2(sfp):
    path, content = sfp
    content["tasks"][0]["architecture"]["name"] = "resnet32"
    path.write_text(yaml.safe_dump(content))
    result = run("check", str(path))
    assert result.exit_code == 2
    assert "sfp_resnet-20_cifar10: params: 269,722 is not within 5% of 464,154" in result.stderr
    assert run("check", str(path), "--no-count").exit_code == 0


def test_unknown_architecture_is_exit_2(sfp):
    path, content = sfp
    content["tasks"][0]["architecture"]["name"] = "resnet21"
    path.write_text(yaml.safe_dump(content))
    result = run("check", str(path))
    assert result.exit_code == 2
    assert "resnet21" in result.stderr


def test_missing_file_is_exit_2(tmp_path):
    result = run("check", str(tmp_path / "none.yaml"))
    assert result.exit_code == 2
    assert "none.yaml cannot be read" in result.stderr
