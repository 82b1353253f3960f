"""What every graph store guarantees, on every store there is."""

from __future__ import annotations

import numpy as np
import pytest

from kg.errors import NotInGraph, QueryInvalid, QueryTimeout, WriteRefused
from kg.schema import LABELS, RELATIONSHIPS
from kg.store import Changes, GraphStore

NO_FENCE = "not applicable: ArcadeDB's Bolt listener does not enforce read access"
NO_TIMEOUT = "not applicable: ArcadeDB's Bolt listener ignores the time limit of a query"


def count(store: GraphStore, label: str = "Method") -> int:
    return int(store.read(f"MATCH (n:{label}) RETURN count(n) AS n").rows[0][0])


class TestUpsert:
    def test_twice_changes_nothing(self, graph: GraphStore) -> None:
        rows = [{"id": "NS", "title": "slim", "ordinal": 1}, {"id": "SFP", "title": "soft", "ordinal": 2}]
        assert graph.upsert_nodes("Method", rows) == Changes(created=2)
        assert graph.upsert_nodes("Method", rows) == Changes(unchanged=2)
        assert graph.read("MATCH (m:Method) RETURN m.id AS id, m.title AS title ORDER BY id").rows == [
            ("NS", "slim"),
            ("SFP", "soft"),
        ]

    def test_keeps_what_a_row_does_not_name_and_removes_none(self, graph: GraphStore) -> None:
        graph.upsert_nodes("Method", [{"id": "NS", "title": "slim", "url": "u"}])
        assert graph.upsert_nodes("Method", [{"id": "NS", "title": "thin"}]) == Changes(updated=1)
        assert graph.upsert_nodes("Method", [{"id": "NS", "url": None}]) == Changes(updated=1)
        assert graph.read("MATCH (m:Method) RETURN properties(m) AS p").rows == [({"id": "NS", "title": "thin"},)]

    def test_relationships_have_a_key_of_their_own(self, graph: GraphStore) -> None:
        graph.upsert_nodes("Scheme", [{"id": "s"}])
        graph.upsert_nodes("Strategy", [{"id": "a"}])
        rows = [{"from": "s", "to": "a", "key": {"position": i}, "note": str(i)} for i in (1, 2)]
        assert graph.upsert_rels("STEP", "Scheme", "Strategy", rows) == Changes(created=2)
        assert graph.upsert_rels("STEP", "Scheme", "Strategy", rows) == Changes(unchanged=2)
        rows[0]["note"] = "new"
        assert graph.upsert_rels("STEP", "Scheme", "Strategy", rows) == Changes(updated=1, unchanged=1)
        found = graph.read("MATCH (:Scheme)-[r:STEP]->() RETURN r.position AS p, r.note AS n ORDER BY p").rows
        assert found == [(1, "new"), (2, "2")]

    def test_more_rows_than_a_batch(self, graph: GraphStore) -> None:
        rows = [{"id": f"s{i}", "searchable": True} for i in range(1234)]
        assert graph.upsert_nodes("Strategy", rows).created == 1234
        graph.upsert_nodes("Method", [{"id": "m"}])
        links = [{"from": row["id"], "to": "m"} for row in rows]
        assert graph.upsert_rels("OF_METHOD", "Strategy", "Method", links).created == 1234
        assert count(graph, "Strategy") == 1234
        assert graph.upsert_rels("OF_METHOD", "Strategy", "Method", links) == Changes(unchanged=1234)

    def test_a_relationship_to_nowhere_is_an_error(self, graph: GraphStore) -> None:
        graph.upsert_nodes("Method", [{"id": "NS"}])
        with pytest.raises(NotInGraph, match="TE99"):
            graph.upsert_rels("USES_TECHNIQUE", "Method", "Technique", [{"from": "NS", "to": "TE99"}])

    def test_only_known_names(self, store: GraphStore) -> None:
        with pytest.raises(QueryInvalid, match="Metod"):
            store.upsert_nodes("Metod", [{"id": "x"}])
        with pytest.raises(QueryInvalid, match="HAS_A"):
            store.upsert_rels("HAS_A", "Method", "Method", [{"from": "x", "to": "x"}])

    def test_all_labels_and_types_live_together(self, graph: GraphStore) -> None:
        for label in LABELS:
            graph.upsert_nodes(label, [{"id": "x"}])
        for type in RELATIONSHIPS:
            graph.upsert_rels(type, "Method", "Paper", [{"from": "x", "to": "x"}])
        assert graph.read("MATCH (:Method)-[r]->(:Paper) RETURN count(DISTINCT type(r)) AS n").rows == [
            (len(RELATIONSHIPS),)
        ]


