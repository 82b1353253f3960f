"""What a board that is looked at costs a search: `python -m benchmarks.board_cost MODEL.am [STEPS]`.

One search of a fixed seed on digits beside a board whose study page is polled each second, as a browser does. Processor
seconds are compared, so other work of the machine hardly matters: those of the board (after its first page) against
those of the search with its workers.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

MAIN = [sys.executable, "-c", "from automc.cli.main import main; main()"]


def main() -> None:
    """Measure, and print one line."""
    model, steps = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 12
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "AUTOMC_HOME": home, "OMP_NUM_THREADS": "1"}
        subprocess.run([*MAIN, "kg", "init"], env=env, check=True, capture_output=True)
        board = subprocess.Popen(
            [*MAIN, "board", "--no-open", "--port", "0"], env=env, stderr=subprocess.PIPE, text=True
        )
        assert board.stderr is not None
        found = re.search(r"http://[\d.:]+", board.stderr.readline())
        assert found is not None
        search = subprocess.Popen(
            [*MAIN, "search", str(model), "--data", "digits", "--gamma", "0.3", "--budget", f"{steps}steps",
             "--precision", "float32", "--unit-epochs", "4", "--final", "none"],
            env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        name = _named(Path(home))
        polls, before, seen, found_anew = 0, 0.0, "-", 0
        while os.waitid(os.P_PID, search.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            told = _get(f"{found[0]}/live/{name}?seen={seen}")
            if polls == 0:
                before, began = _processor_seconds(board.pid), time.monotonic()
            if match := re.search(r'"seen":\s*"([^"]+)"', told):
                seen = match[1]
            polls, found_anew = polls + 1, found_anew + ('"trials":' in told)
            time.sleep(1)
        cost, wall = _processor_seconds(board.pid) - before, time.monotonic() - began
        _, status, used = os.wait4(search.pid, 0)
        board.terminate()
        searched = used.ru_utime + used.ru_stime
        print(
            f"{steps} steps, exit code {os.waitstatus_to_exitcode(status)}; {polls} polls in {wall:.0f} s, "
            f"{found_anew} of them with new results; board {cost:.2f} s of processor time, search {searched:.1f} s: "
            f"{cost / searched:.2%}, {1000 * cost / max(1, polls):.1f} ms a poll; {os.cpu_count()} cores, "
            f"{platform.machine()}, Python {platform.python_version()}"
        )


def _named(home: Path) -> str:
    while True:
        for pulse in (home / "studies").glob("*/pulse.json"):
            return pulse.parent.name
        time.sleep(0.2)


def _get(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
