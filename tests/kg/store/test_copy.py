"""A whole graph between stores: exact, complete, all or nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kg.cards import read_cards
from kg.errors import GraphUnavailable, MigrationInvalid, NotInGraph, QueryInvalid, SchemaInvalid
from kg.experience import read_experience
from kg.resources import migrations_dir
from kg.store import GraphStore, connect, embedded
from kg.store import copy as copying
from kg.store.copy import Contents, copy, read_contents
from kg.store.migrate import migrate
from kg.store.script import literal, run_script, script
from kg.store.text import statements
from kg.sync import sync

EXACT: dict[str, Any] = {
    "id": "ä→日本 'quoted' \"twice\" \\ \n;",
    "third": 1 / 3,
    "tiny": 5e-324,
    "huge": 1.7976931348623157e308,
    "minus_zero": -0.0,
    "whole": 3.0,
    "integer": 3,
    "largest": 2**63 - 1,
    "smallest": -(2**63),
    "yes": True,
    "text": "3",
    "vector": [0.1, math.nextafter(0.1, 1.0), -1e-310],
    "names": ["b", "a"],
}


def fill(store: GraphStore, rows: list[int]) -> None:
    """A small graph with whatever is hard to carry, written in the order of `rows`."""
    migrate(store, migrations_dir())
    store.upsert_nodes("Strategy", [EXACT])
    store.upsert_nodes("Strategy", [{"id": str(i), "searchable": i % 2 == 0} for i in rows])
    store.upsert_nodes("Method", [{"id": str(i)} for i in rows])
    store.upsert_nodes("Study", [{"id": "s-1", "elapsed_seconds": 0.1}])
    links = [{"from": EXACT["id"], "to": str(i), "key": {"position": i}, "weight": i / 7} for i in rows]
    # Several of one type between the same two nodes, and one from a node to itself.
    store.upsert_rels(
        "STEP", "Strategy", "Strategy", [*links, {"from": EXACT["id"], "to": "1", "key": {"position": 99}}]
    )
    store.upsert_rels("OF_METHOD", "Strategy", "Method", [{"from": str(i), "to": str(i)} for i in rows])
    store.upsert_rels("EXTENDS", "Study", "Study", [{"from": "s-1", "to": "s-1"}])
    for i in rows:
        store.write("CREATE (:`my own` {id: $id})-[:`is of` {note: 'n'}]->(:Other {id: $id})", {"id": str(i)})
    store.write("MATCH (m:Migration) SET m.applied_at = 'then'")


@pytest.fixture
def source(tmp_path: Path) -> Iterator[GraphStore]:
    with embedded(tmp_path / "source") as graph:
        fill(graph, [3, 1, 2])
        yield graph


def test_there_and_back(source: GraphStore, store: GraphStore, tmp_path: Path) -> None:
    wanted = read_contents(source)
    assert len(wanted.nodes) == 1 + 3 + 3 + 1 + 6 + wanted.counts["Migration"]
    assert len(wanted.rels) == 4 + 3 + 1 + 3
    assert copy(source, store, migrations_dir()).digest == wanted.digest
    there = read_contents(store)
    assert (there.digest, there.counts) == (wanted.digest, wanted.counts)
    back = store.read("MATCH (s:Strategy {id: $id}) RETURN properties(s) AS p", {"id": EXACT["id"]}).rows[0][0]
    assert back == EXACT
    assert {name: type(value) for name, value in back.items()} == {n: type(v) for n, v in EXACT.items()}
    assert math.copysign(1, back["minus_zero"]) == -1
    with embedded(tmp_path / "third") as third:
        assert copy(store, third, migrations_dir()).digest == wanted.digest
    with embedded(tmp_path / "third") as third:
        assert read_contents(third).digest == wanted.digest


def test_the_digest_knows_values_not_order(source: GraphStore, tmp_path: Path) -> None:
    with embedded(tmp_path / "other") as other:
        fill(other, [1, 2, 3])
        assert read_contents(other).digest == read_contents(source).digest
        digests = {read_contents(other).digest}
        for change in (
            "MATCH (s:Strategy {id: $id}) SET s.third = $next",
            "MATCH (s:Strategy {id: $id}) SET s.integer = 3.0",
            "MATCH (:Strategy {id: $id})-[r:STEP {position: 2}]->() SET r.weight = $next",
            "MATCH (s:Strategy {id: $id}) REMOVE s.yes",
            "MATCH (:Study)-[r:EXTENDS]->() DELETE r",
            "CREATE (:Method {id: 'one more'})",
        ):
            other.write(change, {"id": EXACT["id"], "next": math.nextafter(1 / 3, 1.0)})
            digests.add(read_contents(other).digest)
        assert len(digests) == 7


def test_pages_hold_what_one_answer_would(store: GraphStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, [3, 1, 2, 5, 4])
    whole = read_contents(store)
    nodes = store.read("MATCH (n) RETURN labels(n)[0] AS label, properties(n) AS p").rows
    rels = store.read(
        "MATCH (a)-[r]->(b) RETURN type(r), labels(a)[0], a.id, labels(b)[0], b.id, properties(r) AS p"
    ).rows
    assert Contents(tuple(nodes), tuple(rels)).digest == whole.digest
    monkeypatch.setattr(copying, "BATCH", 2)
    assert read_contents(store).digest == whole.digest

    def late(label: str, found: dict[str, list[str]]) -> dict[str, list[str]]:
        return {**found, label: found[label][1:]}

    # A node that another process adds after the first look is left out, with its relationships.
    before = copying._ids(store)
    monkeypatch.setattr(copying, "_ids", lambda _: late("Method", before))
    part = read_contents(store)
    gone = ("Method", before["Method"][0])
    assert {(label, p["id"]) for label, p in whole.nodes} - {(label, p["id"]) for label, p in part.nodes} == {gone}
    assert [rel for rel in whole.rels if rel not in part.rels] == [rel for rel in whole.rels if rel[3:5] == gone]
    assert len(part.rels) == len(whole.rels) - 1


@pytest.mark.parametrize("store", ["embedded", pytest.param("neo4j", marks=pytest.mark.neo4j)], indirect=True)
def test_it_replaces_what_can_be_rebuilt_and_asks_before_anything_else(
    source: GraphStore, store: GraphStore, tmp_path: Path
) -> None:
    # A target that `kg init` has filled loses nothing.
    migrate(store, migrations_dir())
    store.upsert_nodes("Method", [{"id": "1", "title": "another"}, {"id": "gone"}])
    copy(source, store, migrations_dir())
    assert read_contents(store).digest == read_contents(source).digest
    with embedded(tmp_path / "small") as small:
        migrate(small, migrations_dir())
        small.upsert_nodes("Method", [{"id": "only"}])
        with pytest.raises(SchemaInvalid, match=r"3 Other, 1 Study, 3 my own.*--replace"):
            copy(small, store, migrations_dir())
        assert read_contents(store).digest == read_contents(source).digest
        copy(small, store, migrations_dir(), replace=True)
        assert read_contents(store).digest == read_contents(small).digest
        assert store.read("MATCH (s:Study) RETURN s.id AS id").rows == []


def test_a_copy_that_comes_out_different_is_not_kept(
    source: GraphStore, store: GraphStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(store, migrations_dir())
    store.upsert_nodes("Method", [{"id": "mine"}])
    before = read_contents(store).digest
    write = copying._write_rels
    monkeypatch.setattr(copying, "_write_rels", lambda target, rels: write(target, rels[1:]))
    with pytest.raises(GraphUnavailable, match=r"other counts of .*Nothing was changed"):
        copy(source, store, migrations_dir())
    assert read_contents(store).digest == before
    monkeypatch.setattr(copying, "_write_rels", lambda target, rels: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        copy(source, store, migrations_dir())
    assert read_contents(store).digest == before


def test_what_cannot_be_copied_is_said(source: GraphStore, tmp_path: Path) -> None:
    with embedded(tmp_path / "target") as target, embedded(tmp_path / "empty") as empty:
        with pytest.raises(SchemaInvalid, match="Both sides"):
            copy(source, source, migrations_dir())
        with pytest.raises(NotInGraph, match="is empty"):
            copy(empty, target, migrations_dir())
        empty.upsert_nodes("Method", [{"id": "old"}])
        with pytest.raises(MigrationInvalid, match="lacks V0001"):
            copy(empty, target, migrations_dir())
        for odd in ("CREATE (:Loose {name: 'no id'})", "CREATE (:Loose {id: 7})", "CREATE (:Loose {id: 'twice'})"):
            source.write(odd)
            if "twice" in odd:
                copy(source, target, migrations_dir(), replace=True)
                source.write(odd)
            with pytest.raises(SchemaInvalid, match=r"Loose.*cannot be copied"):
                copy(source, target, migrations_dir(), replace=True)
            source.write("MATCH (n:Loose) DELETE n")


ODD = {
    "id": "odd",
    "inf": math.inf,
    "less": -math.inf,
    "exact": [0.1 * i for i in range(20)] + [5e-324, -0.0],
    "not exact": [math.inf] * 20,
    "no": [],
    "u": "\\u0027 \\' ' \\\\",
    "`": "`;// /* \t\r\n\x00\u2028😀",
    "match": "MATCH (n) DETACH DELETE n;",
}


def test_a_script_rebuilds_the_graph(source: GraphStore, store: GraphStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kg.store.script.ROWS", 2)
    source.write("CREATE (n:Study) SET n = $odd", {"odd": ODD})
    wanted = read_contents(source)
    lines = list(script([wanted], migrations_dir()))
    # What a person's client reads: one text.
    parts = statements("\n".join(lines))
    assert len(parts) == len(lines)
    kinds = ["constraint" if "CONSTRAINT" in p else "relationship" if "MERGE (a)" in p else "node" for p in parts]
    assert kinds == sorted(kinds, key=["constraint", "node", "relationship"].index)
    changed = run_script(store, parts, None).counters
    assert changed["nodes_created"] == len(wanted.nodes)
    assert changed["relationships_created"] == len(wanted.rels)
    for _ in range(2):
        found = read_contents(store)
        assert (found.digest, found.counts) == (wanted.digest, wanted.counts)
        assert not run_script(store, parts, None).counters.get("nodes_created")
    assert store.read("MATCH (n:Study {id: 'odd'}) RETURN properties(n) AS p").rows == [(ODD,)]
    with pytest.raises(QueryInvalid, match="uniqueness"):
        store.write("CREATE (:Study {id: 'odd'})")


def test_a_script_is_done_whole_or_not_at_all(store: GraphStore) -> None:
    broken = [
        "CREATE (:Method {id: 'a'})",
        "CREATE CONSTRAINT x IF NOT EXISTS FOR (n:X) REQUIRE n.id IS UNIQUE",
        "CRATE",
    ]
    with pytest.raises(QueryInvalid, match="CRATE"):
        run_script(store, broken, None)
    assert read_contents(store).nodes == ()


def test_literals() -> None:
    assert literal({"a": [True, None, 1, -0.0, 1e22, "'"]}) == "{`a`: [true, null, 1, -0.0, 1e+22, '\\'']}"
    assert literal([0.5] * 8) == f"[x IN split('{' '.join(['0.5'] * 8)}', ' ') | toFloat(x)]"
    assert literal([math.nan, math.inf]) == "[0.0 / 0.0, 1.0 / 0.0]"


@pytest.mark.neo4j
@pytest.mark.slow
def test_the_whole_graph_there_and_back(real_neo4j: str, tmp_path: Path) -> None:
    with embedded(tmp_path / "here") as here, connect(tmp_path, real_neo4j) as there:
        migrate(here, migrations_dir())
        experience, papers = read_experience()
        sync(here, read_cards(), experience, papers)
        rows = here.read("MATCH (s:Strategy {searchable: true}) RETURN s.id AS id").column("id")
        vectors = [{"id": id, "embedding": [math.sin(i + j / 32) for j in range(32)]} for i, id in enumerate(rows)]
        here.upsert_nodes("Strategy", vectors)
        wanted = copy(here, there, migrations_dir())
        assert wanted.counts["HAS_SETTING"] > 24_000
        assert not sync(there, read_cards(), experience, papers).changed
        with embedded(tmp_path / "back") as back:
            assert copy(there, back, migrations_dir()).digest == wanted.digest


@pytest.mark.neo4j
@pytest.mark.slow
def test_a_script_of_the_whole_graph(real_neo4j: str, tmp_path: Path) -> None:
    with embedded(tmp_path / "here") as here, connect(tmp_path, real_neo4j) as there:
        migrate(here, migrations_dir())
        sync(here, read_cards(), *read_experience())
        wanted = read_contents(here)
        run_script(there, statements("\n".join(script([wanted], migrations_dir()))), None)
        assert read_contents(there).digest == wanted.digest


def test_a_list_that_not_every_engine_keeps_is_named_with_the_way_out(store: GraphStore, tmp_path: Path) -> None:
    with embedded(tmp_path / "mixed") as mixed:
        migrate(mixed, migrations_dir())
        mixed.write("CREATE (:Method {id: 'a'})-[:USES_TECHNIQUE]->(:Technique {id: 't', list: [1, 2.5]})")
        with pytest.raises(SchemaInvalid, match=r"\(Technique t\) cannot be copied: its list is a list of several"):
            copy(mixed, store, migrations_dir())
        mixed.write("MATCH (n:Technique {id: 't'}) SET n.list = [x IN n.list | toFloat(x)]")
        mixed.write("MATCH ()-[n:USES_TECHNIQUE]->() SET n.list = ['a', 1]")
        with pytest.raises(SchemaInvalid, match=r"\(Method a\)-\[:USES_TECHNIQUE\]->\(Technique t\) .* toString\(x\)"):
            copy(mixed, store, migrations_dir())
        assert store.read("MATCH (n:Technique) RETURN count(n) AS n").rows == [(0,)]
        mixed.write("MATCH ()-[n:USES_TECHNIQUE]->() SET n.list = [x IN n.list | toString(x)]")
        copy(mixed, store, migrations_dir())
        assert store.read("MATCH ()-[n:USES_TECHNIQUE]->() RETURN n.list AS list").rows == [(["a", "1"],)]
