"""Every registered data set keeps its contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from automc.datasets import DataRef, Images, open_data, register, registered
from automc.errors import DataError


def test_the_families_are_registered() -> None:
    assert {"digits", "cifar10", "cifar100", "fashion-mnist", "svhn"} <= set(registered())


def test_classes_in_another_order_move_the_labels() -> None:
    plain = open_data(DataRef("digits"))
    names = tuple(reversed(plain.classes))
    data = open_data(DataRef("digits", classes=names))
    assert data.classes == names
    assert torch.equal(data.train.x, plain.train.x)
    assert torch.equal(data.train.y, 9 - plain.train.y)
    assert data.hash != plain.hash
    with pytest.raises(DataError, match="'ten' is not in both"):
        open_data(DataRef("digits", classes=(*names[:-1], "ten")))


def test_size_is_for_folders() -> None:
    with pytest.raises(DataError, match="--size resizes image folders"):
        open_data(DataRef("digits", size=16))


def test_a_name_is_taken_once() -> None:
    with pytest.raises(DataError, match="Two readers"):
        register("digits")(lambda ref, cache, progress: registered()["digits"](ref, cache, progress))


@pytest.mark.parametrize("name", sorted(registered()))
def test_reader_reads_or_says_what_is_missing(name: str, tmp_path: Path) -> None:
    # A folder without its files, or one that a data set without files would not look into.
    with pytest.raises(DataError, match=r"--root") as caught:
        open_data(DataRef(name, root=str(tmp_path)), tmp_path / "cache")
    assert str(tmp_path) in str(caught.value)
    if name == "digits":  # the only one without files
        data = open_data(DataRef(name), tmp_path / "cache")
        assert isinstance(data.test, Images)
        assert set(data.train.y.tolist()) == set(range(len(data.classes)))
        assert data.features() == {
            "classes": len(data.classes), "image_size": data.train.shape[0],
            "channels": data.channels, "images": data.train.n,
        }  # fmt: skip
