"""What does the LMA activation cost? Training ResNet-20 with ReLU, with LMA by a plain gather, and with AutoMC's LMA.

Random 32 × 32 images, so it needs no data; time does not depend on their content. One thread; the median of all timed
iterations counts. Also one site alone, at the largest shape of the network. Writes a page:

    python benchmarks/lma_activation.py [--rounds 4] [--device cpu] [--out docs/results/lma-activation.md]
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from automc.datasets.base import TrainData
from automc.methods.lma import distilled
from automc.models import zoo
from automc.surgery.lma import LMA
from automc.surgery.lma_sites import insert, multi_segment, replaceable
from automc.training.loop import Loss, fit
from automc.training.precision import cpu_name
from automc.training.recipe import Recipe

SEGMENTS = 8
BATCH = 128
WARMUP, ITERATIONS = 1, 2
"""Iterations of one round; the first ones are not timed."""
SITE = (BATCH, 16, 32, 32)


class PlainLMA(LMA):
    """The same function as its formula is written: a segment index for each element, and two gathers."""

    def forward(self, x: Tensor) -> Tensor:
        """Index, gather, multiply, add."""
        if self.training:
            mean, std = x.detach().mean(), x.detach().std()
            self._average(mean, std)
        else:
            mean, std = self.mean, self.std
        index = torch.floor((x - mean + 3 * std) * self.segments / (6 * std)).clamp(0, self.segments - 1).long()
        return self.slope[index] * x + self.offset[index]


def networks(data: TrainData) -> dict[str, nn.Module]:
    """ResNet-20 three times; the activations are the only difference."""
    torch.manual_seed(0)
    relu = zoo.build("resnet20").to(data.device)
    batch = data.normalised(slice(0, 16))
    fused = copy.deepcopy(relu)
    insert(fused, replaceable(fused, batch), SEGMENTS, batch)
    plain = copy.deepcopy(fused)
    for name, module in multi_segment(plain).items():
        slow = PlainLMA(SEGMENTS).to(data.device)
        slow.load_state_dict(module.state_dict())
        plain.set_submodule(name, slow)
    return {"ReLU": relu, "LMA, plain gather": plain, "LMA": fused}


def training_seconds(model: nn.Module, data: TrainData, loss: Loss | None) -> list[float]:
    """Seconds of each iteration of a short training, without those that warm up."""
    marks = [now(data.device)]
    fit(
        model, data, iterations=WARMUP + ITERATIONS, recipe=Recipe(lr=1e-3, batch=BATCH), seed=0, loss=loss,
        progress=lambda done, total: marks.append(now(data.device)),
    )  # fmt: skip
    return [after - before for before, after in pairwise(marks[WARMUP:])]


def site_seconds(module: nn.Module, device: torch.device) -> tuple[float, float, float]:
    """Seconds forward and backward in training, and forward in evaluation."""
    # not a leaf: in a network nothing is accumulated into the activation's input
    x = 1 * torch.randn(SITE, device=device).to(memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn_like(x)
    marks = [now(device)]
    y = module.train()(x)
    marks.append(now(device))
    torch.autograd.grad(y, [x, *module.parameters()], upstream)
    marks.append(now(device))
    with torch.no_grad():
        module.eval()(x)
    marks.append(now(device))
    forward, backward, evaluation = (after - before for before, after in pairwise(marks))
    return forward, backward, evaluation


def now(device: torch.device) -> float:
    """The clock: time of this process on a CPU, which other processes hardly change, else real time."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def processor(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def page(networks: dict[str, float], sites: dict[str, list[float]], given: argparse.Namespace) -> str:
    """The results; seconds per iteration, and milliseconds of one site."""
    device = torch.device(given.device)
    clock = "seconds of processor time" if device.type == "cpu" else "seconds"
    relu = networks["ReLU"]
    lines = [
        "# What the LMA activation costs",
        "",
        f"`benchmarks/lma_activation.py`: ResNet-20 at 32 × 32, batch {BATCH}, {SEGMENTS} segments, random images, float32, seed 0; one thread of",
        f"{processor(device)}; torch {torch.__version__}, AutoMC {version('automc')}, Python {platform.python_version()}.",
        f"Median of n = {given.rounds * ITERATIONS} training iterations in {given.rounds} rounds, in which the activations take turns; {clock}.",
        "",
        "| activation | images per second of training | time against ReLU |",
        "|---|---|---|",
        *(f"| {name} | {BATCH / seconds:.0f} | {seconds / relu:.2f} |" for name, seconds in networks.items()),
        "",
        f"One site of shape {SITE}, channels last, alone; median of n = {4 * given.rounds}, milliseconds:",
        "",
        "| activation | forward, training | backward | forward, evaluation |",
        "|---|---|---|---|",
        *(f"| {name} | " + " | ".join(f"{1000 * s:.1f}" for s in row) + " |" for name, row in sites.items()),
        "",
        "The plain gather computes one index for each element and lets autograd sum the gradients; AutoMC's form is `Pieces` in",
        "`automc/surgery/lma.py`.",
        *([f"{given.note}"] if given.note else []),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--device", default="cpu")
    options.add_argument("--note", help="a sentence about the machine")
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    torch.set_num_threads(1)
    device = torch.device(given.device)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2 * BATCH, 3, 32, 32), generator=generator).to(torch.uint8)
    labels = torch.randint(0, 10, (2 * BATCH,), generator=generator)
    data = TrainData(pixels, labels, mean=[0.5] * 3, std=[0.25] * 3, augment="crop-flip", device=device)
    models = networks(data)
    teacher = copy.deepcopy(models["ReLU"]).eval().requires_grad_(False)
    taught = distilled(teacher, 0.5, 3.0)
    runs: dict[str, tuple[nn.Module, Loss | None]] = {name: (model, None) for name, model in models.items()}
    runs |= {f"{name}, with a teacher": (models[name], taught) for name in ("ReLU", "LMA")}
    kinds = {"ReLU": nn.ReLU(), "LMA, plain gather": PlainLMA(SEGMENTS), "LMA": LMA(SEGMENTS)}
    training: dict[str, list[float]] = {name: [] for name in runs}
    alone: dict[str, list[tuple[float, float, float]]] = {name: [] for name in kinds}
    for _ in range(given.rounds):
        for name, (model, loss) in runs.items():
            training[name] += training_seconds(model, data, loss)
        for name, module in kinds.items():
            alone[name] += [site_seconds(module.to(device), device) for _ in range(5)][1:]
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in alone.items()}
    text = page({name: statistics.median(seconds) for name, seconds in training.items()}, medians, given)
    print(text)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text)


if __name__ == "__main__":
    main()
