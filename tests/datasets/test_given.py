"""Data that come as objects: what the model sees is what they give, and what is said where they are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from automc.datasets import DataRef, given, open_data
from automc.errors import DataError, Note

LABELS = torch.arange(60) % 4
PIXELS = torch.randint(0, 256, (60, 3, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def seen(data: Any, folder: Path, **options: Any) -> torch.Tensor:
    """What a model sees of all training images."""
    opened = open_data(given.keep(data, folder, **options))
    return opened.data(opened.train).normalised(slice(None)).contiguous()


def test_floats_in_the_unit_interval_are_exactly_the_pixels_they_were(tmp_path: Path) -> None:
    images = PIXELS.float() / 255
    torch.testing.assert_close(seen(TensorDataset(images, LABELS), tmp_path), images, rtol=0, atol=1e-6)


def test_normalised_floats_are_what_the_model_sees(tmp_path: Path) -> None:
    images = (PIXELS.float() / 255 - 0.45) / 0.22
    with pytest.warns(Note, match="from -2.05 to 2.5 are kept in 256 levels"):
        found = seen((images.numpy(), LABELS.numpy()), tmp_path)
    span = float(images.max() - images.min())
    assert float((found - images).abs().max()) <= span / 255 / 2 + 1e-5


def test_pixels_are_normalised_as_is_said(tmp_path: Path) -> None:
    found = seen((PIXELS, LABELS), tmp_path, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    wanted = (PIXELS.float() / 255 - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / 0.2
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_train_test_and_validation_come_back(tmp_path: Path) -> None:
    whole = TensorDataset(PIXELS.float() / 255, LABELS)
    parts = [Subset(whole, range(start, start + 20)) for start in (0, 20, 40)]
    ref = given.keep((parts[0], parts[1]), tmp_path, val=parts[2], classes=("a", "b", "c", "d"), augment="none")
    again = given.keep((parts[0], parts[1]), tmp_path, val=parts[2], classes=("a", "b", "c", "d"))
    assert ref.spec == again.spec
    assert Path(ref.spec).name == "TensorDataset"
    opened = open_data(DataRef.from_dict(ref.as_dict()))
    assert (opened.name, opened.classes, opened.augment) == ("TensorDataset", ("a", "b", "c", "d"), "none")
    for images, start in ((opened.train, 0), (opened.test, 20), (opened.validation, 40)):
        assert images is not None
        assert torch.equal(images.x, PIXELS[start : start + 20])
        assert torch.equal(images.y, LABELS[start : start + 20])


def test_without_test_images_there_are_none(tmp_path: Path) -> None:
    assert open_data(given.keep((PIXELS[:, :1], LABELS), tmp_path)).test is None


class Streaming(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([])


class Endless(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return PIXELS[0], 0


class Random(Endless):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return torch.rand(3, 6, 6), index % 2


UNIT = PIXELS.float() / 255


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (Endless(), {}, "train data: Endless has no length. Give it __len__"),
        (Streaming(), {}, "train data: got an iterable data set"),
        (DataLoader(TensorDataset(UNIT, LABELS)), {}, "train data: got a DataLoader"),
        (Random(), {}, "item 0 is another image each time.*Leave random augmentation out"),
        ((UNIT[:, 0, 0], LABELS), {}, r"train data: images have shape \(60, 6\)"),
        ((UNIT.permute(0, 2, 3, 1), LABELS), {}, "channels last. Move the channels before the height"),
        ((UNIT, LABELS[:10]), {}, "labels are int64 of shape"),
        ((UNIT, torch.eye(60)), {}, "a row per image. Of one-hot labels"),
        ((UNIT * torch.nan, LABELS), {}, "6,480 values of the images are NaN"),
        (((UNIT, LABELS), (UNIT[:, :1], LABELS)), {}, "test data have 1 channels, train data 3"),
        (((UNIT, LABELS), (PIXELS, LABELS)), {}, "differ in kind: train float32, test uint8"),
        ((UNIT, LABELS), {"mean": (0.5,) * 3, "std": (0.2,) * 3}, "mean and std are for uint8 images"),
        ((PIXELS.to(torch.int32), LABELS), {}, "images are int32"),
        (None, {}, "There are no training data"),
        (3, {}, "train data: got int. Give a torch Dataset"),
        (((UNIT, LABELS), 3), {}, "test data: got int"),
    ],
)
def test_what_is_no_data_is_refused_in_a_sentence(tmp_path: Path, data: Any, options: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        given.keep(data, tmp_path, **options)


def test_a_folder_that_lost_a_file_is_damaged(tmp_path: Path) -> None:
    ref = given.keep((PIXELS, LABELS), tmp_path)
    (Path(ref.spec) / "train" / "y.npy").unlink()
    with pytest.raises(DataError, match="is damaged"):
        open_data(ref)


def test_arrays_of_any_library_and_lists_of_samples_are_read(tmp_path: Path) -> None:
    found = seen([(UNIT[i], int(LABELS[i])) for i in range(60)], tmp_path)
    torch.testing.assert_close(found, UNIT, rtol=0, atol=1e-6)
    found = seen((UNIT, LABELS.tolist()), tmp_path)
    torch.testing.assert_close(found, UNIT, rtol=0, atol=1e-6)
    found = seen([np.asarray(UNIT[:, 0], dtype=np.float64), LABELS.numpy()], tmp_path)
    torch.testing.assert_close(found, UNIT[:, :1], rtol=0, atol=1e-6)
