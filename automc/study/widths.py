"""Which channel counts pay on this processor in a runtime: multiples of 1, 8, 16 …, measured once and remembered."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from automc.home import home
from automc.models.export import onnx_runner, onnx_tools
from automc.models.measure import synchronise
from automc.models.pace import NAMES, Runtime
from automc.models.runtimes import Run, fastest
from automc.study.task import Subject, settle_precision
from automc.training.precision import device_key
from automc.training.recipe import Recipe
from kg.embedding.threads import one_thread

MULTIPLES = (1, 2, 4, 8, 16, 32)
WIDTHS = range(17, 65)
"""Channel counts that are timed: enough multiples of each, and larger ones are made of these."""
SIDE = 16
"""Of the timed images, in pixels."""
LAYERS = 3
CLEAR = 0.05
"""Wasted time that is not worth a coarser choice of widths."""
_TURNS, _RUNS = 7, 7


def settle_recipe(
    recipe: Recipe, precision: str, subject: Subject, runtime: Runtime, auto_widths: bool,
    say: Callable[[str], None] | None = None,
) -> Recipe:  # fmt: skip
    """Return the recipe with what only this machine can tell: the precision and, if asked, the widths that pay."""
    recipe = settle_precision(recipe, precision, subject, say)
    return settle(recipe, runtime, subject.device, home(), say) if auto_widths else recipe


def settle(
    recipe: Recipe, runtime: Runtime, device: torch.device, folder: Path, say: Callable[[str], None] | None = None
) -> Recipe:
    """Return the recipe with `round_to` as it pays on the device in the runtime: remembered in `folder`, or measured.

    Remembered in widths.json per processor, version and runtime. `say` is told what was measured, the first time.

    Raises:
        EnvironmentFault: the runtime's packages are missing.
    """
    where = torch.device("cpu") if runtime == "onnx" else device
    version = f", onnxruntime {onnx_tools(None).__version__}" if runtime == "onnx" else ""
    key, file = f"{device_key(where)}{version}, {NAMES[runtime]}", folder / "widths.json"
    known = _read(file)
    if known.get(key) in MULTIPLES:
        return replace(recipe, round_to=known[key])
    found = wasted(measure(runtime, where))
    chosen = choose(found)
    if say is not None:
        table = ", ".join(f"{m}: {share:.0%}" for m, share in found.items())
        say(
            f"Widths: multiples of {chosen}. Of the time of a convolution in {NAMES[runtime]} on {key}, so much is "
            f"wasted at multiples of {table}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**_read(file), key: chosen}, indent=1), encoding="utf-8")
    return replace(recipe, round_to=chosen)


def choose(found: Mapping[int, float]) -> int:
    """Return the smallest multiple that wastes hardly more than the best."""
    return min(m for m, share in found.items() if share <= min(found.values()) + CLEAR)


def wasted(seconds: Mapping[int, float]) -> dict[int, float]:
    """Return for each multiple the mean share of time that its widths waste, from the seconds of each width.

    Wasted is what a width takes beyond the lower convex hull of seconds over the square of the width, which is its
    work: what as much work would take at widths that this processor likes.
    """
    widths = np.array(sorted(seconds), dtype=float)
    times = np.array([seconds[int(w)] for w in widths])
    hull = [0]
    for i in range(1, len(widths)):
        while len(hull) > 1 and _turns_up(widths**2, times, hull[-2], hull[-1], i):
            hull.pop()
        hull.append(i)
    best = np.interp(widths**2, widths[hull] ** 2, times[hull])
    shares = 1 - best / times
    return {m: float(shares[widths % m == 0].mean()) for m in MULTIPLES}


def measure(runtime: Runtime, device: torch.device) -> dict[int, float]:
    """Time some 3×3 convolutions of each width on one image, all widths in turns; the fastest run of each, in seconds.

    On one thread: which widths pay is a matter of a core's registers, and a busy machine disturbs less.
    """
    make = _onnx_run if runtime == "onnx" else _torch_run
    with one_thread():
        runs = {width: make(width, device) for width in WIDTHS}
        found = dict.fromkeys(runs, float("inf"))
        for _ in range(_TURNS):
            for width, run in runs.items():
                found[width] = min(found[width], fastest(run, _RUNS))
    return found


def _torch_run(width: int, device: torch.device) -> Run:
    # Weights of a compressed model lie channels last, which makes other widths fast.
    model = _network(width).to(device).to(memory_format=torch.channels_last)
    images = _images(width).to(device).to(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            model(images)
        synchronise(device)

    return run


def _onnx_run(width: int, device: torch.device) -> Run:
    """The same network as ONNX, written by hand: the exporter takes seconds for each."""
    from onnx import TensorProto, helper, numpy_helper

    sizes = [1, width, SIDE, SIDE]
    names = ["images", *(f"layer{i}" for i in range(LAYERS - 1)), "logits"]
    weights = [p.detach().numpy() for name, p in _network(width).named_parameters() if name.endswith("weight")]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [names[i], f"weight{i}"], [names[i + 1]], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            for i in range(LAYERS)
        ],
        "widths",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, sizes)],
        [numpy_helper.from_array(w, f"weight{i}") for i, w in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnx_runner(onnx_tools(None), model.SerializeToString(), torch.get_num_threads())
    images = _images(width)
    return lambda: session(images)


def _network(width: int) -> nn.Module:
    layers = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(LAYERS)]
    return nn.Sequential(*layers).eval()


def _images(width: int) -> Tensor:
    return torch.ones(1, width, SIDE, SIDE)


def _turns_up(x: np.ndarray, y: np.ndarray, a: int, b: int, c: int) -> bool:
    """Whether b lies on or above the line from a to c."""
    return bool((y[b] - y[a]) * (x[c] - x[a]) >= (y[c] - y[a]) * (x[b] - x[a]))


def _read(file: Path) -> dict[str, int]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
