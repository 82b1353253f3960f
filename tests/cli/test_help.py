"""Help: every command explains itself, is in the README, and answers without loading torch or the graph."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from automc.cli.main import app

README = Path(__file__).parents[2] / "README.md"


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands that do something, with the words that call them."""
    if not hasattr(group, "commands"):
        yield words, group
        return
    for name, command in group.commands.items():
        yield from commands(command, (*words, name))


ALL = dict(commands(typer.main.get_command(app)))


def test_all_commands_are_found():
    assert {("search",), ("resume",), ("show",), ("train",), ("kg", "query"), ("study", "delete")} <= set(ALL)
    assert len(ALL) >= 20


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_command_explains_itself(automc, words):
    result = automc(*words, "--help")
    assert result.exit_code == 0
    example = re.search(r"Example:\s+automc (.*)", result.stdout)
    assert example, "no Example line"
    assert example[1].split()[: len(words)] == list(words)
    for parameter in ALL[words].params:
        assert parameter.name in ("help", "version") or parameter.help, f"{parameter.name} has no help"


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_options_of_examples_exist(words):
    example = re.search(r"Example: automc (.*)", ALL[words].help)[1]
    known = {name for parameter in ALL[words].params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", example)) <= known


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_readme_shows_the_command(words):
    assert re.search(rf"automc {' '.join(words)}\b", README.read_text(encoding="utf-8"))


def test_options_in_the_readme_exist():
    text = README.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^automc .*", text, re.M):
        called = [words for words in ALL if re.match(rf"automc {' '.join(words)}\b", line)]
        assert called, line
        known = {name for p in ALL[called[0]].params for name in (*p.opts, *p.secondary_opts)}
        unquoted = re.sub(r"'[^']*'?", "", line)
        assert set(re.findall(r"(?<=\s)--[a-z][a-z0-9-]*", unquoted)) <= known, line


@pytest.mark.parametrize("words", [("--help",), ("search", "--help"), ("kg", "--help"), ("--version",)], ids=" ".join)
def test_help_loads_neither_torch_nor_the_graph(words):
    heavy = ("torch", "scipy", "pykeen", "sklearn", "jpype", "arcadedb_embedded", "neo4j", "networkx")
    code = (
        "import sys\nfrom automc.cli.main import main\nsys.argv[0] = 'automc'\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('LOADED', *(set({heavy!r}) & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"
    assert len(done.stdout.splitlines()) > 1


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "automc", "serach"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Did you mean 'search'?" in done.stderr


def test_wrong_words_are_exit_2(automc):
    assert automc("serach").exit_code == 2
    assert automc("search").exit_code == 2
    assert automc("search", "resnet8", "--data", "digits", "--gama", "0.3").exit_code == 2
    assert automc("kg", "query", "RETURN 1", "--format", "xml").exit_code == 2
