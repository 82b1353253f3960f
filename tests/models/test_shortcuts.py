from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from model_nets import Lambda, pad_shortcut, randomise
from torch import nn

from automc.models import zoo
from automc.models.load import prepare
from automc.models.shortcuts import GatherShortcut, adapt_shortcuts, option_a


def net(shortcut: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), shortcut, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def by_definition(x: torch.Tensor, stride: int, src: list[int]) -> torch.Tensor:
    return torch.stack(
        [x[:, s, ::stride, ::stride] if s >= 0 else torch.zeros_like(x[:, 0, ::stride, ::stride]) for s in src], 1
    )


def test_gather_does_what_it_says() -> None:
    x = torch.randn(2, 5, 7, 6)
    for stride, src in ((1, [4, 0, -1]), (2, [-1, 3, 3, 2, -1, 0]), (3, [1])):
        assert torch.equal(GatherShortcut(stride, src, 5)(x), by_definition(x, stride, src))


def test_gather_has_no_state_and_survives_copies() -> None:
    gather = option_a(4, 8, 2)
    assert not gather.state_dict()
    assert not list(gather.parameters())
    x = torch.randn(1, 4, 4, 4)
    assert torch.equal(copy.deepcopy(gather)(x), gather(x))
    assert gather(x.bfloat16()).dtype == torch.bfloat16


def test_option_a_equals_padding() -> None:
    x = torch.randn(2, 6, 8, 8)
    assert torch.equal(option_a(6, 12, 2)(x), F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3)))


def test_dropping_channels_equals_slicing() -> None:
    x = torch.randn(2, 6, 4, 4)
    gather = GatherShortcut(2, [-1, 5, 0, 3, 3, -1, 1], 6)
    full = gather(x)
    gather.drop_outputs([0, 4])
    assert torch.equal(gather(x), full[:, [1, 2, 3, 5, 6]])
    gather.drop_inputs([3, 0])
    zeroed = x.clone()
    zeroed[:, [3, 0]] = 0
    expected = GatherShortcut(2, [5, 0, 3, -1, 1], 6)(zeroed)
    assert torch.equal(gather(x[:, [1, 2, 4, 5]]), expected)
    assert (gather.in_channels, gather.out_channels, gather.src) == (4, 5, (3, -1, -1, -1, 0))


def test_a_source_outside_the_input_is_refused() -> None:
    with pytest.raises(ValueError, match="channel 4"):
        GatherShortcut(1, [4], 4)


@pytest.mark.parametrize(
    ("shortcut", "src"),
    [
        (pad_shortcut(2), (-1, -1, 0, 1, 2, 3, -1, -1)),
        (Lambda(lambda x: torch.cat([x[:, :, ::2, ::2], 0 * x[:, :, ::2, ::2]], 1)), (0, 1, 2, 3, -1, -1, -1, -1)),
        (nn.Sequential(pad_shortcut(1), nn.Identity()), (-1, 0, 1, 2, 3, -1)),
        (Lambda(lambda x: x.flip(1)[:, :2, ::3, ::3]), (3, 2)),
        (Lambda(lambda x: torch.cat([x, x[:, :1]], 1)), (0, 1, 2, 3, 0)),
    ],
    ids=["pad", "cat", "inside a Sequential", "flipped and cut", "repeated"],
)
def test_shortcuts_of_users_are_recognised_bit_by_bit(shortcut: nn.Module, src: tuple[int, ...]) -> None:
    model = net(shortcut)
    x = torch.randn(3, 3, 8, 8)
    before = model(x)
    adapted = adapt_shortcuts(copy.deepcopy(model), x)
    found = [m for m in adapted.modules() if isinstance(m, GatherShortcut)]
    assert [m.src for m in found] == [src]
    assert torch.equal(adapted(x), before)


@pytest.mark.parametrize(
    "shortcut",
    [
        Lambda(lambda x: F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, 2, 2))),
        Lambda(lambda x: F.pad(x[:, :, 1::2, 1::2], (0, 0, 0, 0, 2, 2))),
        Lambda(lambda x: 2 * F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))),
        Lambda(lambda x: torch.cat([x, x.relu()], 1)),
        nn.Identity(),
        nn.PixelShuffle(2),
    ],
    ids=["averages", "offset", "scaled", "relu", "identity", "pixel shuffle"],
)
def test_what_is_no_index_map_is_left_alone(shortcut: nn.Module) -> None:
    model = net(shortcut)
    adapted = adapt_shortcuts(copy.deepcopy(model), torch.randn(2, 3, 8, 8))
    assert not [m for m in adapted.modules() if isinstance(m, GatherShortcut)]


def test_shared_shortcut_stays_shared_and_flags_stay() -> None:
    shared = pad_shortcut(2)
    model = nn.ModuleDict({"a": shared, "b": shared, "bn": nn.BatchNorm2d(3).eval()})

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.parts["bn"](x)
            x = torch.cat([x, x[:, :1]], 1)
            return (self.parts["a"](x) + self.parts["b"](x)).mean((2, 3))

    tested = Net().train()
    model["bn"].eval()
    state = torch.get_rng_state()
    adapted = adapt_shortcuts(tested, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state), "probing must not touch the global generator"
    assert isinstance(adapted.parts["a"], GatherShortcut)
    assert adapted.parts["a"] is adapted.parts["b"]
    assert adapted.training
    assert not adapted.parts["bn"].training


def test_prepare_leaves_the_argument_and_keeps_logits() -> None:
    model = randomise(zoo.build("resnet8")).train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    x = torch.randn(2, 3, 16, 16)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    prepared = prepare(model, x)
    assert prepared is not model
    assert prepared.training
    assert all(p.requires_grad for p in prepared.parameters())
    assert not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(prepared.eval()(x), model.eval()(x))
