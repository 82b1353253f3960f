"""Studies, their trials, what they teach, and replays of schemes, in the graph. Every write may be run twice."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from kg import nodes, trial_tables
from kg.errors import NotInGraph, SchemaInvalid
from kg.schema import STATUSES, Experience, Scheme, Task
from kg.store.base import BATCH, WRITE_SECONDS, GraphStore

Properties = Mapping[str, Any]

PAGE = BATCH
"""Trials or other nodes of one transaction: a study may have any number."""
DELETING = "deleting"
"""Status of a study whose deletion was begun."""


def save_study(store: GraphStore, study: Properties, *, task: Task | None = None) -> None:
    """Write a study, or the given properties of one that exists.

    Args:
        study: its "id" and any properties; None removes one, nested values come back as they were.
        task: what it searches on; becomes a node.
    """
    with store.transaction():
        store.upsert_nodes("Study", [nodes.encode(study)])
        if task is not None:
            store.upsert_nodes("Task", [nodes.task_row(task)])
            store.upsert_rels("ON_TASK", "Study", "Task", [{"from": study["id"], "to": task.id}])


def create_study(
    store: GraphStore, study: Properties, *, task: Task, token: str, layers: Properties | None = None
) -> bool:  # fmt: skip
    """Write a new study; False, and nothing is written, where there is another one of that name.

    Two processes that create a study of one name at once, on whatever machines, do not both get True.

    Args:
        study: as for `save_study`.
        token: of this attempt alone; the same again, as after a lost connection, finds its own study.
        layers: columns of its model's layer table, each a list of numbers or of texts.
    """

    def work() -> bool:
        # The node is locked from here to the end of the transaction, so nobody else can make it meanwhile.
        made = store.write(
            "MERGE (s:Study {id: $id}) ON CREATE SET s.claim = $token RETURN s.claim = $token AS ours",
            {"id": study["id"], "token": token},
        )
        if made.rows[0][0] is not True:
            return False
        save_study(store, study, task=task)
        _save_layers(store, "Study", study["id"], layers)
        return True

    return store.atomically(work)


def load_study(store: GraphStore, id: str) -> dict[str, Any]:
    """Return a study's properties, and the id of its task as "task" where it has one.

    Raises:
        NotInGraph: there is no such study.
    """
    table = store.read(
        "MATCH (s:Study {id: $id}) OPTIONAL MATCH (s)-[:ON_TASK]->(t:Task) RETURN properties(s) AS p, t.id AS task",
        {"id": id},
    )
    if not table.rows:
        raise NotInGraph(f"There is no study '{id}' in the graph. `automc study list` names those there are.")
    properties, task = table.rows[0]
    return nodes.decode(properties) | ({"task": task} if task is not None else {})


def list_studies(store: GraphStore, *, counted: bool = False) -> list[dict[str, Any]]:
    """Return all studies, oldest first.

    Args:
        counted: each with its number of "trials", which takes as long as there are many.
    """
    trials = ", COUNT { MATCH (:Trial)-[:IN_STUDY]->(s) } AS trials" if counted else ""
    rows = store.read(f"MATCH (s:Study) RETURN properties(s) AS p{trials}", timeout=WRITE_SECONDS).dicts()
    found = [nodes.decode(row.pop("p")) | row for row in rows]
    return sorted(found, key=lambda study: (str(study.get("started", "")), study["id"]))


def delete_study(store: GraphStore, id: str) -> None:
    """Remove a study, its trials, what only it taught, and the schemes, strategies and tasks that nobody else uses.

    Replays of its schemes stay: they were measured on another model. Long studies go in pages, each a transaction:
    until the last one the study is there with the status `DELETING`, and deleting it again goes on.

    Raises:
        NotInGraph: there is no such study.
    """
    load_study(store, id)
    save_study(store, {"id": id, "status": DELETING})
    trial_tables.forget(store, id)
    # The newest first: an engine that keeps a node's links in the order of their making finds them at once. Trials and
    # what they taught share tasks, so they go together, as they came.
    trials = _trial_ids(store, id)[::-1]
    observed = store.read(
        "MATCH (e:Experience)-[:OBSERVED_IN]->(:Study {id: $id}) RETURN e.id AS id", {"id": id}, timeout=WRITE_SECONDS
    ).column("id")[::-1]
    pages = max(1, -(-len(trials) // PAGE))
    share = -(-len(observed) // pages)
    for number in range(pages):
        if page := trials[number * PAGE : (number + 1) * PAGE]:
            store.atomically(partial(_delete_trials, store, page))
        for taught in _pages(observed[number * share : (number + 1) * share]):
            store.atomically(partial(_forget_experience, store, id, taught))
    _sweep(store, "Strategy", "NOT n.searchable", "(:Scheme)-[:STEP]->(n)", "(:Experience)-[:OF_STRATEGY]->(n)")
    _sweep(store, "Setting", "NOT n.searchable", "(:Strategy)-[:HAS_SETTING]->(n)")
    with store.transaction():
        store.write("MATCH (:Study {id: $id})-[:HAS_LAYERS]->(l:LayerTable) DETACH DELETE l", {"id": id})
        store.write("MATCH (s:Study {id: $id}) DETACH DELETE s", {"id": id})
        _sweep(store, "Task", "true", "()-[:ON_TASK]->(n)")


def _trial_ids(store: GraphStore, study: str) -> list[str]:
    """Ids of a study's trials in the order of their ordinals."""
    found = store.gather(
        "MATCH (:Study {id: $id})<-[:IN_STUDY]-(t:Trial) RETURN collect([t.ordinal, t.id]) AS rows", {"id": study}
    )
    return [id for _, id in sorted(found)]


