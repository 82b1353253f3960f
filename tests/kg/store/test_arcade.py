"""What only the embedded store has: one process at a time, a folder, a JVM inside this process."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kg.errors import GraphLocked, GraphUnavailable, NotInGraph, QueryTimeout
from kg.store import connect, lock

Start = Callable[..., "subprocess.Popen[str]"]

HOLD = """
import sys, pathlib
from kg.store import connect
with connect(pathlib.Path(sys.argv[1])) as store:
    store.upsert_nodes("Method", [{"id": "from the holder"}])
    print("open", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOMC_GRAPH", raising=False)


def wait_open(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"


def test_another_process_is_locked_out_and_told_by_whom(
    tmp_path: Path, run_python: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "patience", lambda: 0.0)
    holder = run_python(HOLD, str(tmp_path), "automc-search-marker")
    wait_open(holder)
    with pytest.raises(GraphLocked) as caught:
        connect(tmp_path)
    assert f"pid {holder.pid}" in str(caught.value)
    assert "automc-search-marker" in str(caught.value)
    assert caught.value.exit_code == 1
    # Killed, not closed: what was committed is there, and the folder is free again.
    holder.kill()
    holder.communicate()
    with connect(tmp_path) as store:
        assert store.read("MATCH (m:Method) RETURN m.id AS id").rows == [("from the holder",)]


def test_a_short_lock_is_waited_out(tmp_path: Path, run_python: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "patience", lambda: 600.0)
    connect(tmp_path).close()
    holder = run_python(HOLD, str(tmp_path))
    wait_open(holder)
    assert holder.stdin is not None
    holder.stdin.write("\n")
    holder.stdin.flush()
    with connect(tmp_path) as store:
        assert len(store.read("MATCH (m:Method) RETURN m.id AS id")) == 1
    holder.communicate()


def test_reopening_keeps_everything(tmp_path: Path) -> None:
    with connect(tmp_path) as store:
        store.upsert_nodes("Method", [{"id": "a"}])
    for _ in range(3):
        with connect(tmp_path) as store:
            assert store.read("MATCH (m:Method) RETURN m.id AS id").rows == [("a",)]


def test_a_narrow_time_limit_does_not_outlive_its_query(tmp_path: Path) -> None:
    endless = "UNWIND range(1, 100000) AS i UNWIND range(1, 100000) AS j WITH i, j WHERE i * j % 7 = 9 RETURN i"
    with connect(tmp_path) as store, pytest.raises(QueryTimeout, match="ran past its time limit"):
        store.read(endless, timeout=0.05)
    with connect(tmp_path) as store:
        store.write("UNWIND range(1, 3000) AS i CREATE (:Task {id: toString(i)})")
        assert store.read("MATCH (t:Task) RETURN count(t) AS n").rows == [(3000,)]


def test_one_process_may_open_it_twice(tmp_path: Path) -> None:
    with connect(tmp_path) as outer:
        with connect(tmp_path) as inner, inner.transaction():
            inner.upsert_nodes("Method", [{"id": "a"}])
        assert outer.read("MATCH (m:Method) RETURN count(m) AS n").rows == [(1,)]
    outer.close()
    with pytest.raises(GraphUnavailable, match="closed"):
        outer.read("RETURN 1 AS one")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    with pytest.raises(GraphUnavailable, match="Not a directory") as caught:
        connect(file / "home")
    assert str(file) in str(caught.value)
    assert caught.value.exit_code == 1
    assert file.read_text() == "not a folder"


def test_a_damaged_store_is_said_to_be_one_and_its_lock_given_back(tmp_path: Path) -> None:
    with connect(tmp_path) as store:
        store.upsert_nodes("Method", [{"id": "a"}])
    schema = tmp_path / "graph" / "schema.json"
    kept = schema.read_bytes()
    schema.write_bytes(b"{ this is no schema")
    with pytest.raises(GraphUnavailable, match="is damaged"):
        connect(tmp_path)
    schema.write_bytes(kept)
    with connect(tmp_path) as store:
        assert store.read("MATCH (m:Method) RETURN m.id AS id").rows == [("a",)]


def test_no_graph_where_none_was_made(tmp_path: Path) -> None:
    with pytest.raises(NotInGraph, match="kg init"):
        connect(tmp_path, create=False)
    assert not (tmp_path / "graph").exists()
    connect(tmp_path).close()
    connect(tmp_path, create=False).close()


def test_it_prints_nothing_and_leaves_no_log(tmp_path: Path, run_python: Start) -> None:
    here = tmp_path / "here"
    here.mkdir()
    code = (
        "import sys, pathlib\nfrom kg.store import connect\n"
        "with connect(pathlib.Path(sys.argv[1])) as s:\n"
        "    s.schema('CREATE CONSTRAINT m_id IF NOT EXISTS FOR (n:Method) REQUIRE n.id IS UNIQUE')\n"
        "    sys.stderr.write('mine')\n"
    )
    out, err = run_python(code, str(tmp_path / "home"), cwd=here).communicate()
    assert (out, err) == ("", "mine")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_signals_stay_pythons(tmp_path: Path, run_python: Start, sent: signal.Signals) -> None:
    code = (
        "import sys, pathlib, time\nfrom kg.store import connect\n"
        "with connect(pathlib.Path(sys.argv[1])):\n"
        "    try:\n        print('open', flush=True)\n        time.sleep(3600)\n"
        "    except KeyboardInterrupt:\n        print('interrupted', flush=True)\n"
    )
    process = run_python(code, str(tmp_path))
    wait_open(process)
    os.kill(process.pid, sent)
    out, _ = process.communicate(timeout=300)  # a guard: it sleeps for longer
    assert (out, process.returncode) == (("interrupted\n", 0) if sent == signal.SIGINT else ("", -signal.SIGTERM))
