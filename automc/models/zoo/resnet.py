"""Residual networks for small images: three stages of widths w, 2w, 4w, one pixel stride at the stem.

Images of any size ≥ 8 work: each of the last two stages halves it (rounding up), the head averages what is left.
Module names are those of the widely used CIFAR checkpoints (`conv1`, `layer1.0.conv1`, …, `linear`). Every
activation is a module of its own, called once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from automc.models.shortcuts import option_a
from automc.models.zoo.registry import IMAGENET, register

Block = Callable[[int, int, int], nn.Module]
DEPTHS = (20, 32, 44, 56, 110)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with BN and a shortcut, ReLU after the sum (He et al. 2016, Fig. 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module
        if stride == 1 and inputs == outputs:
            self.shortcut = nn.Identity()
        elif option == "a":
            self.shortcut = option_a(inputs, outputs, stride)
        else:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, ceil(h/stride), ceil(w/stride))."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return cast(Tensor, self.relu2(out + self.shortcut(x)))


class PreActBottleneck(nn.Module):
    """BN-ReLU-conv three times (1×1, 3×3, 1×1 with four times the width); plain 1×1 projection where shapes change.

    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks", Fig. 4(e). As in its reference code, the
    projection reads the activated input.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu3 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        project = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if project else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, 4·width, ceil(h/stride), ceil(w/stride))."""
        active = self.relu1(self.bn1(x))
        out = self.conv1(active)
        out = self.conv2(self.relu2(self.bn2(out)))
        out = self.conv3(self.relu3(self.bn3(out)))
        return cast(Tensor, out + (x if self.shortcut is None else self.shortcut(active)))


class PreActBasicBlock(nn.Module):
    """BN-ReLU-conv twice, and a BN and 1×1 convolution on every shortcut, as the AutoMC authors' networks have it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Sequential(nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, ceil(h/stride), ceil(w/stride))."""
        out = self.conv1(self.relu1(self.bn1(x)))
        out = self.conv2(self.relu2(self.bn2(out)))
        return cast(Tensor, out + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, three stages of `blocks` blocks, average over the image, linear classifier.

    Args:
        block: (input channels, width, stride) → block.
        blocks: blocks in each stage.
        width: of the first stage; it doubles twice.
        expansion: output channels of a block per unit of width.
        post: the stem's convolution is followed by BN and ReLU; else these come before the head (pre-activation).
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(
        self, block: Block, blocks: int, width: int, expansion: int, post: bool, classes: int, channels: int
    ) -> None:
        super().__init__()
        last = 4 * width * expansion
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width) if post else nn.Identity()
        self.relu1 = nn.ReLU() if post else nn.Identity()
        inputs = width
        for stage in range(3):
            layers = []
            for i in range(blocks):
                layers.append(block(inputs, width << stage, 2 if stage > 0 and i == 0 else 1))
                inputs = (width << stage) * expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.bn2 = nn.Identity() if post else nn.BatchNorm2d(last)
        self.relu2 = nn.Identity() if post else nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(last, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, channels, h, w) to logits (n, classes)."""
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return cast(Tensor, self.linear(self.flatten(self.pool(self.relu2(self.bn2(x))))))


@register(
    {f"resnet{d}": {"depth": d, "option": "a"} for d in (8, *DEPTHS)},
    about="CIFAR ResNet (He et al. 2016), option-A shortcuts",
    normalisation=IMAGENET,
)
@register(
    {f"resnet{d}-b": {"depth": d, "option": "b"} for d in (8, *DEPTHS)},
    about="CIFAR ResNet (He et al. 2016), projection (option-B) shortcuts",
)
def resnet(depth: int, option: str, *, classes: int = 10, channels: int = 3) -> nn.Module:
    """Build a basic-block ResNet of depth 6n+2 and first width 16."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        return BasicBlock(inputs, outputs, stride, option)

    return ResNet(block, (depth - 2) // 6, 16, 1, True, classes, channels)


@register({"resnet164": {"depth": 164}}, about="pre-activation bottleneck ResNet (He et al. 2016b)")
def preact_resnet(depth: int, *, classes: int = 10, channels: int = 3) -> nn.Module:
    """Build a pre-activation bottleneck ResNet of depth 9n+2 and first width 16."""
    return ResNet(PreActBottleneck, (depth - 2) // 9, 16, 4, False, classes, channels)


@register(
    {f"automc-resnet{d}": {"depth": d} for d in DEPTHS},
    about="the AutoMC authors' ResNet: pre-activation, a BN and 1x1 convolution in every shortcut",
)
def automc_resnet(depth: int, *, classes: int = 10, channels: int = 3) -> nn.Module:
    """Build the AutoMC authors' ResNet of depth 6n+2: 900,762 parameters at depth 56."""
    return ResNet(PreActBasicBlock, (depth - 2) // 6, 16, 1, False, classes, channels)
