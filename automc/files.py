"""Files that commands write: whole or not at all, and never over what they were not meant for."""

from __future__ import annotations

import mmap
import os
import stat
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from automc import temporary
from automc.errors import EnvironmentFault, OutputInTheWay


@dataclass(frozen=True)
class Kind:
    """What a command writes, and how an earlier result of the same kind is told from anything else."""

    name: str
    """As in "x.am is not …"."""
    is_one: Callable[[Path], bool]
    suffix: str = ""
    """What the name must end in to be of use later."""


def marked(name: str, mark: str) -> Kind:
    """Return the kind of files that have `mark` somewhere in them."""

    def is_one(path: Path) -> bool:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return content.find(mark.encode()) >= 0

    return Kind(name, is_one)


def claim(out: str | Path, kind: Kind | None, *, inputs: Iterable[str | Path | None] = (), force: bool = False) -> Path:
    """Return where a result will be saved, its folder made: what cannot be written must not cost the work.

    Args:
        kind: what may be replaced; None for nothing.
        inputs: what the command reads; a file, or `file.py:name`. None of them is replaced, under any name.
        force: replace whatever file is there.

    Raises:
        OutputInTheWay: there is a folder, or a file that is no earlier result of this kind, or that the command reads;
            or one stands where a folder would be needed.
        EnvironmentFault: the place cannot be written.
    """
    path = Path(out)
    _try(path)
    if _is_device(path):
        return path
    if kind and kind.suffix and path.suffix != kind.suffix:
        raise OutputInTheWay(f"--out {path}: the name must end in {kind.suffix}, or nothing can read it later.")
    if force or not path.exists():
        return path
    for given in inputs:
        file = _file_of(given)
        if file is not None and file.exists() and path.samefile(file):
            also = "" if path.absolute() == file.absolute() else f", by another name of {file}"
            raise OutputInTheWay(f"--out {path} is what this command reads{also}. Choose another name, or add --force.")
    earlier = False
    if kind is not None:
        with suppress(Exception):  # whatever a reader makes of a stranger's file
            earlier = path.stat().st_size > 0 and kind.is_one(path)
    if not earlier:
        what = f", and is not {kind.name}" if kind else ""
        raise OutputInTheWay(f"{path} exists{what}. Choose another name, or add --force to replace it.")
    return path


def write_atomically(path: Path, content: bytes, *, check: Callable[[Path], None] | None = None) -> None:
    """Replace `path` by `content` so that a reader, or a power cut, sees the old file or the new one.

    Missing folders are made; a link is followed; a device or a pipe is written to.

    Args:
        check: is given the complete new file before it takes its name; what it raises leaves the old file.

    Raises:
        EnvironmentFault: the folder cannot be written, or the disk (or a file-size limit) is full.
    """
    made: str | None = None
    target = Path(os.path.realpath(path))
    device = _is_device(target)
    try:
        if not device:
            target.parent.mkdir(parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(dir=None if device else target.parent, prefix=temporary.prefix())
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(Path(made))
        if device:
            target.write_bytes(content)
            return
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(made, 0o666 & ~mask)
        os.replace(made, target)
        made = None
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        kept = " The file that was there is unchanged." if path.is_file() else ""
        raise EnvironmentFault(f"{path} cannot be written: {_reason(error)}.{kept}") from error
    finally:
        if made is not None:
            with suppress(OSError):
                os.unlink(made)


def _try(path: Path) -> None:
    """Refuse a place that cannot be written."""
    if path.is_dir():
        raise OutputInTheWay(f"{path} cannot be written: it is a folder. Choose another place for --out.")
    if path.is_fifo() and os.path.exists(os.path.realpath(path)):  # /dev/stdout may be a pipe without a name
        raise OutputInTheWay(f"{path} is a named pipe, which waits until somebody reads it. Choose a file for --out.")
    try:
        if path.exists() and stat.S_ISCHR(path.stat().st_mode):
            with path.open("wb", buffering=0) as device:
                if not device.isatty():
                    device.write(b"\n")  # a full device says so at the first byte
        elif not _is_device(path):
            folder = Path(os.path.realpath(path)).parent
            folder.mkdir(parents=True, exist_ok=True)
            temporary.sweep(folder)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        fault = OutputInTheWay if isinstance(error, FileExistsError | NotADirectoryError) else EnvironmentFault
        raise fault(f"{path} cannot be written: {_reason(error)}. Choose another place for --out.") from None


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _file_of(given: str | Path | None) -> Path | None:
    """Return the file behind what a command is given: a path, or `file.py:name`; None for other words."""
    if given is None or not str(given):
        return None
    text = str(given)
    return Path(os.path.expanduser(text.rpartition(":")[0] if ".py:" in text else text))


def _reason(error: OSError) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "its folder, or one above, is a file"
    return error.strerror or str(error)
