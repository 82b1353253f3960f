"""The graph of this home kept in step with migrations, cards, experience files and what was added to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from automc.knowledge.cards import card_paths
from automc.knowledge.known import everything
from automc.knowledge.store import graph

if TYPE_CHECKING:
    from kg.sync import SyncReport


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` did."""

    migrations: tuple[str, ...]
    """Migrations applied now."""
    sync: SyncReport

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return bool(self.migrations) or self.sync.changed


def prepare(*, full: bool = True) -> Prepared:
    """Bring the graph up to the migrations, cards and experience files, and to what was added to it.

    Where nothing changed, nothing is written.

    Args:
        full: compare everything; False trusts the mark of the last sync that nothing has changed since.

    Raises:
        CardInvalid, ExperienceInvalid, MigrationInvalid: a file breaks a rule; nothing was written.
        GraphUnavailable: the graph cannot be reached.
    """
    from kg import fresh, trial_tables
    from kg.resources import migrations_dir
    from kg.store.migrate import migrate
    from kg.sync import SyncReport, sync

    with graph() as store:
        if not full and fresh.in_step(store, knowledge_files()):
            return Prepared((), SyncReport({}))
        known = everything(store)
        applied = migrate(store, migrations_dir())
        report = sync(store, known.methods, known.experience, known.papers)
        trial_tables.build(store)
        fresh.note(store, knowledge_files())
        return Prepared(tuple(applied), report)


def knowledge_files() -> list[Path]:
    """Return the files that the graph is filled from."""
    from kg.experience import packaged_experience
    from kg.resources import migrations_dir

    return [*card_paths(), *packaged_experience(), *sorted(migrations_dir().glob("*.cypher"))]