class TestValues:
    def test_come_back_as_they_were(self, store: GraphStore) -> None:
        vector = np.random.default_rng(0).normal(size=32).astype(np.float32)
        row = {
            "id": "ä→日本 'quoted' \"twice\" \\ \n;",
            "embedding": vector,
            "largest": 2**63 - 1,
            "smallest": -(2**63),
            "whole": 3,
            "float": 3.0,
            "tiny": 5e-324,
            "third": 1 / 3,
            "yes": True,
            "no": False,
            "names": ["a", "b"],
            "numpy": np.float32(0.1),
        }
        store.upsert_nodes("Strategy", [row])
        back = store.read("MATCH (s:Strategy {id: $id}) RETURN properties(s) AS p", {"id": row["id"]}).rows[0][0]
        assert np.array(back.pop("embedding"), dtype=np.float32).tobytes() == vector.tobytes()
        row.pop("embedding")
        row["numpy"] = float(np.float32(0.1))
        assert back == row
        assert {name: type(value) for name, value in back.items()} == {n: type(v) for n, v in row.items()}

    def test_an_integer_beyond_64_bits_is_refused(self, store: GraphStore) -> None:
        with pytest.raises(QueryInvalid, match="64 bits"):
            store.upsert_nodes("Study", [{"id": "x", "seed": 2**63}])
        assert count(store, "Study") == 0

    def test_nodes_relationships_paths_and_times_are_plain(self, store: GraphStore) -> None:
        store.upsert_nodes("Method", [{"id": "NS", "ordinal": 1}])
        store.upsert_nodes("Technique", [{"id": "TE3"}])
        store.upsert_rels("USES_TECHNIQUE", "Method", "Technique", [{"from": "NS", "to": "TE3", "ordinal": 0}])
        found = store.read(
            "MATCH p = (m:Method)-[r:USES_TECHNIQUE]->(t:Technique) "
            "RETURN m, r, p, [t] AS list, {t: t} AS map, datetime('2026-01-02T03:04:05.5Z') AS time"
        ).dicts()
        method = {"_label": "Method", "id": "NS", "ordinal": 1}
        uses = {"_type": "USES_TECHNIQUE", "ordinal": 0}
        technique = {"_label": "Technique", "id": "TE3"}
        assert found == [
            {
                "m": method,
                "r": uses,
                "p": [method, uses, technique],
                "list": [technique],
                "map": {"t": technique},
                "time": "2026-01-02T03:04:05.5Z",
            }
        ]


class TestTransaction:
    def test_commits_all(self, graph: GraphStore) -> None:
        with graph.transaction():
            graph.upsert_nodes("Method", [{"id": "a"}])
            graph.upsert_nodes("Method", [{"id": "b"}])
            assert count(graph) == 2
        assert count(graph) == 2

    def test_an_exception_undoes_all(self, graph: GraphStore) -> None:
        with pytest.raises(ZeroDivisionError), graph.transaction():  # noqa: PT012
            graph.upsert_nodes("Method", [{"id": "a"}])
            raise ZeroDivisionError
        assert count(graph) == 0
        graph.upsert_nodes("Method", [{"id": "a"}])
        assert count(graph) == 1

    def test_a_failed_statement_undoes_all_even_when_caught(self, graph: GraphStore) -> None:
        def fail_quietly() -> None:
            with graph.transaction():
                graph.upsert_nodes("Method", [{"id": "a"}])
                with pytest.raises(QueryInvalid, match="RETRN"):
                    graph.write("MATCH (n) RETRN n")
                with pytest.raises(QueryInvalid, match="earlier statement"):
                    graph.write("CREATE (:Method {id: 'b'})")

        with pytest.raises(QueryInvalid, match="none of it was kept"):
            fail_quietly()
        assert count(graph) == 0

    def test_an_inner_one_joins(self, graph: GraphStore) -> None:
        with pytest.raises(ZeroDivisionError), graph.transaction():  # noqa: PT012
            with graph.transaction():
                graph.upsert_nodes("Method", [{"id": "a"}])
            raise ZeroDivisionError
        assert count(graph) == 0

    def test_a_broken_constraint_undoes_all(self, graph: GraphStore) -> None:
        graph.upsert_nodes("Method", [{"id": "a"}])
        with pytest.raises(QueryInvalid, match="constraint"), graph.transaction():  # noqa: PT012
            graph.write("CREATE (:Method {id: 'b'})")
            graph.write("CREATE (:Method {id: 'a'})")
        assert count(graph) == 1


