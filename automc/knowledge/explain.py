"""What is known about a strategy, in plain language and with its sources."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from automc.knowledge.cards import executable
from automc.knowledge.store import graph
from kg.cards import SIZE
from kg.errors import NotInGraph
from kg.schema import Experience, Method, Paper, Strategy, Task, Value, format_value

if TYPE_CHECKING:
    from kg.store import GraphStore

NEAREST = 5
"""Neighbours of a strategy that are named."""
RECORDS = 5
"""Records of a strategy that are named; fewer of a neighbour."""
OF_NEIGHBOUR = 2

Explanation = dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """What explanations draw on, read from the graph once; records of own trials, which may be many, when asked for."""

    store: GraphStore
    """The graph, open as long as anything is explained."""
    methods: Mapping[str, Method]
    experience: Mapping[str, Sequence[Experience]]
    """Published records by method."""
    papers: Mapping[str, Paper]
    strategies: Mapping[str, int]
    """Rows of `vectors` by strategy."""
    vectors: npt.NDArray[np.float64]
    """Embeddings, (n, 32); no rows where none were learned."""
    tried: Mapping[str, Sequence[str]]
    """Strategies that own trials have records of, by method."""
    grids: dict[str, Grid] = field(default_factory=dict)
    """Places of those, by method, made when they are first asked for."""

    def own(self, strategy: Strategy, most: int) -> list[Experience]:
        """Return the records of own trials whose strategies agree most: `most` of them, and all level with those."""
        from kg.sync import own_experience

        method = self.methods[strategy.method]
        if not self.tried.get(method.id):
            return []
        grid = self.grids.get(method.id) or Grid.of(self.tried[method.id], method)
        self.grids[method.id] = grid
        agrees = np.round(grid.agreement(strategy), 9)
        least = np.sort(agrees)[-most:][0]
        return own_experience(self.store, [grid.ids[row] for row in np.flatnonzero(agrees >= least).tolist()])


@dataclass(frozen=True)
class Grid:
    """Many strategies of one method as rows of numbers, to be compared with one at once."""

    ids: Sequence[str]
    knobs: Mapping[str, Sequence[Any]]
    """Hyperparameters with their values on the method's grid."""
    columns: Mapping[str, npt.NDArray[Any]]
    """Settings by hyperparameter, (n,): texts, or places on the grid, whose ends are 1 apart; NaN where unknown."""

    @classmethod
    def of(cls, ids: Sequence[str], method: Method) -> Grid:
        """Return that of strategies that state their size, as those of trials do."""
        strategies = [dict(Strategy.parse(id).settings) for id in ids]
        knobs = {knob.id: knob.values for knob in method.hyperparameters}
        columns: dict[str, npt.NDArray[Any]] = {}
        for name, values in knobs.items():
            given = [settings.get(name) for settings in strategies]
            if any(isinstance(value, str) for value in (*values, *given)):
                columns[name] = np.array(["" if value is None else str(value) for value in given])
            else:
                columns[name] = _places(np.array(given, dtype=float), values)
        return cls(ids, knobs, columns)

    def agreement(self, strategy: Strategy) -> npt.NDArray[np.float64]:
        """Return `agreement` of each with a strategy, (n,)."""
        shares = [self._shares(name, value) for name, value in strategy.settings]
        return np.mean(shares, axis=0) if shares else np.ones(len(self.ids))

    def _shares(self, name: str, value: Value) -> npt.NDArray[np.float64]:
        column = self.columns[name]
        if column.dtype.kind == "U":
            return np.where(column == "", 0.5, (column == str(value)).astype(float))
        if isinstance(value, str):
            return np.where(np.isnan(column), 0.5, 0.0)
        away = np.abs(_places(np.array([float(value)]), self.knobs[name]) - column)
        return np.where(np.isnan(column), 0.5, 1 - away)


