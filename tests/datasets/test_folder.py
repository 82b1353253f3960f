"""Image folders, with real files."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from automc.datasets import DataRef, open_data, split
from automc.datasets.folder import read_classes
from automc.errors import DataError, EnvironmentFault


def picture(file: Path, seed: int, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> np.ndarray:
    """Write a lossless random image of (width, height) and return its array."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)
    return array


def folder(
    root: Path, parts: tuple[str, ...] = ("train", "test"), each: int = 3, **kind: object
) -> dict[str, np.ndarray]:
    arrays = {}
    for p, part in enumerate(parts):
        for c, name in enumerate(("cat", "ant", "bee")):
            for i in range(each):
                key = f"{part}/{name}/{i}.png"
                arrays[key] = picture(root / key, 100 * p + 10 * c + i, **kind)  # type: ignore[arg-type]
    return arrays


def test_pixels_labels_and_classes(tmp_path: Path) -> None:
    arrays = folder(tmp_path)
    data = open_data(DataRef(str(tmp_path)))
    assert data.classes == ("ant", "bee", "cat")
    assert data.train.shape == (5, 6)
    assert data.test is not None
    assert data.train.y.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for k, (name, i) in enumerate((name, i) for name in data.classes for i in range(3)):
        assert np.array_equal(data.train.x[k].numpy(), arrays[f"train/{name}/{i}.png"].transpose(2, 0, 1))
        assert np.array_equal(data.test.x[k].numpy(), arrays[f"test/{name}/{i}.png"].transpose(2, 0, 1))
    pixels = np.stack([arrays[key] for key in arrays if key.startswith("train")]).reshape(-1, 3) / 255
    np.testing.assert_allclose(data.mean, pixels.mean(0), atol=1e-6)
    np.testing.assert_allclose(data.std, pixels.std(0), atol=1e-6)
    assert any("computed" in note for note in data.notes)


def test_grey_files_give_one_channel_and_one_colour_file_gives_three(tmp_path: Path) -> None:
    folder(tmp_path, mode="L")
    assert open_data(DataRef(str(tmp_path))).channels == 1
    picture(tmp_path / "test/bee/9.png", 5)
    assert open_data(DataRef(str(tmp_path))).channels == 3


def test_sixteen_bit_grey_keeps_the_high_byte(tmp_path: Path) -> None:
    folder(tmp_path, mode="L")
    deep = np.full((5, 6), 0xAB12, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "train/ant/0.png")
    data = open_data(DataRef(str(tmp_path)))
    assert set(data.train.x[0].flatten().tolist()) == {0xAB}


@pytest.mark.parametrize(("brightest", "said"), [(4095, "is 15 of 255"), (65535, "")])
def test_twelve_bits_in_sixteen_are_said(tmp_path: Path, brightest: int, said: str) -> None:
    folder(tmp_path, mode="L")
    for n, file in enumerate(sorted(tmp_path.rglob("*.png"))):
        deep = np.random.default_rng(n).integers(0, brightest + 1, (5, 6)).astype(np.uint16)
        deep[0, 0] = brightest
        Image.fromarray(deep).save(file)
    notes = " ".join(open_data(DataRef(str(tmp_path))).notes)
    assert ("The brightest pixel" in notes) == bool(said)
    assert said in notes


def test_cache_is_used_shared_and_renewed(tmp_path: Path) -> None:
    folder(tmp_path / "d")
    cache = tmp_path / "cache"
    calls: list[tuple[int, int]] = []
    ref = DataRef(str(tmp_path / "d"))
    first = open_data(ref, cache, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (18, 18)
    calls.clear()
    second = open_data(ref, cache, lambda done, total: calls.append((done, total)))
    assert calls == []
    assert second.hash == first.hash == open_data(ref).hash
    assert torch.equal(second.train.x, first.train.x)
    second.train.store[0] = 0  # pages are private: writing must not reach the file
    assert torch.equal(open_data(ref, cache).train.x, first.train.x)
    picture(tmp_path / "d/train/ant/0.png", 999)
    third = open_data(ref, cache, lambda done, total: calls.append((done, total)))
    assert calls
    assert third.hash != first.hash
    assert not [p for p in cache.iterdir() if p.name.startswith(".")]


def test_unwritable_cache_is_the_machines_fault(tmp_path: Path) -> None:
    folder(tmp_path / "d")
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="AUTOMC_HOME"):
        open_data(DataRef(str(tmp_path / "d")), tmp_path / "file" / "cache")


