"""Channels that move, fold and meet outside of layers are followed as they are, or stay with a reason."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from group_nets import NETS, ready
from group_nets import build as build_group_net
from moving_nets import FOLLOWED, REFUSED, Auxiliary, OptionA, Shuffle, Tied
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.utils._python_dispatch import _get_current_dispatch_mode

from automc.errors import Infeasible
from automc.surgery import proof
from automc.surgery.coupling import Group
from automc.surgery.groups import Groups

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def roots(groups: Groups) -> dict[str, Group]:
    return {group.root: group for group in groups.groups}


def silence(group: Group, unit: int) -> None:
    """Let everything that produces a unit write zeros."""
    with torch.no_grad():
        for member in group.members:
            if member.side == "in" or isinstance(member.module, nn.PReLU):
                continue
            for tensor in member.module.parameters():
                tensor[torch.from_numpy(member.rows[unit])] = 0


def changes(model: nn.Module, g: int, unit: int) -> float:
    """How much the outputs change when a silent unit is removed."""
    twin = copy.deepcopy(model)
    groups = Groups(twin, X)
    silence(groups.groups[g], unit)
    with torch.no_grad():
        before = twin(X)
        groups.apply(groups.removal([[unit] if i == g else [] for i in range(len(groups.groups))], 0))
        return float((twin(X) - before).abs().max() / before.abs().max())


@pytest.mark.parametrize("name", [*FOLLOWED, *REFUSED])
def test_what_is_silent_goes_without_notice(name: str) -> None:
    model = ready((FOLLOWED | REFUSED)[name])
    groups = Groups(model, X)
    assert ("one" in roots(groups)) == (name in FOLLOWED) or name == "cross stage"
    for g, group in enumerate(groups.groups):
        assert changes(model, g, (0, group.units - 1)[g % 2]) < 1e-5, group.root
    if name in REFUSED and name != "cross stage":
        assert groups.refused["one"]


@pytest.mark.parametrize("name", FOLLOWED)
def test_whole_plans_leave_a_network_that_runs_and_counts_as_planned(name: str) -> None:
    model = ready(FOLLOWED[name])
    groups = Groups(model, X)
    assert groups.params(np.zeros(len(groups.groups), np.int64)) == sum(p.numel() for p in model.parameters())
    for share in (0.4, 1.0):
        smaller = groups.pruned(groups.removal([list(range(cap)) for cap in groups.caps(share)], 0))
        assert smaller(X).shape == (2, 10)
        smaller.train()(X)


def test_a_flatten_in_another_order_takes_every_sixteenth_column() -> None:
    groups = roots(Groups(ready(FOLLOWED["hwc"]), X))
    (reader,) = groups["one"].of_kind(nn.Linear, side="in")
    assert reader.rows[3].tolist() == list(range(3, 16 * 16, 16))


def test_a_shuffle_keeps_the_parts_of_grouped_layers_equal() -> None:
    groups = roots(Groups(ready(Shuffle), X))
    assert (groups["two"].units, groups["two"].copies) == (6, 4)
    assert groups["two"].channels([0]) == [0, 6, 12, 18]


def test_a_padded_shortcut_leaves_the_insides_of_its_blocks() -> None:
    groups = Groups(ready(lambda: OptionA(lambda x: torch.cat([x, torch.zeros_like(x)], 1))), X)
    assert set(roots(groups)) == {"a.conv1", "b.conv1"}
    assert "counts on this number" in groups.refused["one"]


def test_half_of_a_split_stays_and_the_inside_of_its_block_goes() -> None:
    groups = Groups(ready(REFUSED["cross stage"]), X)
    assert {"a", "two"} <= set(roots(groups))


def test_what_runs_in_training_alone_shrinks_along() -> None:
    groups = Groups(ready(Auxiliary), X)
    assert {(m.name, m.side) for m in roots(groups)["one"].members} >= {("two", "in"), ("mid", "in")}
    assert {(m.name, m.side) for m in roots(groups)["two"].members} >= {("gate", "in"), ("gate", "out")}
    logits, auxiliary = groups.pruned(groups.removal([[0, 1]] * len(groups.groups), 0)).train()(X)
    assert logits.shape == auxiliary.shape == (2, 10)


def test_statistics_are_as_before_after_a_look_in_training() -> None:
    model = ready(Auxiliary).train()
    before = copy.deepcopy(model.state_dict())
    Groups(model, X)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_layers_that_share_a_tensor_stay() -> None:
    model = ready(Tied)
    groups = Groups(model, X)
    assert set(roots(groups)) == {"two"}
    assert groups.refused["one"] == groups.refused["far"] == "near shares its weight with far"
    assert groups.params(groups.caps()) > 0
    assert groups.pruned(groups.removal([[0]], 0)).far.weight.shape == model.near.weight.shape


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    return layer


FORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "old weight norm": weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "old spectral norm": spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "masked": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "hook": hooked,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("position", [1, 2, 3])
def test_a_computed_weight_stays_and_the_rest_goes(form: str, position: int) -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.Conv2d(12, 10, 3), nn.Linear(10, 10)]
    layers[position] = FORMS[form](layers[position])
    a, b, c, fc = layers
    net = nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), c, nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc).eval()
    groups = Groups(net, X)
    names = {"0", "2", "4"} - {("0", "2", "4", "7")[position], ("0", "2", "4")[position - 1]}
    assert set(roots(groups)) == names
    assert all("computed each time" in groups.refused[n] for n in {"0", "2", "4"} - names)
    groups.pruned(groups.removal([[0]] * len(names), 0))(X)


def test_layers_with_tensors_of_their_own_stay() -> None:
    class Scaled(nn.Conv2d):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs, 3)
            self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight * self.gain, self.bias)

    net = nn.Sequential(nn.Conv2d(3, 8, 3), Scaled(8, 8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(800, 10)).eval()
    groups = Groups(net, X)
    assert set(roots(groups)) == {"2"}
    assert groups.refused["0"] == "1 (Scaled) has more tensors than its kind"


@pytest.mark.parametrize("name", ["resnet-a", "inverted", "concat"])
def test_the_order_in_memory_is_of_no_account(name: str) -> None:
    model = build_group_net(name)
    groups = Groups(model, X)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups._example = X.to(memory_format=torch.channels_last)
    groups.apply(groups.removal([[0]] * len(groups.groups), 0))


def test_cut_layers_are_as_trainable_as_they_were() -> None:
    model = build_group_net("inverted")
    model.expand[0].weight.requires_grad_(False)
    model.depth[1].bias.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    groups = Groups(model, X)
    groups.apply(groups.removal([[0]] * len(groups.groups), 0))
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_without_time_nothing_is_pruned_and_it_is_said() -> None:
    with pytest.raises(Infeasible, match="took longer than it may"):
        Groups(build_group_net("vgg"), X, seconds=0.0)


def test_groups_that_there_was_no_time_to_prove_are_named() -> None:
    model = build_group_net("vgg")
    groups = Groups(model, X).groups
    late = proof.unproved(model, X, groups, time.thread_time() - 1, training=False)
    assert late == dict.fromkeys(range(len(groups)), proof.NO_TIME)


def test_a_wrong_coupling_is_found_among_right_ones() -> None:
    model = build_group_net("vgg")
    groups = list(Groups(model, X).groups)
    (reader,) = [m for m in groups[1].members if m.side == "in"]
    turned = np.roll(reader.rows, 1, axis=0)
    members = tuple(m if m is not reader else type(m)(m.name, m.module, m.side, turned) for m in groups[1].members)
    groups[1] = Group(groups[1].root, groups[1].units, 1, False, False, members)
    wrong = proof.unproved(model, X, groups, time.thread_time() + 60, training=False)
    assert wrong == {1: proof.NOT_COUPLED}


@pytest.mark.parametrize("name", [name for name in NETS if name != "norms"])
def test_every_group_of_ordinary_networks_is_proved(name: str) -> None:
    model = build_group_net(name)
    assert not any(isinstance(m, _BatchNorm) and not m.weight.any() for m in model.modules())
    groups = Groups(model, X)
    assert set(groups.refused.values()) == {"its outputs are the model's outputs"}
    for g in range(len(groups.groups)):
        assert changes(model, g, 0) < 1e-4


@pytest.mark.parametrize("name", NETS)
def test_an_exchange_is_undone_to_the_bit(name: str) -> None:
    model = build_group_net(name)
    groups = Groups(model, X).groups
    twin = proof._Twin(model, X, False, set(), torch.float64)
    before = {name: tensor.clone() for name, tensor in twin.tensors.items()}
    twin.change([both for group in groups for both in proof._exchanges(group)])
    assert any(not torch.equal(twin.tensors[name], tensor) for name, tensor in before.items())
    twin.change([])
    assert all(torch.equal(twin.tensors[name], tensor) for name, tensor in before.items())


class Raising(nn.Module):
    """Whose layer cannot take what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).mean((2, 3)))


