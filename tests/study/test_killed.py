"""Searches in processes of their own that are killed or interrupted, with real worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from study_tools import create, run, same, stored

from automc.study import Study
from automc.study import stored as studies

AUTOMC = [sys.executable, "-c", "from automc.cli.main import main; main()"]


def resume(study: str, workers: int, until: int) -> tuple[subprocess.Popen[str], list[str]]:
    """Start `automc resume` and return once it has committed `until` trials, with the lines it printed."""
    process = subprocess.Popen(
        [*AUTOMC, "resume", study, "--workers", str(workers)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("[") and sum(printed.startswith("[") for printed in lines) == until:
            break
    return process, lines


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pids: list[int], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
def test_kill_twice_and_interrupt_once_equals_never_stopping(full_home):
    reference = run(create(full_home, "10steps", workers=1, window=4)).trials
    # The cache would hide an execution: the second study starts with an empty one.
    (full_home / "cache").rename(full_home / "old-cache")
    study = create(full_home, "10steps", workers=2, window=4)
    name = study.spec.id

    committed: list[dict] = []
    for count, trials in ((2, 1), (1, 2)):
        process, lines = resume(name, count, trials)
        workers = children(process.pid)
        process.kill()
        process.wait()
        assert len(workers) == count, "".join(lines)
        assert gone(workers, 300.0)
        now = stored(name)
        # What was finished is there, unchanged and once.
        assert len(now) >= len(committed) + trials
        rows = same(now, but=())
        assert all(row in rows for row in committed)
        assert max(Counter(t.scheme for t in now).values()) == 1
        committed = rows

    process, lines = resume(name, 1, 1)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(300) == 130, "".join(lines) + rest
    assert gone(workers, 300.0)
    assert rest.rstrip().endswith(f"Go on with: automc resume {name}")
    assert "Traceback" not in rest
    assert studies.load_record(name)["status"] == "interrupted"
    assert any("resumed" in line for line in lines)

    result = run(Study.open(name))
    assert same(result.trials) == same(reference)
    assert all(row in same(result.trials, but=()) for row in committed)
