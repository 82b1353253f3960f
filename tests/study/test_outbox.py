"""Outcomes of a study while the graph is away: none lost, none twice, and the search goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

import pytest
from inline import Inline
from study_tools import counts, create, run, same, stored

from automc.errors import EnvironmentFault
from automc.study import Listener, Study, outbox
from automc.study import stored as studies
from automc.study.loop import Loop
from automc.study.outbox import Entry, Outbox
from automc.study.trial import Trial
from kg.errors import GraphUnavailable, NotInGraph
from kg.store import lock


class Graph:
    """Takes numbers while it is there."""

    def __init__(self) -> None:
        self.there = True
        self.taken: list[int] = []
        self.asked = 0

    def write(self, outcomes: Sequence[Entry]) -> None:
        self.asked += 1
        if not self.there:
            raise GraphUnavailable("No graph answers.")
        self.taken += [outcome["n"] for outcome in outcomes]


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.jsonl"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(outbox, "_FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.02)


def waiting(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()] if path.exists() else []


def test_what_the_graph_takes_leaves_no_file(graph: Graph, path: Path) -> None:
    box = Outbox(path, graph.write, pytest.fail)
    for n in range(3):
        box.deliver({"n": n})
    box.replay()
    box.settle()
    assert graph.taken == [0, 1, 2]
    assert not path.exists()


def test_what_waits_is_on_the_disk_and_arrives_in_order_and_once(graph: Graph, path: Path, quick: None) -> None:
    said: list[str] = []
    box = Outbox(path, graph.write, said.append)
    box.deliver({"n": 0})
    graph.there = False
    for n in range(1, 5):
        box.deliver({"n": n})
        assert waiting(path) == list(range(1, n + 1))
    assert len(said) == 1
    assert "No graph answers." in said[0]
    assert str(path) in said[0]
    assert len(box) == 4
    graph.there = True
    box.deliver({"n": 5})
    assert graph.taken == [0, 1, 2, 3, 4, 5]
    assert (len(box), path.exists()) == (0, False)
    assert said[1:] == ["The graph is back: 5 waiting outcomes were written to it."]


def test_a_graph_that_is_away_is_asked_ever_more_seldom(graph: Graph, path: Path) -> None:
    graph.there = False
    box = Outbox(path, graph.write, lambda text: None)
    for n in range(50):
        box.deliver({"n": n})
        box.replay()
    assert graph.asked == 1


def test_the_next_process_takes_up_what_waits(graph: Graph, path: Path) -> None:
    graph.there = False
    box = Outbox(path, graph.write, lambda text: None)
    for n in range(3):
        box.deliver({"n": n})
    # Killed while it wrote the fourth.
    with path.open("a") as file:
        file.write('{"n": 3')
    graph.there = True
    again = Outbox(path, graph.write, lambda text: None)
    assert len(again) == 3
    assert waiting(path) == [0, 1, 2]
    again.settle()
    assert graph.taken == [0, 1, 2]
    assert not path.exists()
    path.write_text('{"n": 0')
    assert len(Outbox(path, graph.write, pytest.fail)) == 0


def test_a_graph_that_goes_away_in_the_middle_keeps_what_it_took(
    graph: Graph, path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PAGE", 1)

    class Leaves(Graph):
        def write(self, outcomes: Sequence[Entry]) -> None:
            super().write(outcomes)
            self.there = len(self.taken) % 2 > 0

    leaves = Leaves()
    leaves.there = False
    box = Outbox(path, leaves.write, lambda text: None)
    for n in range(5):
        box.deliver({"n": n})
    leaves.there = True
    box.replay()
    assert leaves.taken == [0, 1]
    assert waiting(path) == [2, 3, 4]


def test_it_is_full_at_a_thousand(graph: Graph, path: Path) -> None:
    said: list[str] = []
    graph.there = False
    box = Outbox(path, graph.write, said.append)
    for n in range(1000):
        assert not box.full
        box.deliver({"n": n})
    assert box.full
    assert said[1:] == ["1,000 outcomes wait for the graph: the study pauses until it is back."]
    assert len(waiting(path)) == 1000


def test_patience_ends_and_nothing_is_lost(
    graph: Graph, path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PATIENCE_SECONDS", 0.1)
    said: list[str] = []
    graph.there = False
    box = Outbox(path, graph.write, said.append)
    box.deliver({"n": 0})
    with pytest.raises(GraphUnavailable, match="No graph answers"):
        box.settle()
    assert "Waiting for it" in said[-1]
    assert waiting(path) == [0]


def test_another_fault_is_not_waited_for(path: Path) -> None:
    def write(outcome: Entry) -> None:
        raise NotInGraph("There is no study.")

    with pytest.raises(NotInGraph, match="There is no study"):
        Outbox(path, write, pytest.fail).deliver({"n": 0})


def test_a_file_that_cannot_be_used_is_said(graph: Graph, path: Path, tmp_path: Path) -> None:
    path.write_text('{"n": 0}\nnonsense\n')
    with pytest.raises(EnvironmentFault, match=r"outbox\.jsonl is damaged"):
        Outbox(path, graph.write, pytest.fail)
    graph.there = False
    nowhere = Outbox(tmp_path / "no" / "folder" / "outbox.jsonl", graph.write, lambda text: None)
    with pytest.raises(EnvironmentFault, match=r"The graph is away, and .* cannot be written"):
        nowhere.deliver({"n": 0})


class Away(Listener):
    """Takes the graph away after some trials, as another process does that holds it, and gives it back later."""

    def __init__(self, home: Path, away: int, back: int, then: Callable[[], Any] = lambda: None) -> None:
        self.home, self.away, self.back, self.then = home, away, back, then
        self.trials = 0
        self.said: list[str] = []
        self.held: IO[str] | None = None

    def say(self, text: str) -> None:
        self.said.append(text)

    def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
        self.trials += 1
        if self.trials == self.away:
            self.held = lock.acquire(self.home / "graph.lock")
        if self.trials == self.back:
            self.then()
            self.give_back()

    def give_back(self) -> None:
        if self.held is not None:
            lock.release(self.held)


def undisturbed(home: Path, steps: int) -> tuple[list[dict[str, Any]], Any]:
    """What a study comes to when nothing goes wrong, and the graph's counts after it; its traces are removed."""
    study = create(home, f"{steps}steps", workers=1)
    rows, found = same(run(study).trials), counts()
    studies.delete(study.spec.id)
    return rows, found


