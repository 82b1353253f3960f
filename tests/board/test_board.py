"""What the board shows, what it refuses, who may ask it, and what a look costs."""

from __future__ import annotations

import html
import json
import math
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


@pytest.mark.parametrize(
    "address",
    [
        f"/study/{STUDY}x", f"/live/{STUDY}x", f"/study/{STUDY}x/trial/1", f"/study/{STUDY}/trial/999",
        f"/study/{STUDY}/trial/one", f"/compare?left={STUDY}&right={STUDY}x",
        f"/compare?study={STUDY}&left=1&right=999", "/graph/Method?id=Nothing",
        "/graph/Strategy?id=NS[HP1=7]&known=1", "/graph/Nothing", "/query?saved=nothing",
        "/write/card?of=Nothing", "/write/results?of=nothing", "/write/nothing", "/nothing",
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(board: Client, address: str) -> None:
    answer = board.get(address)
    assert answer.status_code == 404
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
        monkeypatch.setattr("automc.board.studies._due", {STUDY: math.inf})
        sparing = board.get(f"/live/{STUDY}", params={"seen": second["seen"]}).json()
        assert set(sparing["parts"]) == {"way"}, "what was found is shown anew a little later"
        monkeypatch.setattr("automc.board.studies._due", {})
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


def test_two_trials_and_two_studies_side_by_side(board: Client) -> None:
    ordinals = [t.ordinal for t in load_trials(STUDY)]
    page = board.get("/compare", params={"study": STUDY, "left": str(ordinals[0]), "right": f"{STUDY}:{ordinals[1]}"})
    assert page.text.count(f"{STUDY}, trial ") == 2
    assert 'class="differs"' in page.text
    same = board.get("/compare", params={"left": STUDY, "right": STUDY}).text
    assert 'class="differs"' not in same
    assert same.count("<svg") == 2
    assert board.get("/compare", params={"study": STUDY, "left": "1", "right": STUDY}).status_code == 400


def test_from_a_node_to_its_neighbours(board: Client) -> None:
    assert "Strategy" in board.get("/graph").text
    found = board.get("/graph", params={"q": "network SLIMMING"}).text
    assert 'href="/graph/Method?id=NS"' in found
    method = board.get("/graph/Method", params={"id": "NS"}).text
    assert "USES_TECHNIQUE" in method
    assert "HAS_HYPERPARAMETER" in method
    everyone = board.get("/graph/Method", params={"id": "NS", "all": "in:OF_METHOD", "from": "50"}).text
    assert "Before" in everyone
    strategy = board.get("/graph/Strategy", params={"id": "NS[HP1=0.1,HP2=0.12,HP6=0.9]", "known": "1"}).text
    assert "Strategies like it" in strategy
    assert "NS is Network Slimming" in strategy
    assert board.get("/graph/Method", params={"id": "'}) DETACH DELETE n //"}).status_code == 404
    assert board.get("/graph/Nonsense").status_code == 404


COUNTS = """MATCH (m:Method)-[:USES_TECHNIQUE]->(t:Technique)
RETURN t.id AS technique, count(m) AS methods ORDER BY methods DESC"""


def test_a_query_as_table_chart_and_csv(board: Client) -> None:
    table = board.send_form("/query", text=COUNTS)
    assert table.status_code == 200
    assert "<td>TE3</td>" in table.text
    bars = board.send_form("/query", text=COUNTS, **{"as": "chart"}).text
    assert bars.count("<progress") > 5
    points = "MATCH (e:Experience) WHERE e.pr > 0 AND e.ar > -1 RETURN e.pr AS pr, e.ar AS ar LIMIT 40"
    assert board.send_form("/query", text=points, **{"as": "chart"}).text.count("<circle") == 40
    csv = board.send_form("/query", text=COUNTS, **{"as": "csv"})
    assert csv.headers["content-type"].startswith("text/csv")
    assert csv.text.startswith("technique,methods\n")
    named = board.get("/query", params={"saved": "results-of-method"}).text
    assert "method=&#34;SFP&#34;" in named
    params = board.send_form("/query", text="MATCH (m:Method {id: $m}) RETURN m.title AS t", params="m=NS").text
    assert "<td>Network Slimming</td>" in params
    assert "Did you mean" in board.send_form("/query", text="MATCH (m:Methd) RETURN m.id AS id").text


@pytest.mark.parametrize(
    ("text", "params", "said"),
    [
        ("MATCH (m:Method) DETACH DELETE m", "", "read-only"),
        ("MATCH (", "", "cannot be read"),
        ("MATCH (m:Method {id: $m}) RETURN m", "", "parameter"),
        ("MATCH (m:Method) RETURN m", "x=1", "$x"),
    ],
)
def test_a_query_that_is_refused_keeps_its_text(board: Client, text: str, params: str, said: str) -> None:
    answer = board.send_form("/query", text=text, params=params)
    assert answer.status_code == 400
    assert text in html.unescape(answer.text)
    assert said in re.search(r'role="alert">(.*?)</p>', html.unescape(answer.text), re.S)[1]
    assert "NS" in board.get("/graph/Method").text


@pytest.mark.parametrize("address", ["/query", "/write/card"])
def test_a_form_of_another_page_is_refused(board: Client, address: str) -> None:
    answer = board.post(address, data={"token": "guessed", "text": COUNTS, "act": "write"})
    assert answer.status_code == 403
    assert board.post(address, content=b"\xff\xfe").status_code == 400
