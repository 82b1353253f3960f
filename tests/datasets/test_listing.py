"""Image folders as tools and systems leave them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from automc.datasets import DataRef, open_data
from automc.datasets.base import Dataset
from automc.errors import DataError


def fill(root: Path, parts: tuple[str, ...] = ("train", "test"), suffix: str = "png", each: int = 4) -> None:
    """Random grey images of three classes."""
    rng = np.random.default_rng(len(str(root)))
    for part in parts:
        for name in ("ant", "bee", "cat"):
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(each):
                image = Image.fromarray(rng.integers(0, 255, (6, 5), dtype=np.uint8))
                image.save(root / part / name / f"{i}.{suffix}", "PNG" if suffix == "png" else "JPEG")


def opened(place: Path, **options: object) -> Dataset:
    return open_data(DataRef(str(place), **options))  # type: ignore[arg-type]


def refused(root: Path, first: str, *further: str) -> None:
    """Nothing can be opened there, and these words are among those that say why."""
    with pytest.raises(DataError) as caught:
        opened(root)
    for words in (first, *further):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("Training", "Validation", "Testing"), ("TRAIN", "val", "TEST")]
)
def test_names_of_the_splits(tmp_path: Path, names: tuple[str, str, str]) -> None:
    fill(tmp_path, names)
    fill(tmp_path, names[1:2], each=2)
    data = opened(tmp_path)
    assert data.test is not None
    assert data.validation is not None
    assert (data.train.n, data.validation.n, data.test.n) == (12, 12, 12)
    assert any(f"Validation images come from {tmp_path / names[1]}" in note for note in data.notes)


@pytest.mark.parametrize("name", ["valid", "validation", "Val"])
def test_a_validation_folder_alone_is_the_test_set(tmp_path: Path, name: str) -> None:
    fill(tmp_path, ("train", name))
    assert any(f"{name}/ is the test set" in note for note in opened(tmp_path).notes)


def test_two_folders_of_one_split(tmp_path: Path) -> None:
    fill(tmp_path, ("train", "val", "valid", "test"))
    refused(tmp_path, "holds both val/ and valid/")


def test_what_systems_leave_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path)
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "train/ant" / name).write_bytes(b"\0\5\x16\7" * 20)
    for place in ("__MACOSX/train/ant", "train/__MACOSX", "train/.ipynb_checkpoints", "train/ant/@eaDir", ".train/x"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "junk.png").write_bytes(b"junk")
    data = opened(tmp_path)
    assert (data.train.n, data.classes) == (12, ("ant", "bee", "cat"))
    assert not any("skipped" in note for note in data.notes)


def test_what_is_skipped_is_counted_and_named(tmp_path: Path) -> None:
    fill(tmp_path)
    fill(tmp_path, ("train",), "jfif")
    for i, name in enumerate(("a.avif", "b.avif", "c.heic", "labels.txt", "README")):
        (tmp_path / "train/ant" / name).write_bytes(bytes([i]))
    shutil.copyfile(tmp_path / "train/ant/0.png", tmp_path / "train/stray.png")
    data = opened(tmp_path)
    assert data.train.n == 24
    (skipped,) = (note for note in data.notes if "skipped: " in note)
    assert skipped.startswith(f"Of {tmp_path / 'train'}, 5 files are no images that are read, and skipped: 2 .avif, ")
    assert sorted(skipped.split("skipped: ")[1].rstrip(".").split(", ")) == [
        "1 .heic", "1 .txt", "1 without a suffix", "2 .avif",
    ]  # fmt: skip
    assert any("1 image(s) that lie directly in" in note for note in data.notes)


def test_a_class_of_other_formats_alone_says_so(tmp_path: Path) -> None:
    fill(tmp_path)
    for file in (tmp_path / "train/ant").iterdir():
        file.rename(file.with_suffix(".avif"))
    refused(tmp_path, "train/ant holds no image that is read (4 .avif skipped)")


def test_all_unreadable_files_are_named_together(tmp_path: Path) -> None:
    fill(tmp_path)
    for name in ("train/ant/0.png", "train/cat/3.png", "test/bee/1.png"):
        (tmp_path / name).write_bytes(b"no image")
    refused(
        tmp_path, "test/bee/1.png cannot be read as an image", "train/ant/0.png", "train/cat/3.png", "3 files in all"
    )
    fill(tmp_path)
    for name in ("train/ant/0.png", "train/cat/3.png"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:50])
    refused(tmp_path, "train/ant/0.png cannot be read as an image", "train/cat/3.png", "2 files in all")


def test_a_rare_class_may_be_missing_in_test_alone(tmp_path: Path) -> None:
    fill(tmp_path, ("train", "val", "test"))
    shutil.rmtree(tmp_path / "test/bee")
    for file in (tmp_path / "val/cat").iterdir():
        file.unlink()
    data = opened(tmp_path)
    assert data.test is not None
    assert sorted(set(data.test.y.tolist())) == [0, 2]
    assert any(note == "No test image in 1 of the 3 classes: bee." for note in data.notes)
    assert any(note == "No validation image in 1 of the 3 classes: cat." for note in data.notes)
    shutil.rmtree(tmp_path / "train/ant")
    refused(tmp_path, "ant is no class of the training images")
    (tmp_path / "train/ant").mkdir()
    refused(tmp_path, "train/ant holds no image: every class needs images in train/")


def test_a_test_set_without_labels(tmp_path: Path) -> None:
    fill(tmp_path, ("train", "val"))
    (tmp_path / "test").mkdir()
    shutil.copyfile(tmp_path / "val/ant/0.png", tmp_path / "test/0.png")
    refused(tmp_path, "1 image(s) lie directly in", "without a class")


def test_what_is_no_image_folder(tmp_path: Path) -> None:
    fill(tmp_path / "inner/dataset")
    refused(tmp_path / "inner", "no train/ folder", f"Did you mean {tmp_path / 'inner/dataset'}?")
    refused(tmp_path / "inner/dataset/train", "It holds 3 folders of images (ant, bee, cat): are they classes?")
    refused(tmp_path / "inner/dataset/train/ant", "It holds 4 image(s) directly, such as ")
    (tmp_path / "table").mkdir()
    (tmp_path / "table/train.csv").write_text("a,b\n")
    refused(tmp_path / "table", "train.csv is not read")
    refused(tmp_path / "table/train.csv", "it is a file", "image folder")
    flat = tmp_path / "flat"
    (flat / "train").mkdir(parents=True)
    shutil.copyfile(tmp_path / "inner/dataset/train/ant/0.png", flat / "train/0.png")
    refused(flat, "has no sub-folder", "1 image(s) lie directly in it")


def test_one_class_is_too_few(tmp_path: Path) -> None:
    fill(tmp_path)
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            shutil.rmtree(tmp_path / part / name)
    refused(tmp_path, "has 1 class")


def test_links_are_followed_and_never_round_in_a_circle(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "train/ant/again").symlink_to(tmp_path / "train/ant")
    (tmp_path / "train/bee/up").symlink_to(tmp_path / "train")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "train/cat").rename(tmp_path / "elsewhere/cat")
    (tmp_path / "train/cat").symlink_to(tmp_path / "elsewhere/cat")
    labels = opened(tmp_path).train.y.tolist()
    assert [labels.count(label) for label in range(3)] == [4, 4, 4]
    (tmp_path / "train/cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    refused(tmp_path, "train/cat/gone.png cannot be read as an image")


def test_nested_folders_are_one_class_and_that_is_said(tmp_path: Path) -> None:
    fill(tmp_path)
    for name in ("red", "black"):
        (tmp_path / "train/ant" / name).mkdir()
    for i, file in enumerate(sorted((tmp_path / "train/ant").glob("*.png"))):
        file.rename(file.parent / ("red", "black")[i % 2] / file.name)
    data = opened(tmp_path)
    assert data.train.y.tolist().count(0) == 4
    assert any("holds images in sub-folders alone (black, red): they are one class" in note for note in data.notes)


def test_pictures_of_every_mode(tmp_path: Path) -> None:
    fill(tmp_path)
    place = tmp_path / "train/ant"
    for mode, suffix in (
        ("RGBA", "png"),
        ("P", "gif"),
        ("CMYK", "jpg"),
        ("LA", "png"),
        ("1", "bmp"),
        ("I;16", "tif"),
        ("YCbCr", "jpg"),
    ):
        Image.new(mode, (5, 6)).save(place / f"{mode}.{suffix}")
    assert opened(tmp_path).train.x.shape == (19, 3, 6, 5)


def test_very_large_pictures_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    refused(tmp_path, "cannot be read as an image", "24 files in all")


def test_validation_images_that_are_training_images(tmp_path: Path) -> None:
    fill(tmp_path)
    notes = opened(tmp_path, val=str(tmp_path / "train")).notes
    assert any("12 of the 12 validation images" in note and "are training images too" in note for note in notes)


def test_options_of_other_data(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(DataError, match=r"--root .* named data set"):
        opened(tmp_path, root="elsewhere")
