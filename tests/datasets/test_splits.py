"""Laws of the splits."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from automc.datasets import DataRef, Dataset, Images, digits, open_data, split
from automc.datasets.splits import apportion, content_hash, validation_size
from automc.errors import DataError


def dataset(labels: list[int], seed: int = 0, validation: Images | None = None) -> Dataset:
    x = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (len(labels), 1, 2, 2), dtype=np.uint8))
    images = Images(x, torch.tensor(labels))
    return Dataset("d", images, None, validation, tuple("abcdef"), (0.5,), (0.5,), "none", "h")


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (50000, 5000),
        (60000, 5000),
        (73257, 5000),
        (20000, 2000),
        (5000, 500),
        (3000, 500),
        (1438, 359),
        (100, 25),
        (3, 0),
    ],
)
def test_validation_size(n: int, expected: int) -> None:
    assert validation_size(n) == expected


def test_cifar_sized_data_splits_exactly() -> None:
    splits = split(dataset([i % 10 for i in range(50000)]), 0.1)
    assert (splits.train.n, splits.validation.n, splits.rest.n) == (5000, 5000, 45000)
    assert set(torch.bincount(splits.train.y).tolist()) == {500}
    assert set(torch.bincount(splits.validation.y).tolist()) == {500}


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=8, max_size=300),
    fraction=st.floats(0.15, 1.0), seed=st.integers(0, 5),
)  # fmt: skip
def test_parts_are_disjoint_stratified_and_of_the_right_size(labels: list[int], fraction: float, seed: int) -> None:
    data = dataset(labels, seed)
    splits = split(data, fraction)
    rows = {name: getattr(splits, name).rows for name in ("rest", "validation")}
    train = splits.train.rows if splits.train.rows is not None else torch.arange(data.train.n)
    held, rest = set(rows["validation"].tolist()), set(rows["rest"].tolist())
    assert held.isdisjoint(rest)
    assert held | rest == set(range(len(labels)))
    assert set(train.tolist()) <= rest
    assert len(held) == validation_size(len(labels))
    assert splits.train.n == min(round(fraction * len(labels)), len(rest))
    total, share = Counter(labels), Counter(splits.validation.y.tolist())
    if len(labels) - len(total) >= len(held) and all(count >= 4 for count in total.values()):
        for label, count in total.items():
            assert abs(share[label] - len(held) * count / len(labels)) < 1
    for part in (splits.train, splits.validation):
        assert torch.equal(part.x, data.train.x[part.rows if part.rows is not None else slice(None)])
        assert torch.equal(part.y, data.train.y[part.rows if part.rows is not None else slice(None)])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_files_does_not_matter(seed: int) -> None:
    data = dataset([i % 3 for i in range(60)])
    order = torch.from_numpy(np.random.default_rng(seed).permutation(60))
    shuffled = Images(data.train.x[order], data.train.y[order])
    other = Dataset("e", shuffled, None, None, data.classes, (0.1,), (0.9,), "crop", "i")

    def contents(images: Images) -> set[bytes]:
        return {image.numpy().tobytes() for image in images.x}

    one, two = split(data, 0.5), split(other, 0.5)
    assert contents(one.validation) == contents(two.validation)
    assert contents(one.train) == contents(two.train)


def test_a_smaller_fraction_is_nested_only_in_what_validation_leaves() -> None:
    data = dataset([i % 4 for i in range(400)])
    small, all_ = split(data, 0.25), split(data, 1.0)
    assert torch.equal(small.validation.rows, all_.validation.rows)
    assert all_.train.n == all_.rest.n == 300
    assert small.train.n == 100


def test_own_validation_images_replace_the_split() -> None:
    own = Images(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2]))
    splits = split(dataset([0, 1, 2] * 20, validation=own))
    assert splits.validation is own
    assert splits.train.n == splits.rest.n == 60


def test_a_class_of_one_image_stays_in_training() -> None:
    splits = split(dataset([0] * 30 + [1] * 30 + [2]))
    assert 2 in splits.rest.y.tolist()


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5, 1e-6])
def test_impossible_fractions(fraction: float) -> None:
    with pytest.raises(DataError, match="--fraction"):
        split(dataset([0, 1] * 20), fraction)


def test_too_few_images_to_split() -> None:
    with pytest.raises(DataError, match="too few"):
        split(dataset([0, 1, 0]))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=8), st.data())
def test_apportion_sums_and_respects_caps(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    sizes, caps = [a for a, _ in pairs], [min(a, b) for a, b in pairs]
    count = data.draw(st.integers(0, sum(caps)))
    shares = apportion(sizes, count, caps) if sum(sizes) else [0] * len(sizes)
    assert sum(shares) == count
    assert all(0 <= share <= cap for share, cap in zip(shares, caps, strict=True))
    if caps == sizes and sum(sizes):
        assert all(abs(share - count * size / sum(sizes)) < 1 for share, size in zip(shares, sizes, strict=True))


def test_content_hash_sees_pixels_labels_and_order() -> None:
    base = dataset([0, 1] * 10).train
    x, y = base.x, base.y
    changed = x.clone()
    changed[3, 0, 0, 0] += 1
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    variants = [Images(changed, y), Images(x, 1 - y), Images(x[order], y[order]), Images(x.view(20, 1, 1, 4), y)]
    hashes = {content_hash(images) for images in (base, *variants)}
    assert len(hashes) == 5
    assert content_hash(Images(x.clone(), y.clone())) == content_hash(base)
    assert content_hash(base.select(torch.arange(20))) == content_hash(base)


def test_digits_split_is_fixed() -> None:
    data = open_data(DataRef("digits"))
    assert data.test is not None
    assert (data.train.n, data.test.n) == (1438, 359)
    assert data.train.x.shape[1:] == (1, 8, 8)
    assert int(data.train.x.max()) == 255
    everything = {image.numpy().tobytes() for image in torch.cat((data.train.x, data.test.x))}
    from sklearn.datasets import load_digits

    images = load_digits().images
    assert everything == {np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in images}
    again = open_data(DataRef("digits"))
    assert again.hash == data.hash
    assert torch.equal(split(again, 0.3).train.x, split(data, 0.3).train.x)


def test_digits_are_read_where_scikit_learn_keeps_them_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = digits._table()
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    assert np.array_equal(digits._table(), usual)
