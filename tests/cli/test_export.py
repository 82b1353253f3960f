"""`automc export` and `automc.export`: every kind of model, one message for every mistake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnxruntime import InferenceSession

import automc as library

USER_NETS = Path(__file__).parents[1] / "models" / "user_nets.py"


@pytest.fixture
def digits(prepared_home: Path, tmp_path: Path) -> Path:
    """The small trained network."""
    return Path(shutil.copyfile(prepared_home / "digits.am", tmp_path / "digits.am"))


def expect_refused(result, *said: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    for words in said:
        assert words in result.stderr


def test_a_saved_model_as_onnx(automc, digits, tmp_path):
    out = tmp_path / "new" / "digits.onnx"
    result = automc("export", digits, "--format", "onnx", "--out", out, "--print", "json")
    assert result.exit_code == 0, result.output
    done = json.loads(result.stdout)
    assert (done["path"], done["format"], done["classes"]) == (str(out), "onnx", 10)
    assert done["images"] == "batch x 1 x 8 x 8"
    assert done["checked_batches"] == "1, 2, 7"
    assert 0 <= done["max_error"] <= done["allowed_error"]
    assert done["file_bytes"] == out.stat().st_size
    model = library.load(str(digits))
    session = InferenceSession(out, providers=["CPUExecutionProvider"])
    for n in (1, 4):
        images = torch.randn(n, 1, 8, 8)
        assert torch.allclose(
            torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), model(images), atol=1e-4
        )


def test_8_bits_are_measured_anew_beside_floats(automc, digits, tmp_path):
    out = tmp_path / "small.onnx"
    result = automc("export", digits, "--int8", "--data", "digits", "--out", out, "--print", "json")
    assert result.exit_code == 0, result.output
    done = json.loads(result.stdout)
    assert done["file_bytes"] == out.stat().st_size < 0.5 * done["float_bytes"]
    known = json.loads(automc("measure", digits, "--data", "digits", "--format", "json").stdout)
    assert done["accuracy_float"] == pytest.approx(known["accuracy"], abs=0.003)
    assert done["test_accuracy_float"] == pytest.approx(known["test_accuracy"], abs=0.003)
    assert abs(done["accuracy"] - done["accuracy_float"]) < 0.05
    assert done["accuracy_images"] == known["accuracy_images"]
    assert done["time_ratio_low"] <= done["time_ratio"] <= done["time_ratio_high"]
    slower = done["time_ratio"] > 1.03 and done["time_ratio_low"] > 1
    assert ("It is slower than floats on this processor" in result.stderr) == slower
    session = InferenceSession(out, providers=["CPUExecutionProvider"])
    assert session.run(None, {"images": torch.zeros(3, 1, 8, 8).numpy()})[0].shape == (3, 10)


def test_mistakes_with_8_bits(automc, digits, tmp_path):
    to = ("--out", tmp_path / "x.onnx")
    expect_refused(automc("export", digits, "--int8", *to), "--int8 needs --data")
    expect_refused(automc("export", digits, "--data", "digits", *to), "--data is for --int8")
    for flags in (("--to", "torch"), ("--tolerance", "0.1"), ("--no-dynamic-batch",)):
        given = automc("export", digits, "--int8", "--data", "digits", *flags, *to)
        expect_refused(given, "does not go with --int8")
    expect_refused(automc("export", digits, "--mean", "0.5", *to), "--mean says how data are read")
    assert not (tmp_path / "x.onnx").exists()


def test_a_saved_model_as_torch(automc, digits, tmp_path):
    out = tmp_path / "digits.pt2"
    result = automc("export", digits, "--to", "torch", "--size", "8", "--out", out, "--no-dynamic-batch")
    assert result.exit_code == 0, result.output
    assert "max_error" in result.stdout
    assert "1 x 1 x 8 x 8" in result.stdout
    assert "random" not in result.stderr
    images = torch.randn(1, 1, 8, 8)
    assert torch.allclose(torch.export.load(out).module()(images), library.load(str(digits))(images), atol=1e-5)


def test_images_that_are_not_square(automc, tmp_path):
    (tmp_path / "wide.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def build(classes=10):\n"
        "    pool = nn.AdaptiveAvgPool2d((1, 4))\n"
        "    return nn.Sequential(nn.Conv2d(3, 16, 3), pool, nn.Flatten(), nn.Linear(64, classes))\n"
        "def data():\n"
        "    x = torch.rand(80, 3, 10, 24)\n"
        "    return (x, torch.arange(80) % 10), (x[:20], torch.arange(20) % 10)\n"
    )
    wide = tmp_path / "wide.am"
    spec, words = f"{tmp_path / 'wide.py'}:build", ("--epochs", "0.1", "--device", "cpu", "--precision", "float32")
    result = automc("train", spec, "--data", f"{tmp_path / 'wide.py'}:data", "--out", wide, *words)
    assert result.exit_code == 0, result.output
    done = library.export(str(wide), out=tmp_path / "wide.pt2", kind="torch")
    assert done.images == ("batch", 3, 10, 24)
    result = automc("measure", spec, "--size", "10x24", "--device", "cpu", "--format", "json")
    assert json.loads(result.stdout)["flops"] == 2 * (8 * 22 * 27 * 16 + 64 * 10)
    expect_refused(automc("measure", spec, "--size", "10by24"), "HEIGHTxWIDTH")
    expect_refused(automc("measure", spec, "--size", "10x0"), "--size must be a whole number")


def test_a_users_model_with_weights(automc, tmp_path):
    torch.manual_seed(1)
    spec = f"{USER_NETS}:two_hidden"
    weights = library.load(spec).state_dict()
    torch.save(weights, tmp_path / "w.pt")
    done = library.export(spec, out=tmp_path / "x.onnx", weights=tmp_path / "w.pt", size=16, opset=18)
    assert done.opset == 18
    assert {o.domain: o.version for o in onnx.load(done.path).opset_import}[""] == 18
    images = torch.randn(3, 3, 16, 16)
    model = library.load(spec, weights=tmp_path / "w.pt")
    found = InferenceSession(done.path, providers=["CPUExecutionProvider"]).run(None, {"images": images.numpy()})[0]
    assert torch.allclose(torch.from_numpy(found), model(images), atol=1e-4)
    expect_refused(automc("export", spec, "--out", tmp_path / "y.onnx"), "--size")


def test_fresh_weights_are_said(automc, tmp_path):
    result = automc("export", "resnet8", "--to", "torch", "--out", tmp_path / "x.pt2")
    assert result.exit_code == 0, result.output
    assert "random" in result.stderr
    assert "3 x 32 x 32" in result.stderr


def test_mistakes(automc, digits, tmp_path):
    out = tmp_path / "x.onnx"
    expect_refused(automc("export", "resnet21", "--out", out), "resnet20")
    expect_refused(automc("export", tmp_path / "none.am", "--out", out), "none.am")
    expect_refused(automc("export", digits, "--size", "8", "--opset", "99", "--out", out), "--opset 99")
    expect_refused(automc("export", digits, "--size", "8", "--tolerance", "-1", "--out", out), "--tolerance")
    expect_refused(automc("export", digits, "--size", "8", "--tolerance", "0", "--out", out), "differs", "--tolerance")
    expect_refused(automc("export", digits, "--out", tmp_path), "it is a folder")
    expect_refused(automc("export", digits, "--out", digits / "x.onnx"), "is a file")
    assert automc("export", digits, "--format", "tflite", "--out", out).exit_code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["digits.am"]


def test_without_the_packages(digits, tmp_path):
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        f"sys.argv = ['automc', 'export', {str(digits)!r}, '--size', '8', '--out', {str(tmp_path / 'x.onnx')!r}]\n"
        "from automc.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Export to ONNX needs onnxruntime, which")
    assert "pip install 'automc[export]'" in done.stderr
    assert "Traceback" not in done.stderr
