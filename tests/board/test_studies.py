"""What the board shows of studies, who may ask it, and what a look costs."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest
from board_tools import STUDY, Client
from typer.testing import CliRunner

from automc import knowledge
from automc.board import live
from automc.cli.main import app
from automc.study import pulse
from automc.study.stored import load_trials
from kg import studies

SCHEME = "NS[HP1=0.1,HP2=0.04,HP6=0.7]"


def test_all_studies_and_one_in_depth(board: Client) -> None:
    listed = board.get("/")
    assert listed.status_code == 200
    assert f'href="/study/{STUDY}"' in listed.text
    page = board.get(f"/study/{STUDY}").text
    for trial in load_trials(STUDY):
        assert f'data-copy="{trial.scheme.id}"' in page, "the id can be copied"
        assert f"/study/{STUDY}/trial/{trial.ordinal}" in page
    assert "remove 30%" in page or "remove" in page, "steps in plain words"
    assert page.count("<svg") == 2
    assert "automc search" in page, "how to reproduce it"


def test_a_trial_says_why(board: Client) -> None:
    last = load_trials(STUDY)[-1]
    page = board.get(f"/study/{STUDY}/trial/{last.ordinal}").text
    assert page.count("<h2>Step ") == len(last.scheme.steps)
    assert "What is known of" in page
    assert last.scheme.id in page


@pytest.mark.parametrize("address", [f"/study/{STUDY}x", f"/study/{STUDY}/trial/999", "/nothing"])
def test_what_is_not_there_is_said(board: Client, address: str) -> None:
    answer = board.get(address)
    assert 400 <= answer.status_code < 500
    assert 'role="alert"' in answer.text


def test_markup_in_names_and_reasons_is_text(board: Client) -> None:
    evil = "<script>alert(1)</script>"
    with knowledge.graph() as store:
        studies.save_study(store, {"id": STUDY, "target": evil})
        row = {"ordinal": 99, "round": 9, "scheme": SCHEME, "status": "crashed", "reason": evil}
        studies.save_trial(store, STUDY, row)
    try:
        for address in ("/", f"/study/{STUDY}", f"/study/{STUDY}/trial/99"):
            page = board.get(address).text
            assert evil not in page, address
            assert "&lt;script&gt;" in page, address
    finally:
        with knowledge.graph() as store:
            store.write("MATCH (t:Trial {id: $id}) DETACH DELETE t", {"id": f"{STUDY}/99"})


def test_only_pages_of_this_machine_may_ask(board: Client) -> None:
    assert board.get("/", headers={"host": "evil.example"}).status_code == 400, "a name that was pointed here"
    assert board.get("/", headers={"host": "localhost:8765"}).status_code == 200
    answer = board.get("/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r'(src|href)="(https?:)?//', answer.text), "nothing is loaded from elsewhere"


def test_a_look_that_finds_nothing_new_opens_no_graph(board: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = board.get(f"/live/{STUDY}", params={"seen": "-"}).json()
    assert set(seen["parts"]) == {"way", "found", "trials"}
    monkeypatch.setattr("automc.knowledge.store.graph", None)
    monkeypatch.setattr("automc.study.stored.knowledge", None)
    assert board.get(f"/live/{STUDY}", params={"seen": seen["seen"]}).status_code == 204


def test_a_running_study_is_read_as_far_as_it_is_new(board: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"pid": os.getpid(), "host": "", "phase": "searching", "trials": 5, "updated": time.time(),
            "budget_steps": 9, "spent_steps": 5.5, "said": ["<b>hello</b>"],
            "steps": [{"scheme": SCHEME, "done": 1, "of": 4, "seconds": 2.0, "left": 6.0}]}  # fmt: skip
    pulse.write(pulse.place(STUDY), told)
    try:
        first = board.get(f"/live/{STUDY}", params={"seen": "-"}).json()
        assert "5.5 of 9 steps" in first["parts"]["way"]
        assert "about 6 s" in first["parts"]["way"]
        assert "&lt;b&gt;hello" in first["parts"]["way"]
        asked: list[object] = []
        real = live.load_trials
        monkeypatch.setattr(live, "load_trials", lambda name, but: asked.append(list(but)) or real(name, but=but))
        pulse.write(pulse.place(STUDY), {**told, "updated": time.time() + 1, "steps": []})
        second = board.get(f"/live/{STUDY}", params={"seen": first["seen"]}).json()
        assert set(second["parts"]) == {"way"}, "only what it does has changed"
        assert asked == []
        pulse.write(pulse.place(STUDY), {**told, "updated": time.time() + 2, "trials": 6})
        third = board.get(f"/live/{STUDY}", params={"seen": second["seen"]}).json()
        assert set(third["parts"]) == {"way", "found", "trials"}
        assert asked == [[t.ordinal for t in load_trials(STUDY)]], "what was read is not read again"
    finally:
        pulse.place(STUDY).unlink()


def test_the_pulse_of_a_process_that_is_gone_is_none(board: Client) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    pulse.write(pulse.place(STUDY), {"pid": gone.pid, "host": os.uname().nodename, "phase": "searching"})
    try:
        assert pulse.read(STUDY) is None
        pulse.place(STUDY).write_text("{torn")
        assert pulse.read(STUDY) is None
    finally:
        pulse.place(STUDY).unlink()


def test_a_graph_that_is_away_is_said_and_the_board_goes_on(board: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as away:
        away.setenv("AUTOMC_GRAPH", "bolt://127.0.0.1:9")
        page = board.get("/")
        assert page.status_code == 503
        assert "data-again" in page.text, "the page tries again by itself"
        told = board.get(f"/live/{STUDY}", headers={"accept": "application/json"})
        assert told.status_code == 503
        assert "127.0.0.1:9" in json.loads(told.text)["trouble"]
    assert board.get("/").status_code == 200


def test_a_port_in_use_is_bad_input() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["board", "--no-open", "--port", str(port)])
    assert done.exit_code == 2
    assert f"Port {port}" in done.stderr
    assert "--port" in done.stderr
