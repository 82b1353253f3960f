"""Where an object of the user's is defined, as `file.py:name`: what other processes can import."""

from __future__ import annotations

import ast
import functools
import sys
import threading
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from automc.userfiles import UserFileError


def place_of(thing: Any, what: str) -> str:
    """Return `file.py:name` for a function, a class, or a value of a script's top level.

    Args:
        what: it is called in messages, such as "loss".

    Raises:
        UserFileError: other processes cannot import it; the message says why, and what to do.
    """
    name = _name(thing, what)
    # What is neither function nor class has the module of its class.
    module = sys.modules.get(str(thing.__module__) if hasattr(thing, "__qualname__") else "__main__")
    file = getattr(module, "__file__", None)
    if module is None or not file:
        raise UserFileError(
            f"The {what} {name} is defined in this session, which other processes cannot import. Put it into a file, "
            f"such as mine.py (in a notebook, %%writefile mine.py), and import it from there."
        )
    if getattr(module, name, None) is not thing:
        raise UserFileError(
            f"The {what} {name} is not what {Path(file).name} has under that name, so other processes would use "
            "another one. Define it at the top of the file, and give it as it is there."
        )
    if unguarded := main_unguarded(module):
        raise UserFileError(f"The {what} {name} cannot travel to other processes: {unguarded}")
    return f"{Path(file).resolve()}:{name}"


def main_unguarded(module: ModuleType) -> str:
    """Say why a script cannot be imported by other processes: they would run it; "" where it can, or is no script."""
    if module.__name__ != "__main__":
        return ""
    path = Path(str(module.__file__))
    line = _line_of_main(module)
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return f"{path.name} cannot be read."
    for node in body:
        guard = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
        if guard and (line is None or node.lineno <= line <= (node.end_lineno or node.lineno)):
            return ""
    running = "" if line is None else f", line {line} among it,"
    return (
        f"they import {path.name}, which would run it from the top. Put what it does{running} under "
        'if __name__ == "__main__": and leave definitions outside.'
    )


def _name(thing: Any, what: str) -> str:
    if isinstance(thing, functools.partial):
        raise UserFileError(
            f"The {what} is a functools.partial, which other processes cannot import. Write a function with def at the "
            "top of a file."
        )
    name = getattr(thing, "__qualname__", None)
    if name is None:
        names = [n for n, v in vars(sys.modules["__main__"]).items() if v is thing]
        if not names:
            raise UserFileError(
                f"The {what} is a {type(thing).__name__} that no top level of a script names, so other processes "
                "cannot import it. Name it at the top of a file, and give it as 'file.py:name'."
            )
        return names[0]
    if "<lambda>" in name:
        raise UserFileError(
            f"The {what} is a lambda, which other processes cannot import. Write it with def at the top of a file."
        )
    if "." in name:
        inside = name.replace(".<locals>", "").rpartition(".")[0]
        raise UserFileError(
            f"The {what} {name.rpartition('.')[2]} is defined inside {inside}, where other processes cannot import it. "
            "Define it at the top of a file."
        )
    return str(name)


def _line_of_main(module: ModuleType) -> int | None:
    """The line of the script's top level that is running now; None where it has ended."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    line = None
    while frame is not None:
        if frame.f_globals is vars(module) and frame.f_code.co_name == "<module>":
            line = frame.f_lineno
        frame = frame.f_back
    return line
