"""Small networks as a user would write them, and surgery by hand that is independent of any pruner."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from automc.models.load import LoadedModel, load

USER_FILE = """
import torch
import torch.nn.functional as F
from torch import nn


class LambdaLayer(nn.Module):
    def __init__(self, lambd):
        super().__init__()
        self.lambd = lambd

    def forward(self, x):
        return self.lambd(x)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1:
            pad = (outputs - inputs) // 2
            self.shortcut = LambdaLayer(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad), "constant", 0))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = out + self.shortcut(x)
        return F.relu(out)


class Net(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, padding=1)
        self.block1 = Block(8, 8, 1)
        self.block2 = Block(8, 16, 2)
        self.fc = nn.Linear(16, classes)

    def forward(self, x):
        x = self.block2(self.block1(F.relu(self.stem(x))))
        return self.fc(x.mean((2, 3)))


def build(classes=4, channels=3):
    return Net(classes, channels)
"""


class Lambda(nn.Module):
    """A module around a function, as option-A shortcuts are often written."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator, no-any-return]


def pad_shortcut(extra: int) -> Lambda:
    return Lambda(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra)))


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every tensor, buffers too, values that no initialisation has."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.05)
        else:
            tensor.fill_(7)
    return model


def shrink_pair(first: nn.Conv2d, bn: nn.BatchNorm2d, second: nn.Conv2d, keep: list[int]) -> None:
    """Remove all but `keep` of the channels between two plain convolutions, as torch-pruning does: in place."""
    first.weight = nn.Parameter(first.weight.data[keep].clone())
    if first.bias is not None:
        first.bias = nn.Parameter(first.bias.data[keep].clone())
    first.out_channels = bn.num_features = second.in_channels = len(keep)
    bn.weight, bn.bias = nn.Parameter(bn.weight.data[keep].clone()), nn.Parameter(bn.bias.data[keep].clone())
    assert bn.running_mean is not None
    assert bn.running_var is not None
    bn.running_mean, bn.running_var = bn.running_mean[keep].clone(), bn.running_var[keep].clone()
    second.weight = nn.Parameter(second.weight.data[:, keep].clone())


def factored(conv: nn.Conv2d, rank: int) -> nn.Sequential:
    """Replace a convolution by one of `rank` filters and a 1×1 mix, with fresh weights."""
    return nn.Sequential(
        nn.Conv2d(conv.in_channels, rank, 3, conv.stride, 1, bias=False), nn.Conv2d(rank, conv.out_channels, 1)
    )


def resnet8() -> LoadedModel:
    """A zoo model whose weights and statistics are not the initial ones."""
    loaded = load("resnet8")
    randomise(loaded.model)
    return loaded
