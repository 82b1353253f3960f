"""`--loss`, `--metric` and `--teacher-model`: what they change in print, and one message for what they cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text("def half(outputs, labels): return 0.5\ndef words(outputs, labels): return 'good'\n")
    return file


def test_measure_tells_the_metric_without_an_interval(automc, home: Path, mine: Path) -> None:
    words = ("measure", home / "digits.am", "--data", "digits", "--device", "cpu", "--metric", f"{mine}:half")
    found = json.loads(automc(*words, "--format", "json").stdout)
    assert (found["accuracy"], found["test_accuracy"]) == (0.5, 0.5)
    assert found["accuracy_low"] is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--metric", "{mine}:words"), "returned a str, not a number"),
        (("--metric", "{mine}:absent"), "has no 'absent'"),
        (("--metric", "balanced"), "--metric 'balanced' is not understood. Write file.py:name"),
        (("--loss", "gone.py:loss"), "There is no file"),
        (("--teacher-model", "resnet9"), "The teacher resnet9 does not fit"),
    ],
)
def test_what_is_none_is_one_message_and_exit_code_2(automc, home: Path, mine: Path, options, said) -> None:
    words = [word.format(mine=mine) for word in options]
    scheme = ("--scheme", "NS[HP1=0.1,HP2=0.1,HP6=0.9]", "--out", home / "y.am", "--device", "cpu")
    result = automc("compress", home / "digits.am", "--data", "digits", *scheme, *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.strip().count("\n") == 0
