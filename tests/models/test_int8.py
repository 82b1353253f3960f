"""Files that compute in 8 bits: near the floats, on the layer's own levels, refused in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from group_nets import build
from onnx import TensorProto, numpy_helper
from test_onnx_weights import on_levels
from torch import Tensor, nn

from automc.errors import ModelError
from automc.models.export import capture, onnx_bytes, onnx_runner
from automc.models.int8 import _quantised, eight_bits

IMAGES = [torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


def floats(model: nn.Module) -> bytes:
    return onnx_bytes(model, capture(model, (3, 16, 16), True), None, True, coded=False)[0]


def values(content: bytes) -> dict[str, np.ndarray]:
    graph = onnx.load_from_string(content).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def test_levels_of_the_layers_are_those_of_the_file(tmp_path: Path) -> None:
    model = build("vgg")
    with torch.no_grad():
        model.features[1].weight[::2] *= -1  # a folded norm turns signs
    on_levels(model, "scale", 6)
    whole = floats(model)
    small = eight_bits(whole, model, IMAGES, tmp_path / "x.onnx")
    assert (tmp_path / "x.onnx").read_bytes() == small
    before, after = values(whole), values(_quantised(whole, model, IMAGES, narrow=False))
    for name in ("features.0.weight", "features.8.weight", "fc.weight"):
        codes, scale = after[f"{name}_quantized"], after[f"{name}_scale"]
        assert codes.dtype == np.int8
        assert abs(codes).max() == 31
        again = codes * scale.reshape(-1, *[1] * (codes.ndim - 1))
        np.testing.assert_allclose(again, before[name], rtol=1e-5, atol=1e-7)
    points = [value for name, value in after.items() if name.endswith("zero_point") and "weight" not in name]
    assert points
    assert {value.dtype for value in points} <= {np.dtype(np.uint8), np.dtype(np.int32)}
    wanted, found = (torch.cat([onnx_runner(onnxruntime, c)(x) for x in IMAGES]) for c in (whole, small))
    assert float((found - wanted).abs().mean()) < 0.05 * float(wanted.std())
    assert not torch.equal(found, wanted)
    file = onnx.load_from_string(small)
    assert (file.ir_version, [(known.domain, known.version) for known in file.opset_import]) == (9, [("", 20)])
    graph = file.graph
    assert max(len(name) for node in graph.node for name in node.output if name != "logits") <= 2
    assert sorted(len(v.tobytes()) for v in values(small).values()) == sorted(len(v.tobytes()) for v in after.values())
    assert {p.key: p.value for p in file.metadata_props}["made_by"] == "automc export"


def test_weights_may_have_7_bits_and_any_model_is_taken() -> None:
    model = build("inverted")
    small = _quantised(floats(model), model, IMAGES, narrow=True)
    codes = [
        v for name, v in values(small).items() if name.endswith("_quantized") and v.dtype == np.int8 and v.ndim > 1
    ]
    assert len(codes) >= 6
    assert all(abs(code.astype(int)).max() <= 64 for code in codes)
    assert any(t.data_type == TensorProto.INT8 for t in onnx.load_from_string(small).graph.initializer)


def test_what_cannot_be_quantised_is_refused_in_words() -> None:
    class Elsewhere(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    whole = floats(Elsewhere())
    with pytest.raises(ModelError, match=r"onnxruntime cannot quantise this model to 8 bits: .*without --int8"):
        _quantised(whole, Elsewhere(), [torch.zeros(1, 5, 2, 2)], narrow=False)
