from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_nets import USER_FILE, randomise
from torch import nn

from automc import userfiles
from automc.datasets import TrainData
from automc.errors import ArtefactError, ModelError, Note
from automc.models import structure, zoo
from automc.models.factory import SourceChanged
from automc.models.load import build, default_shape, input_channels, layout, load, output_classes, prepare
from automc.models.shortcuts import GatherShortcut
from automc.training.evaluate import accuracy
from automc.training.loop import fit
from automc.training.recipe import Recipe


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(USER_FILE)
    return path


def forget_imports() -> None:
    """Do as if this were a new process."""
    userfiles._imported.clear()
    for name in [n for n in sys.modules if n.startswith("automc_user_")]:
        del sys.modules[name]


def checkpoint(tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> tuple[nn.Module, Path]:
    model = randomise(zoo.build("resnet8"))
    path = tmp_path / "w.pt"
    torch.save(change(model.state_dict()), path)
    return model, path


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "best_prec1": 91.7, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"lr": [0.1]}},
        lambda s: {"net": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"module._orig_mod.{k}": v for k, v in s.items()}},
        lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
    ],
    ids=["plain", "state_dict", "model", "net", "module.", "compiled", "old"],
)
def test_weights_in_their_usual_wrappings(tmp_path: Path, change: Callable[..., object]) -> None:
    model, path = checkpoint(tmp_path, change)
    loaded = load("resnet8", weights=path).model
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded.eval()(x), model.eval()(x))


def test_weights_as_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = randomise(zoo.build("resnet8"))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    loaded = load("resnet8", weights=tmp_path / "w.safetensors").model
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())


def test_weights_of_other_sizes_are_named(tmp_path: Path) -> None:
    _, path = checkpoint(tmp_path, lambda s: s)
    with pytest.raises(ModelError, match=r"linear.weight is 10×64 in the file and 7×64 in the model.*classes"):
        load("resnet8", weights=path, classes=7)
    with pytest.raises(ModelError, match=r"it lacks layer1\.1\.conv1\.weight"):
        load("resnet20", weights=path)
    with pytest.raises(ModelError, match=r"the model has no conv1\.weight"):
        load("vgg13", weights=path)


@pytest.mark.parametrize("cut", [0, 1, 100, 5000])
def test_a_damaged_checkpoint_says_so(tmp_path: Path, cut: int) -> None:
    _, path = checkpoint(tmp_path, lambda s: s)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match=r"w\.pt is damaged, or no PyTorch checkpoint"):
        load("resnet8", weights=path)


@pytest.mark.parametrize("content", [b"hello world, this is text", b"\x00" * 64, b"\x80\x02]q\x00."])
def test_garbage_as_weights(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"w\.pt"):
        load("resnet8", weights=tmp_path / "w.pt")


def test_a_pickled_model_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    torch.save(zoo.build("resnet8"), path)
    with pytest.raises(
        ModelError, match=r"pickled Python object \(automc\.models\.zoo\.resnet\.ResNet\).*state_dict\(\)"
    ):
        load("resnet8", weights=path)


def test_other_contents_are_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="holds a list"):
        load("resnet8", weights=tmp_path / "list.pt")
    torch.save({"conv1.weight": torch.zeros(1), "lr": 0.1}, tmp_path / "mixed.pt")
    with pytest.raises(ModelError, match="do not fit the model: it lacks"):
        load("resnet8", weights=tmp_path / "mixed.pt")
    with pytest.raises(ModelError, match="no weights file"):
        load("resnet8", weights=tmp_path / "absent.pt")


def test_factories_of_users_get_what_they_accept(user_file: Path) -> None:
    loaded = load(f"{user_file}:build", classes=7, channels=1)
    assert loaded.source.kwargs == {"classes": 7, "channels": 1}
    assert output_classes(loaded.model, torch.zeros(2, 1, 8, 8)) == 7
    assert input_channels(loaded.model) == 1
    assert loaded.normalisation is None
    user_file.write_text(
        USER_FILE + "\n\ndef plain():\n    return build(5)\n\ndef other(num_classes=2): return build(num_classes)\n"
    )
    assert output_classes(load(f"{user_file}:plain", classes=7).model, torch.zeros(2, 3, 8, 8)) == 5
    assert load(f"{user_file}:other", classes=9).source.kwargs == {"num_classes": 9}
    assert load(f"{user_file}:Net", classes=3, channels=3).source.kwargs == {"classes": 3, "channels": 3}


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("from torch import nn\nsize = 6\n")
    (tmp_path / "net.py").write_text("import neighbour_of_mine as n\ndef build():\n    return n.nn.Linear(4, n.size)\n")
    before = list(sys.path)
    assert load(f"{tmp_path / 'net.py'}:build").model.out_features == 6
    assert sys.path == before


