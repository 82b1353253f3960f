"""Names and hints of queries, what writes count, and saved queries as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg.cypher import hints, names, nearest, packaged_queries, read_query, saved_queries, saved_query
from kg.errors import QueryInvalid
from kg.store import GraphStore

# Names in the text of a query, and hints.


@pytest.mark.parametrize(
    ("query", "labels", "types", "properties"),
    [
        ("MATCH (m:Method {id: $m}) RETURN m.title AS t, m.url", "Method", "", "id title url"),
        ("MATCH (a:A|B)-[r:X|Y*1..3 {p: 1}]->(:C&!D) WHERE a.q > 1.5 RETURN r", "A B C D", "X Y", "p q"),
        ("MATCH (a)<-[:R]-(b) WHERE a:Odd AND b.x IS NULL RETURN count(b)", "Odd", "R", "x"),
        ("UNWIND $rows AS row MATCH (n:N {id: row.key}) RETURN row.other, n {.a, .b, c: row.d}", "N", "", "id a b"),
        ("MATCH (n) WHERE EXISTS { MATCH (n)-[:T]->(:L) } RETURN {key: n.v, m: 'n.text :No'}", "L", "T", "v"),
        ("MATCH (n:N) RETURN date.truncate('day', n.at), apoc.a.b(n.x)", "N", "", "at x"),
        ("MATCH (n:N) // n.comment :Comment\nRETURN [(n)-->(x:X) | x.y], n.list[0..2]", "N X", "", "y list"),
        ("MATCH p = shortestPath((a:A)-[:E*..5]->(b:B)) RETURN length(p), `n.q`", "A B", "E", ""),
        ("CALL (row) { MATCH (n) RETURN n.z AS z } RETURN row.nothing", "", "", "z"),
        ("CREATE (:New {p: 1}) SET missing.x = 1", "New", "", "p"),
    ],
)
def test_names_are_read_from_the_text(query: str, labels: str, types: str, properties: str) -> None:
    found = names(query)
    assert " ".join(found.labels) == labels
    assert " ".join(found.types) == types
    assert set(found.properties) == set(properties.split())


def test_what_occurs_nowhere_is_pointed_out(graph: GraphStore) -> None:
    graph.upsert_nodes("Method", [{"id": "NS", "title": "slim"}])
    graph.upsert_nodes("Technique", [{"id": "TE3"}])
    graph.upsert_rels("USES_TECHNIQUE", "Method", "Technique", [{"from": "NS", "to": "TE3", "ordinal": 0}])
    right = "MATCH (m:Method {id: 'NS'})-[r:USES_TECHNIQUE {ordinal: 0}]->(t:Technique) RETURN m.title AS t"
    assert hints(graph, right) == []
    assert graph.read(right).rows == [("slim",)]
    wrong = "MATCH (m:Methd)-[r:USE_TECHNIQUE {ordnal: 0}]->(t:Technique) RETURN m.titel AS t, t.zzz AS z"
    assert graph.read(wrong).rows == []
    assert hints(graph, wrong) == [
        "No node has the label Methd. Did you mean Method?",
        "No relationship has the type USE_TECHNIQUE. Did you mean USES_TECHNIQUE?",
        "No node or relationship has ordnal. Did you mean ordinal?",
        "No node or relationship has titel. Did you mean title?",
        "No node or relationship has zzz.",
    ]
    assert nearest("METHOD", ["Method", "Task"]) == "Method"
    assert nearest("quite else", ["Method"]) is None


def test_counters_of_writes(graph: GraphStore) -> None:
    done = graph.write("CREATE (:Method {id: 'A', title: 'a'})-[:USES_TECHNIQUE]->(:Technique {id: 'T'})")
    counted = {"nodes_created": 2, "relationships_created": 1, "properties_set": 3}
    assert dict(done.counters) == counted
    assert dict(graph.read("MATCH (n) RETURN n.id AS id").counters) == {}
    # Of a DETACH DELETE the engines count the nodes differently.
    assert dict(graph.write("MATCH (:Method)-[r]->() DELETE r").counters) == {"relationships_deleted": 1}
    assert dict(graph.write("MATCH (t:Technique) DELETE t").counters) == {"nodes_deleted": 1}


# Saved queries as files.


def test_saved_queries_are_found_by_name(tmp_path: Path) -> None:
    own = tmp_path / "mine.cypher"
    own.write_text("// What is mine\n// param a = [1, 2]\nRETURN $a AS a;\n")
    mine = saved_query("mine", [packaged_queries(), tmp_path])
    assert (mine.title, dict(mine.params)) == ("What is mine", {"a": [1, 2]})
    assert mine.text.endswith("RETURN $a AS a")
    (tmp_path / "front.cypher").write_text("RETURN 1 AS one")
    assert saved_queries([packaged_queries(), tmp_path])["front"].text == "RETURN 1 AS one"
    with pytest.raises(QueryInvalid, match="Did you mean low-rank-first"):
        saved_query("low-rank", [packaged_queries()])
    with pytest.raises(QueryInvalid, match="There is no saved query"):
        saved_query("../queries/front", [packaged_queries()])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("RETURN 1; RETURN 2", "2 statements"),
        ("// nothing\n", "no statement"),
        ("// param a = x\nRETURN $a", "not JSON"),
    ],
)
def test_a_file_that_is_no_query_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "odd.cypher"
    path.write_text(text)
    with pytest.raises(QueryInvalid, match=said):
        read_query(path)
