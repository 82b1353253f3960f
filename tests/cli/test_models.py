"""`automc train`, `measure` and `compress` on digits."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import automc as library
from automc.models import structure

CPU = ("--data", "digits", "--device", "cpu")
EXACT = ("--precision", "float32")
QUICK = (*CPU, *EXACT, "--unit-epochs", "0.05", "--fraction", "0.2")


@pytest.fixture
def digits(prepared_home: Path, automc_home: Path, tmp_path: Path) -> Path:
    """The small trained network, in a home of its own."""
    return Path(shutil.copyfile(prepared_home / "digits.am", tmp_path / "digits.am"))


def record(result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def fixed_order(monkeypatch):
    """Tells whether sums in a fixed order were asked of a card; a CPU's are."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is restored
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    return lambda: "CUBLAS_WORKSPACE_CONFIG" in os.environ


def test_train_then_measure(automc, automc_home, tmp_path, fixed_order):
    out = tmp_path / "new" / "net.am"
    words = ("train", "resnet8", *CPU, *EXACT, "--epochs", "2", "--out", out, "--format", "json")
    trained = record(automc(*words, "--seed", "3", "--deterministic"))
    assert fixed_order()
    assert trained["path"] == str(out)
    # 1,078 images of digits train, in batches of 128.
    assert trained["iterations"] in (16, 17, 18)
    assert trained["accuracy"] > 0.5

    measured = record(automc("measure", out, *CPU, "--format", "json"))
    model = library.load(str(out))
    assert measured["params"] == sum(p.numel() for p in model.parameters())
    assert measured["accuracy"] == pytest.approx(trained["accuracy"])
    assert measured["test_accuracy"] == pytest.approx(trained["test_accuracy"])
    assert measured["file_bytes"] == out.stat().st_size
    assert measured["flops"] > measured["params"]
    assert measured["latency_median_ms"] > 0
    assert measured["latency_iqr_ms"] >= 0

    first = out.read_bytes()
    record(automc(*words, "--seed", "3"))
    again = structure.read(out).model.state_dict()
    out.write_bytes(first)
    assert all(torch.equal(again[k], v) for k, v in structure.read(out).model.state_dict().items())
    other = record(automc(*words, "--seed", "4"))
    assert other["accuracy"] != trained["accuracy"] or other["test_accuracy"] != trained["test_accuracy"]


def test_measure_what_the_exported_file_takes(automc, digits):
    measured = record(automc("measure", digits, "--device", "cpu", "--runtime", "onnx", "--format", "json"))
    assert (measured["runtime"], measured["latency_device"], measured["latency_batch"]) == ("onnx", "cpu", 1)
    assert measured["latency_median_ms"] > 0
    weights = 4 * measured["params"]
    assert weights == measured["bits"] / 8
    assert weights < measured["exported_bytes"] < weights + 50_000
    many = record(automc("measure", digits, "--device", "cpu", "--runtime", "onnx", "--batch", "8", "--format", "json"))
    assert many["latency_batch"] == 8
    refused = automc("measure", digits, "--runtime", "tpu")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--runtime must be torch or onnx" in refused.stderr


def test_measure_without_data(automc, digits):
    measured = record(automc("measure", digits, "--device", "cpu", "--format", "json"))
    with_data = record(automc("measure", digits, *CPU, "--format", "json"))
    assert (measured["accuracy"], measured["test_accuracy"]) == (None, None)
    assert (measured["params"], measured["flops"]) == (with_data["params"], with_data["flops"])
    zoo = record(automc("measure", "resnet20", "--device", "cpu", "--format", "json"))
    # He et al. 2016, Table 6: 0.27 M parameters at depth 20.
    assert zoo["params"] == pytest.approx(0.27e6, rel=0.02)


