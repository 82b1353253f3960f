"""Small networks whose channels are coupled in every way that channel groups must understand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from automc.models import zoo


class Grouped(nn.Module):
    """A grouped convolution between two plain ones, as in ResNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1, groups=4, bias=False)
        self.bn2 = nn.BatchNorm2d(24)
        self.conv3 = nn.Conv2d(24, 12, 1)
        self.fc = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return self.fc(torch.relu(self.conv3(x)).mean((2, 3)))


class Concat(nn.Module):
    """Every layer reads all earlier ones, as in DenseNet; the head reads a flattened map."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(10)
        self.grow1 = nn.Conv2d(10, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(18)
        self.grow2 = nn.Conv2d(18, 6, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(24) if norm else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(24 * 4, 20)
        self.fc = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.grow1(torch.relu(self.bn1(x)))], 1)
        x = torch.cat([x, self.grow2(torch.relu(self.bn2(x)))], 1)
        return self.fc(torch.relu(self.hidden(self.pool(self.bn3(x)).flatten(1))))


class Inverted(nn.Module):
    """Expansion, depthwise convolution, squeeze-and-excitation, projection and a residual sum, as in MobileNetV3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8))
        self.expand = nn.Sequential(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6())
        self.depth = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24))
        self.squeeze = nn.Conv2d(24, 6, 1)
        self.excite = nn.Conv2d(6, 24, 1)
        self.project = nn.Sequential(nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depth(self.expand(x))
        y = y * torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.fc(torch.relu(x + self.project(y)).mean((2, 3)))


class Factored(nn.Module):
    """Layers that are written as two or three factors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.two = nn.Sequential(nn.Conv2d(12, 7, 3, padding=1, bias=False), nn.Conv2d(7, 16, 1))
        self.bn = nn.BatchNorm2d(16)
        self.three = nn.Sequential(
            nn.Conv2d(16, 6, 1, bias=False), nn.Conv2d(6, 5, 3, stride=2, padding=1, bias=False), nn.Conv2d(5, 14, 1)
        )
        self.fc = nn.Sequential(nn.Linear(14, 5, bias=False), nn.Linear(5, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.two(torch.relu(self.stem(x)))))
        return self.fc(torch.relu(self.three(x)).mean((2, 3)))


class Norms(nn.Module):
    """Group normalisation instead of batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.conv2 = nn.Conv2d(16, 8, 3, padding=1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv2(torch.relu(self.norm(self.conv1(x))))).mean((2, 3)))


class Vgg(nn.Module):
    """Plain convolutions with batch norm and a hidden linear layer behind a flatten."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, 16), (16, 24), (24, 32)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2))
        self.hidden = nn.Linear(32 * 4, 32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.hidden(self.features(x).flatten(1))))


NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet-a": lambda: zoo.build("resnet8"),
    "resnet-b": lambda: zoo.build("resnet8-b"),
    "vgg": Vgg,
    "grouped": Grouped,
    "concat": Concat,
    "inverted": Inverted,
    "factored": Factored,
    "norms": Norms,
}


def build(name: str, seed: int = 0) -> nn.Module:
    """One of the nets above, see `ready`."""
    return ready(NETS[name], seed)


def ready(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A net in eval mode with random weights, and batch norms that are not neutral."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = make()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()
