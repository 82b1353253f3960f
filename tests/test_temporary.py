"""What a killed process left behind goes at the next start; all else stays."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from automc import temporary
from automc.home import home

KILLED = """
import os, signal, sys
from pathlib import Path
from automc.files import write_atomically
write_atomically(Path(sys.argv[1]), b"x", check=lambda written: os.kill(os.getpid(), signal.SIGKILL))
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_only_what_is_left_behind_goes(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "x.am")], check=False)
    assert done.returncode < 0
    (left,) = names(tmp_path)
    gone = left.split("-")[-2]
    (tmp_path / f".automc-{platform.node()}-{gone}-folder").mkdir()
    stay = {
        f"{temporary.prefix()}mine", f".automc-{platform.node()}-{os.getppid()}-alive", f".automc-elsewhere-{gone}-x",
        f".automc-{platform.node()}-notanumber-x", f"{gone}-1-x.am", "mine.am",
    }  # fmt: skip
    for name in stay:
        (tmp_path / name).touch()
    temporary.sweep(tmp_path, tmp_path / "nowhere")
    assert names(tmp_path) == stay


def test_a_start_sweeps_the_home(automc_home: Path) -> None:
    left = f".automc-{platform.node()}-{2**22 + 1}-x"  # above every process number
    folders = (automc_home, automc_home / "data", automc_home / "studies" / "a-1", automc_home / "cache" / "tmp")
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / left).touch()
    home()
    assert [folder for folder in folders if left in names(folder)] == []
