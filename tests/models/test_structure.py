from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_nets import factored, randomise, resnet8, shrink_pair
from torch import nn

from automc.errors import ArtefactError
from automc.models import structure
from automc.models.edits import from_spec, insertable, spec_of
from automc.models.load import LoadedModel, load
from automc.models.shortcuts import GatherShortcut

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def round_trip(path: Path, loaded: LoadedModel, model: nn.Module, x: torch.Tensor = X) -> nn.Module:
    """Save, read, and hold every tensor and the logits to be the same bits."""
    structure.save(path, model, loaded.source, metadata={})
    again = structure.read(path).model
    want, have = model.state_dict(), again.state_dict()
    assert list(want) == list(have)
    for key in want:
        assert want[key].dtype == have[key].dtype, key
        assert torch.equal(want[key], have[key]), key
    with torch.no_grad():
        assert torch.equal(again(x), copy.deepcopy(model).eval()(x))
    assert structure.weights_hash(again) == structure.weights_hash(model)
    return again


def test_an_unchanged_model_has_no_edits(tmp_path: Path) -> None:
    loaded = resnet8()
    assert structure.describe(loaded.model, loaded.source) == []
    round_trip(tmp_path / "m.am", loaded, loaded.model)


def prune(model: Any) -> None:
    block = model.layer2[0]
    shrink_pair(block.conv1, block.bn1, block.conv2, [0, 3, 4, 30])


def narrow_stream(model: Any) -> None:
    """Remove channel 5 of the first stage's stream, whose next reader is a GatherShortcut."""
    keep = [c for c in range(16) if c != 5]
    shrink_pair(model.conv1, model.bn1, model.layer1[0].conv1, keep)
    block = model.layer1[0]
    shrink_pair(block.conv2, block.bn2, model.layer2[0].conv1, keep)
    model.layer2[0].shortcut.drop_inputs([5])


def factor(model: Any) -> None:
    block = model.layer3[0]
    block.conv2 = randomise(factored(block.conv2, 5), 3)


def factor_nested(model: Any) -> None:
    factor(model)
    block = model.layer3[0]
    block.conv2[0] = randomise(factored(block.conv2[0], 2), 4)
    block.conv2 = nn.Sequential(block.conv2, nn.Identity())


def cut_linear(model: Any) -> None:
    """Drop output channels of the last stage, which the classifier reads."""
    keep = list(range(7, 64))
    block = model.layer3[0]
    block.conv2.weight = nn.Parameter(block.conv2.weight.data[keep].clone())
    block.conv2.out_channels = block.bn2.num_features = model.linear.in_features = len(keep)
    for name in ("weight", "bias"):
        setattr(block.bn2, name, nn.Parameter(getattr(block.bn2, name).data[keep].clone()))
    for name in ("running_mean", "running_var"):
        setattr(block.bn2, name, getattr(block.bn2, name)[keep].clone())
    block.shortcut.drop_outputs(range(7))
    model.linear.weight = nn.Parameter(model.linear.weight.data[:, keep].clone())


def swap_activation(model: Any) -> None:
    model.layer1[0].relu1 = nn.LeakyReLU(0.3)
    model.layer1[0].relu2 = nn.PReLU(16, init=0.1)


def drop_layer(model: Any) -> None:
    del model.features[7]


def everything(model: Any) -> None:
    for change in (narrow_stream, prune, cut_linear, factor_nested):
        change(model)
    model.layer3[0].relu1 = nn.PReLU(64, init=0.1)


@pytest.mark.parametrize(
    "change", [prune, narrow_stream, factor, factor_nested, cut_linear, swap_activation, everything]
)
def test_round_trip_is_exact_after(change: Callable[[Any], None], tmp_path: Path) -> None:
    loaded = resnet8()
    model = copy.deepcopy(loaded.model)
    change(model)
    again = round_trip(tmp_path / "m.am", loaded, model)
    assert structure.describe(again, loaded.source) == structure.describe(model, loaded.source) != []
    # and a second generation, changed once more
    again.layer1[0].relu1 = nn.SiLU()
    round_trip(tmp_path / "m.am", loaded, again)


def test_remapped_gather_keeps_its_sources(tmp_path: Path) -> None:
    loaded = resnet8()
    narrow_stream(loaded.model)
    again = round_trip(tmp_path / "m.am", loaded, loaded.model)
    shortcut = again.layer2[0].shortcut
    assert isinstance(shortcut, GatherShortcut)
    assert shortcut.in_channels == 15
    assert shortcut.src == loaded.model.layer2[0].shortcut.src
    assert -1 in shortcut.src[8:24]


