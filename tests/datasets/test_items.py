"""What factories return by mistake: a sentence that names the split, the item and what is wanted."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from automc.datasets import DataRef, open_data
from automc.errors import DataError

PRELUDE = """
import numpy as np, torch
from PIL import Image
PAIR = (np.arange(8 * 9, dtype=np.uint8).reshape(8, 3, 3), np.arange(8) % 2)
X = PAIR[0]
class Items(torch.utils.data.Dataset):
    def __init__(self, item=lambda i: (np.full((3, 3), i, np.uint8), i % 2), n=8, **more):
        self.item, self.n = item, n
        self.__dict__.update(more)
    def __len__(self):
        return self.n() if callable(self.n) else self.n
    def __getitem__(self, i):
        return self.item(i)
def fails(i):
    if i == 5:
        raise OSError("disk on fire")
    return np.zeros((3, 3), np.uint8), i % 2
class Odd:
    def __len__(self):
        raise NotImplementedError("streaming")
    def __getitem__(self, i):
        return X[i], 0
class Broken(Items):
    @property
    def classes(self):
        raise KeyError("names")
"""


def run(tmp_path: Path, result: str, **options: object):
    file = tmp_path / "mine.py"
    file.write_text(PRELUDE + textwrap.dedent(f"def make():\n    return {result}\n"))
    return open_data(DataRef(f"{file}:make", **options))  # type: ignore[arg-type]


def item(value: str, n: int = 8) -> str:
    return f"(Items(lambda i: {value}, {n}), PAIR)"


ZERO = "np.zeros((3, 3), np.uint8)"


@pytest.mark.parametrize(
    ("result", "said"),
    [
        # labels
        ("((X, np.array(list('abcdefgh'))), PAIR)", "train: labels are <U1, such as ['a']. Give numbers: sort"),
        ("((X, list('abcdefgh')), PAIR)", "train: labels are <U1, such as ['a']. Give numbers: sort"),
        ("((X, [None] * 8), PAIR)", "train, labels: list of 8 holds no numbers"),
        ("((X, [[0], [0, 1]]), PAIR)", "train, labels: list of 2 cannot be read as an array"),
        ("((X, np.eye(8)), PAIR)", "train: labels have shape (8, 8): a row per image. Of one-hot labels"),
        ("(PAIR, (X, np.arange(8) / 2))", "test: labels are float64 of shape (8,)"),
        ("((X, np.full(8, np.nan)), PAIR)", "train: labels are float64"),
        ("((X, np.full(8, np.inf)), PAIR)", "the largest label is inf"),
        ("((X, np.full(8, -2**63)), PAIR)", "a training label is -"),
        ("((X, np.full(8, 2**64 - 1, dtype=np.uint64)), PAIR)", "the largest label is 18446744073709551615"),
        ("((X, np.arange(8) * 10**9), PAIR)", "more than 100,000 classes"),
        ("((X, np.array([None] * 8)), PAIR)", "train, labels: ndarray of shape (8,) holds no numbers"),
        ("((X, np.arange(8) + 1j), PAIR)", "labels are complex128"),
        ("((X, np.int64(3)), PAIR)", "labels are int64 of shape () for 8 images"),
        (item(f"({ZERO}, 'cat')"), "train, item 0: the label is 'cat'. Labels are whole numbers from 0"),
        (item(f"({ZERO}, None)"), "train, item 0: the label is None"),
        (item(f"({ZERO}, b'cat')"), "train, item 0: the label is b'cat'"),
        (item(f"({ZERO}, torch.eye(4)[i % 4])"), "the label is Tensor of shape (4,), not a number. Of one-hot labels"),
        (item(f"({ZERO}, dict(a=1))"), "train, item 0, label: dict holds no numbers"),
        (item(f"({ZERO}, 0.5 * i)"), "train: labels are float64 of shape (8,)"),
        (item(f"({ZERO}, i - 3)"), "a training label is -3"),
        (item(f"({ZERO}, [])"), "the label is list of 0, not a number"),
        # items and lengths
        ("(Items(n=0), PAIR)", "train: the data set is empty"),
        ("((X[:0], PAIR[1][:0]), PAIR)", "train: images have shape (0, 1, 3, 3)"),
        ("(Items(n=lambda: 1 / 0), PAIR)", "train: len() failed in"),
        ("(Items(n=-1), PAIR)", "train: len() failed"),
        ("(Items(n=10**14), PAIR)", "train: 100,000,000,000,000 images take 838,190 GiB of memory"),
        ("(Items(n=2.5), PAIR)", "train: len() failed"),
        ("(Odd(), PAIR)", "NotImplementedError: streaming"),
        ("(Items(fails), PAIR)", "train: item 5 of 8 failed in"),
        ("(Items(lambda i: fails(5)), PAIR)", "OSError: disk on fire"),
        (item("np.zeros((3, 3), np.uint8)"), "train: item 0 is ndarray of shape (3, 3), not (image, label)"),
        (item(f"({ZERO}, 0, 'extra')"), "item 0 is tuple of 3"),
        (item(f"dict(image={ZERO}, label=0)"), "item 0 is dict"),
        (item("None"), "item 0 is NoneType"),
        # images
        (item("(np.zeros((3, 3 + (i == 6)), np.uint8), 0)"), "train, item 6 has shape (1, 3, 4), item 0 (1, 3, 3)"),
        (item("(Image.new('RGB' if i == 2 else 'L', (3, 3)), 0)"), "item 2 has shape (3, 3, 3), item 0 (1, 3, 3)"),
        (item("(Image.new('F', (3, 3)), 0)"), "item 0: the picture cannot be read: it has 32-bit pixels"),
        (item("('photo.png', 0)"), "train, item 0: images have shape (1,)"),
        (item("([[1, 2], [3]], 0)"), "train, item 0: list of 2 cannot be read as an array"),
        (item("(np.zeros((0, 3), np.uint8), 0)"), "train, item 0: images have shape (1, 1, 0, 3)"),
        (item("(np.where(np.eye(3) * (i == 4), np.nan, 0.5), 0)"), "item 4: float images range from nan to nan"),
        ("((np.where(np.eye(3), np.nan, np.zeros((8, 3, 3))), PAIR[1]), PAIR)", "24 of their values are NaN"),
        ("((X * 1.0, PAIR[1]), PAIR)", "float images range from 0 to 71, so they are not in [0, 1]"),
        ("((X.astype(bool), PAIR[1]), PAIR)", "train: images are bool"),
        ("((torch.zeros(8, 1, 3, 3).to_sparse(), PAIR[1]), PAIR)", "Tensor of shape (8, 1, 3, 3) cannot be read"),
        ("((torch.empty(8, 1, 3, 3, device='meta'), PAIR[1]), PAIR)", "cannot be read as an array"),
        # what is no data set
        ("(torch.utils.data.DataLoader(Items()), PAIR)", "train: got a DataLoader, which makes batches of its own"),
        ("(PAIR, (pair for pair in [PAIR]))", "test: got generator"),
        ("(PAIR, None)", "test: got NoneType"),
        ("(PAIR, dict(x=1))", "test: got dict"),
        ("(PAIR, 'test')", "test: got str"),
        ("PAIR", "train: got ndarray"),
        ("Items()", "returned Items. It must return (train, test)"),
        ("(pair for pair in (PAIR, PAIR))", "returned generator"),
        ("(Items(classes=['one']), PAIR)", "train: a label is 1, but its `classes` names 1"),
        ("(Broken(), PAIR)", "train: classes failed in"),
        ("exit(3)", "SystemExit: 3"),
        ("make(1)", "mine.py, line"),
    ],
)  # fmt: skip
def test_a_sentence_and_no_traceback(tmp_path: Path, result: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        run(tmp_path, result)
    assert said in str(caught.value)
    assert str(tmp_path / "mine.py") in str(caught.value)


@pytest.mark.parametrize(
    "result",
    [
        "((torch.from_numpy(X)[:, None], torch.arange(8)[:, None] % 2), PAIR)",
        "((torch.full((8, 1, 3, 3), 0.2, dtype=torch.bfloat16, requires_grad=True), torch.arange(8) % 2), PAIR)",
        "((X, PAIR[1] > 0), PAIR)",
        "((X, PAIR[1].tolist()), [X, (0, 1) * 4])",
        "((X, PAIR[1].astype(np.float32)), PAIR)",
        item("(torch.full((1, 3, 3), 0.2, requires_grad=True), torch.tensor([i % 2]))"),
        item("(Image.new('1' if i % 2 else 'I;16', (3, 3)), np.float64(i % 2))"),
        "(torch.utils.data.Subset(Items(), [0, 1, 2, 3]), PAIR)",
        "(torch.utils.data.ConcatDataset([Items(), Items()]), PAIR)",
    ],
)
def test_what_can_be_read_is_read(tmp_path: Path, result: str) -> None:
    data = run(tmp_path, result)
    assert data.channels == 1
    assert data.train.y[:4].tolist() == [0, 1, 0, 1]


def test_what_spoils_the_figures_is_said(tmp_path: Path) -> None:
    same = run(tmp_path, "(PAIR, PAIR)")
    assert any("8 of the 8 test images" in note and "are training images too" in note for note in same.notes)
    rare = run(tmp_path, "(PAIR, (255 - X[:6], np.zeros(6)))", classes=("ant", "bee"))
    assert any(note == "No test image in 1 of the 2 classes: bee." for note in rare.notes)
    assert not any("training images too" in note for note in rare.notes)


@pytest.mark.parametrize(
    ("classes", "said"), [((), "no name"), (("a", "a"), "'a' is there twice"), (("a", ""), "empty")]
)
def test_class_names_are_names(classes: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        DataRef("digits", classes=classes)
