"""How the vocabulary is laid down as nodes, for all who write them.

A node's properties are plain values; what is nested is kept as JSON text behind "json:" and read back as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from kg.schema import TASK_FEATURES, Experience, Paper, Scheme, Strategy, Task, Value, setting_id
from kg.store.base import GraphStore

_JSON = "json:"
_MEASURED = (
    "iterations", "train_images", "code", "seed", "not_taught",
    "family", "weight_bits", "activation_bits", "teacher", "quoted",
)  # fmt: skip
"""What only some records say."""


def encode(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Make values fit into properties: lists and maps, and texts that look like them, become JSON text."""
    return {
        name: _JSON + json.dumps(value, ensure_ascii=False, sort_keys=True)
        if isinstance(value, list | tuple | dict) or (isinstance(value, str) and value.startswith(_JSON))
        else value
        for name, value in properties.items()
    }


def decode(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `encode`; tuples come back as lists."""
    return {
        name: json.loads(value.removeprefix(_JSON)) if isinstance(value, str) and value.startswith(_JSON) else value
        for name, value in properties.items()
    }


def task_row(task: Task) -> dict[str, Any]:
    """The properties of a Task node."""
    return {name: getattr(task, name) for name in ("id", "dataset", "model", *TASK_FEATURES)}


def read_task(row: Mapping[str, Any]) -> Task:
    """Undo `task_row`."""
    return Task(**{name: row.get(name) for name in ("id", "dataset", "model", *TASK_FEATURES)})  # type: ignore[arg-type]


def paper_row(paper: Paper) -> dict[str, Any]:
    """The properties of a Paper node."""
    return {"id": paper.id, "title": paper.title, "url": paper.url, "year": paper.year}


def experience_row(experience: Experience) -> dict[str, Any]:
    """The properties of an Experience node; strategy and task are relationships."""
    names = (
        "id",
        "origin",
        "source",
        "ar",
        "pr",
        "fr",
        "sr",
        "pr_derived",
        "n",
        "table",
        "confidence",
        "note",
        *_MEASURED,
    )
    return {name: getattr(experience, name) for name in names} | encode({"details": experience.details})


def read_experience_row(row: Mapping[str, Any], strategy: str, task: Task) -> Experience:
    """Undo `experience_row`."""
    names = ("id", "origin", "source", "pr_derived", "n", "table", "confidence", "note")
    return Experience(
        strategy=Strategy.parse(strategy),
        task=task,
        ar=row.get("ar"),
        pr=row.get("pr"),
        fr=row.get("fr"),
        sr=row.get("sr"),
        iterations=row.get("iterations"),
        train_images=row.get("train_images"),
        code=row.get("code") or "",
        seed=row.get("seed"),
        not_taught=row.get("not_taught") or "",
        family=row.get("family"),
        weight_bits=row.get("weight_bits"),
        activation_bits=row.get("activation_bits"),
        teacher=row.get("teacher") or "",
        quoted=bool(row.get("quoted")),
        details=decode({"details": row.get("details") or {}})["details"],
        **{name: row[name] for name in names},
    )


def setting_row(hyperparameter: str, value: Value, ordinal: int | None) -> dict[str, Any]:
    """The properties of a Setting node; `ordinal` is its place on the grid, None off the grid."""
    return {
        "id": setting_id(hyperparameter, value),
        "value": value,
        "ordinal": ordinal,
        "searchable": ordinal is not None,
    }


def add_strategies(store: GraphStore, strategies: Iterable[Strategy]) -> None:
    """Make sure that strategies are in the graph; those that are not become nodes that cannot be searched.

    Raises:
        NotInGraph: a strategy's method is unknown.
    """
    wanted = {strategy.id: strategy for strategy in strategies}
    known = store.read("UNWIND $ids AS id MATCH (s:Strategy {id: id}) RETURN s.id AS id", {"ids": list(wanted)})
    new = [wanted[id] for id in sorted(set(wanted) - set(known.column("id")))]
    if not new:
        return
    settings = {setting_id(name, value): (name, value) for strategy in new for name, value in strategy.settings}
    there = store.read("UNWIND $ids AS id MATCH (s:Setting {id: id}) RETURN s.id AS id", {"ids": list(settings)})
    missing = sorted(set(settings) - set(there.column("id")))
    store.upsert_nodes("Setting", [setting_row(*settings[id], None) for id in missing])
    store.upsert_nodes("Strategy", [{"id": strategy.id, "searchable": False} for strategy in new])
    store.upsert_rels("OF_METHOD", "Strategy", "Method", [{"from": s.id, "to": s.method} for s in new])
    links = [{"from": s.id, "to": setting_id(name, value)} for s in new for name, value in s.settings]
    store.upsert_rels("HAS_SETTING", "Strategy", "Setting", links)


def add_schemes(store: GraphStore, schemes: Iterable[Scheme]) -> None:
    """Make sure that schemes and all their beginnings, START included, are in the graph.

    Each has a STEP with its position, from 1, to every strategy, and EXTENDS the one without its last step.
    """
    beginnings = (Scheme(scheme.steps[:length]) for scheme in schemes for length in range(len(scheme) + 1))
    parts = {part.id: part for part in beginnings}
    known = store.read("UNWIND $ids AS id MATCH (s:Scheme {id: id}) RETURN s.id AS id", {"ids": list(parts)})
    there = set(known.column("id"))
    new = {id: part for id, part in parts.items() if id not in there}
    if not new:
        return
    add_strategies(store, (step for part in new.values() for step in part.steps))
    store.upsert_nodes("Scheme", [{"id": id, "length": len(part)} for id, part in new.items()])
    steps = [
        {"from": id, "to": step.id, "key": {"position": position}}
        for id, part in new.items()
        for position, step in enumerate(part.steps, 1)
    ]
    store.upsert_rels("STEP", "Scheme", "Strategy", steps)
    extends = [{"from": id, "to": part.parent.id} for id, part in new.items() if part.steps]
    store.upsert_rels("EXTENDS", "Scheme", "Scheme", extends)