def test_a_search_goes_on_while_the_graph_is_away(full_home: Path, quick: None) -> None:
    rows, found = undisturbed(full_home, 8)
    study = create(full_home, "8steps", workers=1)
    file = full_home / "studies" / study.spec.id / "outbox.jsonl"
    waited: list[int] = []
    away = Away(full_home, 2, 6, lambda: waited.append(len(file.read_text().splitlines())))
    result = run(study, away)
    assert waited == [4]
    assert same(result.trials) == same(stored(study)) == rows
    assert counts() == found
    assert not file.exists()
    (gone,) = (text for text in away.said if "The search goes on" in text)
    assert "is open in another process" in gone
    assert any("The graph is back: 4 waiting outcomes" in text for text in away.said)


@pytest.mark.slow
def test_stopped_while_the_graph_is_away_it_is_delivered_on_resuming(
    full_home: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, found = undisturbed(full_home, 6)
    study = create(full_home, "6steps", workers=1)

    class Pressed(Away):
        def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
            super().trial(trial, spent_steps, spent_seconds)
            if self.trials == 4:
                raise KeyboardInterrupt

    pressed = Pressed(full_home, 1, 99)
    with pytest.raises(KeyboardInterrupt):
        run(study, pressed)
    assert f"3 outcomes wait for the graph in {full_home / 'studies' / study.spec.id}" in pressed.said[-1]
    assert f"automc resume {study.spec.id}" in pressed.said[-1]
    pressed.give_back()
    assert len(stored(study)) == 1
    workers: list[Inline] = []
    result = run(Study.open(study.spec.id), workers=workers)
    # What waited was not executed again.
    assert len(workers[0].executed) == 2
    assert same(result.trials) == same(stored(study)) == rows
    assert counts() == found


@pytest.mark.slow
def test_a_full_outbox_pauses_the_study(full_home: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, found = undisturbed(full_home, 7)
    monkeypatch.setattr(outbox, "LIMIT", 3)
    monkeypatch.setattr("automc.study.loop._PAUSE_SECONDS", 0.05)
    study = create(full_home, "7steps", workers=1)
    away = Away(full_home, 1, 99)
    pauses: list[int] = []
    rest = Loop._pause

    def pause(loop: Loop) -> None:
        pauses.append(away.trials)
        if len(pauses) == 3:
            away.give_back()
        rest(loop)

    monkeypatch.setattr(Loop, "_pause", pause)
    result = run(study, away)
    # One trial in the graph, three that wait; nothing is executed until they have arrived.
    assert pauses == [4, 4, 4]
    assert any("3 outcomes wait for the graph: the study pauses" in text for text in away.said)
    assert same(result.trials) == same(stored(study)) == rows
    assert counts() == found


class Busy:
    """Holds the graph when told to, and gives it back after some looks of whoever waits for it."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = home / "graph.lock"
        self.held: IO[str] | None = None
        self.looks = 0
        self._sleep = lock.time.sleep
        monkeypatch.setattr(lock.time, "sleep", self._look)

    def hold(self) -> None:
        self.held, self.looks = lock.acquire(self.path), 0

    def _look(self, seconds: float) -> None:
        self.looks += self.held is not None
        # Many times the patience of a single command.
        if self.held is not None and self.looks == 10:
            lock.release(self.held)
            self.held = None
        self._sleep(seconds)


@pytest.mark.slow
def test_a_busy_graph_never_ends_a_search(full_home: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held by others where a study starts, where it ends, and where it is resumed, each time longer than patience."""
    busy = Busy(full_home, monkeypatch)
    busy.hold()
    study = create(full_home, "3steps", workers=1)
    assert busy.held is None

    class Last(Listener):
        said: ClassVar[list[str]] = []

        def say(self, text: str) -> None:
            self.said.append(text)

        def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
            if spent_steps == 2:
                busy.hold()

    result = run(study, Last())
    assert busy.held is None
    assert any("The search goes on" in text for text in Last.said)
    assert same(result.trials) == same(stored(study))
    assert studies.load_record(study.spec.id)["status"] in ("done", "unmet")
    busy.hold()
    again = run(Study.open(study.spec.id))
    assert busy.held is None
    assert same(again.trials) == same(result.trials)


def test_a_stop_that_the_graph_cannot_take_waits_with_the_outcomes(full_home: Path, quick: None) -> None:
    study = create(full_home, "4steps", workers=1)

    class Pressed(Away):
        def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
            super().trial(trial, spent_steps, spent_seconds)
            if self.trials == 2:
                raise KeyboardInterrupt

    pressed = Pressed(full_home, 1, 99)
    with pytest.raises(KeyboardInterrupt):
        run(study, pressed)
    assert "1 outcomes wait for the graph" in pressed.said[-1]
    pressed.give_back()
    assert studies.load_record(study.spec.id)["status"] == "running"
    box = outbox.open_outbox(study.spec, study.subject, pressed.say)
    assert len(box) == 1
    box.settle()
    record = studies.load_record(study.spec.id)
    assert record["status"] == "interrupted"
    assert record["elapsed_seconds"] > 0
    assert len(stored(study)) == 2
