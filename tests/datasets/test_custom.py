"""The user's own factory."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from automc.datasets import DataRef, Dataset, decoded, open_data
from automc.errors import DataError


def run(tmp_path: Path, body: str, **options: object):
    file = tmp_path / "mine.py"
    file.write_text("import numpy as np\nimport torch\n" + textwrap.dedent(body))
    return open_data(DataRef(f"{file}:make", **options))  # type: ignore[arg-type]


def test_pairs_of_arrays_and_tensors(tmp_path: Path) -> None:
    data = run(
        tmp_path,
        """
        def make():
            x = np.arange(2 * 1 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
            return (x, np.array([0, 1])), (torch.full((3, 1, 3, 4), 0.2), torch.tensor([0, 1, 1]))
        """,
    )
    assert data.name == "make"
    assert data.train.x.shape == (2, 1, 3, 4)
    assert data.test is not None
    assert set(data.test.x.flatten().tolist()) == {51}
    assert data.classes == ("0", "1")
    assert data.validation is None


def test_torch_datasets_of_tensors_and_pictures(tmp_path: Path) -> None:
    data = run(
        tmp_path,
        """
        from PIL import Image
        class Pictures(torch.utils.data.Dataset):
            classes = ["ant", "bee"]
            def __len__(self):
                return 4
            def __getitem__(self, i):
                return Image.fromarray(np.full((5, 6, 3), i, dtype=np.uint8)), i % 2
        def make():
            return Pictures(), torch.utils.data.TensorDataset(torch.ones(2, 3, 5, 6), torch.tensor([1, 0]))
        """,
    )
    assert data.classes == ("ant", "bee")
    assert data.train.x[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert data.test is not None
    assert int(data.test.x.min()) == 255
    assert data.test.y.tolist() == [1, 0]


def test_names_of_classes_may_be_given(tmp_path: Path) -> None:
    body = """
        def make():
            return ((np.zeros((4, 1, 3, 3), np.uint8), [0, 1, 2, 2]),) * 2
        """
    with pytest.raises(DataError, match="tuple of 2"):
        run(tmp_path, body.replace("[0, 1, 2, 2]", "{0, 1, 2}"))
    assert run(tmp_path, body, classes=("a", "b", "c")).classes == ("a", "b", "c")
    with pytest.raises(DataError, match="label is 2"):
        run(tmp_path, body, classes=("a", "b"))


PAIR = "(np.zeros((4, 1, 3, 3), np.uint8), np.arange(4) % 2)"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("None", "returned NoneType"),
        (f"({PAIR}, {PAIR}, {PAIR})", "returned tuple of 3"),
        (f"({PAIR}, 7)", "test: got int"),
        (f"({PAIR}, (np.zeros((4, 3), np.uint8), np.arange(4)))", r"test: images have shape \(4, 3\)"),
        (f"({PAIR}, (np.zeros((4, 9, 9, 3), np.uint8), np.arange(4)))", "channels last"),
        (f"({PAIR}, (np.zeros((4, 1, 3, 3), np.int64), np.arange(4)))", "images are int64"),
        (f"((np.full((4, 1, 3, 3), -1.5), np.arange(4)), {PAIR})", r"train: float images range from -1\.5"),
        (f"((np.full((4, 1, 3, 3), np.nan), np.arange(4)), {PAIR})", "float images range from nan"),
        (f"({PAIR}, (np.zeros((4, 1, 3, 3), np.uint8), np.arange(3)))", "for 4 images"),
        (f"({PAIR}, (np.zeros((4, 1, 3, 3), np.uint8), np.full(4, 0.5)))", "labels are float64"),
        (f"({PAIR}, (np.zeros((4, 1, 2, 3), np.uint8), np.arange(4) % 2))", "test images are 2×3"),
        (f"({PAIR}, (np.zeros((4, 1, 3, 3), np.uint8), -np.arange(4)))", "label is -3"),
        ("((np.zeros((4, 1, 3, 3), np.uint8), np.zeros(4)),) * 2", "1 class;"),
        ("1 / 0", "line 4: ZeroDivisionError"),
    ],
)
def test_what_came_is_named(tmp_path: Path, result: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(tmp_path, f"def make():\n    return {result}\n")


def test_what_cannot_be_called_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no function 'make'\. It has: other"):
        run(tmp_path, "def other():\n    pass\n")
    with pytest.raises(DataError, match="cannot be imported: SyntaxError"):
        run(tmp_path, "def make(:\n")
    with pytest.raises(DataError, match="there is no file"):
        open_data(DataRef(str(tmp_path / "absent.py") + ":make"))
    with pytest.raises(DataError, match="name the function"):
        open_data(DataRef(str(tmp_path / "mine.py")))


def test_large_images_are_one_copy_for_all_processes_found_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
        def make():
            x = np.full((20, 1, 8, 8), VALUE, dtype=np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None, None]
            return (x, np.arange(20) % 2), (x[:4], np.arange(4) % 2)
    """
    cache = tmp_path / "cache"

    def made(value: str) -> Dataset:
        run(tmp_path, body.replace("VALUE", value))
        return open_data(DataRef(f"{tmp_path / 'mine.py'}:make"), cache)

    small = made("1")
    assert not cache.exists(), "what is small is not worth a file"
    monkeypatch.setattr(decoded, "SHARED_BYTES", 8 * 8 * 20)
    first, again = (made("1") for _ in range(2))
    (entry,) = cache.iterdir()  # training images alone are large
    assert first.hash == again.hash == small.hash
    before = first.train.x.clone()
    # The same pages: mapped from one file, which no process writes to.
    assert "x.npy" in Path("/proc/self/maps").read_text()
    first.train.store[:] = 0
    assert made("1").train.x.equal(before)
    # A factory that gives other images is never answered with the old ones.
    other = made("3")
    assert other.hash != first.hash
    assert int(other.train.x[0].max()) == 3
    assert entry in set(cache.iterdir())
    assert len(list(cache.iterdir())) == 2