def _places(numbers: npt.NDArray[np.float64], values: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Places of numbers on a grid whose ends are 1 apart."""
    grid = [float(point) for point in values]
    return np.interp(numbers, grid, np.linspace(0, 1, len(grid)))


def read_evidence(store: GraphStore) -> Evidence:
    """Read what explanations draw on."""
    from kg.sync import own_strategies, read_embeddings, read_experience, read_methods

    experience: dict[str, list[Experience]] = {}
    for record in read_experience(store, own=False):
        experience.setdefault(record.strategy.method, []).append(record)
    tried: dict[str, list[str]] = {}
    for id in own_strategies(store):
        tried.setdefault(id.partition("[")[0], []).append(id)
    rows = store.read("MATCH (p:Paper) RETURN p.id AS id, p.title AS title, p.url AS url, p.year AS year").dicts()
    ids, found = read_embeddings(store)
    return Evidence(
        store,
        {method.id: method for method in read_methods(store)},
        experience,
        {row["id"]: Paper(row["id"], row["title"] or "", row["url"] or "", row["year"]) for row in rows},
        {id: row for row, id in enumerate(ids)},
        found.astype(np.float64),
        tried,
    )


def explain(strategy: str) -> Explanation:
    """Say what is known about a strategy, or about a method as a whole; see `explain_with`.

    Args:
        strategy: such as NS[HP1=0.2,HP2=0.12,HP6=0.9], with any of the settings left out, or a method's id.

    Raises:
        SchemaInvalid: it cannot be read.
        NotInGraph: there is no graph, no such method (retired ones do not count), or the method has no such setting.
    """
    with graph(create=False) as store:
        evidence = read_evidence(store)
        named = next((id for id in evidence.methods if id.lower() == strategy.strip().lower()), None)
        return explain_with(evidence, Strategy(named) if named else Strategy.parse(strategy))


def explain_with(evidence: Evidence, strategy: Strategy) -> Explanation:
    """Say what is known about a strategy.

    Returns:
        "strategy", "method" (with citation and techniques), "settings", "searchable", "executable"; "records" of its
        method, those whose settings agree most, with their sources (`agreement`); "nearest", the strategies with the
        most similar embeddings, each with its own records; "related", the methods that share most techniques.

    Raises:
        NotInGraph: the method is unknown, or has no such setting.
    """
    method = evidence.methods.get(strategy.method)
    if method is None:
        near = difflib.get_close_matches(strategy.method, evidence.methods, n=1)
        where = f"Did you mean {near[0]}?" if near else "`automc method list` has those that there are."
        where = where if evidence.methods else "It holds none: run `automc kg init`."
        raise NotInGraph(f"There is no method {strategy.method} in the graph. {where}")
    knobs = {knob.id: knob for knob in method.hyperparameters}
    for name, _ in strategy.settings:
        if name not in knobs:
            raise NotInGraph(f"{method.id} has no hyperparameter {name}; it has {', '.join(knobs) or 'none'}.")
    return {
        "strategy": strategy.id,
        "method": {
            "id": method.id, "title": method.title, "citation": method.citation, "url": method.url,
            "techniques": [technique.title for technique in method.techniques],
        },
        "settings": [
            {"id": name, "value": value, "meaning": knobs[name].meaning, "unit": knobs[name].unit}
            for name, value in strategy.settings
        ],
        "searchable": method.default_grid and strategy.id in _grid(method),
        "default_grid": method.default_grid,
        "executable": executable(method.id),
        "records": _records(evidence, strategy, RECORDS),
        "nearest": _nearest(evidence, strategy),
        "related": _related(evidence, method),
    }  # fmt: skip


def _grid(method: Method) -> list[str]:
    from kg.cards import enumerate_strategies

    return [strategy.id for strategy in enumerate_strategies(method)]


def agreement(strategy: Strategy, record: Experience, method: Method) -> float:
    """Return how much a record's settings agree with those that a strategy states, in [0, 1].

    The mean over these settings: a number by its distance on the method's grid, whose ends are 1 apart; a category by
    being the same; one that the record does not know counts half. An unknown HP2 is the record's PR.
    """
    knobs = {knob.id: knob.values for knob in method.hyperparameters}
    shares = []
    for name, value in strategy.settings:
        its = record.strategy.get(name)
        if its is None and name == SIZE:
            its = record.pr
        if its is None:
            shares.append(0.5)
        elif isinstance(value, str) or isinstance(its, str):
            shares.append(float(value == its))
        else:
            places = _places(np.array([value, its], dtype=float), knobs[name])
            shares.append(1 - abs(float(places[0] - places[1])))
    return float(np.mean(shares)) if shares else 1.0


def _records(evidence: Evidence, strategy: Strategy, most: int) -> list[dict[str, Any]]:
    """The records whose settings agree most, those with an AR first where they agree alike."""
    method = evidence.methods[strategy.method]
    records = [*evidence.experience.get(method.id, ()), *evidence.own(strategy, most)]
    found = [(agreement(strategy, record, method), record) for record in records]
    found.sort(key=lambda item: (-round(item[0], 9), item[1].ar is None, item[1].id))
    return [_record(evidence, record) | {"agreement": agrees} for agrees, record in found[:most]]


def _record(evidence: Evidence, record: Experience) -> dict[str, Any]:
    paper = evidence.papers.get(record.source)
    source = f"{paper.title} ({paper.year})" if paper and paper.year else paper.title if paper else ""
    return {
        "id": record.id, "strategy": record.strategy.id, "model": record.task.model, "dataset": record.task.dataset,
        "ar": record.ar, "pr": record.pr, "fr": record.fr, "sr": record.sr if record.quantised else None,
        "n": record.n, "confidence": record.confidence,
        "source": source or f"study {record.source}", "table": record.table, "url": paper.url if paper else "",
        "note": record.note,
    }  # fmt: skip


def _nearest(evidence: Evidence, strategy: Strategy) -> list[dict[str, Any]]:
    """The strategies whose embeddings are nearest by cosine, each with its records; none without embeddings."""
    from kg.embedding.records import locate

    method = evidence.methods[strategy.method]
    grid = _grid(method)
    if not grid or any(id not in evidence.strategies for id in grid):
        return []
    # One off the grid, or with settings left out, is the weighted mean of the grid's, as a record is when it teaches.
    place = locate(Experience(strategy.id, strategy, Task("", "", ""), source="the question"), method)
    vector = place.weights @ evidence.vectors[[evidence.strategies[id] for id in grid]]
    lengths = np.linalg.norm(evidence.vectors, axis=1) * np.linalg.norm(vector)
    cosine = evidence.vectors @ vector / np.maximum(lengths, 1e-12)
    ids = list(evidence.strategies)
    order = np.lexsort((np.arange(len(ids)), -np.round(cosine, 9)))
    chosen = [i for i in order if ids[i] != strategy.id][:NEAREST]
    return [
        {
            "strategy": ids[i],
            "cosine": float(cosine[i]),
            "records": _records(evidence, Strategy.parse(ids[i]), OF_NEIGHBOUR),
        }
        for i in chosen
    ]


def _related(evidence: Evidence, method: Method) -> list[dict[str, Any]]:
    """Methods that share techniques, those that share most first."""
    mine = {technique.id: technique.title for technique in method.techniques}
    found = []
    for other in evidence.methods.values():
        shared = [mine[technique.id] for technique in other.techniques if technique.id in mine]
        if shared and other.id != method.id:
            found.append({"method": other.id, "title": other.title, "techniques": shared})
    return sorted(found, key=lambda one: (-len(one["techniques"]), one["method"]))[:NEAREST]


def text(explanation: Explanation) -> str:
    """Print an explanation for a person."""
    method = explanation["method"]
    lines = [
        explanation["strategy"],
        f"  {method['id']} is {method['title']}: {'; '.join(method['techniques'])}.",
        f"  {method['citation']}" + (f" {method['url']}" if method["url"] else ""),
    ]
    for setting in explanation["settings"]:
        lines.append(f"  {setting['id']} = {format_value(setting['value'])}: {setting['meaning']} ({setting['unit']}).")
    lines.append(f"  {_standing(explanation)}")
    records = explanation["records"]
    lines += ["What is known of it, the closest settings first:" if records else "Nothing was measured with it yet."]
    lines += [f"  {record_text(record)}" for record in records]
    if explanation["nearest"]:
        lines.append("Nearest strategies, by the cosine of their embeddings:")
    for near in explanation["nearest"]:
        lines.append(f"  {near['cosine']:.3f}  {near['strategy']}")
        lines += [f"           {record_text(record)}" for record in near["records"]]
    if explanation["related"]:
        lines.append("Methods that share techniques with it:")
    lines += [f"  {one['method']}, {one['title']}: {'; '.join(one['techniques'])}" for one in explanation["related"]]
    return "\n".join(lines)


def _standing(explanation: Explanation) -> str:
    method = explanation["method"]["id"]
    if not explanation["executable"]:
        return f"{method} is known, but cannot be executed here: no search will choose it."
    if not explanation["default_grid"]:
        return f"{method} is off the default grid: a search chooses it only where `--only {method}` names it."
    if not explanation["searchable"]:
        return "It is not on the grid that searches choose from; `automc compress` can run it."
    return "It is on the grid that searches choose from."


def record_text(record: Mapping[str, Any]) -> str:
    """Print a record on one line: what was measured on what, and who says so."""
    said = [
        f"{name} {record[key]:+.2%}" if key == "ar" else f"{name} {record[key]:.2%}"
        for name, key in (
            ("accuracy", "ar"),
            ("parameters removed", "pr"),
            ("FLOPs removed", "fr"),
            ("bits removed", "sr"),
        )
        if record[key] is not None
    ]
    place = f", {record['table']}" if record["table"] else ""
    times = f", mean of {record['n']}" if record["n"] > 1 else ""
    return (
        f"{record['strategy']} on {record['model']}, {record['dataset']}: {', '.join(said) or 'no figures'}{times} "
        f"[{record['source']}{place}; {record['confidence']}]"
    )
