"""A small real method for the tests: cuts channels inside residual blocks, then fine-tunes.

HP1: fine-tuning, HP2: share of P0 to remove at least, HP8: how it misbehaves. Every execution is written to
the file named by AUTOMC_TEST_LOG, so that tests can count them over all processes.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn

from automc import methods
from automc.errors import Infeasible
from automc.methods.base import Method, StepContext, StepReport
from automc.training.loop import fit
from automc.training.seeds import fixed_order
from kg.schema import Strategy


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def cut_block(block: nn.Module, width: int) -> None:
    """Keep the `width` inner channels with the largest batch-norm scales."""
    kept = block.bn1.weight.detach().abs().argsort(descending=True, stable=True)[:width].sort().values
    first = nn.Conv2d(block.conv1.in_channels, width, 3, block.conv1.stride, 1, bias=False)
    norm = nn.BatchNorm2d(width)
    second = nn.Conv2d(width, block.conv2.out_channels, 3, 1, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(block.conv1.weight[kept])
        second.weight.copy_(block.conv2.weight[:, kept])
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, name).copy_(getattr(block.bn1, name)[kept])
    block.conv1, block.bn1, block.conv2 = first, norm, second


@methods.register
class Trim(Method):
    name = "Trim"
    version = 1

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        log = os.environ.get("AUTOMC_TEST_LOG")
        if log:
            with Path(log).open("a") as file:
                file.write(f"{strategy.id}\n")
        misbehaviour = strategy.get("HP8")
        if misbehaviour == "refuse":
            raise Infeasible(f"{strategy.id}: there is no batch norm here")
        if misbehaviour == "break":
            raise ValueError("a bug in a method")
        if misbehaviour == "orderless":
            with fixed_order(torch.device("cuda")):
                torch.empty(4).put_(torch.tensor([0, 1]), torch.ones(2))  # on no device in a fixed order
        if misbehaviour == "heavy":
            heavy = {"pandas", "sklearn", "sympy", "torch._dynamo", "triton"} & sys.modules.keys()
            raise Infeasible(f"loaded: {sorted(heavy)}")
        if misbehaviour == "starve":
            raise MemoryError
        if misbehaviour == "hang":
            time.sleep(600)
        result = copy.deepcopy(model)
        before, target = params(model), context.target(params(model), strategy.number("HP2"))
        blocks = [m for m in result.modules() if hasattr(m, "conv2") and hasattr(m, "bn1")]
        while params(result) > target and max(block.conv1.out_channels for block in blocks) > 2:
            widest = max(blocks, key=lambda block: block.conv1.out_channels)
            cut_block(widest, widest.conv1.out_channels - 1)
        if misbehaviour == "explode":
            with torch.no_grad():
                next(result.parameters()).fill_(float("nan"))
        elif misbehaviour == "overflow":
            with torch.no_grad():
                for weight in result.parameters():
                    weight.fill_(1e30)
        else:
            length = context.recipe.iterations(strategy.number("HP1"), context.data.n)
            length = min(length, context.max_iterations or length)
            fit(
                result,
                context.data,
                iterations=length,
                recipe=context.recipe,
                seed=context.seed,
                progress=context.progress,
            )
        return result, StepReport(
            before, params(result), target, params(result) <= target, details={"blocks": len(blocks)}
        )

    def relative_cost(self, strategy: Strategy) -> float:
        return strategy.number("HP1")
