"""Run every command of the README, or of the page that is named, in order, in an empty folder; one that fails ends it.

```sh blocks run under bash, ```python blocks under Python; what has a name, such as ```python NAME, is written to NAME.
The block with `make` is what CI runs before; ```text blocks are for reading.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    page = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "README.md"
    blocks = re.findall(r"^```(sh|python|yaml|toml)(?: (\S+))?\n(.*?)^```", page.read_text(), re.M | re.S)
    bin_folder = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="automc-readme-") as folder:
        environment = {
            **os.environ,
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "AUTOMC_HOME": str(Path(folder) / ".automc"),
        }
        for language, name, text in blocks:
            if re.search(r"^make ", text, re.M):
                continue
            if name:
                file = Path(folder) / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
                continue
            print(f"--- {text.strip()}", flush=True)
            command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
            started = time.monotonic()
            done = subprocess.run(command, cwd=folder, env=environment, check=False)
            print(f"--- {time.monotonic() - started:.1f} s, exit code {done.returncode}", flush=True)
            if done.returncode:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