def _pages(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), PAGE):
        yield list(ids[start : start + PAGE])


def _delete_trials(store: GraphStore, page: Sequence[str]) -> None:
    schemes = store.read(
        "UNWIND $ids AS id MATCH (:Trial {id: id})-[:OF_SCHEME]->(s:Scheme) RETURN DISTINCT s.id AS id", {"ids": page}
    ).column("id")
    store.write(
        "UNWIND $ids AS id MATCH (:Trial {id: id})-[:HAS_LAYERS]->(l:LayerTable) DETACH DELETE l", {"ids": page}
    )
    store.write("UNWIND $ids AS id MATCH (t:Trial {id: id}) DETACH DELETE t", {"ids": page})
    _sweep_schemes(store, schemes)


def _forget_experience(store: GraphStore, study: str, page: Sequence[str]) -> None:
    """Remove what only this study observed; what others observed too is theirs from now on."""
    which = {"id": study, "ids": page}
    store.write(
        "UNWIND $ids AS id MATCH (e:Experience {id: id}) "
        "WHERE NOT EXISTS { MATCH (e)-[:OBSERVED_IN]->(o:Study) WHERE o.id <> $id } "
        "AND NOT EXISTS { MATCH (e)-[:REPORTED_IN]->(:Paper) } DETACH DELETE e",
        which,
    )
    store.write(
        "UNWIND $ids AS id MATCH (e:Experience {id: id})-[:OBSERVED_IN]->(o:Study) "
        "WHERE o.id <> $id AND e.source = $id AND e.origin = 'trial' WITH e, min(o.id) AS heir SET e.source = heir",
        which,
    )
    store.write("UNWIND $ids AS id MATCH (:Experience {id: id})-[r:OBSERVED_IN]->(:Study {id: $id}) DELETE r", which)


