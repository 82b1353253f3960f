"""VGG with batch norm for small images (Simonyan and Zisserman 2015; the usual CIFAR form with one linear layer).

Pooling rounds up, so images of any size ≥ 8 work; at 32×32 and other powers of two ≥ 32 this changes nothing.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from automc.models.zoo.registry import register

STAGES = {13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Five stages of 3×3 convolutions with BN and ReLU, each ended by a 2×2 max pooling."""

    def __init__(self, depth: int, classes: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for width, count in zip(WIDTHS, STAGES[depth], strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, module.bias))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, channels, h, w) to logits (n, classes)."""
        return cast(Tensor, self.classifier(self.flatten(self.pool(self.features(x)))))


@register({f"vgg{d}": {"depth": d} for d in STAGES}, about="VGG with batch norm for CIFAR")
def vgg(depth: int, *, classes: int = 10, channels: int = 3) -> nn.Module:
    """Build VGG-13, -16 or -19 with batch norm."""
    return VGG(depth, classes, channels)