@pytest.mark.parametrize(
    ("function", "text", "said"),
    [
        ("biuld", "", r"has no function 'biuld'. Did you mean build\?.*LambdaLayer, Block, Net, build"),
        ("", "", r"needs a function: file.py:function"),
        ("ready", "ready = Net(2, 3)", "is a model, not a function"),
        ("needs", "def needs(depth): return build()", "needs the arguments depth"),
        ("nothing", "def nothing(): pass", "returned a NoneType, not a torch.nn.Module"),
        (
            "fails",
            "def fails():\n    raise OSError('no such thing')",
            r"fails\(\) failed: OSError: no such thing \(line \d+\)",
        ),
        ("build", "import nowhere_to_be_found", r"cannot be imported: ModuleNotFoundError.*nowhere.*\(line \d+\)"),
        ("build", "def broken(:", "cannot be imported: SyntaxError"),
        ("build", "raise SystemExit(3)", "cannot be imported: SystemExit"),
    ],
)
def test_what_can_be_wrong_with_a_users_file(user_file: Path, function: str, text: str, said: str) -> None:
    user_file.write_text(f"{USER_FILE}\n{text}\n")
    with pytest.raises(ModelError, match=said):
        load(f"{user_file}:{function}" if function else str(user_file))


def test_missing_files_and_names(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no file .*absent\.py"):
        load(f"{tmp_path}/absent.py:build")
    with pytest.raises(ModelError, match=r"no file .*absent\.am"):
        load(f"{tmp_path}/absent.am")
    with pytest.raises(ModelError, match="Did you mean resnet56"):
        load("resnet-56")


def test_torchvision_classifiers_by_name() -> None:
    pytest.importorskip("torchvision")
    loaded = load("torchvision:mobilenet_v3_small", classes=5)
    assert output_classes(loaded.model, torch.zeros(1, 3, 64, 64)) == 5
    assert loaded.normalisation == zoo.IMAGENET
    with pytest.raises(ModelError, match="Did you mean resnet18"):
        load("torchvision:resnet_18")
    with pytest.raises(ModelError, match="is no image classifier"):
        load("torchvision:fcn_resnet50")
    with pytest.raises(ModelError, match="3 channels"):
        load("torchvision:resnet18", channels=1)


def test_layers_that_ask_for_a_version_are_filled(tmp_path: Path) -> None:
    """MNASNet refuses a state_dict without torch's own version notes."""
    pytest.importorskip("torchvision")
    loaded = load("torchvision:mnasnet0_5", classes=3)
    torch.save(dict(loaded.model.state_dict()), tmp_path / "w.pt")
    again = load("torchvision:mnasnet0_5", classes=3, weights=tmp_path / "w.pt")
    structure.save(tmp_path / "m.am", again.model, again.source, metadata={})
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(structure.read(tmp_path / "m.am").model(x), loaded.model.eval()(x))


class Viewing(nn.Module):
    """Ends as many tutorials do: pixels of all channels in one row, by a view."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).view(-1, 8 * 64))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_that_views_pixels_gets_contiguous_batches(channels: int) -> None:
    model = Viewing(channels)
    before = [p.stride() for p in model.parameters()]
    example = torch.zeros(1, channels, 8, 8)
    assert layout(model, example) is torch.contiguous_format
    assert [p.stride() for p in model.parameters()] == before
    assert layout(load("resnet8").model, torch.zeros(1, 3, 8, 8)) is torch.channels_last
    data = TrainData(
        torch.zeros(4, channels, 8, 8, dtype=torch.uint8), torch.arange(4), mean=[0.5] * channels,
        std=[0.2] * channels, augment="crop", layout=torch.contiguous_format,
    )  # fmt: skip
    fit(model, data.take(4), iterations=2, recipe=Recipe(batch=2), seed=0)
    assert 0 <= accuracy(model, data.without_augmentation()) <= 1


class Deep(nn.Module):
    """Has weights of five dimensions: a three-dimensional convolution over channels, and a scale of its groups."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(1, 2, 8, 1, 1))
        self.deep = nn.Conv3d(1, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x)).unflatten(1, (2, 8)) * self.scale
        return self.fc(self.deep(x.flatten(1, 2)[:, None]).mean((3, 4)).flatten(1))


def test_a_model_with_weights_of_five_dimensions_gets_contiguous_batches() -> None:
    assert layout(Deep(), torch.zeros(1, 3, 8, 8)) is torch.contiguous_format


