"""Small networks whose channels move, fold, mix or meet outside of layers on their way from one layer to the next.

All have the same frame: a convolution `one` to 16 channels, something on the way, a convolution or linear layer that
reads what arrives, and a classifier `fc`. What happens on the way is a function of the map.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDE = 16


class Way(nn.Module):
    """conv, batch norm, ReLU; `way`; conv, batch norm, ReLU; pooled; linear."""

    def __init__(self, way: Callable[[Tensor], Tensor], arrives: int = WIDE) -> None:
        super().__init__()
        self.one, self.bn1 = nn.Conv2d(3, WIDE, 3, padding=1, bias=False), nn.BatchNorm2d(WIDE)
        self.two, self.bn2 = nn.Conv2d(arrives, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 10)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        x = self.way(torch.relu(self.bn1(self.one(x))))
        return self.fc(torch.relu(self.bn2(self.two(x))).mean((2, 3)))


class Flat(nn.Module):
    """A map of 4×4 that `flatten` makes a vector of, for a hidden linear layer."""

    def __init__(self, flatten: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.bn1, self.pool = nn.Conv2d(3, WIDE, 3, padding=1), nn.BatchNorm2d(WIDE), nn.AdaptiveAvgPool2d(4)
        self.two, self.fc = nn.Linear(WIDE * 16, 20), nn.Linear(20, 10)
        self.flatten = flatten

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.two(self.flatten(self.pool(torch.relu(self.bn1(self.one(x))))))))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, shortcut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if x.shape == y.shape else self.shortcut(x[:, :, ::2, ::2])))


class OptionA(nn.Module):
    """A user's own CIFAR ResNet: the shortcut between stages is a function, no module."""

    def __init__(self, shortcut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.b, self.fc = Block(8, 8, shortcut), Block(8, 16, shortcut), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.a(torch.relu(self.bn(self.one(x))))).mean((2, 3)))


class Shuffle(nn.Module):
    """Grouped convolutions with a shuffle between them, as in ShuffleNet."""

    def __init__(self, groups: int = 2) -> None:
        super().__init__()
        self.one, self.bn1 = nn.Conv2d(3, WIDE, 3, padding=1, bias=False), nn.BatchNorm2d(WIDE)
        self.two = nn.Conv2d(WIDE, 24, 1, groups=groups, bias=False)
        self.depth, self.bn2 = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.BatchNorm2d(24)
        self.three, self.fc = nn.Conv2d(24, 12, 1, groups=groups), nn.Linear(12, 10)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(torch.relu(self.bn1(self.one(x))))
        n, c, h, w = x.shape
        x = x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(torch.relu(self.three(self.bn2(self.depth(x)))).mean((2, 3)))


class SplitAttention(nn.Module):
    """Two groups of channels, weighed against each other by a softmax and added, as in ResNeSt."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.bn1 = nn.Conv2d(3, 2 * WIDE, 3, padding=1, groups=1, bias=False), nn.BatchNorm2d(2 * WIDE)
        self.fc1, self.fc2 = nn.Conv2d(WIDE, 8, 1), nn.Conv2d(8, 2 * WIDE, 1)
        self.two, self.fc = nn.Conv2d(WIDE, 12, 3), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.one(x)))
        n, c = x.shape[:2]
        parts = x.reshape(n, 2, c // 2, *x.shape[2:])
        gap = parts.sum(1).mean((2, 3), keepdim=True)
        gates = self.fc2(torch.relu(self.fc1(gap))).view(n, 2, c // 2).softmax(1)
        x = (parts * gates[..., None, None]).sum(1)
        return self.fc(torch.relu(self.two(x)).mean((2, 3)))


class CrossStage(nn.Module):
    """Two halves of one layer; one of them through a residual block, in the order that a tracer may not expect."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 12, 1)
        self.a, self.b, self.fc = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.relu(self.one(x)).split(16, 1)
        first = self.b(torch.relu(self.a(first))) + first
        return self.fc(torch.relu(self.two(torch.cat([first, second], 1))).mean((2, 3)))


