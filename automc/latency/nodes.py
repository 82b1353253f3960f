"""The kernels of onnxruntime: nodes of the graph that it makes of an exported network, noted while that runs.

Which layers it makes one of, and where it lays channels in blocks, hangs on widths, on weights of fewer bits and on
what reads a result; so it is asked.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from automc.errors import ModelError
from automc.latency.kernels import Kernel
from automc.models.export import onnx_tools
from automc.temporary import prefix

_CONVOLUTIONS = ("Conv", "FusedConv")
_PRODUCTS = ("Gemm", "FusedGemm", "MatMul", "FusedMatMul")
_BLOCKED = "_nchwc"
"""Ends the name of a node that computes on channels in blocks."""
_WARMUP = 5
_FASTEST = 3
"""Of a node's runs the fastest third counts: other work on the machine only ever makes one slower."""
_Event = dict[str, Any]


def profiled(content: bytes, images: Tensor, runs: int = 1) -> list[tuple[Kernel, float]]:
    """Return the nodes that onnxruntime runs of an ONNX file for images (n, c, h, w), in order, with their seconds.

    Seconds are those of a node in its place, and what the profile itself takes.

    Args:
        runs: of which the fastest third counts, once some more warmed it up.

    Raises:
        ModelError: it does not run.
    """
    tools = onnx_tools(None)
    options = tools.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix=prefix()) as folder:
        options.profile_file_prefix = str(Path(folder) / "nodes")
        try:
            session = tools.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            for _ in range(runs + (_WARMUP if runs > 1 else 0)):
                session.run(None, {session.get_inputs()[0].name: images.numpy()})
        except Exception as error:  # its exceptions have no common base
            raise ModelError(f"onnxruntime {tools.__version__} cannot run the exported model: {error}") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found = list(_runs(events))[-runs:]
    kernels = [_kernel(event) for event in found[-1]]
    counted = -(-runs // _FASTEST)
    times = [sorted(float(event["dur"]) for event in node)[:counted] for node in zip(*found, strict=True)]
    return [(kernel, statistics.fmean(mine) / 1e6) for kernel, mine in zip(kernels, times, strict=True)]


def _runs(events: Sequence[_Event]) -> Iterator[list[_Event]]:
    """Yield the nodes of each run."""
    nodes: list[_Event] = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes.append(event)
        elif event.get("name") == "model_run" and nodes:
            yield nodes
            nodes = []


def _kernel(event: _Event) -> Kernel:
    """Return a node as a kernel: its shapes are in the profile."""
    said, blocked = event["args"], event["name"].removesuffix("_kernel_time").endswith(_BLOCKED)
    operation = str(said["op_name"])
    shapes, types = _tensors(said["input_type_shape"])
    (made, *_), results = _tensors(said["output_type_shape"])
    if operation in _CONVOLUTIONS and len(made) == 4:
        return _convolution(operation, blocked, shapes, made)
    if operation in _PRODUCTS and len(shapes) > 1:
        kind, read = "linear", prod(shapes[0])
        largest = shapes[0]
    else:
        marks = sorted({*types, *(f"to {kind}" for kind in results)} - {"float", "to float"})
        kind, read = "+".join([operation, *marks, *(["blocked"] if blocked else [])]), sum(map(prod, shapes))
        largest = max(shapes, key=prod, default=made)
    height, width = made[2:4] if len(made) >= 4 else (1, 1)
    inputs, outputs = (_channels(shape, kind) for shape in (largest, made))
    return Kernel(
        kind, made[0] if made else 1, inputs, outputs, height, width, read=read, written=prod(made), operation=operation
    )


def _convolution(operation: str, blocked: bool, shapes: Sequence[Sequence[int]], made: Sequence[int]) -> Kernel:
    """Return the kernel of a convolution with what it takes along: a bias, a sum with another result, an activation."""
    images, weight = shapes[:2]
    groups = max(1, images[1] // weight[1])
    # Groups are computed one after another, by the same code.
    kind = "depthwise" if groups > 1 and weight[1] == 1 and images[1] == made[1] else "conv"
    read = prod(images) + sum(prod(shape) for shape in shapes[2:] if len(shape) == 4)
    down, right = (max(1, round(images[i] / made[i])) for i in (2, 3))
    return Kernel(
        f"{kind}+blocked" if blocked else kind, made[0], images[1], made[1], made[2], made[3],
        (weight[2], weight[3]), (down, right), groups, read, prod(made), operation,
    )  # fmt: skip


def _tensors(said: Sequence[dict[str, list[int]]]) -> tuple[list[list[int]], list[str]]:
    """Return the shapes of tensors and what they hold, as a profile names both."""
    pairs = [(shape, kind) for one in said for kind, shape in one.items()]
    return [shape for shape, _ in pairs], [kind for _, kind in pairs]


def _channels(shape: Sequence[int], kind: str) -> int:
    return int(shape[-1 if kind == "linear" else 1]) if len(shape) > 1 else prod(shape)
