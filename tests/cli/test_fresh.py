"""A graph that is in step with its files is not compared with them again."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from automc import knowledge
from automc.knowledge import curation
from automc.knowledge import upkeep as of_home
from kg.resources import vectors_dir
from kg.sync import sync

CARD = """\
format: 1
method: OTHER
title: Another method
citation: A. Author, 2020
url: https://example.org
techniques:
  - {id: TE3, title: fine tune}
"""


@pytest.mark.usefixtures("small_cards")
def test_a_sync_that_has_nothing_to_do_is_skipped_and_a_change_is_not(
    automc_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    files = of_home.knowledge_files()
    for module in (of_home, curation):
        monkeypatch.setattr(module, "knowledge_files", lambda: files)
    monkeypatch.setattr("kg.sync.sync", lambda *all: looked.append(1) or sync(*all))

    def prepared(full: bool = False) -> int:
        looked.clear()
        knowledge.prepare(full=full)
        return len(looked)

    assert [prepared(), prepared(), prepared(full=True), prepared()] == [1, 0, 1, 0]
    # A file that says something else; a document that is added, and a method that is retired: each notes its own sync.
    card = automc_home / "other.yaml"
    card.write_text(CARD)
    files.append(card)
    assert [prepared(), prepared()] == [1, 0]
    files.remove(card)
    assert [prepared(), prepared()] == [1, 0]
    curation.add_method(card)
    assert prepared() == 0
    curation.retire_method("NS", "a test")
    assert prepared() == 0
    # What is written by hand may be anything.
    knowledge.query("MATCH (m:Method {id: 'SFP'}) SET m.title = 'x'", write=True)
    assert [prepared(), prepared()] == [1, 0]
    assert knowledge.query("MATCH (m:Method {id: 'SFP'}) RETURN m.title = 'x' AS wrong").rows == [(False,)]


def test_a_new_home_learns_nothing_that_came_with_the_package(
    prepared_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOMC_HOME", str(prepared_home))
    monkeypatch.delenv("AUTOMC_GRAPH", raising=False)
    (shipped,) = vectors_dir().glob("*.safetensors")
    assert [path.name for path in (prepared_home / "vectors").glob("*.safetensors")] == [shipped.name]
    # Whoever imports TransR's module, or teaches NN_exp, fails now.
    monkeypatch.setitem(sys.modules, "kg.embedding.transr", None)
    monkeypatch.setattr("kg.embedding.learn.learn", None)
    said: list[str] = []
    found = knowledge.vectors(say=said.append)
    assert found.id == shipped.stem == knowledge.status()["embedding_run"]["id"]
    assert re.search(r"is used. It rests on 521 published results, \d+ steps that AutoMC measured", said[0])
