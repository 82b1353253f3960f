"""What an addition changes, and what has changed since embeddings were learned, in words."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kg.curation.contradictions import figures
from kg.schema import Experience, Method, Paper, Task, format_value

Facts = Mapping[tuple[str, str], Mapping[str, Any]]
"""(kind, id) of a thing to its fields; "" is the one line that says what it is."""
Triple = tuple[str, str, str]
TRIAL = "trial:"
"""How the id of a record of an own trial begins."""


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a difference: a thing that came or went, or one field of it with its old and new value."""

    sign: Literal["+", "-", "~"]
    kind: str
    id: str
    field: str = ""
    before: Any = None
    after: Any = None


def compare(before: Facts, after: Facts) -> tuple[Change, ...]:
    """Return what differs, things in the order of `after`, those that went last."""
    found: list[Change] = []
    for (kind, id), fields in after.items():
        old = before.get((kind, id))
        if old is None:
            found.append(Change("+", kind, id, after=fields[""]))
            continue
        names = dict.fromkeys(name for name in (*old, *fields) if name)
        found += [
            Change("~", kind, id, name, old.get(name), fields.get(name))
            for name in names
            if old.get(name) != fields.get(name)
        ]
    gone = [(key, fields) for key, fields in before.items() if key not in after]
    return (*found, *(Change("-", kind, id, before=fields[""]) for (kind, id), fields in gone))


def facts(methods: Iterable[Method] = (), experience: Iterable[Experience] = (), papers: Iterable[Paper] = ()) -> Facts:
    """Return methods, papers, records and their tasks as things that can be compared."""
    known: dict[tuple[str, str], dict[str, Any]] = {("method", method.id): _method(method) for method in methods}
    for paper in papers:
        known["paper", paper.id] = {"": paper.title, "title": paper.title, "url": paper.url, "year": paper.year}
    records = {("record", record.id): _record(record) for record in experience}
    tasks = {("task", record.task.id): _task(record.task) for record in experience}
    return known | tasks | records


def _method(method: Method) -> dict[str, Any]:
    techniques = [technique.id for technique in method.techniques]
    knobs = {f"values of {h.id}": [format_value(value) for value in h.values] for h in method.hyperparameters}
    said = {name: getattr(method, name) for name in ("title", "citation", "url", "label", "family")}
    line = f"{method.title}; {', '.join(techniques)}; " + (", ".join(h.id for h in method.hyperparameters) or "no grid")
    return {"": line, **said, "techniques": techniques, **knobs}


def _task(task: Task) -> dict[str, Any]:
    return {"": f"{task.model} on {task.dataset}", **{name: v for name, v in asdict(task).items() if name != "id"}}


def _record(record: Experience) -> dict[str, Any]:
    names = (
        "ar", "pr", "fr", "sr", "table", "confidence", "note", "iterations", "train_images", "code", "not_taught",
        "family", "weight_bits", "activation_bits", "teacher", "quoted",
    )  # fmt: skip
    line = f"{record.strategy.id} on {record.task.id}: {figures(record)}"
    said = {"strategy": record.strategy.id, "task": record.task.id, "source": record.source}
    return {"": line, **said, **{name: getattr(record, name) for name in names}, **record.details}


def snapshot(triples: Iterable[Triple], experience: Iterable[Experience]) -> dict[str, Any]:
    """Return what embeddings are learned from in so few words that an embedding run can keep them.

    Strategies are counted per method; links of anything else, and records, are listed.
    """
    triples = list(triples)
    strategies = Counter(tail for _, relation, tail in triples if relation == "OF_METHOD")
    links = [" ".join(t) for t in triples if t[1] not in ("OF_METHOD", "HAS_SETTING")]
    records = [f"{one.id}|{one.source}|{hashlib.sha256(one.mark.encode()).hexdigest()[:8]}" for one in experience]
    return {"strategies": dict(strategies), "links": links, "records": records}


def since(then: Mapping[str, Any], now: Mapping[str, Any], own: Mapping[str, int] | None = None) -> list[str]:
    """Say what came, went and changed between two snapshots, a sentence for each kind; empty where nothing did.

    Args:
        own: where `now` is without the records of own trials, how many there are by study: then those are counted.
    """
    said: list[str] = []
    old, new = then["strategies"], now["strategies"]
    for method in dict.fromkeys((*old, *new)):
        if old.get(method, 0) != new.get(method, 0):
            said.append(f"{method}: {old.get(method, 0):,} -> {new.get(method, 0):,} strategies")
    for sign, links in (("new", _less(now["links"], then["links"])), ("gone", _less(then["links"], now["links"]))):
        if links:
            heads = Counter(link.split(" ")[0] for link in links)
            said.append(f"{len(links)} {sign} links of methods and settings: {_listed(heads)}")
    before, after = ({mark.split("|")[0]: mark for mark in side["records"]} for side in (then, now))
    counted = Counter[str]()
    if own is not None:
        trials = [id for id in before if id.startswith(TRIAL) and id not in after]
        counted.update(own)
        counted.subtract(before.pop(id).split("|")[1] for id in trials)
    changed = [id for id in after if id in before and after[id] != before[id]]
    for sign, marks, more in (
        ("new", [after[id] for id in _less(after, before)], +counted),
        ("gone", [before[id] for id in _less(before, after)], -counted),
        ("changed", [after[id] for id in changed], Counter[str]()),
    ):
        sources = Counter(mark.split("|")[1] for mark in marks) + more
        if sources:
            n = sources.total()
            said.append(f"{n} {sign} record{'s' if n > 1 else ''}: {_listed(sources)}")
    return said


def _less(these: Iterable[str], those: Iterable[str]) -> list[str]:
    without = set(those)
    return [one for one in these if one not in without]


def _listed(counts: Mapping[str, int], most: int = 5) -> str:
    """Name the largest, and count the rest."""
    largest: Sequence[tuple[str, int]] = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{name} ({n})" for name, n in largest[:most]]
    return ", ".join(named) + (f" and {len(largest) - most} more" if len(largest) > most else "")
