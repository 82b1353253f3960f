"""Searches whose graph is a real Neo4j: the same graph as in the embedded store, and no outcome lost or twice
when the server or the search is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_tools import Interrupt, counts, create, run, same, stored

from automc import knowledge
from automc.study import Listener, Study, outbox
from automc.study import stored as studies
from automc.study.trial import Trial
from kg.embedding.vectors import Vectors
from kg.store import server
from kg.store.copy import read_contents

pytestmark = pytest.mark.neo4j

AUTOMC = [sys.executable, "-c", "from automc.cli.main import main; main()"]
CLOCK = (
    "seconds",
    "cached",
    "started",
    "updated",
    "ended",
    "elapsed_seconds",
    "opening_seconds",
    "probe",
    "final",
    "claim",
)
"""Properties that differ from run to run."""
SOME, MANY = pytest.mark.timeout(900), [pytest.mark.slow, pytest.mark.timeout(3600)]
STORMS = [
    pytest.param([signal.SIGKILL] * 2, id="2", marks=SOME),
    # Stopped in good order, too: then it ends what it is doing.
    pytest.param([signal.SIGTERM, *[signal.SIGKILL] * 20, signal.SIGTERM], id="20", marks=MANY),
]


@pytest.fixture
def small_home(full_home: Path) -> Path:
    """A home with 50 searchable strategies of three quick methods, so that whole graphs are read in a moment."""
    (file,) = (full_home / "vectors").glob("*.safetensors")
    learned = Vectors.load(file)
    kept = [i for i, id in enumerate(learned.strategies) if id.startswith(("NS[", "SFP[", "LFB["))][::10]
    ids = tuple(learned.strategies[i] for i in kept)
    replace(learned, strategies=ids, entities=ids, entity_vectors=learned.vectors[kept]).save(file)
    with knowledge.graph() as store:
        store.write("MATCH (s:Strategy {searchable: true}) WHERE NOT s.id IN $kept DETACH DELETE s", {"kept": ids})
    return full_home


def contents() -> list[str]:
    """The whole graph but for clocks, in an order of its own."""
    with knowledge.graph() as store:
        found = read_contents(store)
    nodes = [(label, {k: v for k, v in properties.items() if k not in CLOCK}) for label, properties in found.nodes]
    return sorted(json.dumps(item, sort_keys=True) for item in (*nodes, *found.rels))


def on(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Move the graph of this home to a server, and use it from here on."""
    knowledge.copy(target=url)
    monkeypatch.setenv("AUTOMC_GRAPH", url)


def reference(home: Path, steps: int) -> tuple[list[dict[str, Any]], Counter[str], Any]:
    """What an undisturbed study on the embedded store comes to: trials, counts, contents. Its traces are removed."""
    study = create(home, f"{steps}steps", workers=1)
    found = same(run(study).trials), counts(), contents()
    studies.delete(study.spec.id)
    return found