def test_compress_by_a_file_off_the_grid(automc, digits, tmp_path, fixed_order):
    before = digits.read_bytes()
    scheme = tmp_path / "scheme.txt"
    scheme.write_text(
        "# none is on a card\nLFB[HP1=0.1,HP2=0.137,HP15=0.7,HP16=MSE]\n\nSFP[HP2=0.113,HP9=0.2,HP10=1]\n"
    )
    out = tmp_path / "small.am"
    words = ("--scheme", scheme, "--out", out, "--deterministic", "--format", "json")
    done = record(automc("compress", digits, *QUICK, *words))
    assert fixed_order()
    assert done["scheme"] == "LFB[HP1=0.1,HP2=0.137,HP15=0.7,HP16=MSE] -> SFP[HP2=0.113,HP9=0.2,HP10=1]"
    assert done["reached"] is True
    assert done["removed"] >= 0.25 - 1e-4
    assert done["params_before"] == sum(p.numel() for p in library.load(str(digits)).parameters())
    assert done["params_after"] == sum(p.numel() for p in library.load(str(out)).parameters())
    measured = record(automc("measure", out, *CPU, "--format", "json"))
    assert measured["flops"] == done["flops_after"]
    assert measured["accuracy"] == pytest.approx(done["validation_after"])
    assert measured["test_accuracy"] == pytest.approx(done["test_after"])
    for name, of in (("accuracy", "validation_after"), ("test_accuracy", "test_after")):
        assert measured[f"{name}_low"] < measured[name] < measured[f"{name}_high"], "an interval, and its images"
        assert measured[f"{name}_images"] == done[f"{of}_images"] > 300
        assert measured[f"{name}_low"] == pytest.approx(done[f"{of}_low"])
    assert digits.read_bytes() == before
    # The result is a model like any other: it is compressed further, and in place where that is wanted.
    scheme.write_text("NS[HP1=0.1,HP2=0.1,HP6=0.9]")
    words = ("compress", out, *QUICK, "--scheme", scheme, "--out", out, "--format", "json")
    assert automc(*words).exit_code == 2
    again = record(automc(*words, "--force"))
    assert again["params_before"] == done["params_after"]
    assert again["params_after"] < again["params_before"]
    assert sum(p.numel() for p in library.load(str(out)).parameters()) == again["params_after"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# one\nNS[HP1=0.1,HP2=0.1,HP6=0.9]\nSFP(0.2)\n", ("line 3", "'SFP(0.2)' is not a strategy")),
        ("NS[HP1=0.1,HP2:0.1,HP6=0.9]", ("line 1", "'HP2:0.1'")),
        ("\nNS[HP1=0.1,HP2=0.1,HP2=0.2]", ("line 2", "twice")),
        ("", ("has no step",)),
        ("# nothing yet\n", ("has no step",)),
        ("FPGM[HP2=0.12]", ("FPGM", "knowledge only", "NS")),
        ("Magic[HP2=0.1]", ("Magic", "NS")),
        ("NS[HP1=0.1,HP6=0.9]", ("NS", "HP2")),
        ("NS[HP1=0.1,HP2=1.5,HP6=0.9]", ("HP2", "1.5")),
        ("NS[HP1=0.1,HP2=lots,HP6=0.9]", ("HP2", "lots")),
        ("LFB[HP1=0.1,HP2=0.1,HP15=1,HP16=XYZ]", ("HP16", "XYZ")),
    ],
)
def test_a_scheme_that_cannot_run_is_refused_and_nothing_saved(automc, digits, tmp_path, text, said):
    scheme, out = tmp_path / "scheme.txt", tmp_path / "small.am"
    scheme.write_text(text)
    out.write_text("precious")
    result = automc("compress", digits, *QUICK, "--scheme", scheme, "--out", out)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    for words in (*said, *(["scheme.txt"] if "line" in said[0] else [])):
        assert words in result.stderr
    assert out.read_text() == "precious"


TUTORIAL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * 16, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.conv2(torch.relu(self.conv1(x)))), 2)
        return self.fc2(torch.relu(self.fc1(x.view(-1, 32 * 16))))
"""


def test_a_tutorials_network_that_writes_a_width_into_a_view(automc, automc_home, tmp_path):
    file, trained, small = tmp_path / "net.py", tmp_path / "net.am", tmp_path / "small.am"
    file.write_text(TUTORIAL)
    record(automc("train", f"{file}:Net", *CPU, *EXACT, "--epochs", "0.5", "--out", trained, "--format", "json"))
    lfb = "LFB[HP1=0.1,HP2=0.2,HP15=1,HP16=CE]"
    scheme = f"SFP[HP2=0.2,HP9=0.1,HP10=1] -> LMA[HP1=0.1,HP2=0.2,HP3=4,HP4=3,HP5=0.5] -> {lfb}"
    words = ("compress", trained, "--scheme", scheme, *CPU, *EXACT, "--unit-epochs", "0.1", "--out", small)
    result = automc(*words, "--format", "json")
    assert result.exit_code == 0, result.output
    before, after = library.load(str(trained)), library.load(str(small))
    sizes = [sum(p.numel() for p in model.parameters()) for model in (before, after)]
    assert sizes[1] <= 0.4 * sizes[0]
    assert after(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_scheme_files_that_cannot_be_read(automc, digits, tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name in ("none.txt", "bytes", ""):
        result = automc("compress", digits, *QUICK, "--scheme", tmp_path / name, "--out", tmp_path / "small.am")
        assert result.exit_code == 2, result.output
        assert "cannot be read" in result.stderr
    assert not (tmp_path / "small.am").exists()


def test_what_cannot_be_done_is_said_and_saves_nothing(automc, digits, tmp_path):
    (tmp_path / "scheme.txt").write_text("NS[HP1=0.1,HP2=0.1,HP6=0.9]")
    out = tmp_path / "small.am"
    words = (*QUICK, "--scheme", tmp_path / "scheme.txt", "--out", out, "--keep-shape", "*")
    result = automc("compress", digits, *words)
    assert result.exit_code == 2, result.output
    assert "infeasible" in result.stderr
    assert not out.exists()
