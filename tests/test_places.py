"""Where things are defined, and whether other processes can import them."""

from __future__ import annotations

import re
import types
from pathlib import Path

import pytest

from automc.places import main_unguarded, place_of
from automc.userfiles import UserFileError


def at_the_top() -> None:
    """Can be imported."""


def test_a_function_is_its_file_and_its_name() -> None:
    assert place_of(at_the_top, "loss") == f"{Path(__file__).resolve()}:at_the_top"


class Callable:
    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (lambda: None, "The loss is a lambda"),
        (Callable(), "The loss is a Callable that no top level of a script names"),
        (Callable().__call__, "The loss __call__ is defined inside Callable"),
    ],
)
def test_what_cannot_be_imported_is_refused(thing: object, said: str) -> None:
    with pytest.raises(UserFileError, match=said):
        place_of(thing, "loss")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('def f(): ...\n\nif __name__ == "__main__":\n    f()\n', ""),
        ("def f(): ...\n\nf()\n", r"would run it from the top. Put what it does.*under if __name__"),
        ("def f(:\n", "script.py cannot be read"),
    ],
)
def test_a_script_is_imported_only_where_that_does_not_run_it(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "script.py").write_text(text)
    main = types.ModuleType("__main__")
    main.__file__ = str(tmp_path / "script.py")
    found = main_unguarded(main)
    assert re.search(said, found) if said else not found
