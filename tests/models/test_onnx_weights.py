"""Weights of an ONNX file as integers: the file is small, says the same, and batch norms are in the scales."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from group_nets import build
from onnx import TensorProto, helper
from torch import Tensor, nn

from automc.errors import ModelError
from automc.models.export import export, onnx_runner
from automc.models.onnx_weights import Stored, has_int4
from automc.surgery.levels import Levels, kmeans, uniform
from automc.surgery.quantised import quantise, quantised, settle

EXAMPLE = torch.zeros(2, 3, 16, 16)


def on_levels(model: nn.Module, kind: str, bits: int) -> nn.Module:
    for layer in [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]:
        levels = (
            uniform(layer.weight, bits) if kind == "scale" else Levels(bits, codebook=kmeans(layer.weight, 2**bits))
        )
        quantise(layer, levels)
    settle(model)
    return model.eval()


def kinds(path: Path) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize(
    ("net", "kind", "bits"),
    [
        ("vgg", "scale", 2),
        pytest.param("vgg", "codebook", 3, marks=pytest.mark.slow),
        pytest.param("inverted", "scale", 4, marks=pytest.mark.slow),
        pytest.param("inverted", "codebook", 8, marks=pytest.mark.slow),
    ],
)
def test_integers_say_what_floats_said_with_folded_norms(net: str, kind: str, bits: int, tmp_path: Path) -> None:
    model = build(net)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[::2] *= -1  # a folded norm turns signs
        next(m for m in model.modules() if isinstance(m, nn.Conv2d)).weight[1] = 0
    floats = export(model, EXAMPLE, tmp_path / "float.onnx")
    assert floats.stored == Stored()
    on_levels(model, kind, bits)
    done = export(model, EXAMPLE, tmp_path / "x.onnx")
    layers = len(quantised(model))
    small = bits <= 4
    assert (done.stored.int4, done.stored.int8, done.stored.floats) == (layers * small, layers * (not small), ())
    assert done.max_error < 1e-5
    wanted = {
        ("scale", True): "INT4",
        ("scale", False): "INT8",
        ("codebook", True): "UINT4",
        ("codebook", False): "UINT8",
    }
    codes = [kind for name, kind in kinds(done.path).items() if name.endswith(".codes")]
    assert codes == [getattr(TensorProto, wanted[kind, small])] * layers
    numbers = sum(model.get_submodule(name).weight.numel() for name in quantised(model))
    tables = sum(buffer.numel() for name, buffer in model.named_buffers() if name.endswith(("scale", "codebook")))
    assert floats.file_bytes - done.file_bytes > numbers * (3.5 if small else 3) - 4 * tables - 500 * layers
    onnx.checker.check_model(onnx.load(done.path), full_check=True)


def test_before_opset_21_there_are_8_bits(tmp_path: Path) -> None:
    done = export(on_levels(build("vgg"), "scale", 3), EXAMPLE, tmp_path / "x.onnx", opset=20)
    assert (done.opset, done.stored.int4) == (20, 0)
    assert done.stored.int8 == 5
    assert not has_int4(done.path.read_bytes())
    # Runtimes from before the 4-bit integers read it: they know IR versions up to 9.
    assert onnx.load(done.path).ir_version == 9
    default = export(on_levels(build("vgg"), "scale", 3), EXAMPLE, tmp_path / "x.onnx")
    assert default.opset == 21
    assert has_int4(default.path.read_bytes())
    assert onnx.load(default.path).ir_version == 10


def test_weights_that_were_turned_or_left_their_levels(tmp_path: Path) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.fc = nn.Conv2d(3, 12, 4, 4), nn.Linear(12, 12), nn.Linear(12, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.mix(self.embed(x).flatten(2).transpose(1, 2)).mean(1))

    torch.manual_seed(0)
    model = on_levels(Tokens(), "scale", 4)
    done = export(model, EXAMPLE, tmp_path / "x.onnx")
    assert done.max_error < 1e-5
    assert done.stored.int4 + len(done.stored.floats) == 3
    assert done.stored.int4 >= 2
    with torch.no_grad():
        model.fc.weight += 1e-3
    assert export(model, EXAMPLE, tmp_path / "y.onnx").stored.int4 == done.stored.int4 - 1


def test_a_runtime_that_cannot_is_told_what_to_do() -> None:
    codes = TensorProto(name="w", data_type=TensorProto.INT4, dims=[2], raw_data=b"\x21")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("images", "logits")]
    node = helper.make_node("NoSuchNode", ["images", "w"], ["logits"])
    graph = helper.make_graph([node], "g", values[:1], values[1:], [codes])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    with pytest.raises(ModelError, match=r"cannot run the exported model.*4-bit integers; --opset 20 writes"):
        onnx_runner(onnxruntime, content)