def _sweep_schemes(store: GraphStore, ids: Iterable[str]) -> None:
    """Remove schemes and their beginnings, longest first, that no trial or replay has and no scheme extends."""
    schemes = [Scheme.parse(id) for id in ids]
    family = {Scheme(s.steps[:length]).id: length for s in schemes for length in range(len(s) + 1)}
    for length in sorted(set(family.values()), reverse=True):
        store.write(
            "UNWIND $ids AS id MATCH (s:Scheme {id: id}) WHERE NOT EXISTS { MATCH ()-[:OF_SCHEME]->(s) } "
            "AND NOT EXISTS { MATCH (:Scheme)-[:EXTENDS]->(s) } DETACH DELETE s",
            {"ids": [id for id, long in family.items() if long == length]},
        )


def _sweep(store: GraphStore, label: str, condition: str, *users: str) -> None:
    """Remove the nodes of a label that meet a condition and that nobody uses."""
    unused = " AND ".join(f"NOT EXISTS {{ MATCH {pattern} }}" for pattern in users)
    where = f"WHERE {condition} AND {unused}"
    found = store.read(f"MATCH (n:{label}) {where} RETURN n.id AS id", timeout=WRITE_SECONDS).column("id")
    for page in _pages(found[::-1]):
        # Looked at again: somebody may use one by now.
        store.write(f"UNWIND $ids AS id MATCH (n:{label} {{id: id}}) {where} DETACH DELETE n", {"ids": page})


def save_trial(
    store: GraphStore, study_id: str, trial: Properties, *, task: Task | None = None, layers: Properties | None = None
) -> None:  # fmt: skip
    """Write one trial; see `save_trials`."""
    save_trials(store, study_id, [trial], task=task, layers=[layers])


def save_trials(
    store: GraphStore, study_id: str, trials: Sequence[Properties], *, task: Task | None = None,
    layers: Sequence[Properties | None] = (),
) -> None:  # fmt: skip
    """Write trials with their schemes, the schemes' beginnings and their strategies, all together or not at all.

    Args:
        study_id: of a study in the graph.
        trials: "ordinal", "scheme" (a Scheme or its id), "status", and any properties, of each.
        task: what they were measured on; None takes the study's.
        layers: columns of each one's layer table, each a list of numbers or of texts; None, or none at all, leaves
            what is there.

    The scheme's level becomes a property of the trial: the graph's schemes have none.

    Raises:
        NotInGraph: the study, or a strategy's method, is not in the graph.
        SchemaInvalid: a status is unknown, or another trial of this study has the same scheme at the same level.
    """
    schemes: dict[str, Scheme] = {}
    for trial in trials:
        if trial["status"] not in STATUSES:
            raise SchemaInvalid(f"'{trial['status']}' is not a status of a trial: {', '.join(STATUSES)}.")
        given = trial["scheme"]
        schemes[f"{study_id}/{trial['ordinal']}"] = given if isinstance(given, Scheme) else Scheme.parse(given)
    with store.transaction():
        on = task.id if task is not None else load_study(store, study_id).get("task")
        _insist_new(store, study_id, schemes)
        nodes.add_schemes(store, schemes.values())
        made = zip(schemes.items(), trials, strict=True)
        store.upsert_nodes("Trial", [_trial_row(id, scheme, trial) for (id, scheme), trial in made])
        if task is not None:
            store.upsert_nodes("Task", [nodes.task_row(task)])
        links = [("OF_SCHEME", "Scheme", [scheme.full.id for scheme in schemes.values()])]
        links.append(("IN_STUDY", "Study", [study_id] * len(schemes)))
        if on is not None:
            links.append(("ON_TASK", "Task", [on] * len(schemes)))
        for type, label, ends in links:
            rows = [{"from": id, "to": end} for id, end in zip(schemes, ends, strict=True)]
            store.upsert_rels(type, "Trial", label, rows)
        for id, table in zip(schemes, layers, strict=False):
            _save_layers(store, "Trial", id, table)
        trial_tables.update(store, study_id, [int(trial["ordinal"]) for trial in trials])


def _trial_row(id: str, scheme: Scheme, trial: Properties) -> dict[str, Any]:
    """The properties of a Trial node."""
    plain = {name: value for name, value in trial.items() if name != "scheme"}
    return {**nodes.encode({**plain, "level": scheme.level}), "id": id}


