"""Why LFB's FLOPs in the AutoMC tables look so low: their counter does not see functional convolutions.

Rebuilds the official implementation's factored networks (a basis of m filters applied to each of s splits of the input
channels by `F.conv2d`, then a 1×1 convolution) and counts them twice: by hooks on modules, as the official code does, and
by every call that is executed. No training.

    python benchmarks/lfb_flops.py --out docs/results/lfb-flops.md
"""

from __future__ import annotations

import argparse
import copy
import platform
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automc.models import zoo
from automc.models.measure import count_flops, count_params
from automc.study.study import versions

ROWS = (
    # row of the paper, zoo name, classes, splits, times, PR and FR as printed
    ("ResNet-56 / CIFAR-10, 40%", "automc-resnet56", 10, 8, 4.5, 40.19, 46.12),
    ("ResNet-56 / CIFAR-10, 70%", "automc-resnet56", 10, 8, 2.0, 70.03, 71.96),
    ("VGG-16 / CIFAR-100, 40%", "vgg16", 100, 1, 0.6, 36.21, 93.00),
    ("VGG-16 / CIFAR-100, 70%", "vgg16", 100, 1, 0.4, 57.44, 95.20),
)


class FunctionalBasis(nn.Module):
    """m basis filters shared by s splits, as raw parameters, and the convolution that combines their outputs."""

    def __init__(self, conv: nn.Conv2d, splits: int, times: float) -> None:
        super().__init__()
        self.splits, self.stride, self.padding = splits, conv.stride, conv.padding
        part = conv.in_channels // splits
        count = int(part * times)
        self.basis = nn.Parameter(torch.randn(count, part, *conv.kernel_size))
        self.combine = nn.Conv2d(count * splits, conv.out_channels, 1, bias=conv.bias is not None)

    def forward(self, x: Tensor) -> Tensor:
        """Filter every split by the same basis."""
        parts = [F.conv2d(part, self.basis, None, self.stride, self.padding) for part in x.chunk(self.splits, 1)]
        combined: Tensor = self.combine(torch.cat(parts, 1))
        return combined


def factored(model: nn.Module, splits: int, times: float) -> nn.Module:
    """Return a copy with every 3×3 convolution factored whose input can be split."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.in_channels > 3:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, FunctionalBasis(module, splits, times))
    return model


def hooked_flops(model: nn.Module, example: Tensor) -> int:
    """Count 2 × MACs of modules that are convolutions or linear layers, as counters by hooks do."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        total += 2 * output[0].numel() * weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        model.eval()(example)
    for hook in hooks:
        hook.remove()
    return total


def main() -> None:
    """Count, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    example = torch.zeros(1, 3, 32, 32)
    lines = [
        "# LFB's FLOPs, counted in two ways",
        "",
        "Written by `benchmarks/lfb_flops.py`. The factored networks of the AutoMC paper's LFB rows, rebuilt: s splits, m = ⌊times · inputs / s⌋",
        "basis filters, applied as functions on raw parameters. A counter that hooks into modules does not see them.",
        f"No training and nothing random in the counts. {', '.join(f'{k} {v}' for k, v in versions().items())}, {platform.system()}.",
        "",
        "| row | s, times | PR printed | PR rebuilt | FR printed | FR by hooks | FR of all calls |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, name, classes, splits, times, pr, fr in ROWS:
        model = zoo.build(name, classes=classes)
        small = factored(model, splits, times)
        removed = 1 - count_params(small) / count_params(model)
        hooks = 1 - hooked_flops(small, example) / hooked_flops(model, example)
        true = 1 - count_flops(small, example) / count_flops(model, example)
        lines.append(
            f"| {row} | {splits}, {times:g} | {pr:.2f}% | {removed:.2%} | {fr:.2f}% | {hooks:.1%} | {true:.1%} |"
        )
    lines.append("")
    out.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
