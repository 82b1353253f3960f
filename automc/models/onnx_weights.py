"""Weights of an ONNX file as integers: floats are exported, then those that lie on levels are stored as their codes.

The exporter folds a batch norm into the convolution before it, whose weight keeps its name and is multiplied for each
output channel. That factor is found by projection, and goes into the scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from automc.models import packing

INT4_OPSET = 21
"""The first operator set with 4-bit integers; its files have at least IR version 10, the first with these."""
CLOSE = 1e-6
"""How far a stored weight may lie from the exported one, as a share of the largest: rounding of float32."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """How many weights a file holds as integers of each kind, and the names of those on levels that stayed floats."""

    int8: int = 0
    int4: int = 0
    floats: tuple[str, ...] = ()


def needs_int4(model: nn.Module) -> bool:
    """Whether some layer's weights fit into 4 bits."""
    return any(how["bits"] <= 4 for how in packing.find(model, model.state_dict()).values())


def has_int4(content: bytes) -> bool:
    """Whether an ONNX file holds 4-bit integers."""
    onnx = import_module("onnx")
    kinds = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
    return any(tensor.data_type in kinds for tensor in onnx.load_from_string(content).graph.initializer)


def slim(proto: Any) -> None:
    """Take out, in place, what only says how a graph came about, and ask for no newer a runtime than its nodes do.

    A runtime infers shapes by itself.
    """
    used = set(_domains(proto.graph.node))
    for known in [known for known in proto.opset_import if known.domain not in used]:
        proto.opset_import.remove(known)
    oldest = import_module("onnx.helper").find_min_ir_version_for(proto.opset_import, ignore_unknown=True)
    proto.ir_version = max(oldest, 4)  # before 4, weights had to be inputs
    del proto.graph.value_info[:]
    for part in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")


def _domains(nodes: Iterable[Any]) -> Iterator[str]:
    """The operator sets that nodes and those within them are of."""
    for node in nodes:
        yield node.domain
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _domains(graph.node)


def nameless(proto: Any) -> None:
    """Give tensors the shortest names there are, in place, and nodes none; inputs and outputs of the graph keep theirs.

    A graph with other graphs inside, as branches are, is left as it is.
    """
    if any(attribute.HasField("g") or attribute.graphs for node in proto.graph.node for attribute in node.attribute):
        return
    fixed = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    short: dict[str, str] = {name: name for name in ("", *fixed)}

    def of(name: str) -> str:
        return short.setdefault(name, f"{len(short):x}")

    for tensor in proto.graph.initializer:
        tensor.name = of(tensor.name)
    for node in proto.graph.node:
        node.ClearField("name")
        node.input[:], node.output[:] = [of(name) for name in node.input], [of(name) for name in node.output]


def store(proto: Any, model: nn.Module, opset: int) -> Stored:
    """Hold the weights of quantised layers as integers, in place.

    Uniform levels become INT8, or INT4 up to 4 bits, with a scale for each output channel and `DequantizeLinear`; codes
    of a codebook UINT8 or UINT4, looked up by `Gather`. Operator sets below 21 have no 4-bit integers: then 8 bits.

    Args:
        proto: the model as exported, with the names of `model`.
        opset: of the file.
    """
    tensors = model.state_dict()
    exported = {tensor.name: tensor for tensor in proto.graph.initializer}
    small, kept, count = opset >= INT4_OPSET, [], {4: 0, 8: 0}
    for name, how in packing.find(model, tensors).items():
        weight, table = (tensors[key].detach().cpu().numpy() for key in (name, how["table"]))
        codes = packing.codes(tensors[name], tensors[how["table"]], how["centre"]).numpy()
        placed = _placed(exported[name], weight) if name in exported else None
        if placed is None:
            kept.append(name)
            continue
        axis, factor = placed
        bits = 4 if how["bits"] <= 4 and small else 8
        if how["centre"] is None:
            _look_up(proto, exported[name], _turned(codes, axis), table, factor, axis, bits)
        else:
            signs = np.where(factor < 0, -1, 1).reshape(-1, *[1] * (codes.ndim - 1))
            signed = (codes.astype(np.int8) - how["centre"]) * signs
            _scale(proto, exported[name], _turned(signed.astype(np.int8), axis), table * abs(factor), axis, bits)
        count[bits] += 1
    return Stored(count[8], count[4], tuple(kept))


