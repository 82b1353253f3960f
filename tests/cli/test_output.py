"""Printing: every value survives, messages stay off stdout, errors become codes."""

from __future__ import annotations

import csv
import errno
import json
from io import StringIO

import pytest
import typer

from automc.cli import output
from automc.cli.output import Format
from automc.errors import DataError, EnvironmentFault
from kg.errors import GraphUnavailable, QueryInvalid

ROWS = [("a [b]", 0.123456789, None, [1, 2]), ('c, "d"', 2, True, {"x": float("nan")})]
COLUMNS = ("name", "number", "maybe", "nested")


def test_json_keeps_types(capsys):
    output.show(COLUMNS, ROWS, Format.json)
    assert json.loads(capsys.readouterr().out) == [
        {"name": "a [b]", "number": 0.123456789, "maybe": None, "nested": [1, 2]},
        {"name": 'c, "d"', "number": 2, "maybe": True, "nested": {"x": None}},
    ]


def test_csv_is_read_back(capsys):
    output.show(COLUMNS, ROWS, Format.csv)
    read = list(csv.reader(StringIO(capsys.readouterr().out)))
    assert read == [list(COLUMNS), ["a [b]", "0.123456789", "", "[1, 2]"], ['c, "d"', "2", "True", '{"x": null}']]


def test_table_shows_markup_as_text(capsys):
    output.show(COLUMNS, ROWS, Format.table, "All")
    out = capsys.readouterr().out
    assert "a [b]" in out
    assert "0.1235" in out
    assert out.startswith("All")


def test_empty_listing(capsys):
    output.show(COLUMNS, [], Format.csv)
    assert capsys.readouterr().out == "name,number,maybe,nested\n"
    output.show(COLUMNS, [], Format.json)
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("no images"), 2), (QueryInvalid("no"), 2), (EnvironmentFault("full"), 1), (GraphUnavailable("x"), 1)],
)
def test_errors_become_one_message_and_a_code(capsys, error, code):
    @output.guarded
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as left:
        command()
    printed = capsys.readouterr()
    assert (left.value.exit_code, printed.out, printed.err) == (code, "", f"Error: {error}\n")


def test_interrupt_is_130(capsys):
    @output.guarded
    def command() -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as left:
        command()
    assert left.value.exit_code == 130


def test_our_own_bugs_are_not_hidden():
    @output.guarded
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command()


def test_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        output.write_file(tmp_path / "file" / "below.json", "x")


def test_progress_is_lines_off_a_terminal(capsys):
    with output.progress("learning", every_seconds=0) as tell:
        tell(1, 2, {"loss": 0.5})
        tell(2, 2, {})
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "learning: 1/2 loss 0.5\nlearning: 2/2\n"


def test_full_disk_is_one_message_and_exit_1(capsys):
    @output.guarded
    def command() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/big/file")

    with pytest.raises(typer.Exit) as left:
        command()
    assert left.value.exit_code == 1
    assert capsys.readouterr().err == (
        "Error: /big/file: No space left on device. Make room, or choose another place.\n"
    )


def test_closed_pipe_is_left_to_the_framework():
    @output.guarded
    def command() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        command()
