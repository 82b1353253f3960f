"""Results never land on what they were not meant for, and a file is written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from automc.errors import EnvironmentFault, OutputInTheWay
from automc.files import Kind, claim, marked, write_atomically

PAGE = marked("a page of ours", "made by us")
MODEL = Kind("a model of ours", lambda path: path.read_bytes().startswith(b"model"), ".am")


def test_what_is_not_there_is_free(tmp_path: Path) -> None:
    assert claim(tmp_path / "new" / "x.am", MODEL) == tmp_path / "new" / "x.am"
    assert list((tmp_path / "new").iterdir()) == []


def test_only_an_earlier_result_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.html"
    path.write_text("<!-- made by us -->")
    assert claim(path, PAGE) == path
    for stranger in ("my notes", "", "\0" * 10):
        path.write_text(stranger)
        with pytest.raises(OutputInTheWay, match=r"exists, and is not a page of ours.*--force"):
            claim(path, PAGE)
        assert path.read_text() == stranger
        assert claim(path, PAGE, force=True) == path
    with pytest.raises(OutputInTheWay, match=r"exists\. Choose"):
        claim(path, None)


@pytest.mark.parametrize("link", ["itself", "hard", "soft", "other spelling"])
def test_an_input_is_never_replaced(link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given, out = Path("in.am"), Path("out.am")
    given.write_text("model")
    if link == "hard":
        os.link(given, out)
    elif link == "soft":
        out.symlink_to(given)
    else:
        out = given if link == "itself" else tmp_path / "." / ".." / tmp_path.name / "in.am"
    with pytest.raises(OutputInTheWay, match="is what this command reads"):
        claim(out, MODEL, inputs=("resnet20", None, str(given)))
    assert claim(out, MODEL, inputs=("other.am",)) == out


def test_a_factory_s_file_is_an_input(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("made by us")
    with pytest.raises(OutputInTheWay, match="is what this command reads"):
        claim(file, PAGE, inputs=(f"{file}:build",))


def test_names_that_nothing_could_read_later(tmp_path: Path) -> None:
    with pytest.raises(OutputInTheWay, match=r"must end in \.am"):
        claim(tmp_path / "x.pt", MODEL)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputInTheWay, match="its folder, or one above, is a file"):
        claim(tmp_path / "file" / "x.am", MODEL)
    with pytest.raises(OutputInTheWay, match="it is a folder"):
        claim(tmp_path, MODEL, force=True)
    os.mkfifo(tmp_path / "pipe.am")
    with pytest.raises(OutputInTheWay, match="named pipe, which waits"):
        claim(tmp_path / "pipe.am", MODEL, force=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_devices(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        claim("/dev/full", MODEL, force=True)
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        write_atomically(Path("/dev/full"), b"x")
    assert Path("/dev/full").is_char_device()
    assert claim("/dev/null", MODEL) == Path("/dev/null")
    write_atomically(Path("/dev/null"), b"x")
    assert Path("/dev/null").is_char_device()


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "x").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "to" / "x")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "to" / "x").read_text() == "new"


def test_what_a_check_refuses_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    def refuse(written: Path) -> None:
        assert written.read_bytes() == b"new"
        raise OutputInTheWay("no")

    with pytest.raises(OutputInTheWay, match="no"):
        write_atomically(tmp_path / "x", b"new", check=refuse)
    assert (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]