def test_a_damaged_entry_is_decoded_anew(tmp_path: Path) -> None:
    folder(tmp_path / "d")
    ref, cache = DataRef(str(tmp_path / "d")), tmp_path / "cache"
    whole = open_data(ref, cache)
    for file in cache.glob("*/x.npy"):
        file.write_bytes(file.read_bytes()[:200])
    assert open_data(ref, cache).hash == whole.hash


def test_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    folder(tmp_path / "d", size=(40, 40))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(EnvironmentFault, match="Free some space"):
            open_data(DataRef(str(tmp_path / "d")), tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cache").iterdir()) == []


def test_val_is_test_without_test_and_validation_beside_it(tmp_path: Path) -> None:
    folder(tmp_path / "a", ("train", "val"), each=8)
    one = open_data(DataRef(str(tmp_path / "a")))
    assert one.validation is None
    assert one.test is not None
    assert one.test.n == 24
    assert any("val/ is the test set" in note for note in one.notes)
    folder(tmp_path / "b", ("train", "val", "test"), each=8)
    two = open_data(DataRef(str(tmp_path / "b")))
    assert two.validation is not None
    assert split(two).rest.n == 24


def test_kept_pixels_have_the_labels_of_todays_classes(tmp_path: Path) -> None:
    folder(tmp_path / "d")
    folder(tmp_path / "v", ("own",))
    cache, ref = tmp_path / "cache", DataRef(str(tmp_path / "d"), val=str(tmp_path / "v/own"))
    assert sorted(set(split(open_data(ref, cache)).validation.y.tolist())) == [0, 1, 2]
    for part in ("train", "test"):  # a class that comes first: all others move up
        shutil.copytree(tmp_path / "d" / part / "bee", tmp_path / "d" / part / "aardvark")
    data = open_data(ref, cache)
    assert data.classes == ("aardvark", "ant", "bee", "cat")
    assert sorted(set(split(data).validation.y.tolist())) == [1, 2, 3]


def test_another_picture_of_the_same_name_size_and_date_is_another(tmp_path: Path) -> None:
    folder(tmp_path / "d")
    ref, old, new = DataRef(str(tmp_path / "d")), tmp_path / "d/train/ant/0.png", tmp_path / "new.png"
    picture(new, 999)
    size = max(old.stat().st_size, new.stat().st_size)
    for file in (old, new):
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))
        os.utime(file, ns=(10**18, 10**18))
    before = open_data(ref, tmp_path / "cache")
    shutil.copy2(new, old)
    assert open_data(ref, tmp_path / "cache").hash != before.hash


def test_val_option_replaces_validation(tmp_path: Path) -> None:
    folder(tmp_path / "d", each=8)
    folder(tmp_path / "v", ("own",), each=2)
    data = open_data(DataRef(str(tmp_path / "d"), val=str(tmp_path / "v/own")))
    splits = split(data)
    assert splits.validation.n == 6
    assert splits.rest.n == 24
    folder(tmp_path / "w", ("own",), size=(9, 9))
    with pytest.raises(DataError, match="9×9"):
        open_data(DataRef(str(tmp_path / "d"), val=str(tmp_path / "w/own")))
    with pytest.raises(DataError, match="no such folder"):
        open_data(DataRef(str(tmp_path / "d"), val=str(tmp_path / "nowhere")))


def test_colour_validation_for_grey_data_is_refused(tmp_path: Path) -> None:
    folder(tmp_path / "d", mode="L")
    folder(tmp_path / "v", ("own",))
    with pytest.raises(DataError, match="colour image"):
        open_data(DataRef(str(tmp_path / "d"), val=str(tmp_path / "v/own")))


