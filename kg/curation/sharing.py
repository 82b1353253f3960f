"""A study's results as an experience file: what others can learn from it, without its model, weights or images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from kg import nodes
from kg.curation.documents import write_document
from kg.errors import NotInGraph
from kg.experience_file import DatasetEntry, ExperienceFile, PaperEntry, Quantity, Ratios, RecordEntry, TaskEntry
from kg.schema import Experience, Task
from kg.store.base import GraphStore
from kg.studies import load_study

_DIGITS = 6
"""Decimals of a percentage."""

HEAD = "# What a study measured: strategies, features of data and models, outcomes. No weights and no images.\n"
"""First line of every file."""


def study_document(store: GraphStore, study: str) -> tuple[str, int]:
    """Return a study's experience as the text of an experience file, and its number of records.

    A record is a step that ended well: strategy, the features of data and input model, and the figures before and
    after. A step that grew the model is left out: a record's PR is a share removed. Records keep their ids, so
    whoever has one already does not count it twice.

    Raises:
        NotInGraph: there is no such study, or it measured nothing.
    """
    about = load_study(store, study)
    table = store.read(
        "MATCH (:Study {id: $study})<-[:OBSERVED_IN]-(e:Experience {origin: 'trial'})-[:ON_TASK]->(t:Task) "
        "MATCH (e)-[:OF_STRATEGY]->(s:Strategy) WHERE e.retired_at IS NULL "
        "RETURN properties(e) AS experience, s.id AS strategy, properties(t) AS task",
        {"study": study},
    )
    # Sorted here: a store's memory for sorting ends before a long study does.
    rows = sorted(table.rows, key=lambda row: str(row[0]["id"]))
    found = [nodes.read_experience_row(row, strategy, nodes.read_task(task)) for row, strategy, task in rows]
    shared = [one for one in found if one.pr is not None and one.pr >= 0 and one.task.params and one.task.accuracy]
    if not shared:
        raise NotInGraph(f"The study '{study}' has measured nothing that could be shared yet.")
    paper = _paper(study, about)
    tasks = {one.task.id: _task(one.task, paper.id) for one in shared}
    version = (about.get("spec") or {}).get("versions", {}).get("automc", "")
    records = tuple(_record(one, tasks[one.task.id], f"AutoMC {version}".strip()) for one in shared)
    file = ExperienceFile(
        format=1, paper=paper, entered_by="automc experience export", tasks=tuple(tasks.values()), records=records
    )
    return HEAD + write_document(file), len(records)


def _paper(study: str, about: Mapping[str, Any]) -> PaperEntry:
    """The study as a source, by the same id whenever and however often it is exported."""
    mark = hashlib.sha256(f"{study}|{about.get('started')}|{about.get('base_accuracy')}".encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9_]+", "-", study).strip("-")
    year = str(about.get("started") or "")[:4]
    return PaperEntry(
        id=f"study-{name}-{mark}",
        title=f"AutoMC study {study}: {about.get('searcher', '')} search on {about.get('data', '')}",
        year=int(year) if year.isdigit() else None,
    )


def _task(task: Task, paper: str) -> TaskEntry:
    assert task.params is not None
    assert task.accuracy is not None
    features = {name: round(getattr(task, name)) for name in ("classes", "image_size", "channels", "images")}
    return TaskEntry(
        # The exporting study's own task keeps its id; what is added is another node.
        id=f"{paper}:{task.id}",
        dataset=DatasetEntry(name=task.dataset, **features),
        model=task.model,
        params=Quantity(value=round(task.params), unit="1"),
        flops=Quantity(value=round(task.flops), unit="1") if task.flops else None,
        top1_percent=round(100 * task.accuracy, _DIGITS),
        source="measured on the study's validation images",
    )


def _record(one: Experience, task: TaskEntry, source: str) -> RecordEntry:
    assert one.pr is not None
    assert one.task.params is not None
    assert one.task.accuracy is not None
    after = None if one.ar is None else min(100.0, round(100 * one.task.accuracy * (1 + one.ar), _DIGITS))
    return RecordEntry(
        id=one.id,
        method=one.strategy.method,
        settings=dict(one.strategy.settings),
        task=task.id,
        top1_percent=after,
        params=Quantity(value=round(one.task.params * (1 - one.pr)), unit="1"),
        published_ratio=Ratios(fr=_share(one.fr), sr=_share(one.sr) if one.quantised else None),
        table="trials",
        source=source,
        confidence="measured",
        iterations=one.iterations,
        train_images=one.train_images,
        code=one.code or source,
        seed=one.seed,
        raw=dict(one.details),
    )


def _share(ratio: float | None) -> float | None:
    """A ratio that a record may print; a model that grew has none."""
    return ratio if ratio is not None and 0 <= ratio <= 1 else None