class Choosing(nn.Module):
    """Takes one of two ways by what it sees, or asks for a value and takes the one that there is."""

    def __init__(self, ways: int, reads: bool = True) -> None:
        super().__init__()
        self.stem, self.reads = nn.Conv2d(3, 8, 1), reads
        self.ways = nn.ModuleList(nn.Conv2d(8, 12, 1) for _ in range(ways))
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        bright = self.reads and bool(x.mean() > 9)
        return self.fc(self.ways[min(int(bright), len(self.ways) - 1)](self.stem(x)).mean((2, 3)))


def test_where_values_choose_what_runs_no_channel_goes() -> None:
    with pytest.raises(Infeasible, match=r"chooses by the values of images which layers run, and ways\.1 did not"):
        Groups(Choosing(2), X)


@pytest.mark.parametrize("model", [Choosing(1), Choosing(2, reads=False)], ids=["one way", "an idle layer"])
def test_reading_a_value_alone_or_an_idle_layer_alone_is_no_choice(model: nn.Module) -> None:
    assert "stem" in {group.root for group in Groups(model, X).groups}


def test_where_a_layer_raises_nothing_is_watched_any_more() -> None:
    model = Raising()
    with pytest.raises(Infeasible, match="cannot be followed"):
        Groups(model, X)
    assert _get_current_dispatch_mode() is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Inferring(nn.Module):
    """Runs a part without what gradients need."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            x = torch.relu(self.second(torch.relu(self.first(x)) + 0))
        return self.last(x.clone().mean((2, 3)))


def test_channels_are_followed_without_gradients() -> None:
    assert set(roots(Groups(Inferring().eval(), X))) == {"first", "second"}
