"""A model exported to compute in 8 bits, and what became of its accuracy, its size and its time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from automc.datasets.base import TrainData
from automc.models.export import capture, compare, onnx_bytes, onnx_runner, onnx_tools
from automc.models.int8 import eight_bits
from automc.models.load import prepare
from automc.models.measure import one_image
from automc.models.outputs import alone
from automc.models.pace import Comparison
from automc.models.runtimes import compare as in_turns
from automc.study.task import Subject
from kg.embedding.threads import one_thread

CALIBRATION = 512
"""Training images that show the range of each activation."""
AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class EightBits:
    """A file that computes in 8 bits beside the same model exported in floats."""

    path: Path
    opset: int
    images: tuple[int | str, int, int, int]
    """Shape of the input (n, c, h, w), normalised float32; n is "batch"."""
    file_bytes: int
    float_bytes: int
    accuracy: float
    """On the validation images."""
    float_accuracy: float
    validation_images: int
    test_accuracy: float | None
    float_test_accuracy: float | None
    test_images: int | None
    pace: Comparison
    """Floats before, 8 bits after: one image, one thread, in onnxruntime."""


def export_int8(subject: Subject, path: Path, opset: int | None = None) -> EightBits:
    """Write a model that computes in 8 bits, and measure it anew beside the one in floats.

    Both are run by onnxruntime on the CPU. Weights and activations are quantised, see `models.int8`; the ranges of
    activations come from 512 training images, never from those that are measured.

    Raises:
        ModelError: it cannot be exported or quantised, or the export in floats already differs from PyTorch.
        EnvironmentFault: packages are missing, or `path` cannot be written.
    """
    tools = onnx_tools(opset)
    shape = subject.dataset.example_shape[1:]
    two = torch.zeros(2, *shape)
    model = alone(prepare(subject.model.cpu(), two).eval().to(memory_format=torch.contiguous_format), two)
    content, written, _ = onnx_bytes(model, capture(model, tuple(shape), True), opset, True, coded=False)
    shown = subject.dataset.data(subject.splits.train).take(CALIBRATION)
    batches = [
        shown.normalised(slice(at, min(at + AT_ONCE, shown.n))).contiguous() for at in range(0, shown.n, AT_ONCE)
    ]
    threads = torch.get_num_threads()
    floats = onnx_runner(tools, content, threads)
    compare(model, floats, batches[:2], None)
    small = eight_bits(content, model, batches, path)
    integers = onnx_runner(tools, small, threads)
    parts = subject.splits
    checked, tested = (None if part is None else subject.dataset.data(part) for part in (parts.validation, parts.test))
    assert checked is not None
    right = [
        (_accuracy(run, checked), None if tested is None else _accuracy(run, tested)) for run in (integers, floats)
    ]
    with one_thread():
        image = one_image(model, two)
        runs = [onnx_runner(tools, each, 1) for each in (content, small)]
        pace = in_turns(lambda: runs[0](image), lambda: runs[1](image), "onnx", "cpu")
    channels, height, width = shape
    return EightBits(
        path, written, ("batch", channels, height, width), len(small), len(content), right[0][0], right[1][0],
        checked.n, right[0][1], right[1][1], None if tested is None else tested.n, pace,
    )  # fmt: skip


def _accuracy(run: Callable[[Tensor], Tensor], data: TrainData, batch: int = 250) -> float:
    """Top-1 accuracy of a file's logits."""
    correct = 0
    for start in range(0, data.n, batch):
        part = slice(start, min(start + batch, data.n))
        correct += int((run(data.normalised(part).contiguous()).argmax(1) == data.y[part]).sum())
    return correct / data.n