def scales(proto: Any, model: nn.Module) -> dict[str, tuple[int, Array]]:
    """Scales of the exported weights that lie on uniform levels: the axis of the output channels, and (outputs,)."""
    tensors = model.state_dict()
    exported = {tensor.name: tensor for tensor in proto.graph.initializer}
    found = {}
    for name, how in packing.find(model, tensors).items():
        if how["centre"] is not None and name in exported:
            weight, scale = (tensors[key].detach().cpu().numpy() for key in (name, how["table"]))
            if placed := _placed(exported[name], weight):
                found[name] = (placed[0], (scale * abs(placed[1])).astype(np.float32))
    return found


def _placed(tensor: Any, weight: Array) -> tuple[int, Array] | None:
    """Axis of the output channels in an exported weight, and the factor (outputs,) of each; None of another weight."""
    found = import_module("onnx.numpy_helper").to_array(tensor)
    for axis in (0, 1):
        if found.shape == _turned(weight, axis).shape:
            rows, ours = (array.reshape(len(weight), -1).astype(np.float64) for array in (_turned(found, axis), weight))
            squares = (ours**2).sum(1)
            factor = np.where(squares > 0, (rows * ours).sum(1) / np.maximum(squares, 1e-300), 1.0)
            if abs(rows - factor[:, None] * ours).max() <= CLOSE * max(abs(rows).max(), 1e-30):
                return axis, factor
    return None


def _turned(array: Array, axis: int) -> Array:
    """The array, or its transpose where output channels are columns."""
    return array.T if axis and array.ndim == 2 else array


def _scale(proto: Any, old: Any, codes: Array, scale: Array, axis: int, bits: int) -> None:
    """Put codes and scales in the place of a weight."""
    names = [f"{old.name}.codes", f"{old.name}.scale"]
    tensors = [_integers(names[0], codes, "INT", bits), _floats(names[1], scale)]
    _replace(proto, old, tensors, [("DequantizeLinear", names, {"axis": axis})])


def _look_up(proto: Any, old: Any, codes: Array, book: Array, factor: Array, axis: int, bits: int) -> None:
    """Put codes and their codebook in the place of a weight."""
    name = old.name
    tensors = [_integers(f"{name}.codes", codes, "UINT", bits), _floats(f"{name}.codebook", book)]
    int32 = int(import_module("onnx").TensorProto.INT32)
    nodes: list[Any] = [
        ("Cast", [f"{name}.codes"], {"to": int32}),
        ("Gather", [f"{name}.codebook", f"{name}.step0"], {"axis": 0}),
    ]
    if (abs(factor - 1) > CLOSE).any():
        shape = [1] * codes.ndim
        shape[axis] = -1
        tensors.append(_floats(f"{name}.factor", factor.reshape(shape)))
        nodes.append(("Mul", [f"{name}.step1", f"{name}.factor"], {}))
    _replace(proto, old, tensors, nodes)


def _replace(proto: Any, old: Any, tensors: list[Any], nodes: list[Any]) -> None:
    """Let a chain of nodes give what an initialiser held, under its name."""
    make = import_module("onnx.helper").make_node
    ends = [f"{old.name}.step{place}" for place in range(len(nodes) - 1)] + [old.name]
    for place, ((kind, inputs, attributes), end) in enumerate(zip(nodes, ends, strict=True)):
        proto.graph.node.insert(place, make(kind, inputs, [end], name=f"{old.name}.{kind}", **attributes))
    proto.graph.initializer.remove(old)
    proto.graph.initializer.extend(tensors)


def _floats(name: str, values: Array) -> Any:
    return import_module("onnx.numpy_helper").from_array(np.ascontiguousarray(values, np.float32), name)


def _integers(name: str, codes: Array, kind: str, bits: int) -> Any:
    """A tensor of signed or unsigned integers; of 4 bits, two lie in a byte, the first one low."""
    kinds = import_module("onnx").TensorProto
    flat: Array = np.ascontiguousarray(codes).reshape(-1).astype(np.int8 if kind == "INT" else np.uint8).view(np.uint8)
    if bits == 4:
        flat = np.append(flat, np.zeros(len(flat) % 2, np.uint8)) & 15
        flat = flat[::2] | flat[1::2] << 4
    return kinds(name=name, data_type=getattr(kinds, f"{kind}{bits}"), dims=codes.shape, raw_data=flat.tobytes())