class TestQuery:
    @pytest.mark.parametrize(
        "text",
        [
            "CREATE (:Method {id: 'x'})",
            "MATCH (m:Method) SET m.title = 'x'",
            "MATCH (m:Method) DETACH DELETE m",
            "MERGE (m:Method {id: 'x'}) RETURN m.id AS id",
            "/* MATCH */ UNWIND [1] AS i CREATE (:Method {id: toString(i)})",
            "CREATE INDEX some_index IF NOT EXISTS FOR (m:Method) ON (m.title)",
        ],
    )
    def test_a_write_in_a_read_is_refused(self, graph: GraphStore, store_kind: str, text: str) -> None:
        if store_kind == "bolt":
            pytest.skip(NO_FENCE)
        graph.upsert_nodes("Method", [{"id": "NS", "title": "slim"}])
        with pytest.raises(WriteRefused, match="nothing was changed"):
            graph.read(text)
        assert graph.read("MATCH (m:Method) RETURN m.id AS id, m.title AS title").rows == [("NS", "slim")]

    def test_a_text_that_only_looks_like_a_write_is_not(self, store: GraphStore) -> None:
        assert store.read("RETURN 'CREATE (n) SET n.x = 1' AS text").rows == [("CREATE (n) SET n.x = 1",)]

    def test_a_long_query_is_stopped(self, store: GraphStore, store_kind: str) -> None:
        if store_kind == "bolt":
            pytest.skip(NO_TIMEOUT)
        endless = "UNWIND range(1, 100000) AS i UNWIND range(1, 100000) AS j WITH i, j WHERE i * j % 7 = 9 RETURN i"
        with pytest.raises(QueryTimeout, match=r"0\.3 s"):
            store.read(endless, timeout=0.3)
        # The limit was that query's alone.
        some = "UNWIND range(1, 1000) AS i UNWIND range(1, 600) AS j WITH i, j WHERE i * j % 7 = 1 RETURN count(*) AS n"
        expected = sum(1 for i in range(1, 1001) for j in range(1, 601) if i * j % 7 == 1)
        assert store.read(some, timeout=3600).rows == [(expected,)]
        store.upsert_nodes("Method", [{"id": "a"}])

    def test_a_missing_parameter_is_named(self, store: GraphStore) -> None:
        with pytest.raises(QueryInvalid, match="wanted"):
            store.read("MATCH (m:Method) WHERE m.id = $wanted RETURN m.id AS id", {"given": 1})

    def test_a_typo_is_placed(self, store: GraphStore) -> None:
        with pytest.raises(QueryInvalid) as caught:
            store.read("MATCH (m:Method) RETRUN m.id")
        said = str(caught.value)
        assert "RETRUN" in said
        assert "line 1, column 18" in said or "line 1, column 17" in said
        assert "Exception" not in said
        assert "com." not in said

    def test_an_unknown_variable_is_named(self, store: GraphStore) -> None:
        with pytest.raises(QueryInvalid, match="missing"):
            store.read("MATCH (m:Method) RETURN missing.id AS id")

    def test_a_limit_cuts_and_says_so(self, store: GraphStore) -> None:
        table = store.read("UNWIND range(1, 50) AS i RETURN i, i * i AS square", limit=3)
        assert (table.columns, table.rows, table.truncated) == (("i", "square"), [(1, 1), (2, 4), (3, 9)], True)
        assert not store.read("UNWIND range(1, 3) AS i RETURN i", limit=3).truncated

    def test_no_rows_keep_their_columns(self, store: GraphStore) -> None:
        table = store.read("MATCH (m:Method) WHERE m.id = 'RETURN x' RETURN m.id AS id, count(m) AS `how many` LIMIT 5")
        assert (table.columns, table.rows) == (("id", "how many"), [])

    def test_a_label_nobody_has_gives_no_rows(self, store: GraphStore) -> None:
        assert store.read("MATCH (n:Nobody) RETURN n.id AS id").rows == []


def test_constraints_hold(graph: GraphStore) -> None:
    for label in LABELS:
        graph.write(f"CREATE (:{label} {{id: 'one'}})")
        with pytest.raises(QueryInvalid, match="constraint"):
            graph.write(f"CREATE (:{label} {{id: 'one'}})")
        assert graph.read(f"MATCH (n:{label} {{id: 'one'}}) RETURN count(n) AS n").rows == [(1,)]


def test_the_store_says_what_it_is(store: GraphStore, store_kind: str) -> None:
    assert store.kind == ("embedded" if store_kind == "embedded" else "neo4j")
    assert any(char.isdigit() for char in store.version())
    assert store.place
