"""Versioned changes of the graph: `migrations/V0001__name.cypher`, each applied once, in order, and recorded.

A file holds either schema statements (constraints and indexes; run one by one, so they say IF NOT EXISTS) or
data statements (run in one transaction with their record). An applied file is never edited: its SHA-256 is kept
in the graph as (:Migration {id, sha256, applied_at}).
"""

from __future__ import annotations

import datetime
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from kg.errors import KGError, MigrationInvalid
from kg.store.base import GraphStore
from kg.store.text import mask, statements

_FILE = re.compile(r"V(\d{4})__[a-z0-9_]+\.cypher")
_SCHEMA = re.compile(r"\s*(CREATE\s+(\w+\s+)?(CONSTRAINT|INDEX)|DROP\s+(CONSTRAINT|INDEX))\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration file."""

    id: str
    path: Path
    sha256: str
    statements: tuple[str, ...]

    @property
    def is_schema(self) -> bool:
        """Whether it changes the schema, not data."""
        return all(map(is_schema, self.statements))


def is_schema(statement: str) -> bool:
    """Whether a statement changes the schema: constraints and indexes, which do not mix with data."""
    return bool(_SCHEMA.match(mask(statement)))


def read_migrations(directory: Path) -> list[Migration]:
    """Read the migration files of a folder in order.

    Raises:
        MigrationInvalid: a name is not V0001__name.cypher, a number occurs twice or is left out, a file is empty,
            or mixes schema and data statements (a server refuses both in one transaction).
    """
    found: list[Migration] = []
    paths = sorted(directory.glob("*.cypher"))
    if not paths:
        raise MigrationInvalid(f"No migrations (V0001__name.cypher) are in {directory}.")
    for number, path in enumerate(paths, 1):
        match = _FILE.fullmatch(path.name)
        if match is None or int(match.group(1)) != number:
            raise MigrationInvalid(f"{path}: expected the name V{number:04d}__what_it_does.cypher here.")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MigrationInvalid(f"{path} cannot be read: {error}.") from None
        parts = tuple(statements(text))
        if not parts:
            raise MigrationInvalid(f"{path} has no statement.")
        migration = Migration(path.stem, path, hashlib.sha256(text.encode()).hexdigest(), parts)
        if not migration.is_schema and any(map(is_schema, parts)):
            raise MigrationInvalid(f"{path} mixes schema and data statements: put them into files of their own.")
        found.append(migration)
    return found


def pending(store: GraphStore, directory: Path) -> list[str]:
    """Ids of the migrations that were not applied yet, in order.

    Raises:
        MigrationInvalid: an applied file was edited or is missing, or comes after one that was not applied.
    """
    return [migration.id for migration in _pending(store, directory)]


def migrate(store: GraphStore, directory: Path) -> list[str]:
    """Apply what is pending; return the ids applied.

    Raises:
        MigrationInvalid: as `pending`; or a statement failed, which the message names. What was applied before
            it stays applied.
    """
    waiting = _pending(store, directory)
    for migration in waiting:
        try:
            if migration.is_schema:
                for statement in migration.statements:
                    store.schema(statement)
                _record(store, migration)
            else:
                with store.transaction():
                    for statement in migration.statements:
                        store.write(statement)
                    _record(store, migration)
        except KGError as error:
            if error.exit_code != MigrationInvalid.exit_code:
                raise
            raise MigrationInvalid(f"{migration.path} cannot be applied: {error}") from error
    return [migration.id for migration in waiting]


def _pending(store: GraphStore, directory: Path) -> list[Migration]:
    found = read_migrations(directory)
    applied = dict(store.read("MATCH (m:Migration) RETURN m.id AS id, m.sha256 AS sha256").rows)
    unknown = sorted(set(applied) - {migration.id for migration in found})
    if unknown:
        raise MigrationInvalid(
            f"The graph in {store.place} was made by a newer AutoMC: it has the migration {unknown[-1]}, which is not "
            f"in {directory}. Upgrade AutoMC."
        )
    for migration in found:
        if applied.get(migration.id, migration.sha256) != migration.sha256:
            raise MigrationInvalid(
                f"{migration.path} was edited after it had been applied. Undo the edit and put the change into a "
                "new file."
            )
    waiting = [migration for migration in found if migration.id not in applied]
    if waiting and found[: len(applied)] != [migration for migration in found if migration.id in applied]:
        raise MigrationInvalid(f"{waiting[0].path} comes before a migration that was applied already. Renumber it.")
    return waiting


def _record(store: GraphStore, migration: Migration) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    store.write(
        "MERGE (m:Migration {id: $id}) SET m.sha256 = $sha256, m.applied_at = $now",
        {"id": migration.id, "sha256": migration.sha256, "now": now},
    )
