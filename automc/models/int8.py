"""ONNX files that compute in 8-bit integers: weights and activations, by onnxruntime's static quantisation."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from automc.errors import ModelError
from automc.files import write_atomically
from automc.models.export import MADE_BY, onnx_runner
from automc.models.modes import quiet
from automc.models.onnx_weights import nameless, scales, slim
from automc.temporary import prefix


class _Batches:
    """Calibration images, as onnxruntime asks for them."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._left = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the inputs of the next run, None after the last."""
        images = next(self._left, None)
        return None if images is None else {"images": images.numpy()}


def eight_bits(content: bytes, model: nn.Module, batches: Sequence[Tensor], path: Path) -> bytes:
    """Write an ONNX file that computes in 8 bits what `content` computes in floats, about; return what was written.

    Weights are signed with a scale for each output channel, that of the layer where it lies on uniform levels;
    activations are unsigned over the range that the images show: of signed ones onnxruntime leaves residual networks in
    floats between conversions. Processors without instructions for 8 bits overflow where such weights meet such
    activations, unless weights have 7: both are tried, and what is nearer to the floats here is written. Conversions
    stand at every edge, so names would be a tenth of a small network's file: tensors inside have short ones.

    Args:
        content: as exported from `model`, input `images`.
        batches: normalised images (n, c, h, w), float32.

    Raises:
        ModelError: onnxruntime cannot quantise or run it.
        EnvironmentFault: `path` cannot be written.
    """
    runtime = import_module("onnxruntime")
    floats = onnx_runner(runtime, content)
    wanted = [floats(images) for images in batches]
    found: list[tuple[float, bytes]] = []
    for narrow in (False, True):
        small = _quantised(content, model, batches, narrow)
        run = onnx_runner(runtime, small)
        error = sum(float((run(images) - logits).abs().mean()) for images, logits in zip(batches, wanted, strict=True))
        found.append((error, small))
    onnx = import_module("onnx")
    proto = onnx.load_from_string(min(found, key=lambda each: each[0])[1])
    nameless(proto)
    nearest = bytes(proto.SerializeToString())
    write_atomically(path, nearest)
    return nearest


def _quantised(content: bytes, model: nn.Module, batches: Sequence[Tensor], narrow: bool) -> bytes:
    """Quantise with weights of 8 bits, or 7 where `narrow`."""
    onnx, tools = import_module("onnx"), import_module("onnxruntime.quantization")
    prepare = import_module("onnxruntime.quantization.shape_inference").quant_pre_process
    try:
        with quiet(), tempfile.TemporaryDirectory(prefix=prefix()) as folder:
            whole, start, end = (Path(folder) / f"{name}.onnx" for name in ("whole", "prepared", "small"))
            whole.write_bytes(content)
            prepare(str(whole), str(start), skip_symbolic_shape=True)
            known = {} if narrow else _overrides(onnx.load(start), model, tools.QuantType.QInt8)
            tools.quantize_static(
                str(start), str(end), _Batches(batches), quant_format=tools.QuantFormat.QDQ, per_channel=True,
                activation_type=tools.QuantType.QUInt8, weight_type=tools.QuantType.QInt8, reduce_range=narrow,
                extra_options={"TensorQuantOverrides": known},
            )  # fmt: skip
            proto = onnx.load(end)
    except Exception as error:  # its exceptions have no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"onnxruntime cannot quantise this model to 8 bits: {reason} Export it without --int8."
        ) from error
    slim(proto)
    onnx.helper.set_model_props(proto, {"made_by": MADE_BY})
    return bytes(proto.SerializeToString())


def _overrides(proto: Any, model: nn.Module, kind: Any) -> dict[str, list[dict[str, Any]]]:
    """Scales that are known, one for each output channel, as onnxruntime takes them."""
    zero = torch.zeros((), dtype=torch.int8).numpy()
    return {
        name: [{"quant_type": kind, "scale": scale, "zero_point": zero, "axis": axis} for scale in values]
        for name, (axis, values) in scales(proto, model).items()
    }
