"""`--runtime` and `--round-to auto`, with real steps."""

from __future__ import annotations

import json
import math

import pytest

from automc.models import structure
from automc.study import widths


def stairs(step: int) -> dict[int, float]:
    """Times of a processor that computes whole groups of `step` channels."""
    return {w: 1.0 + (step * math.ceil(w / step)) ** 2 for w in widths.WIDTHS}


@pytest.mark.parametrize("runtime", [pytest.param("torch", marks=pytest.mark.slow), "onnx"])
def test_auto_widths_are_those_of_the_recipe_that_ran(automc, full_home, tmp_path, monkeypatch, runtime):
    monkeypatch.setattr(widths, "measure", lambda runtime, device: stairs(16 if runtime == "onnx" else 8))
    multiple = 16 if runtime == "onnx" else 8
    out = tmp_path / f"{runtime}.am"
    done = automc(
        "compress", full_home / "digits.am", "--data", "digits", "--scheme", "SFP[HP2=0.2,HP9=0.1,HP10=1]", "--out",
        out, "--round-to", "auto", "--runtime", runtime, "--unit-epochs", "0.05", "--precision", "float32",
        "--device", "cpu", "--format", "json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"Widths: multiples of {multiple}." in done.stderr
    record = json.loads(done.stdout)
    assert record["runtime"] == runtime
    assert record["time_ratio_low"] <= record["time_ratio"] <= record["time_ratio_high"]
    read = structure.read(out)
    assert read.metadata["recipe"]["round_to"] == multiple
    assert ("Smaller, but slower" in done.stderr) == (record["time_ratio"] > 1.03 and record["time_ratio_low"] > 1)


def test_words_for_widths_and_runtimes(automc, full_home):
    words = ("compress", full_home / "digits.am", "--data", "digits", "--scheme", "SFP[HP2=0.2,HP9=0.1,HP10=1]")
    for option, value, said in (
        ("--round-to", "wide", "--round-to must be auto, or a whole number, it is 'wide'"),
        ("--runtime", "tflite", "--runtime must be torch or onnx, it is 'tflite'"),
    ):
        done = automc(*words, option, value)
        assert done.exit_code == 2
        assert said in done.stderr
