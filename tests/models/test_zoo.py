from __future__ import annotations

import io
import math
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from automc.errors import ModelError
from automc.models import zoo
from automc.models.measure import count_flops, count_params
from automc.models.zoo.registry import register


def basic_resnet_params(depth: int, option: str) -> int:
    """Count by hand: stem, blocks, shortcuts, head."""
    n = (depth - 2) // 6
    total = 3 * 16 * 9 + 2 * 16 + 64 * 10 + 10
    inputs = 16
    for width in (16, 32, 64):
        for i in range(n):
            total += 9 * inputs * width + 9 * width * width + 4 * width
            if i == 0 and inputs != width and option == "b":
                total += inputs * width + 2 * width
            inputs = width
    return total


@pytest.mark.parametrize("depth", [8, 20, 32, 44, 56, 110])
@pytest.mark.parametrize(("suffix", "option"), [("", "a"), ("-b", "b")])
def test_basic_resnets_have_the_counted_parameters(depth: int, suffix: str, option: str) -> None:
    assert count_params(zoo.build(f"resnet{depth}{suffix}")) == basic_resnet_params(depth, option)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("resnet20", 269_722),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("resnet164", 1_703_258),
        ("automc-resnet20", 283_866),
        ("automc-resnet56", 900_762),
        ("vgg19", 20_040_522),
    ],
)
def test_published_parameter_counts(name: str, params: int) -> None:
    assert count_params(zoo.build(name)) == params


def test_vgg16_has_the_published_parameters_for_100_classes() -> None:
    convolutions = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    by_hand = sum(9 * i * o + o + 2 * o for i, o in pairwise(convolutions)) + 512 * 100 + 100
    assert count_params(zoo.build("vgg16", classes=100)) == by_hand == 14_774_436


def test_flops_are_twice_the_multiply_accumulates() -> None:
    # conv terms of ResNet-20 at 32×32, plus the head
    macs = 27 * 16 * 1024 + 6 * 9 * 16 * 16 * 1024
    macs += (9 * 16 * 32 + 5 * 9 * 32 * 32) * 256 + (9 * 32 * 64 + 5 * 9 * 64 * 64) * 64 + 640
    assert count_flops(zoo.build("resnet20"), torch.zeros(3, 3, 32, 32)) == 2 * macs


@pytest.mark.parametrize(
    ("name", "size", "channels", "classes"),
    [(n, 8, 1, 3) for n in zoo.names() if "110" not in n]
    + [(n, 28, 3, 10) for n in ("resnet8", "resnet8-b", "vgg13", "automc-resnet20")],
)
def test_every_model_takes_small_images_and_any_channels(name: str, size: int, channels: int, classes: int) -> None:
    model = zoo.build(name, classes=classes, channels=channels).eval()
    with torch.no_grad():
        out = model(torch.randn(2, channels, size, size))
    assert out.shape == (2, classes)
    assert torch.isfinite(out).all()


def test_odd_sizes_match_the_convolutions_rounding() -> None:
    assert zoo.build("resnet8").eval()(torch.randn(1, 3, 13, 9)).shape == (1, 10)


def test_each_activation_is_called_once() -> None:
    for name in ("resnet8", "automc-resnet20", "vgg13"):
        model = zoo.build(name)
        calls: dict[nn.Module, int] = {}
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(lambda m, *_, calls=calls: calls.update({m: calls.get(m, 0) + 1}))
        model(torch.randn(2, 3, 32, 32))
        assert set(calls.values()) == {1}
        assert len(calls) == sum(isinstance(m, nn.ReLU) for m in model.modules())


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ModelError, match="Did you mean resnet20"):
        zoo.build("resnet-20")
    with pytest.raises(ModelError, match="at least 1 class"):
        zoo.build("resnet20", classes=-1)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="resnet20"):
        register({"resnet20": {}}, about="again")(nn.Identity)


def test_normalisation_is_that_of_the_checkpoints() -> None:
    assert zoo.get("resnet56").normalisation == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert zoo.get("resnet56-b").normalisation is None


@pytest.mark.parametrize("file", ["resnet20-12fca82f.th", "resnet56-4bfd9763.th"])
def test_public_checkpoints_fill_every_tensor(shared: Path, file: str) -> None:
    from automc.models.load import load

    path = shared / "models" / file
    model = load(file.split("-")[0], weights=path).model
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    own = model.state_dict()
    for key, tensor in state.items():
        assert torch.equal(own[key.removeprefix("module.")], tensor)
    left = {k for k in own if f"module.{k}" not in state}
    assert all(k.endswith("num_batches_tracked") for k in left)


def test_public_checkpoint_classifies_real_images(shared: Path) -> None:
    """Plain evaluation on 200 test images, stored as JPEG (which costs some of the checkpoint's 91.78%)."""
    from automc.models.load import load

    archive = shared / "data" / "cifar10-jpeg.tar.xz"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    images, labels = read_test_images(archive, 20)
    loaded = load("resnet20", weights=shared / "models" / "resnet20-12fca82f.th")
    assert loaded.normalisation is not None
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in loaded.normalisation)
    with torch.no_grad():
        right = loaded.model.eval()((images.float() / 255 - mean) / std).argmax(1) == labels
    assert len(right) == 200
    # Three standard errors below 80%: a wrong normalisation or class order is far under it.
    assert float(right.float().mean()) > 0.8 - 3 * math.sqrt(0.8 * 0.2 / 200)


def read_test_images(archive: Path, per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first test images of each class as uint8 (n, 3, 32, 32), classes in alphabetical order."""
    found: dict[str, list[torch.Tensor]] = {}
    with tarfile.open(archive, "r|xz") as tar:
        for entry in tar:
            parts = entry.name.split("/")
            if parts[0] == "test" and entry.isfile() and len(found.setdefault(parts[1], [])) < per_class:
                content = tar.extractfile(entry)
                assert content is not None
                pixels = np.asarray(Image.open(io.BytesIO(content.read())).convert("RGB")).copy()
                found[parts[1]].append(torch.from_numpy(pixels).permute(2, 0, 1))
    classes = sorted(found)
    labels = [i for i, name in enumerate(classes) for _ in found[name]]
    return torch.stack([image for name in classes for image in found[name]]), torch.tensor(labels)