def test_a_removed_layer_of_a_sequential(tmp_path: Path) -> None:
    loaded = load(f"{Path(__file__).parent / 'group_nets.py'}:Vgg")
    randomise(loaded.model)
    for module in loaded.model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data /= module.weight.data.sum((1, 2, 3), keepdim=True)
    delattr(loaded.model.features, "9")
    assert structure.describe(loaded.model, loaded.source) == [{"edit": "remove", "path": "features.9", "none": False}]
    round_trip(tmp_path / "m.am", loaded, loaded.model)
    del loaded.model.features[6]  # this renumbers what follows
    round_trip(tmp_path / "m.am", loaded, loaded.model)
    extra = nn.Sequential(nn.ReLU(), nn.Identity())
    extra.append(extra[0])
    loaded.model.features = nn.Sequential(*loaded.model.features, extra)
    again: Any = round_trip(tmp_path / "m.am", loaded, loaded.model)
    assert again.features[-1][0] is again.features[-1][2]


USER = """
import torch
from torch import nn

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2, bias=False)
        self.norm = nn.GroupNorm(2, 8)
        self.gain = nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("seen", torch.arange(3))
        self.heads = 2

    def forward(self, x):
        return self.norm(self.grouped(self.depthwise(x))) * self.gain

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.scaled = Scaled()
        self.extra = nn.Dropout(0.5)
        self.act = nn.ReLU()
        self.also = self.act
        self.tied = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 8)
        self.fc.weight = self.tied.weight

    def forward(self, x):
        x = self.also(self.scaled(self.act(self.stem(x))))
        if self.extra is not None:
            x = self.extra(x)
        return self.fc(self.tied(x.mean((2, 3))))

def build():
    return Net()
"""


@pytest.fixture
def users(tmp_path: Path) -> LoadedModel:
    (tmp_path / "user.py").write_text(USER)
    loaded = load(f"{tmp_path / 'user.py'}:build")
    randomise(loaded.model)
    return loaded


def test_grouped_depthwise_parameters_and_attributes(users: LoadedModel, tmp_path: Path) -> None:
    model: Any = users.model
    scaled = model.scaled
    keep = [0, 2, 4, 6]
    model.stem.weight = nn.Parameter(model.stem.weight.data[keep].clone())
    model.stem.bias = nn.Parameter(model.stem.bias.data[keep].clone())
    model.stem.out_channels = 4
    depthwise, grouped = scaled.depthwise, scaled.grouped
    depthwise.weight = nn.Parameter(depthwise.weight.data[keep].clone())
    depthwise.bias = nn.Parameter(depthwise.bias.data[keep].clone())
    depthwise.in_channels = depthwise.out_channels = depthwise.groups = grouped.in_channels = 4
    grouped.weight = nn.Parameter(grouped.weight.data[:, :2].clone())
    scaled.heads = 1
    scaled.seen = torch.arange(5)
    again: Any = round_trip(tmp_path / "m.am", users, model)
    assert again.scaled.depthwise.groups == 4
    assert again.scaled.heads == 1
    assert repr(again.scaled.grouped) == repr(grouped)


def test_shared_modules_and_tied_weights_stay_shared(users: LoadedModel, tmp_path: Path) -> None:
    model: Any = users.model
    again: Any = round_trip(tmp_path / "m.am", users, model)
    assert again.also is again.act
    assert again.fc.weight is again.tied.weight
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())
    model.act = model.also = nn.SiLU()
    again = round_trip(tmp_path / "m.am", users, model)
    assert again.also is again.act
    model.also = nn.ReLU()
    again = round_trip(tmp_path / "m.am", users, model)
    assert isinstance(again.act, nn.SiLU)
    assert isinstance(again.also, nn.ReLU)


def test_removed_and_absent_children(users: LoadedModel, tmp_path: Path) -> None:
    users.model.extra = None
    again: Any = round_trip(tmp_path / "m.am", users, users.model)
    assert again.extra is None


def test_precision_and_memory_format_survive(users: LoadedModel, tmp_path: Path) -> None:
    model = resnet8()
    last = copy.deepcopy(model.model).to(memory_format=torch.channels_last)
    again: Any = round_trip(tmp_path / "m.am", model, last, X.contiguous(memory_format=torch.channels_last))
    assert again.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    half = copy.deepcopy(model.model).bfloat16()
    round_trip(tmp_path / "m.am", model, half, X.bfloat16())


class Stranger(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_a_stranger_is_refused_by_name(tmp_path: Path) -> None:
    loaded = resnet8()
    loaded.model.layer1[0].relu1 = Stranger()
    with pytest.raises(
        ArtefactError, match=r"layer1\.0\.relu1 is a test_structure\.Stranger|layer1\.0\.relu1 is a .*Stranger"
    ):
        structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})
    loaded.model.layer1[0].relu1 = nn.Sequential(nn.ReLU(), Stranger())
    with pytest.raises(ArtefactError, match=r"layer1\.0\.relu1\.1 is a"):
        structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})
    assert not (tmp_path / "m.am").exists()


