"""`automc latency` on a small network."""

from __future__ import annotations

import json

import pytest


def test_a_check_without_a_calibration_names_the_way_out(automc, automc_home):
    result = automc("latency", "check", "resnet8", "--runtime", "onnx")
    assert result.exit_code == 2
    assert "automc latency calibrate resnet8 --runtime onnx" in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("calibrate", "resnet8", "--runtime", "tpu"), "--runtime must be torch or onnx"),
        (("calibrate", "resnet8", "--networks", "0"), "--networks must"),
        (("check", "resnet8", "--batch", "0"), "--batch must"),
    ],
)
def test_bad_input_is_a_sentence(automc, automc_home, words, said):
    result = automc("latency", *words)
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.slow
def test_a_calibration_predicts_networks_that_it_has_not_seen(automc, automc_home):
    words = ("resnet8", "--size", "16", "--networks", "8", "--format", "json")
    made = automc("latency", "calibrate", *words)
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["kernels"] > 300
    checked = json.loads(automc("latency", "check", *words).stdout)
    assert checked["networks"] == 8
    assert checked["rank_correlation"] > 0
