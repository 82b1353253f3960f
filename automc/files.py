"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from automc.errors import EnvironmentFault


def write_atomically(path: Path, content: bytes, *, check: Callable[[Path], None] | None = None) -> None:
    """Replace `path` by `content` so that a reader, or a power cut, sees the old file or the new one.

    Missing folders are made.

    Args:
        check: is given the complete new file before it takes its name; what it raises leaves the old file.

    Raises:
        EnvironmentFault: the folder cannot be written, or the disk (or a file-size limit) is full.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(Path(temporary))
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
        temporary = None
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        kept = " The file that was there is unchanged." if path.is_file() else ""
        reason = error.strerror or str(error)
        if isinstance(error, FileExistsError | NotADirectoryError):
            reason = "its folder, or one above, is a file"
        raise EnvironmentFault(f"{path} cannot be written: {reason}.{kept}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
