"""Seconds of one kernel alone, in PyTorch and in onnxruntime, on random numbers."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from automc.latency.kernels import CONVOLUTIONS, Argument, Kernel
from automc.models.export import onnx_tools
from automc.models.pace import Runtime
from automc.temporary import prefix

AGREEING, NEAR = 4, 0.02
"""A time is settled when so many measurements lie this near to the fastest."""
MOST_BLOCKS, MOST_TURNS = 40, 60
"""On a busy machine: what is fastest by then counts."""
_LEAST_TURNS = 5
_MOST_SECONDS = 4.0
_BLOCK_SECONDS = 0.001
_MOST_RUNS = 200
_PROFILED = 25
"""Runs of a profile; the faster half of them counts."""
_AROUND = 16
"""Channels before and behind a kernel that onnxruntime runs."""
_POINTWISE = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "hardtanh": "Relu", "silu": "Sigmoid"}
_BINARY = {"add": "Add", "mul": "Mul", "sub": "Sub", "div": "Div"}
_POOLS = {"mean": "GlobalAveragePool", "avg_pool2d": "GlobalAveragePool", "_adaptive_avg_pool2d": "GlobalAveragePool"}


def seconds(kernel: Kernel, runtime: Runtime) -> float | None:
    """Return the seconds of a kernel alone on this machine; None where it cannot be run alone."""
    try:
        return torch_seconds(kernel) if runtime == "torch" else onnx_seconds(kernel)
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError):
        return None


def torch_seconds(kernel: Kernel) -> float:
    """Call the operation again and again; see `fastest_mean`."""
    operation = getattr(torch.ops.aten, kernel.operation)
    arguments = [_made(a, kernel) for a in kernel.arguments]

    def run() -> None:
        operation(*arguments)

    with torch.inference_mode():
        return fastest_mean(run)


def fastest_mean(run: Callable[[], object]) -> float:
    """Return the mean seconds of a call in the fastest block of about a millisecond.

    Blocks go on until AGREEING of them are within NEAR of the fastest: other work on the machine, which comes and goes,
    only ever makes one slower.
    """
    for _ in range(3):
        run()
    started = time.perf_counter()
    run()
    number = int(min(_MOST_RUNS, max(2, _BLOCK_SECONDS / max(time.perf_counter() - started, 1e-7))))
    means: list[float] = []
    while len(means) < MOST_BLOCKS and sum(m <= (1 + NEAR) * min(means) for m in means) < AGREEING:
        started = time.perf_counter()
        for _ in range(number):
            run()
        means.append((time.perf_counter() - started) / number)
    return min(means)


def in_turns(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float, bool]:
    """Return the seconds of two networks, timed in turns, and whether they settled: see `fastest_mean`."""
    for run in (first, second):
        for _ in range(5):
            run()
    times: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    while len(times[0]) < MOST_TURNS and time.perf_counter() - began < _MOST_SECONDS:
        for run, own in zip((first, second), times, strict=True):
            own.append(min(timeit(run) for _ in range(3)))
        if len(times[0]) >= _LEAST_TURNS and all(_agree(own) for own in times):
            break
    return min(times[0]), min(times[1]), all(_agree(own) for own in times)


def _agree(times: Sequence[float]) -> bool:
    return sum(t <= (1 + NEAR) * min(times) for t in times) >= _LEAST_TURNS


def timeit(run: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _made(argument: Argument, kernel: Kernel) -> Any:
    """Return what stands for an argument: random numbers in the place of a tensor."""
    if isinstance(argument, list | tuple):
        return [_made(a, kernel) for a in argument]
    if not isinstance(argument, dict):
        return argument
    shape = argument["shape"]
    if argument["whole"]:
        return torch.arange(int(np.prod(shape))).reshape(shape) % max(1, kernel.inputs)
    if argument.get("turned"):
        return torch.rand(*reversed(shape)).t()
    made = torch.rand(*shape)
    return made.to(memory_format=torch.channels_last) if argument["last"] else made


def onnx_seconds(kernel: Kernel) -> float | None:
    """Profile the kernel between two small convolutions, as in a network, with what it makes the runtime reorder."""
    graph = _graph(kernel)
    if graph is None:
        return None
    content, images = graph
    tools = onnx_tools(None)
    options = tools.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.enable_profiling = (
        3,
        torch.get_num_threads(),
        True,
    )
    with tempfile.TemporaryDirectory(prefix=prefix()) as folder:
        options.profile_file_prefix = str(Path(folder) / "kernel")
        session = tools.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for _ in range(_PROFILED):
            session.run(None, {"images": images})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found = sorted(_of_runs(events))
    return statistics.fmean(found[: max(1, len(found) // 2)]) / 1e6 if found else None


def _of_runs(events: Sequence[dict[str, Any]]) -> Iterator[float]:
    """Yield the microseconds of the kernel in each run: its nodes, and reorderings between the first and its last."""
    run: list[dict[str, Any]] = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            run.append(event)
        elif event.get("name") == "model_run" and run:
            yield _of_run(run)
            run = []


def _of_run(run: Sequence[dict[str, Any]]) -> float:
    names = [str(event["name"]) for event in run]
    ours = [
        i for i, name in enumerate(names) if not name.startswith(("before", "shortcut", "logits", "behind", "Reorder"))
    ]
    if not ours:
        return 0.0
    reordered = [i for i in range(1, ours[-1]) if names[i].startswith("Reorder")]
    return sum(float(run[i]["dur"]) for i in (*ours, *reordered))


def _graph(kernel: Kernel) -> tuple[bytes, np.ndarray] | None:
    """Return an ONNX file that runs a kernel, and its images; None for a kind that is not known there."""
    from onnx import helper

    kind, *more = kernel.kind.split("+")
    low = "dequantised" in more
    random = np.random.default_rng(0)
    build = _Graph(random)
    sides: tuple[int, ...] = (
        kernel.batch, _AROUND, kernel.height * kernel.stride[0], kernel.width * kernel.stride[1]
    )  # fmt: skip
    if kind in CONVOLUTIONS:
        build.convolution("images", "before", kernel.inputs, _AROUND)
        build.convolution(
            "before", "made", kernel.outputs, kernel.inputs // kernel.groups, kernel.size, kernel.stride,
            kernel.padding, kernel.groups, low=low,
        )  # fmt: skip
        last = "made"
        if "add" in more:
            build.convolution("images", "shortcut", kernel.outputs, _AROUND, stride=kernel.stride)
            build.node("Add", ["made", "shortcut"], "summed")
            last = "summed"
        build.node("Relu", [last], "lit")
        build.convolution("lit", "logits", _AROUND, kernel.outputs)
    elif kind == "linear":
        sides = (kernel.batch, kernel.inputs)
        stored = build.levels if low else build.weight
        weight, bias = stored(kernel.outputs, kernel.inputs), build.weight(kernel.outputs)
        build.node("Gemm", ["images", weight, bias], "made", transB=1)
        build.node("Identity", ["made"], "logits")
    elif kind in _POINTWISE or kind in _BINARY or kind in _POOLS:
        channels = kernel.inputs
        build.convolution("images", "before", channels, _AROUND)
        if kind in _BINARY:
            # Activations between, so that no convolution takes the sum with it.
            build.node("Sigmoid", ["before"], "behind")
            build.node("Tanh", ["before"], "behind2")
            build.node(_BINARY[kind], ["behind", "behind2"], "made")
        elif kind in _POOLS:
            side = max(1, round((kernel.read / kernel.batch / channels) ** 0.5))
            sides = (kernel.batch, _AROUND, side, side)
            build.node(_POOLS[kind], ["before"], "made")
        else:
            build.node("Sigmoid", ["before"], "behind")
            build.node(_POINTWISE[kind], ["behind"], "made")
        build.convolution("made", "logits", _AROUND, channels)
    else:
        return None
    float32 = 1
    graph = helper.make_graph(
        build.nodes, "kernel",
        [helper.make_tensor_value_info("images", float32, list(sides))],
        [helper.make_tensor_value_info("logits", float32, None)],
        build.weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString(), random.random(sides, dtype=np.float32)


class _Graph:
    """Nodes and weights of an ONNX graph; a node has the name of its result."""

    def __init__(self, random: np.random.Generator) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._random = random

    def weight(self, *shape: int) -> str:
        from onnx import numpy_helper

        name = f"weight{len(self.weights)}"
        values = self._random.standard_normal(shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def levels(self, *shape: int) -> str:
        """A weight of bytes with a scale for each output channel."""
        from onnx import numpy_helper

        name = f"weight{len(self.weights)}"
        values = self._random.integers(-127, 128, shape).astype(np.int8)
        self.weights.append(numpy_helper.from_array(values, name))
        self.node("DequantizeLinear", [name, self.weight(shape[0])], f"levels{name}", axis=0)
        return f"levels{name}"

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))

    def convolution(
        self, read: str, made: str, outputs: int, inputs: int, size: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1), padding: tuple[int, int] = (0, 0), groups: int = 1, low: bool = False,
    ) -> None:  # fmt: skip
        stored = self.levels if low else self.weight
        names = [read, stored(outputs, inputs, *size), self.weight(outputs)]
        self.node(
            "Conv", names, made, kernel_shape=list(size), pads=[*padding, *padding], strides=list(stride), group=groups
        )
