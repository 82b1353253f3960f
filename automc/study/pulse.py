"""What a running study tells whoever looks from outside: one small file in its folder, gone when it ends.

For reading alone: nothing of a study depends on it, and whoever reads it costs the search nothing.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from automc.study.place import folder
from automc.temporary import prefix

Pulse = dict[str, Any]
"""Keys: "pid" and "host" of the process; "phase", what it does, with "done" and "of" where that is known; "trials", how
many it has brought home; "spent_steps", "spent_seconds", and "budget_steps" or "budget_seconds" of the search;
"steps", those under way, each with "scheme", "done" and "of" in iterations (0 while unknown), and "seconds" that it has
taken and "left" that are expected; "said", its last sentences; "updated" in seconds since 1970."""


def place(study: str) -> Path:
    """Return the file."""
    return folder(study) / "pulse.json"


def write(path: Path, pulse: Mapping[str, Any]) -> None:
    """Replace the file, whole at every moment; where that fails the study goes on untold."""
    new = path.with_name(f"{prefix()}pulse")
    with suppress(OSError):
        new.write_text(json.dumps(pulse), encoding="utf-8")
        os.replace(new, path)


def read(study: str) -> Pulse | None:
    """Return what a study tells; None where it does not run, or its process on this machine is gone."""
    try:
        found = json.loads(place(study).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and _lives(found) else None


def _lives(pulse: Mapping[str, Any]) -> bool:
    if pulse.get("host") != platform.node():
        return True  # nobody here can tell
    try:
        os.kill(int(pulse.get("pid") or 0), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True
