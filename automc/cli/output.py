"""How every command speaks: data on stdout as table, JSON or CSV; messages and progress on stderr."""

from __future__ import annotations

import csv
import functools
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer

from automc.cli.figures import shown
from automc.errors import AutoMCError, EnvironmentFault, Note
from automc.files import write_atomically

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED = 130
PIPE_COLUMNS = 100
"""Width of a table that is not written to a terminal."""


class Format(StrEnum):
    """How a listing is printed."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="How the answer is printed on stdout.")]


def show(columns: Sequence[str], rows: Iterable[Sequence[Any]], format: Format, title: str = "") -> None:
    """Print a listing on stdout.

    A table rounds numbers to four digits for reading; JSON (a list of objects) and CSV carry them in full.
    """
    rows = [tuple(row) for row in rows]
    if format is Format.json:
        show_json([dict(zip(columns, row, strict=True)) for row in rows])
    elif format is Format.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_text(value) for value in row] for row in rows)
    else:
        _table(columns, rows, title)


def show_record(record: Mapping[str, Any], format: Format, title: str = "") -> None:
    """Print one thing on stdout: an object in JSON, else a row per field; in a table figures are for people."""
    if format is Format.json:
        show_json(dict(record))
        return
    rows = list(record.items())
    if format is Format.table:
        rows = [(name, shown(name, value)) for name, value in rows]
    show(("field", "value"), rows, format, title)


def show_json(content: Any) -> None:
    """Print JSON on stdout; what is not finite becomes null."""
    print(json.dumps(_finite(content), ensure_ascii=False, indent=2, default=str))


def say(text: str) -> None:
    """Print a message for a person on stderr."""
    print(text, file=sys.stderr, flush=True)


def fail(error: AutoMCError) -> NoReturn:
    """Print what went wrong on stderr in one message and leave with the error's exit code."""
    say(f"Error: {error}")
    raise typer.Exit(error.exit_code)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors a user or the machine can cause into one message and an exit code; an interrupt into 130."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with _notes_said():
                return command(*args, **kwargs)
        except AutoMCError as error:
            fail(error)
        except BrokenPipeError:
            # Whoever read our output has seen enough, like `head`; the command line's framework ends quietly.
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            fail(EnvironmentFault(f"{where}{error.strerror or error}. Make room, or choose another place."))
        except (MemoryError, RuntimeError) as error:
            # What torch raises says so in words only; other faults of ours go on to `main`.
            if (
                isinstance(error, RuntimeError)
                and "allocate memory" not in str(error)
                and "out of memory" not in str(error)
            ):
                raise
            fail(EnvironmentFault("The memory is full. Use a smaller --batch or --size, or fewer --workers."))
        except KeyboardInterrupt:
            say("Interrupted.")
            raise typer.Exit(INTERRUPTED) from None

    return run


@contextmanager
def _notes_said() -> Iterator[None]:
    """Print every Note once, on stderr, in place of Python's two lines with a file of ours."""
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", Note)
        others = warnings.showwarning

        def show_note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, Note):
                others(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                say(f"Note: {message}")

        warnings.showwarning = show_note
        yield


def write_file(path: Path, text: str) -> None:
    """Write a text file, all or nothing.

    Raises:
        EnvironmentFault: the file cannot be written.
    """
    write_atomically(path, text.encode())


@contextmanager
def progress(what: str, every_seconds: float = 10.0) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """Yield a function to call with (done, of, figures): a bar on a terminal, else a line now and then, on stderr."""
    if not sys.stderr.isatty():
        last = time.monotonic()

        def line(done: int, of: int, figures: Mapping[str, float]) -> None:
            nonlocal last
            if done == of or time.monotonic() - last >= every_seconds:
                last = time.monotonic()
                say(f"{what}: {done}/{of} {_figures(figures)}".rstrip())

        yield line
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[figures]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None, figures="")
        yield lambda done, of, figures: bar.update(task, completed=done, total=of, figures=_figures(figures))


def _figures(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(f"{value:.4g}" if isinstance(value, float) else _text(value)) for value in row))
    console = Console(soft_wrap=False) if sys.stdout.isatty() else Console(width=PIPE_COLUMNS)
    console.print(table)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(_finite(value), ensure_ascii=False, default=str)
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