def test_sizes(user_file: Path, tmp_path: Path) -> None:
    assert default_shape("resnet20") == (32, 32)
    loaded = load("resnet8")
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})
    assert default_shape(str(tmp_path / "m.am")) == (32, 32)
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={"image_shape": [8, 20]})
    assert default_shape(str(tmp_path / "m.am")) == (8, 20)
    with pytest.raises(ModelError, match="--size"):
        default_shape(f"{user_file}:build")


class Wrapped(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function

    def forward(self, x: torch.Tensor) -> object:
        return self.function(self.conv(x))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda y: y, r"a tensor of shape \(2, 4, 8, 8\)"),
        (lambda y: {"out": y, "aux": y}, "a dict of out, aux"),
        (lambda y: (y, y), "a tuple of 2"),
        (lambda y: y.mean(), r"a tensor of shape \(\)"),
        (lambda y: y.flatten(2).mean(0), r"a tensor of shape \(4, 64\)"),
        (lambda y: None, "a NoneType"),
    ],
)
def test_what_is_no_classifier_is_refused(function: Callable[..., object], said: str) -> None:
    with pytest.raises(ModelError, match=f"is no classifier.*{said}"):
        prepare(Wrapped(function), torch.zeros(2, 3, 8, 8))


def test_a_width_is_not_the_number_of_the_images_channels(tmp_path: Path) -> None:
    file = tmp_path / "wide.py"
    file.write_text(
        "from torch import nn\n"
        "def build(channels=32):\n    return nn.Sequential(nn.Conv2d(3, channels, 1), nn.Conv2d(channels, 10, 1))\n"
        "def own(classes=10, channels=3):\n    return nn.Conv2d(channels, classes, 1)\n"
        "def bands(classes=10, in_channels=12):\n    return nn.Conv2d(in_channels, classes, 1)\n"
    )
    with pytest.warns(Note, match="channels=32 is left as it is"):
        assert load(f"{file}:build", channels=3).model[0].out_channels == 32
    assert load(f"{file}:own", channels=1).model.in_channels == 1
    assert load(f"{file}:bands", channels=3).model.in_channels == 3


def test_images_that_do_not_fit_are_said() -> None:
    with pytest.raises(ModelError, match=r"does not run on images of shape \(1, 8, 8\)"):
        prepare(zoo.build("resnet8"), torch.zeros(2, 1, 8, 8))


def test_users_option_a_network_round_trips(user_file: Path, tmp_path: Path) -> None:
    loaded = load(f"{user_file}:build")
    x = torch.randn(2, 3, 8, 8)
    prepared = prepare(randomise(loaded.model), x)
    assert isinstance(prepared.block2.shortcut, GatherShortcut)
    assert torch.equal(prepared.eval()(x), loaded.model.eval()(x))
    structure.save(tmp_path / "m.am", prepared, loaded.source, metadata={})
    again = load(str(tmp_path / "m.am"))
    assert torch.equal(again.model(x), prepared(x))
    assert again.source == loaded.source


def test_a_changed_source_warns_and_loads_while_it_fits(user_file: Path, tmp_path: Path) -> None:
    loaded = load(f"{user_file}:build")
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})
    user_file.write_text(USER_FILE + "\n# a comment\n")
    # In the process that imported the file, the model stays what it was.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(build(loaded.source)) is type(loaded.model)
    forget_imports()
    x = torch.randn(2, 3, 8, 8)
    with pytest.warns(SourceChanged, match=r"mine\.py has changed"):
        again = structure.read(tmp_path / "m.am")
    assert torch.equal(again.model(x), loaded.model.eval()(x))
    user_file.write_text(USER_FILE.replace("Block(8, 16, 2)", "Block(8, 24, 2)").replace("Linear(16,", "Linear(24,"))
    forget_imports()
    with pytest.warns(SourceChanged), pytest.raises(ArtefactError, match="does not fit"):
        structure.read(tmp_path / "m.am")


def test_a_moved_source_is_found_beside_the_artefact(user_file: Path, tmp_path: Path) -> None:
    loaded = load(f"{user_file}:build")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    structure.save(moved / "m.am", loaded.model, loaded.source, metadata={})
    user_file.rename(moved / user_file.name)
    assert structure.read(moved / "m.am").model.fc.out_features == 4
    (moved / user_file.name).unlink()
    forget_imports()
    with pytest.raises(ModelError, match=r"no file .*mine\.py"):
        structure.read(moved / "m.am")


def test_weights_with_an_artefact_are_refused(tmp_path: Path) -> None:
    loaded = load("resnet8")
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})
    with pytest.raises(ModelError, match="holds its weights"):
        load(str(tmp_path / "m.am"), weights=tmp_path / "w.pt")
