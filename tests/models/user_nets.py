"""Classifiers as users write them, in a file of their own: no zoo knows them. `file.py:factory` loads each."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from automc.models.zoo.resnet import preact_resnet


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Mixed(nn.Module):
    """Four branches side by side, concatenated, as in GoogLeNet."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.one = _conv(inputs, 2 * width, 1)
        self.three = nn.Sequential(_conv(inputs, width, 1), _conv(width, 2 * width, 3))
        self.five = nn.Sequential(_conv(inputs, width // 2, 1), _conv(width // 2, width, 3), _conv(width, width, 3))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), _conv(inputs, width, 1))
        self.outputs = 6 * width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


class Concatenating(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = _conv(3, 24, 3)
        self.first = Mixed(24, 8)
        self.second = Mixed(self.first.outputs, 16)
        self.fc = nn.Linear(self.second.outputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.first(self.stem(x)), 2)
        return cast(Tensor, self.fc(self.second(x).mean((2, 3))))


class Cardinal(nn.Module):
    """A bottleneck with a grouped convolution and a residual sum, as in ResNeXt."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.narrow = _conv(inputs, width, 1)
        self.grouped = _conv(width, width, 3, stride, groups=8)
        self.wide = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.wide(self.grouped(self.narrow(x)))) + self.shortcut(x))


class GroupedNet(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = _conv(3, 32, 3)
        self.body = nn.Sequential(Cardinal(32, 32, 64, 1), Cardinal(64, 64, 128, 2), Cardinal(128, 64, 128, 1))
        self.fc = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc(self.body(self.stem(x)).mean((2, 3))))


class TwoHidden(nn.Module):
    """Convolutions, a flatten, and a classifier with two hidden layers, as in AlexNet; F.relu throughout."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(32)
        self.drop = nn.Dropout(0.2)
        self.hidden1 = nn.Linear(32 * 16, 96)
        self.hidden2 = nn.Linear(96, 64)
        self.out = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.adaptive_avg_pool2d(F.relu(self.bn2(self.conv2(x))), 4)
        x = self.drop(F.relu(self.hidden1(torch.flatten(x, 1))))
        return cast(Tensor, self.out(F.relu(self.hidden2(x))))


class Attending(nn.Module):
    """A transformer's encoder layer, pre-norm, with one matrix for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        x = x + self.project(attended.transpose(1, 2).reshape(n, tokens, width))
        return cast(Tensor, x + self.narrow(F.gelu(self.widen(self.norm2(x)))))


class Transformer(nn.Module):
    """A small vision transformer for 32×32 images: patches of 4×4, a class token, learned positions."""

    def __init__(self, classes: int, width: int = 48) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 65, width) * 0.02)
        self.layers = nn.Sequential(Attending(width, 4), Attending(width, 4))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return cast(Tensor, self.head(self.norm(self.layers(x))[:, 0]))


class Reading(nn.Module):
    """Code that reads weights of layers: torch's own transformer layer in evaluation, and a linear layer's by hand."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 8, 8)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.tied = nn.Linear(16, 16)
        self.last = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(self.first(x).flatten(2).transpose(1, 2)).mean(1)
        return cast(Tensor, self.last(nn.functional.linear(x, self.tied.weight)))


def concat(classes: int = 10) -> nn.Module:
    return Concatenating(classes)


def grouped(classes: int = 10) -> nn.Module:
    return GroupedNet(classes)


def two_hidden(classes: int = 10) -> nn.Module:
    return TwoHidden(classes)


def transformer(classes: int = 10) -> nn.Module:
    return Transformer(classes)


def reading(classes: int = 10) -> nn.Module:
    return Reading(classes)


def preact(classes: int = 10) -> nn.Module:
    """ResNet-164's bottleneck blocks, two to a stage."""
    return preact_resnet(20, classes=classes)
