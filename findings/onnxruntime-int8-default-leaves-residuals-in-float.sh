#!/usr/bin/env bash
# onnxruntime 1.31.1: quantize_static's default activation type leaves the blocks of a residual network in float32, between
# conversions; with activation_type=QUInt8 every convolution runs in integers. Looked at in the optimised graph on a CPU with AVX-512;
# other processors may fuse otherwise, so only the difference of the two is checked.
# Seen: "default: 3 float and 2 integer convolutions; uint8: 0 float and 5 integer convolutions"
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$dir"
venv/bin/python - <<'PY'
import collections
import logging

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from torch import nn

logging.disable(logging.WARNING)


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.b(torch.relu(self.a(x))))


class Images(CalibrationDataReader):
    """Eight random images."""

    def __init__(self, name: str) -> None:
        draw = np.random.default_rng(0)
        self.images = iter([{name: draw.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(8)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.images, None)


torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
).eval()
torch.onnx.export(net, (torch.zeros(1, 3, 16, 16),), "net.onnx", verbose=False)
name = onnx.load("net.onnx").graph.input[0].name


def convolutions(**options: QuantType) -> tuple[int, int]:
    """Convolutions in float and in integers, as onnxruntime would run them."""
    quantize_static("net.onnx", "small.onnx", Images(name), **options)
    session = onnxruntime.SessionOptions()
    session.log_severity_level = 3
    session.optimized_model_filepath = "run.onnx"
    onnxruntime.InferenceSession("small.onnx", session, providers=["CPUExecutionProvider"])
    kinds = collections.Counter(node.op_type for node in onnx.load("run.onnx").graph.node)
    return kinds["Conv"], kinds["QLinearConv"]


default, unsigned = convolutions(), convolutions(activation_type=QuantType.QUInt8)
print("; ".join(f"{how}: {a} float and {b} integer convolutions" for how, (a, b) in (("default", default), ("uint8", unsigned))))
assert default[0] > 0
assert unsigned == (0, 5)
PY
