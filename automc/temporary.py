"""Names of files that go with the process that makes them, and the sweep of those that it left behind."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path


def prefix() -> str:
    """Return how names of this process's temporary files begin; with the machine, as homes can be shared."""
    return f".automc-{platform.node()}-{os.getpid()}-"


def sweep(*folders: Path) -> None:
    """Remove what processes of this machine that are gone have left in these folders; never a living one's."""
    ours = re.compile(rf"\.automc-{re.escape(platform.node())}-(\d+)-")
    for folder in folders:
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                found = ours.match(entry.name)
                if found is None or _alive(int(found[1])):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        os.unlink(entry.path)


@cache
def sweep_home(home: Path) -> None:
    """Sweep a home and the folders in it, once in a process; and where workers have their monitors."""
    inner = [p for p in (*home.glob("*/"), *home.glob("studies/*/"), *home.glob("cache/*/")) if p.is_dir()]
    sweep(home, *inner, Path(tempfile.gettempdir()))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
