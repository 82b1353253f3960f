"""Batches, augmentation and references."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from automc.datasets import DataRef, Dataset, Images, TrainData, base, check
from automc.errors import DataError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def some(n: int = 12, channels: int = 3, side: int = 10, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, channels, side, side), generator=g).to(torch.uint8)
    return x, torch.arange(n) % 4


def naive(image: np.ndarray, top: int, left: int, mirror: bool, pad: int) -> np.ndarray:
    """One image, by explicit loops: what was padded with zeros, cut out, and mirrored; then normalised."""
    channels, height, width = image.shape
    out = np.zeros((channels, height, width))
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                row, column = i + top - pad, (width - 1 - j if mirror else j) + left - pad
                inside = 0 <= row < height and 0 <= column < width
                pixel = image[c, row, column] / 255 if inside else 0.0
                out[c, i, j] = (pixel - MEAN[c]) / STD[c]
    return out


@pytest.mark.parametrize(("side", "pad"), [(8, 1), (10, 1), (32, 4), (40, 4)])
def test_augmentation_equals_a_naive_loop(side: int, pad: int) -> None:
    x, y = some(side=side)
    data = TrainData(x, y, mean=MEAN, std=STD, augment="crop-flip")
    assert data.pad == pad
    indices = torch.tensor([3, 0, 7, 7, 11])
    views = data.draw(len(indices), torch.Generator().manual_seed(5))
    assert views.top is not None
    assert views.left is not None
    assert views.mirror is not None
    batch = data.views(indices, views)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for k, i in enumerate(indices.tolist()):
        wanted = naive(x[i].numpy(), int(views.top[k]), int(views.left[k]), bool(views.mirror[k]), pad)
        np.testing.assert_allclose(batch[k].numpy(), wanted, atol=2e-6)


def test_views_cover_every_offset_and_both_mirrors() -> None:
    x, y = some(side=32)
    views = TrainData(x, y, mean=MEAN, std=STD, augment="crop-flip").draw(2000, torch.Generator().manual_seed(0))
    assert views.top is not None
    assert views.mirror is not None
    assert sorted(set(views.top.tolist())) == list(range(9))
    assert 0.45 < views.mirror.float().mean() < 0.55


def test_crop_does_not_mirror_and_none_does_nothing() -> None:
    x, y = some()
    assert TrainData(x, y, mean=MEAN, std=STD, augment="crop").draw(3, torch.Generator()).mirror is None
    plain = TrainData(x, y, mean=MEAN, std=STD, augment="none")
    every = torch.arange(len(x))
    expected = (x.double() / 255 - torch.tensor(MEAN).double().view(-1, 1, 1)) / torch.tensor(STD).double().view(
        -1, 1, 1
    )
    assert torch.allclose(plain.batch(every, torch.Generator()).double(), expected, atol=2e-6)
    assert torch.equal(plain.normalised(slice(2, 5)), plain.normalised(torch.tensor([2, 3, 4])))


def test_a_batch_follows_from_its_generator() -> None:
    x, y = some()
    data = TrainData(x, y, mean=MEAN, std=STD, augment="crop-flip")
    one, same, other = (data.batch(torch.arange(12), torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_selections_share_pixels_and_compose() -> None:
    x, y = some()
    images = Images(x, y)
    twice = images.select(torch.tensor([9, 1, 4])).select(torch.tensor([2, 0]))
    assert twice.store.data_ptr() == x.data_ptr()
    assert torch.equal(twice.x, x[[4, 9]])
    assert torch.equal(twice.y, y[[4, 9]])
    data = TrainData(twice, mean=MEAN, std=STD)
    assert torch.equal(
        data.normalised(slice(0, 2)), TrainData(x[[4, 9]], y[[4, 9]], mean=MEAN, std=STD).normalised(slice(0, 2))
    )


def test_take_draws_without_replacement_and_by_seed() -> None:
    x = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1)
    data = TrainData(x, torch.arange(50) % 2, mean=(0.0,), std=(1.0,))
    taken = data.take(20, seed=3).x.flatten().tolist()
    assert len(set(taken)) == 20
    assert taken == data.take(20, seed=3).x.flatten().tolist()
    assert taken != data.take(20, seed=4).x.flatten().tolist()
    assert data.take(500).n == 50


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2), "uint8"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2), "height, width"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3), "2 images"),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), torch.zeros(0), "no images"),
    ],
)
def test_images_refuse_what_is_no_image(x: torch.Tensor, y: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Images(x, y)


def test_normalisation_must_have_a_value_per_channel() -> None:
    x, y = some(channels=1)
    with pytest.raises(DataError, match="1 channel"):
        TrainData(x, y, mean=MEAN, std=STD)


def test_reference_survives_json() -> None:
    ref = DataRef("cifar10", root="somewhere", mean=(0.1,), std=(0.2,), classes=("a", "b"), augment="crop", size=32)
    assert DataRef.from_dict(json.loads(json.dumps(ref.as_dict()))) == ref


def test_recorded_normalisation_only_fills_a_gap() -> None:
    assert DataRef("digits").normalised_by(([0.1], [0.2])).mean == (0.1,)
    assert DataRef("digits", mean=(0.5,), std=(0.5,)).normalised_by(([0.1], [0.2])).mean == (0.5,)
    assert DataRef("digits").normalised_by(None) == DataRef("digits")


@pytest.mark.parametrize(
    "wrong", [{"mean": (0.5,)}, {"mean": (0.5,), "std": (0.0,)}, {"size": 0}, {"augment": "spin"}], ids=str
)
def test_impossible_references_are_refused(wrong: dict) -> None:
    with pytest.raises(DataError, match="--"):
        DataRef("digits", **wrong)


def test_check_names_both_sides_of_a_misfit() -> None:
    x, y = some(channels=1)
    images = Images(x, y)
    dataset = Dataset("shapes", images, images, None, ("a", "b", "c", "d"), (0.5,), (0.5,), "none", "h")
    check(dataset, 4, 1)
    check(dataset)
    with pytest.raises(DataError, match=r"shapes are grey .* model takes colour"):
        check(dataset, 4, 3)
    with pytest.raises(DataError, match="4 classes, but the model has 10 outputs"):
        check(dataset, 10, 1)


def test_images_go_to_the_device_when_they_are_first_used() -> None:
    x = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    data = TrainData(x, torch.tensor([0, 1]), mean=(0.5,) * 3, std=(0.2,) * 3, device="meta")
    assert (data.n, data.example_shape[1:], data.device.type) == (2, (3, 4, 4), "meta")
    assert "images" not in vars(data), "what nobody looks at takes no memory of the device"
    assert data.images.store.device.type == "meta"
    assert data.y.device.type == "meta"


def test_images_that_do_not_fit_the_device_go_there_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "fits", lambda images, device: False)
    x = torch.randint(0, 256, (6, 3, 8, 8)).to(torch.uint8)
    data = TrainData(x, torch.arange(6), mean=(0.5,) * 3, std=(0.2,) * 3, augment="crop-flip", device="meta")
    assert data.images.store.device.type == "cpu"
    assert data.y.device.type == "meta"
    batch = data.normalised(slice(0, 4))
    assert (batch.device.type, tuple(batch.shape)) == ("meta", (4, 3, 8, 8))
    views = data.draw(3, torch.Generator().manual_seed(0))
    assert data.views(torch.tensor([4, 1, 3]), views).device.type == "meta"


def test_a_set_is_kept_in_memory_that_would_crowd_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    images = base.Images(torch.zeros(100, 3, 8, 8, dtype=torch.uint8), torch.zeros(100, dtype=torch.int64))
    size = 100 * 3 * 8 * 8
    for free, resident in ((4 * size, True), (2 * size, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10 * size))
        assert base.fits(images, torch.device("cuda:0")) is resident
        assert base.fits(images.select(torch.arange(10)), torch.device("cuda:0"))
    assert base.fits(images, torch.device("cpu"))
