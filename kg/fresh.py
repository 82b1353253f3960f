"""Whether a graph is in step with the files and with what was added to it, by a digest that a sync leaves there.

Comparing all cards and records with the graph takes seconds; the digest of what they are read from takes hundredths of
one. Whoever writes to the graph by hand lets it be forgotten, so that the next sync looks at everything again.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable
from pathlib import Path

from kg import trial_tables
from kg.store.base import GraphStore

_ID = "knowledge"
_INSIDE = (
    "MATCH (n:Method) WHERE n.document IS NOT NULL OR n.retired_at IS NOT NULL "
    "RETURN 'Method' AS label, n.id AS id, n.document AS text, n.retired_at IS NOT NULL AS retired ORDER BY id",
    "MATCH (n:Paper) WHERE n.document IS NOT NULL RETURN 'Paper' AS label, n.id AS id, n.document AS text, "
    "false AS retired ORDER BY id",
)


def digest(store: GraphStore, files: Iterable[Path]) -> str:
    """Return the digest of all that a sync depends on.

    Args:
        store: with the documents that were added, and what was retired.
        files: cards, experience files and migrations.
    """
    found = hashlib.sha256()
    # The modules here say what becomes of a file.
    for path in [*sorted(Path(__file__).parent.glob("*.py")), *files]:
        found.update(f"{path.name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    for query in _INSIDE:
        found.update(repr(store.read(query).rows).encode())
    return found.hexdigest()


def in_step(store: GraphStore, files: Iterable[Path]) -> bool:
    """Tell whether a sync has left the graph as it would now."""
    kept = store.read("MATCH (s:Sync {id: $id}) RETURN s.digest AS digest", {"id": _ID}).column("digest")
    return bool(kept) and kept[0] == digest(store, files)


def note(store: GraphStore, files: Iterable[Path]) -> None:
    """Note that a sync was done."""
    at = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
    mark = digest(store, files)
    if store.read("MATCH (s:Sync {id: $id}) RETURN s.digest AS digest", {"id": _ID}).column("digest") != [mark]:
        store.upsert_nodes("Sync", [{"id": _ID, "digest": mark, "synced_at": at}])


def forget(store: GraphStore) -> None:
    """Let the next sync look at everything, and repeat what is kept twice: somebody writes to the graph by hand."""
    store.write("MATCH (s:Sync) DETACH DELETE s")
    trial_tables.forget(store)