def _insist_new(store: GraphStore, study: str, schemes: Mapping[str, Scheme]) -> None:
    """Refuse a scheme that another trial of the study has: by scheme, since a study has many more trials than that."""
    found = store.read(
        "UNWIND $ids AS id MATCH (c:Scheme {id: id})<-[:OF_SCHEME]-(t:Trial)-[:IN_STUDY]->(:Study {id: $study}) "
        "RETURN c.id AS scheme, t.level AS level, t.id AS trial",
        {"study": study, "ids": list({scheme.full.id for scheme in schemes.values()})},
    )
    trial_of = {(scheme, level or 0): trial for scheme, level, trial in found.rows}
    for trial, scheme in schemes.items():
        other = trial_of.setdefault((scheme.full.id, scheme.level), trial)
        if other != trial:
            raise SchemaInvalid(f"{trial} repeats the scheme of {other}: {scheme.id}.")


def _save_layers(store: GraphStore, label: str, id: str, layers: Properties | None) -> None:
    """Write a layer table beside what it describes: reading that reads no table (docs/results/layer-store)."""
    if layers is not None:
        store.upsert_nodes("LayerTable", [{**layers, "id": id}])
        store.upsert_rels("HAS_LAYERS", label, "LayerTable", [{"from": id, "to": id}])


def load_layers(store: GraphStore, id: str) -> dict[str, Any] | None:
    """Return the columns of the layer table of a trial or, by a study's id, of its model; None where there is none."""
    table = store.read("MATCH (l:LayerTable {id: $id}) RETURN properties(l) AS p", {"id": id})
    return {name: value for name, value in table.rows[0][0].items() if name != "id"} if table.rows else None


def ordinals_of(store: GraphStore, study_id: str, schemes: Sequence[Scheme]) -> list[int]:
    """Return the ordinals of a study's trials of some schemes, whatever their level."""
    return store.read(
        "UNWIND $schemes AS scheme "
        "MATCH (:Scheme {id: scheme})<-[:OF_SCHEME]-(t:Trial)-[:IN_STUDY]->(:Study {id: $id}) RETURN t.ordinal AS n",
        {"id": study_id, "schemes": list(dict.fromkeys(scheme.full.id for scheme in schemes))},
    ).column("n")


def children(store: GraphStore, study_id: str, schemes: Sequence[str]) -> list[tuple[str, int, int, float | None]]:
    """Return of a study's trials whose schemes go on from some by one step: which, ordinal, level and accuracy."""
    found = store.gather(
        "UNWIND $ids AS id MATCH (p:Scheme {id: id})<-[:EXTENDS]-(:Scheme)<-[:OF_SCHEME]-(t:Trial) "
        "MATCH (t)-[:IN_STUDY]->(:Study {id: $study}) RETURN collect([p.id, t.ordinal, t.level, t.accuracy]) AS rows",
        {"ids": list(schemes), "study": study_id},
    )
    return [(scheme, ordinal, level or 0, accuracy) for scheme, ordinal, level, accuracy in found]


def load_trials(
    store: GraphStore, study_id: str, *, but: Collection[int] = (), only: Collection[int] | None = None
) -> list[dict[str, Any]]:
    """Return a study's trials by ordinal: what was saved, less what was None, and the scheme's id as "scheme".

    The id tells the level too, see `Scheme.id`.

    Args:
        but: ordinals of trials that are left out, for whoever has read them before.
        only: ordinals of those that are wanted; None: all.
    """
    known = {f"{study_id}/{ordinal}" for ordinal in but}
    every = _trial_ids(store, study_id) if only is None else [f"{study_id}/{ordinal}" for ordinal in only]
    found: list[dict[str, Any]] = []
    for page in _pages([id for id in every if id not in known]):
        rows = store.gather(
            "UNWIND $ids AS id MATCH (t:Trial {id: id})-[:OF_SCHEME]->(s:Scheme) "
            "RETURN collect([properties(t), s.id]) AS rows",
            {"ids": page},
        )
        for properties, scheme in rows:
            trial = nodes.decode(properties)
            level = trial.pop("level", 0)
            found.append(trial | {"scheme": Scheme.parse(scheme).at(level).id if level else scheme})
    return sorted(found, key=lambda trial: int(trial["ordinal"]))