def test_a_layer_whose_attributes_lie_is_refused(tmp_path: Path) -> None:
    loaded = resnet8()
    loaded.model.layer1[0].relu1 = nn.Conv2d(16, 16, 1)
    loaded.model.layer1[0].relu1.weight = nn.Parameter(torch.zeros(16, 3, 1, 1))
    with pytest.raises(ArtefactError, match=r"layer1\.0\.relu1 cannot be rebuilt"):
        structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})


@insertable("test.Shift")
class Shift(nn.Module):
    def __init__(self, by: float, size: int) -> None:
        super().__init__()
        self.by = by
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale.view(1, -1, 1, 1) + self.by

    def spec(self) -> dict[str, Any]:
        return {"by": self.by, "size": len(self.scale)}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Shift:
        return cls(**spec)


def test_registered_classes_are_rebuilt(tmp_path: Path) -> None:
    loaded = resnet8()
    loaded.model.layer1[0].relu1 = nn.Sequential(randomise(Shift(0.25, 16)), nn.ReLU())
    round_trip(tmp_path / "m.am", loaded, loaded.model)
    with pytest.raises(ValueError, match=r"test\.Shift"):
        insertable("test.Shift")(Stranger)
    with pytest.raises(ValueError, match="Conv2d"):
        insertable("Conv2d")(Stranger)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, padding="same", bias=False),
        nn.Conv2d(4, 4, (3, 1), (2, 1), (1, 0), groups=2, padding_mode="circular"),
        nn.BatchNorm2d(3, eps=1e-3, momentum=None, affine=False),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.Linear(2, 3, bias=False),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(2, count_include_pad=False),
        nn.LayerNorm((4, 2), elementwise_affine=False),
        nn.ReLU6(inplace=True),
        nn.Hardtanh(-2, 3),
        nn.GELU("tanh"),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Unflatten(1, (2, 2)),
        nn.Dropout(0.3),
        nn.ConvTranspose2d(3, 4, 2, 2, output_padding=1),
    ],
    ids=repr,
)
def test_specs_of_plain_layers(layer: nn.Module) -> None:
    rebuilt = from_spec(json.loads(json.dumps(spec_of(layer))))
    assert repr(rebuilt) == repr(layer)
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {k: v.shape for k, v in layer.state_dict().items()}


def test_metadata_and_normalisation_come_back(tmp_path: Path) -> None:
    loaded = resnet8()
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={"recipe": {"lr": 0.01}, "n": [1, 2]})
    again = structure.read(tmp_path / "m.am")
    assert again.metadata == {"recipe": {"lr": 0.01}, "n": [1, 2]}
    assert again.normalisation == loaded.normalisation
    assert not again.model.training
    given = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={}, normalisation=given)
    assert structure.read(tmp_path / "m.am").normalisation == given
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={"normalisation": [[0.5], [0.25]]})
    assert structure.read(tmp_path / "m.am").normalisation == ((0.5,), (0.25,))
    with pytest.raises(ArtefactError, match="JSON"):
        structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={"x": object()})


def test_saving_and_reading_leave_random_state_and_model_alone(tmp_path: Path) -> None:
    loaded = resnet8()
    prune(loaded.model)
    loaded.model.train()
    before, state = copy.deepcopy(loaded.model.state_dict()), torch.get_rng_state()
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})
    structure.read(tmp_path / "m.am")
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.model.training
    assert all(torch.equal(v, before[k]) for k, v in loaded.model.state_dict().items())


def test_hash_follows_structure_and_weights_only(tmp_path: Path) -> None:
    loaded = resnet8()
    first = structure.weights_hash(loaded.model)
    same = copy.deepcopy(loaded.model).train().to(memory_format=torch.channels_last)
    assert structure.weights_hash(same) == first
    changed = copy.deepcopy(loaded.model)
    changed.layer1[0].bn1.running_var[3] += 1e-6
    assert structure.weights_hash(changed) != first
    swapped = copy.deepcopy(loaded.model)
    swapped.layer1[0].relu1 = nn.SiLU()
    assert structure.weights_hash(swapped) != first
    remapped = copy.deepcopy(loaded.model)
    remapped.layer2[0].shortcut = GatherShortcut(2, remapped.layer2[0].shortcut.src[::-1], 16)
    assert structure.weights_hash(remapped) != first
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})
    code = f"""
import sys
from automc.models.structure import read, weights_hash
print(weights_hash(read({str(tmp_path / "m.am")!r}).model))
assert "torchvision" not in sys.modules, "torchvision must be imported lazily"
"""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == first
