"""What the commands that add, correct and retire knowledge have in common."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from automc.cli.output import Format, say, show, show_json
from automc.errors import AutoMCError
from kg.errors import KGError

if TYPE_CHECKING:
    from automc.knowledge.curation import Edition

By = Annotated[str, typer.Option("--by", help="Who does this; default the user of this process.", show_default=False)]
Undo = Annotated[bool, typer.Option("--undo", help="Take it back.")]


def show_edition(edition: Edition, format: Format) -> None:
    """Print what an addition changes, and say whether that was written."""
    rows = [(c.sign, c.kind, c.id, c.field, c.before, c.after) for c in edition.changes]
    columns = ("", "kind", "id", "field", "before", "after")
    if format is Format.json:
        show_json([dict(zip(("change", *columns[1:]), row, strict=True)) for row in rows])
    elif rows:
        show(columns if format is Format.table else ("change", *columns[1:]), rows, format)
    for note in edition.notes:
        say(note)
    if edition.written:
        say(f"Written to the graph: {_counted(edition)}.")
    else:
        say("Nothing was written." if rows else "Nothing changed.")


def _counted(edition: Edition) -> str:
    signs = {"+": "new", "~": "changed", "-": "removed"}
    things = {(c.sign, c.kind, c.id) for c in edition.changes}
    parts = []
    for sign, word in signs.items():
        for kind in ("method", "paper", "task", "record"):
            count = sum((one[0], one[1]) == (sign, kind) for one in things)
            parts += [f"{count} {word} {kind}{'s' if count > 1 else ''}"] if count else []
    return ", ".join(parts) or "only the wording"


def origin(mark: Mapping[str, Any] | None) -> str:
    """Say in a word or two where knowledge comes from, and whether it is retired."""
    if not mark:
        return "AutoMC"
    added = f"{mark['added_by']}, {mark['added_at'][:10]}" if "added_by" in mark else "AutoMC"
    return f"{added}; retired: {mark['retired_because']}" if "retired_at" in mark else added


def reason(because: str, undo: bool) -> str:
    """Return why something is retired.

    Raises:
        AutoMCError: nobody said.
    """
    if not because.strip() and not undo:
        raise AutoMCError("Say why, for whoever finds it later: --because 'superseded by …'.")
    return because.strip()


@contextmanager
def edited_text(
    current: Callable[[], str], file: Path | None, name: str, error: type[KGError]
) -> Iterator[tuple[str, str]]:
    """Yield what a document shall be, and where that comes from: a file, or the current text after an editor.

    Where the text is refused, what was typed is kept in a file, and the message says where.

    Raises:
        AutoMCError: no editor can be opened, or nothing was changed in it.
    """
    from kg.curation.documents import read_text

    if file is not None:
        yield read_text(file, error), file.name
        return
    before = current()
    handle, path = tempfile.mkstemp(prefix=f"{Path(name).stem}-", suffix=".yaml")
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(before)
    written = Path(path)
    _open_editor(written)
    text = read_text(written, error)
    if text == before:
        written.unlink()
        raise AutoMCError("Nothing was changed in the editor.")
    try:
        yield text, "an editor"
    except KGError as fault:
        raise type(fault)(f"{fault} What you wrote is in {path}: correct it, and give it with --file.") from None
    written.unlink()


def _open_editor(path: Path) -> None:
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        done = subprocess.run([*shlex.split(command), str(path)], check=False).returncode
    except (OSError, ValueError) as error:
        raise AutoMCError(f"The editor '{command}' cannot be opened: {error}. Set EDITOR, or use --file.") from None
    if done:
        raise AutoMCError(f"The editor '{command}' ended with {done}; nothing was changed. Set EDITOR, or use --file.")
