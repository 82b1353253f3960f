"""What the board knows of a study, read anew only where something has changed.

A study that runs on this machine tells of itself in a file (`automc.study.pulse`): looking at it costs the search
nothing, and the graph is opened only when the file says that there are more trials than were read.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from automc import knowledge
from automc.board.reading import alone
from automc.home import home
from automc.study import pulse
from automc.study.place import folder
from automc.study.protocol import Protocol
from automc.study.spec import StudySpec
from automc.study.stored import load_record, load_trials
from automc.study.trial import Trial
from kg import studies
from kg.errors import NotInGraph

KEPT = 16
"""Studies that are remembered."""


@dataclass
class Seen:
    """A study as it was read last; `stamp` says of what moment."""

    name: str
    stamp: str
    record: dict[str, Any]
    protocol: Protocol
    trials: list[Trial] = field(default_factory=list)


_seen: OrderedDict[str, Seen] = OrderedDict()


def study(name: str, told: pulse.Pulse | None) -> Seen:
    """Return a study, read as far as it was not read before.

    Args:
        name: of the study.
        told: its pulse.

    Raises:
        StudyError: there is none of that name.
    """
    stamp = found_stamp(name, told)
    return alone(partial(_study, name, told, stamp))


def _study(name: str, told: pulse.Pulse | None, stamp: str) -> Seen:
    old = _seen.get(name)
    if old is not None and old.stamp == stamp:
        _seen.move_to_end(name)
        return old
    with knowledge.graph(create=False):  # opened once for all that is read
        record = load_record(name)
        # A study that has ended, or of which limits are measured later, may have changed what was read before.
        goes_on = old is not None and told is not None and told.get("phase") == "searching"
        known = {t.ordinal: t for t in old.trials} if goes_on and old is not None and not old.protocol.limits else {}
        known |= {t.ordinal: t for t in load_trials(name, but=known)}
    protocol = Protocol.of(StudySpec.from_dict(record["spec"]), record)
    _seen[name] = found = Seen(name, stamp, record, protocol, [known[n] for n in sorted(known)])
    _seen.move_to_end(name)
    while len(_seen) > KEPT:
        _seen.popitem(last=False)
    return found


def found_stamp(name: str, told: pulse.Pulse | None) -> str:
    """Return what changes with what a study has found; the embedded graph is not opened for it."""
    if told is not None:
        return _short(told.get("pid"), told.get("phase"), told.get("trials"))
    return f"still-{graph_stamp(name)}"


def graph_stamp(name: str | None = None) -> str:
    """Return what changes with one study or all of them: times of the embedded graph's files, what a server counts."""
    if not os.environ.get("AUTOMC_GRAPH"):
        kept = home(create=False) / "graph"
        files = sorted([*kept.glob("Study_*.bucket"), *kept.glob("Trial_*.bucket")])
        return _short(*((file.name, file.stat().st_mtime_ns) for file in files))
    query = (
        "MATCH (s:Study) WHERE $id IS NULL OR s.id = $id RETURN s.id AS id, s.status AS status, s.updated AS updated, "
        "COUNT { MATCH (:Trial)-[:IN_STUDY]->(s) } AS trials ORDER BY id"
    )

    def counted() -> str:
        with knowledge.graph(create=False) as store:
            return _short(*store.read(query, {"id": name}).rows)

    return alone(counted)


def all_studies() -> list[dict[str, Any]]:
    """Return all studies, the newest first; none where there is no graph yet."""

    def listed() -> list[dict[str, Any]]:
        with knowledge.graph(create=False) as store:
            return studies.list_studies(store, counted=True)[::-1]

    try:
        return alone(listed)
    except NotInGraph:
        return []


def pulses() -> dict[str, pulse.Pulse]:
    """Return the pulses of all studies that run in this home."""
    found = {path.parent.name: pulse.read(path.parent.name) for path in (folder("x").parent).glob("*/pulse.json")}
    return {name: told for name, told in found.items() if told is not None}


def waiting(name: str) -> int:
    """Return how many outcomes wait for a graph that is away."""
    try:
        return (folder(name) / "outbox.jsonl").read_bytes().count(b'"trial": ')
    except OSError:
        return 0


def way_stamp(told: pulse.Pulse | None, wait: int = 0) -> str:
    """Return what changes with what a study is doing."""
    return "still" if told is None else _short(told.get("updated"), wait)


def _short(*what: Any) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:12]