class Mixer(nn.Module):
    """Linear layers over channels and over positions, with a transpose between them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.over = nn.Conv2d(3, WIDE, 4, 4), nn.Linear(16, 16, bias=False)
        self.two, self.three, self.fc = nn.Linear(WIDE, 24), nn.Linear(24, WIDE), nn.Linear(WIDE, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x)).flatten(2).transpose(1, 2)
        x = x + torch.relu(self.over(x.transpose(1, 2))).transpose(1, 2)
        return self.fc((x + self.three(torch.relu(self.two(x)))).mean(1))


class Auxiliary(nn.Module):
    """A second head that only runs in training, and a gate that only does so, too."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.bn1 = nn.Conv2d(3, WIDE, 3, padding=1), nn.BatchNorm2d(WIDE)
        self.two, self.gate = nn.Conv2d(WIDE, 12, 3), nn.Conv2d(12, 12, 1)
        self.fc, self.mid, self.aux = nn.Linear(12, 10), nn.Linear(WIDE, 14), nn.Linear(14, 10)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = torch.relu(self.bn1(self.one(x)))
        y = torch.relu(self.two(x))
        if not self.training:
            return self.fc(y.mean((2, 3)))
        y = y * torch.sigmoid(self.gate(y))
        return self.fc(F.dropout(y.mean((2, 3)), 0.5)), self.aux(torch.relu(self.mid(x.mean((2, 3)))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.near, self.far = (nn.Conv2d(i, WIDE, 3, padding=1) for i in (3, WIDE, WIDE))
        self.far.weight = self.near.weight
        self.two, self.fc = nn.Conv2d(WIDE, 12, 1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x))
        return self.fc(torch.relu(self.two(self.near(x) + self.far(x))).mean((2, 3)))


def _group_norm(x: Tensor) -> Tensor:
    parts = x.reshape(x.shape[0], 4, -1)
    return ((parts - parts.mean(2, keepdim=True)) / (parts.std(2, keepdim=True) + 0.1)).view(x.shape)


def _written(x: Tensor) -> Tensor:
    out = torch.zeros(x.shape[0], 20, *x.shape[2:], dtype=x.dtype)
    out[:, 2:18] = x
    return out


def _shuffled(x: Tensor) -> Tensor:
    return x.view(x.shape[0], 2, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


def _neighbours(x: Tensor) -> Tensor:
    gate = F.conv1d(x.mean((2, 3))[:, None], torch.tensor([[[0.2, 0.5, -0.3]]], dtype=x.dtype), padding=1)
    return x * torch.sigmoid(gate)[:, 0, :, None, None]


def _crossed(x: Tensor) -> Tensor:
    tokens = F.normalize(x.flatten(2), dim=-1)
    return ((tokens @ tokens.transpose(1, 2)).softmax(-1) @ x.flatten(2)).view(x.shape)


ORDER = torch.randperm(WIDE, generator=torch.Generator().manual_seed(3))

FOLLOWED: dict[str, Callable[[], nn.Module]] = {
    "flip": lambda: Way(lambda x: x.flip(1)),
    "there and back": lambda: Way(lambda x: x.permute(0, 2, 3, 1).flip(-1).permute(0, 3, 1, 2)),
    "chunk gate": lambda: Way(lambda x: x.chunk(2, 1)[0] * torch.sigmoid(x.chunk(2, 1)[1]), 8),
    "glu": lambda: Way(lambda x: F.glu(x, 1), 8),
    "maxout": lambda: Way(lambda x: x.view(x.shape[0], -1, 2, *x.shape[2:]).amax(2), 8),
    "pixel shuffle": lambda: Way(lambda x: F.pixel_shuffle(x, 2), 4),
    "space to depth": lambda: Way(lambda x: F.pixel_unshuffle(x, 2), 64),
    "twice": lambda: Way(lambda x: torch.cat([x, x.flip(1)], 1), 32),
    "interleaved": lambda: Way(lambda x: torch.stack([x, -x], 2).flatten(1, 2), 32),
    "times zero": lambda: Way(lambda x: torch.cat([x, x * 0], 1), 32),
    "padded": lambda: Way(lambda x: F.pad(x, (1, 1, 1, 1, 2, 2)), 20),
    "in place": lambda: Way(lambda x: x.mul_(2).sub_(x.relu() / 4).clamp_(0)),
    "einsum": lambda: Way(lambda x: torch.einsum("nchw,nc->nchw", x, x.mean((2, 3)))),
    "hwc": lambda: Flat(lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)),
    "wch": lambda: Flat(lambda x: x.permute(0, 3, 1, 2).flatten(1)),
    "chw": lambda: Flat(lambda x: x.flatten(1)),
    "reversed": lambda: Flat(lambda x: x.flatten(1).flip(1)),
    "grouped shuffle": Shuffle,
    "split attention": SplitAttention,
    "mixer": Mixer,
    "auxiliary": Auxiliary,
    "option a": lambda: OptionA(lambda x: F.pad(x, (0, 0, 0, 0, 4, 4))),
}
"""Channels of `one` that are followed."""

REFUSED: dict[str, Callable[[], nn.Module]] = {
    "roll": lambda: Way(lambda x: x.roll(5, 1)),
    "shuffle": lambda: Way(_shuffled),
    "fixed order": lambda: Way(lambda x: x[:, ORDER]),
    "fixed slices": lambda: Way(lambda x: torch.cat([x[:, 8:], x[:, :8]], 1)),
    "first gates": lambda: Way(lambda x: x * torch.sigmoid(x[:, :1])),
    "own group norm": lambda: Way(_group_norm),
    "written": lambda: Way(_written, 20),
    "neighbours": lambda: Way(_neighbours),
    "cumulated": lambda: Way(lambda x: x.cumsum(1)),
    "sorted": lambda: Way(lambda x: x.sort(1)[0]),
    "crossed": lambda: Way(_crossed),
    "response": lambda: Way(lambda x: F.local_response_norm(x, 3)),
    "position": lambda: Way(lambda x: x * torch.arange(1, WIDE + 1, dtype=x.dtype)[:, None, None]),
    "average": lambda: Way(lambda x: x - x.mean(1, keepdim=True)),
    "cross stage": CrossStage,
    "tied": Tied,
}
"""Channels of `one` that stay, and why: see the test."""
