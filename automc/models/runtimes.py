"""What runs a model once it is done, and how fast: a smaller model may be slower, and only its own runtime tells."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from automc.errors import ModelError
from automc.models.export import Exported, capture, onnx_bytes, onnx_runner, onnx_tools
from automc.models.load import LoadedModel, build, prepare
from automc.models.measure import count_params, one_image, synchronise
from automc.models.outputs import alone
from automc.models.pace import Comparison, Place, judged

Run = Callable[[], object]
"""Computes the logits of some images, to the end."""

_LEAST_SECONDS = 0.6
_LEAST_TURNS, _MOST_TURNS = 11, 101
_TURN_SECONDS = 0.005
_LEAST_RUNS = 3
_WARMUP = 5


def runner(
    model: nn.Module, example: Tensor, place: Place = "torch", layout: torch.memory_format = torch.channels_last
) -> Run:
    """Return a call that runs a copy of `model` on `example` (n, c, h, w) in evaluation mode.

    onnxruntime and the exported program run on the CPU, with as many threads as torch has.

    Args:
        layout: how PyTorch's weights and images lie in memory, which decides over its speed.

    Raises:
        ModelError: it cannot be exported.
        EnvironmentFault: the packages for it are missing.
    """
    if place == "torch":
        still = copy.deepcopy(model).eval().to(memory_format=layout)
        images = example.to(memory_format=layout)

        def run() -> None:
            with torch.inference_mode():
                still(images)
            synchronise(images.device)

        return run
    if place == "onnx":
        return content_runner(onnx_content(model, example), example.cpu())
    return _exported_run(_captured(model, example)[1], example.cpu())


def onnx_content(model: nn.Module, example: Tensor) -> bytes:
    """Return the ONNX file that a model is exported to, for any batch where it can be.

    Raises:
        ModelError: it cannot be exported.
        EnvironmentFault: the packages for it are missing.
    """
    onnx_tools(None)
    subject, program, free = _captured(model, example)
    return onnx_bytes(subject, program, None, free)[0]


def content_runner(content: bytes, images: Tensor) -> Run:
    """Return a call that runs the content of an ONNX file on `images`, with as many threads as torch has."""
    session = onnx_runner(onnx_tools(None), content, torch.get_num_threads())
    return lambda: session(images)


def _captured(model: nn.Module, example: Tensor) -> tuple[nn.Module, torch.export.ExportedProgram, bool]:
    """What of a model is exported, its program, and whether that takes any number of images."""
    images, subject = example.cpu(), copy.deepcopy(model).cpu()
    shape = tuple(images.shape[1:])
    two = torch.zeros(2, *shape)
    subject = alone(prepare(subject, two).eval().to(memory_format=torch.contiguous_format), two)
    try:
        return subject, capture(subject, shape, dynamic_batch=True), True
    except ModelError:
        return subject, capture(subject, shape, dynamic_batch=False), False


def file_runner(file: Path, images: Tensor, place: Place) -> Run:
    """Return a call that runs what was exported to `file` on `images`, as `runner` does."""
    if place == "onnx":
        return content_runner(file.read_bytes(), images)
    return _exported_run(torch.export.load(file), images)


def _exported_run(program: torch.export.ExportedProgram, images: Tensor) -> Run:
    exported = program.module()

    def run() -> None:
        with torch.inference_mode():
            exported(images)

    return run


def compare(before: Run, after: Run, place: Place, device: str) -> Comparison:
    """Time two runs in turns; each turn runs both for some milliseconds, the first one first every other time.

    Of a turn the fastest run counts: other work on the machine only ever makes a run slower.
    """
    pace = min(fastest(before, _WARMUP), fastest(after, _WARMUP))
    number = max(_LEAST_RUNS, round(_TURN_SECONDS / max(pace, 1e-7)))
    pairs: list[tuple[float, float]] = []
    began = time.monotonic()
    while len(pairs) < _LEAST_TURNS or (time.monotonic() - began < _LEAST_SECONDS and len(pairs) < _MOST_TURNS):
        if len(pairs) % 2:
            second = fastest(after, number)
            pairs.append((fastest(before, number), second))
        else:
            pairs.append((fastest(before, number), fastest(after, number)))
    return judged(pairs, place, device)


def compare_models(
    before: nn.Module, after: nn.Module, example: Tensor, place: Place = "torch",
    layout: torch.memory_format = torch.channels_last,
) -> Comparison | None:  # fmt: skip
    """Compare two models on the same images; None where one of them does not run in that place."""
    try:
        runs = [runner(model, example, place, layout) for model in (before, after)]
    except ModelError:
        return None
    return compare(runs[0], runs[1], place, str(example.device) if place == "torch" else "cpu")


def beside_original(loaded: LoadedModel, exported: Exported) -> Comparison | None:
    """Compare a file with the network its model was made from, exported likewise; None where that is no larger.

    The original is built anew by the model's factory: its weights do not decide over its time.
    """
    _, channels, height, width = exported.images
    original = build(loaded.source)
    images = one_image(original, torch.zeros(1, channels, height, width))
    if count_params(original) <= count_params(loaded.model):
        return None
    place: Place = "onnx" if exported.kind == "onnx" else "exported"
    try:
        before = runner(original, images, place)
    except ModelError:
        return None
    return compare(before, file_runner(exported.path, images, place), place, "cpu")


def fastest(run: Run, number: int) -> float:
    """Seconds of the fastest of `number` runs."""
    least = math.inf
    for _ in range(number):
        started = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - started)
    return least