@pytest.mark.slow
def test_a_search_leaves_the_same_graph_as_in_the_embedded_store(
    small_home: Path, real_neo4j: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = counts()
    rows, found, everything = reference(small_home, 9)
    # The cache would hide an execution.
    shutil.rmtree(small_home / "cache")
    on(real_neo4j, monkeypatch)
    study = create(small_home, "9steps", workers=1)
    with pytest.raises(KeyboardInterrupt):
        run(study, Interrupt(5))
    result = run(Study.open(study.spec.id))
    assert same(result.trials) == same(stored(study)) == rows
    assert counts() == found
    assert contents() == everything
    monkeypatch.setenv("AUTOMC_GRAPH", "")
    assert counts() == before
    monkeypatch.setenv("AUTOMC_GRAPH", real_neo4j)
    studies.delete(study.spec.id)
    assert counts() == before


class Storm(Listener):
    """Ends the server at random moments, and starts it again when the search has gone on for some trials."""

    def __init__(self, home: Path, blows: list[signal.Signals]) -> None:
        self.home = home
        self.blows = blows
        self.dealt: list[signal.Signals] = []
        self.random = random.Random(7)
        self.pause = 2
        self.blow: threading.Timer | None = None
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
        self.pause -= 1
        if self.pause:
            return
        if self.blow is not None:
            # It is down, or will be in a moment.
            self.blow.join()
            self.blow = None
            server.up(self.home, lambda text: None, docker=False)
        elif self.blows:
            self.blow = threading.Timer(self.random.uniform(0, 0.3), self.strike)
            self.blow.start()
        self.pause = self.random.randint(2, 3)

    def strike(self) -> None:
        found = server.find(self.home)
        assert found is not None
        os.kill(found.pid, self.blows[0])
        while found.running:
            time.sleep(0.01)
        self.dealt.append(self.blows.pop(0))


@pytest.mark.parametrize("blows", STORMS)
def test_a_search_survives_the_server(
    blows: list[signal.Signals], small_home: Path, own_neo4j: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_LONGEST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(outbox, "_FIRST_PAUSE_SECONDS", 0.1)
    steps = 6 * len(blows) + 3
    rows, found, everything = reference(own_neo4j, steps)
    shutil.rmtree(own_neo4j / "cache")
    on(server.up(own_neo4j, lambda text: None, port=0, docker=False).url, monkeypatch)
    study = create(own_neo4j, f"{steps}steps", workers=1)
    storm = Storm(own_neo4j, list(blows))
    result = run(study, storm)
    assert storm.dealt == blows
    assert any("The search goes on" in text for text in storm.said)
    assert same(result.trials) == same(stored(study)) == rows
    assert counts() == found
    assert contents() == everything
    assert not (own_neo4j / "studies" / study.spec.id / "outbox.jsonl").exists()


@pytest.mark.parametrize("kills", [pytest.param(2, marks=SOME), pytest.param(20, marks=MANY)])
def test_a_killed_search_loses_nothing_on_a_server(
    kills: int, small_home: Path, real_neo4j: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 5 * kills + 5
    rows, found, everything = reference(small_home, steps)
    shutil.rmtree(small_home / "cache")
    on(real_neo4j, monkeypatch)
    study, chance = create(small_home, f"{steps}steps", workers=1), random.Random(11)
    committed: list[dict[str, Any]] = []
    for _ in range(kills):
        process = subprocess.Popen(
            [*AUTOMC, "resume", study.spec.id], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("["):
                break
        # Somewhere in the next steps: while one is executed, or written.
        time.sleep(chance.uniform(0, 0.2))
        assert process.poll() is None, "".join(lines)
        process.kill()
        process.wait()
        now = same(stored(study), but=())
        assert len(now) > len(committed)
        assert all(row in now for row in committed)
        committed = now
    assert len(committed) < steps
    result = run(Study.open(study.spec.id))
    assert same(result.trials) == same(stored(study)) == rows
    assert all(row in same(result.trials, but=()) for row in committed)
    assert max(Counter(t.scheme for t in result.trials).values()) == 1
    assert counts() == found
    assert contents() == everything


@pytest.mark.slow
def test_four_machines_search_at_once_on_one_server(
    small_home: Path, real_neo4j: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Homes of their own, an empty server, all started together: a name for each, and each its own trials."""
    homes = [tmp_path / f"machine-{number}" for number in range(4)]
    started = []
    for home in homes:
        shutil.copytree(small_home, home)
        environment = {**os.environ, "AUTOMC_HOME": str(home), "AUTOMC_GRAPH": real_neo4j, "OMP_NUM_THREADS": "1"}
        words = ["search", str(home / "digits.am"), "--data", "digits", "--gamma", "0.04", "--budget", "3steps"]
        quick = ["--final", "none", "--unit-epochs", "0.2", "--workers", "1", "--recover", "none"]
        started.append(subprocess.Popen([*AUTOMC, *words, *quick], env=environment, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=3000)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 4, "\n".join(said)
    names = {f"digits-digits-{number}" for number in range(1, 5)}
    assert {folder.name for home in homes for folder in (home / "studies").iterdir()} == names
    monkeypatch.setenv("AUTOMC_GRAPH", real_neo4j)
    with knowledge.graph() as store:
        found = store.read(
            "MATCH (t:Trial)-[:IN_STUDY]->(s:Study) RETURN s.id AS id, count(t) AS n, s.status AS status"
        )
        assert set(found.rows) == {(name, 3, "done") for name in names}
        assert store.read("MATCH (s:Strategy) RETURN count(s) AS n").rows[0][0] > 4000
