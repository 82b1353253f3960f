"""Migrations: once, in order, never edited."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg.errors import MigrationInvalid
from kg.resources import migrations_dir
from kg.schema import LABELS
from kg.store import GraphStore
from kg.store.migrate import migrate, pending, read_migrations

CONSTRAINT = "CREATE CONSTRAINT method_id IF NOT EXISTS FOR (n:Method) REQUIRE n.id IS UNIQUE;\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A schema file and a data file that needs it to have run before."""
    made = tmp_path / "migrations"
    made.mkdir()
    (made / "V0001__schema.cypher").write_text("// a; comment\n" + CONSTRAINT)
    (made / "V0002__data.cypher").write_text(
        "CREATE (:Method {id: 'a;b', title: 'it''s'});\n".replace("''", "\\'")
        + "/* ; */ MATCH (m:Method {id: 'a;b'}) CREATE (:Method {id: 'second', title: m.title})"
    )
    return made


def methods(store: GraphStore) -> list[tuple[str, str]]:
    return store.read("MATCH (m:Method) RETURN m.id AS id, m.title AS title ORDER BY id").rows


def test_once_in_order_and_recorded(store: GraphStore, folder: Path) -> None:
    assert pending(store, folder) == ["V0001__schema", "V0002__data"]
    assert migrate(store, folder) == ["V0001__schema", "V0002__data"]
    # The last statement had no semicolon, others had some in strings and comments.
    assert methods(store) == [("a;b", "it's"), ("second", "it's")]
    assert pending(store, folder) == []
    assert migrate(store, folder) == []
    assert len(methods(store)) == 2
    (folder / "V0003__more.cypher").write_text("CREATE (:Method {id: 'third', title: 't'});")
    assert migrate(store, folder) == ["V0003__more"]
    recorded = store.read("MATCH (m:Migration) RETURN m.id AS id, m.sha256 AS sha, m.applied_at AS at ORDER BY id")
    assert recorded.column("id") == ["V0001__schema", "V0002__data", "V0003__more"]
    assert all(len(sha) == 64 for sha in recorded.column("sha"))
    assert all(at.startswith("20") for at in recorded.column("at"))


def test_an_applied_file_that_was_edited(store: GraphStore, folder: Path) -> None:
    migrate(store, folder)
    (folder / "V0001__schema.cypher").write_text(CONSTRAINT + "// harmless\n")
    with pytest.raises(MigrationInvalid, match=r"V0001__schema\.cypher was edited"):
        migrate(store, folder)


def test_an_applied_file_that_is_gone(store: GraphStore, folder: Path) -> None:
    migrate(store, folder)
    (folder / "V0002__data.cypher").unlink()
    with pytest.raises(MigrationInvalid, match=r"newer AutoMC.*V0002__data"):
        pending(store, folder)


def test_a_failing_one_leaves_nothing_of_itself(store: GraphStore, folder: Path) -> None:
    (folder / "V0003__bad.cypher").write_text("CREATE (:Method {id: 'third'}); CREAT (:Method {id: 'fourth'});")
    with pytest.raises(MigrationInvalid, match=r"V0003__bad\.cypher.*CREAT"):
        migrate(store, folder)
    assert [id for id, _ in methods(store)] == ["a;b", "second"]
    assert pending(store, folder) == ["V0003__bad"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("V0003__both.cypher", CONSTRAINT + "CREATE (:Method {id: 'x'});", "mixes schema and data"),
        ("V0004__gap.cypher", CONSTRAINT, "expected the name V0003__"),
        ("V0002__twice.cypher", CONSTRAINT, "expected the name V0003__"),
        ("V3__short.cypher", CONSTRAINT, "expected the name V0003__"),
        ("V0003__empty.cypher", "// nothing;\n", "has no statement"),
    ],
)
def test_a_bad_file(folder: Path, name: str, text: str, said: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(MigrationInvalid, match=said):
        read_migrations(folder)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(MigrationInvalid, match="No migrations"):
        read_migrations(tmp_path)


def test_the_packaged_ones_constrain_every_label(graph: GraphStore) -> None:
    assert pending(graph, migrations_dir()) == []
    names = graph.read("SHOW CONSTRAINTS YIELD name RETURN name").column("name")
    assert len(set(names)) >= len(LABELS)


def test_trials_of_before_the_size_ratio_were_of_floats(store: GraphStore, tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    for path in sorted(migrations_dir().glob("*.cypher"))[:3]:
        (before / path.name).write_bytes(path.read_bytes())
    migrate(store, before)
    store.write(
        "CREATE (:Trial {id: 's/1', pr: 0.25, step_pr: 0.5, params: 30}), (:Trial {id: 's/2', status: 'crashed'})"
    )
    assert migrate(store, migrations_dir())[0] == "V0004__size_ratio"
    rows = store.read(
        "MATCH (t:Trial) RETURN t.id AS id, t.sr AS sr, t.step_sr AS step, t.bits AS bits ORDER BY id"
    ).rows
    assert rows == [("s/1", 0.25, 0.5, 960), ("s/2", None, None, None)]


def test_trials_of_before_there_were_levels_are_of_full_length(store: GraphStore, tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    for path in sorted(migrations_dir().glob("*.cypher"))[:5]:
        (before / path.name).write_bytes(path.read_bytes())
    migrate(store, before)
    store.write("CREATE (:Trial {id: 's/1'}), (:Trial {id: 's/2', level: 2})")
    assert migrate(store, migrations_dir())[0] == "V0006__levels"
    rows = store.read("MATCH (t:Trial) RETURN t.id AS id, t.level AS level ORDER BY id").rows
    assert rows == [("s/1", 0), ("s/2", 2)]