def save_trial_experience(store: GraphStore, study_id: str, experiences: Iterable[Experience]) -> None:
    """Write what a study's trials teach, with their tasks and strategies.

    An experience that another study had already, or that was added from a file, keeps its figures and its source;
    this study observed it too.

    Raises:
        NotInGraph: the study, or a strategy's method, is not in the graph.
    """
    records = list(experiences)
    if not records:
        return
    with store.transaction():
        taken = store.read(
            "UNWIND $ids AS id MATCH (e:Experience {id: id}) WHERE e.origin = 'paper' "
            "OR EXISTS { MATCH (e)-[:OBSERVED_IN]->(o:Study) WHERE o.id <> $study } RETURN DISTINCT e.id AS id",
            {"ids": [record.id for record in records], "study": study_id},
        ).column("id")
        own = [record for record in records if record.id not in taken]
        nodes.add_strategies(store, (record.strategy for record in own))
        tasks = {record.task.id: nodes.task_row(record.task) for record in own}
        store.upsert_nodes("Task", list(tasks.values()))
        store.upsert_nodes("Experience", [nodes.experience_row(record) for record in own])
        links = {
            ("OF_STRATEGY", "Strategy"): [(record.id, record.strategy.id) for record in own],
            ("ON_TASK", "Task"): [(record.id, record.task.id) for record in own],
            ("OBSERVED_IN", "Study"): [(record.id, study_id) for record in records],
        }
        for (type, label), ends in links.items():
            store.upsert_rels(type, "Experience", label, [{"from": start, "to": end} for start, end in ends])


def save_replay(store: GraphStore, replay: Properties, *, task: Task, trial: str | None = None) -> None:
    """Write a scheme that was run on a model outside of a study, all together or not at all.

    Args:
        replay: its "id", "scheme" (a Scheme or its id), and any properties.
        task: the model and the data it was run on.
        trial: id of the trial whose scheme it is; None where the scheme came from elsewhere.

    Raises:
        NotInGraph: the trial, or a strategy's method, is not in the graph.
    """
    scheme = replay["scheme"] if isinstance(replay["scheme"], Scheme) else Scheme.parse(replay["scheme"])
    id = replay["id"]
    with store.transaction():
        nodes.add_schemes(store, [scheme])
        store.upsert_nodes("Task", [nodes.task_row(task)])
        store.upsert_nodes("Replay", [nodes.encode({n: v for n, v in replay.items() if n != "scheme"})])
        store.upsert_rels("OF_SCHEME", "Replay", "Scheme", [{"from": id, "to": scheme.id}])
        store.upsert_rels("ON_TASK", "Replay", "Task", [{"from": id, "to": task.id}])
        if trial is not None:
            store.upsert_rels("REPLAYS", "Replay", "Trial", [{"from": id, "to": trial}])


def load_replays(store: GraphStore) -> list[dict[str, Any]]:
    """Return all replays, oldest first: what was saved, the scheme's id as "scheme", and the "trial" it replays."""
    table = store.read(
        "MATCH (r:Replay)-[:OF_SCHEME]->(s:Scheme) OPTIONAL MATCH (r)-[:REPLAYS]->(t:Trial) "
        "RETURN properties(r) AS p, s.id AS scheme, t.id AS trial"
    )
    found = [nodes.decode(p) | {"scheme": scheme, "trial": trial} for p, scheme, trial in table.rows]
    return sorted(found, key=lambda replay: (str(replay.get("ended", "")), replay["id"]))