def test_different_sizes_need_size(tmp_path: Path) -> None:
    folder(tmp_path)
    picture(tmp_path / "train/bee/odd.png", 1, size=(20, 10))
    with pytest.raises(DataError, match=r"odd\.png is 20×10.*--size"):
        open_data(DataRef(str(tmp_path)))
    data = open_data(DataRef(str(tmp_path), size=(6, 12)))
    assert data.train.shape == (6, 12)
    assert DataRef.from_dict(json.loads(json.dumps(DataRef("d", size=(6, 12)).as_dict()))).size == (6, 12)
    data = open_data(DataRef(str(tmp_path), size=8))
    assert data.train.shape == (8, 8)
    with Image.open(tmp_path / "train/bee/odd.png") as image:
        wanted = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(data.train.x[6].numpy(), wanted)


def test_order_of_classes(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "names.txt").write_text("cat\n\nant\nbee\n")
    order = read_classes(str(tmp_path / "names.txt"))
    assert order == read_classes("cat, ant,bee") == ("cat", "ant", "bee")
    cache = tmp_path / "cache"
    plain = open_data(DataRef(str(tmp_path)), cache)
    data = open_data(DataRef(str(tmp_path), classes=order), cache)
    assert data.classes == order
    assert torch.equal(data.train.x[:3], plain.train.x[6:])
    assert data.train.y.tolist() == plain.train.y.tolist()
    for wrong, message in ((("cat", "ant"), "bee"), (("cat", "ant", "bee", "dog"), "dog")):
        with pytest.raises(DataError, match=message):
            open_data(DataRef(str(tmp_path), classes=wrong))
    with pytest.raises(DataError, match="twice"):
        read_classes("cat,cat")
    with pytest.raises(DataError, match="no class"):
        read_classes(" , ")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train/"):
        open_data(DataRef(str(tmp_path)))
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no sub-folder"):
        open_data(DataRef(str(tmp_path)))
    folder(tmp_path, ("train",))
    with pytest.raises(DataError, match="neither test/ nor val/"):
        open_data(DataRef(str(tmp_path)))
    folder(tmp_path, ("test",))
    for file in (tmp_path / "train/bee").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="train/bee holds no image"):
        open_data(DataRef(str(tmp_path)))
    folder(tmp_path, ("train",))
    (tmp_path / "test/wasp").mkdir()
    with pytest.raises(DataError, match="wasp is no class"):
        open_data(DataRef(str(tmp_path)))


@pytest.mark.parametrize("keep", [0, 60])
def test_unreadable_image_is_named(tmp_path: Path, keep: int) -> None:
    folder(tmp_path, size=(30, 30))
    broken = tmp_path / "test/cat/1.png"
    broken.write_bytes(broken.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"test/cat/1\.png cannot be read"):
        open_data(DataRef(str(tmp_path)), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*-test"))


def test_a_pipe_among_images_is_not_waited_for(tmp_path: Path) -> None:
    folder(tmp_path)
    os.mkfifo(tmp_path / "train/ant/pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png cannot be read as an image: it is no file, but a pipe"):
        open_data(DataRef(str(tmp_path)))


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    folder(tmp_path, mode="L")
    Image.fromarray(np.ones((5, 6), dtype=np.float32)).save(tmp_path / "train/ant/9.tif")
    with pytest.raises(DataError, match=r"9\.tif cannot be read as an image: it has 32-bit"):
        open_data(DataRef(str(tmp_path)))


def test_unknown_data_names_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"cifar10.*Did you mean digits"):
        open_data(DataRef("digit"))


def test_given_normalisation_must_fit(tmp_path: Path) -> None:
    folder(tmp_path)
    with pytest.raises(DataError, match=r"3 channel.*--mean has 1"):
        open_data(DataRef(str(tmp_path), mean=(0.5,), std=(0.5,)))
    data = open_data(DataRef(str(tmp_path), mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), augment="none"))
    assert data.mean == (0.1, 0.2, 0.3)
    assert data.augment == "none"
    assert data.notes == ()
    assert data.hash != open_data(DataRef(str(tmp_path))).hash
