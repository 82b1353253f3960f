"""Where engines differ by themselves, both stores give one answer, or refuse alike."""

from __future__ import annotations

from typing import Any

import pytest

from kg.errors import QueryInvalid
from kg.store import Changes, GraphStore


def count(store: GraphStore) -> int:
    return int(store.read("MATCH (n) WHERE NOT n:Migration RETURN count(n) AS n").rows[0][0])


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("MERGE (m:Method {id: $id})", {"id": None}),
        ("MERGE (m:Method {id: null})", {}),
        ("MERGE (m:Method {id: $row.id}) SET m.title = 'x'", {"row": {"title": "x"}}),
        ("UNWIND $rows AS row MERGE (m:Method {id: row.id})", {"rows": [{"id": "a"}, {"name": "b"}]}),
        ("UNWIND $rows AS row MERGE (m:Method {id: row.id})", {"rows": [{"id": "a"}, {"id": None}]}),
        ("UNWIND $rows AS row MERGE (:Method {id: 'y'}) MERGE (m:Mine {name: row.key.name})", {"rows": [{}]}),
        ("MATCH (x:Method {id: 'x'}) MERGE (m:Method {id: x.nothing}) ON CREATE SET m.n = 1", {}),
        ("MATCH (x:Method {id: 'x'}) MERGE (x)-[r:STEP {position: $p}]->(x)", {"p": None}),
        ("UNWIND $rows AS row MATCH (x:Method {id: row.x}) MERGE (m:Method {id: row.id})", {"rows": [{"x": "x"}]}),
        (
            "UNWIND $rows AS row MERGE (a:Method {id: row.a}) SET a.n = 1 MERGE (b:Paper {id: row.b})",
            {"rows": [{"a": "z"}]},
        ),
        ("/* MERGE (a) */ WITH 'MERGE' AS text MERGE (m:Method {id: $id, title: text})", {"id": None}),
    ],
)
def test_a_merge_on_null_is_refused(graph: GraphStore, store_kind: str, query: str, params: dict[str, Any]) -> None:
    graph.upsert_nodes("Method", [{"id": "x"}])
    with pytest.raises(QueryInvalid, match="null"):
        graph.write(query, params)
    assert count(graph) == 1
    # In a transaction as well, which goes as a whole; there ArcadeDB over Bolt is not asked beforehand.
    if store_kind != "bolt":
        with pytest.raises(QueryInvalid, match=r"null|none of it"), graph.transaction():
            graph.write(query, params)
    assert count(graph) == 1


@pytest.mark.parametrize(
    ("query", "params", "made"),
    [
        (
            "UNWIND $rows AS row WITH row WHERE row.id IS NOT NULL MERGE (m:Method {id: row.id})",
            {"rows": [{"id": "a"}, {}]},
            1,
        ),
        (
            "UNWIND $rows AS row MATCH (x:Method {id: row.x}) MERGE (m:Method {id: row.id})",
            {"rows": [{"x": "nobody"}]},
            0,
        ),
        ("MATCH (x:Method) WHERE x.id STARTS WITH 'nobody' MERGE (m:Method {id: $id})", {"id": None}, 0),
        ("MERGE (m:Method {id: coalesce($id, 'b')})", {"id": None}, 1),
        ("CREATE (m:Mine {id: $id, set: 1})", {"id": None}, 1),
        ("MERGE (m:Mine {id: 5})", {}, 1),
    ],
)
def test_what_is_sure_to_be_well_is_let_through(
    graph: GraphStore, query: str, params: dict[str, Any], made: int
) -> None:
    graph.upsert_nodes("Method", [{"id": "x"}])
    graph.write(query, params)
    assert count(graph) == 1 + made


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("CREATE (m:Method {id: 5})", {}),
        ("MERGE (m:Method {id: $id})", {"id": 5}),
        ("UNWIND $rows AS row CREATE (m:Method:Mine {id: row.id})", {"rows": [{"id": "a"}, {"id": 1.5}]}),
    ],
)
def test_an_id_that_is_no_text_is_refused(graph: GraphStore, query: str, params: dict[str, Any]) -> None:
    with pytest.raises(QueryInvalid, match="must be"):
        graph.write(query, params)
    with pytest.raises(QueryInvalid, match="must be text"):
        graph.upsert_nodes("Method", [{"id": 5}])
    assert count(graph) == 0
    graph.write("CREATE (m:Method {id: '5'})")
    assert graph.read("MATCH (m:Method {id: 5}) RETURN m.id AS id").rows == []
    assert graph.read("MATCH (m:Method {id: '5'}) RETURN m.id AS id").rows == [("5",)]


def test_a_list_of_integers_and_floats_becomes_floats(graph: GraphStore) -> None:
    graph.upsert_nodes("Method", [{"id": "a", "list": [1, 2.5, 3]}])
    graph.write("MERGE (m:Method {id: 'b'}) SET m += $p", {"p": {"list": [1, 2.5, 3]}})
    for (found,) in graph.read("MATCH (m:Method) RETURN m.list AS list").rows:
        assert [type(one) for one in found] == [float] * 3
        assert found == [1.0, 2.5, 3.0]
    assert graph.upsert_nodes("Method", [{"id": "a", "list": [1, 2.5, 3]}]) == Changes(unchanged=1)
    with pytest.raises(QueryInvalid, match="9007199254740993"):
        graph.write("MERGE (m:Method {id: 'b'}) SET m.list = $list", {"list": [2**53 + 1, 0.5]})


@pytest.mark.parametrize("value", [[1, "a"], [1, None], [[1], [2]], {"a": 1}, [True, 1], [{"a": 1}]])
def test_what_one_engine_does_not_keep_is_refused(graph: GraphStore, value: Any) -> None:
    with pytest.raises(QueryInvalid, match=r"Method a: odd cannot be kept"):
        graph.upsert_nodes("Method", [{"id": "a", "odd": value}])
    assert count(graph) == 0


def test_times_have_their_seconds(store: GraphStore) -> None:
    store.write("CREATE (:Mine {id: 'a', at: datetime('2026-01-02T03:04:00Z')})")
    asked = (
        "MATCH (m:Mine) RETURN m.at AS at, properties(m) AS p, localdatetime('2026-01-02T03:04') AS l, "
        "time('03:04Z') AS t, localtime('03:04') AS u, datetime('2026-01-02T03:04:05.25+02:00') AS z"
    )
    time = "2026-01-02T03:04:00Z"
    (row,) = store.read(asked).rows
    assert row[:2] == (time, {"id": "a", "at": time})
    assert row[2:] == ("2026-01-02T03:04:00", "03:04:00Z", "03:04:00", "2026-01-02T03:04:05.25+02:00")


def test_explain_has_columns_and_no_rows(graph: GraphStore) -> None:
    for text in (
        "EXPLAIN MATCH (m:Method) RETURN m.id AS id",
        "// plan\nexplain MATCH (m:Method) RETURN m.id AS id",
    ):
        table = graph.read(text)
        assert (table.columns, table.rows) == (("id",), [])
    assert graph.read("MATCH (m:Method) WHERE m.id <> 'EXPLAIN' RETURN count(m) AS n").rows == [(0,)]
