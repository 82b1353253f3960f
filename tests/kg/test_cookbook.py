"""The cookbook: every saved query answers alike on every store, and what is computed here says the same."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kg import studies, sync
from kg.cards import on_grid, read_cards
from kg.curation import additions
from kg.curation.documents import Source
from kg.cypher import SavedQuery, names, packaged_queries, saved_queries
from kg.experience import packaged_experience, read_experience
from kg.resources import migrations_dir
from kg.schema import LABELS, RELATIONSHIPS, Experience, Method, Scheme, Strategy, Task
from kg.store import GraphStore, connect
from kg.store.migrate import migrate

PAGE = Path(__file__).parents[2] / "docs" / "cypher.md"
QUERIES = saved_queries([packaged_queries()])
PARAMS: dict[str, dict[str, Any]] = {"lineage": {}}
"""Where the default of a saved query names nothing of this world."""

TASK = Task("own", "cifar10", "resnet20", 10, 32, 3, 50000, 269722, 81102080, 0.9)
N = "NS[HP1=0.1,HP2=0.12,HP6=0.7]"
N2 = "NS[HP1=0.2,HP2=0.12,HP6=0.9]"
L = "LFB[HP1=0.1,HP2=0.12,HP15=0.5,HP16=NLL]"
S = "SFP[HP2=0.12,HP9=0.1,HP10=1]"
ONE, TWO = "resnet20-cifar10-1", "resnet20-cifar10-2"

# scheme, status, accuracy, removed, step AR, step PR, predicted step AR, seconds
TRIALS: dict[str, list[tuple[Any, ...]]] = {
    ONE: [
        (N, "ok", 0.88, 0.12, -0.0222, 0.12, -0.03, 4.0),
        (L, "ok", 0.89, 0.12, -0.0111, 0.12, -0.005, 6.0),
        (f"{L} -> {N}", "ok", 0.885, 0.24, -0.0056, 0.1364, -0.02, 5.0),
        (f"{N} -> {L}", "ok", 0.87, 0.24, -0.0114, 0.1364, None, 7.0),
        (S, "crashed", None, None, None, None, -0.01, 1.0),
        (f"{L} -> {N} -> {N2}", "ok", 0.86, 0.36, -0.0282, 0.1579, -0.03, 3.0),
    ],
    TWO: [
        (L, "ok", 0.80, 0.12, -0.0123, 0.12, None, 6.5),
        (f"{L} -> {N}", "ok", 0.79, 0.24, -0.0125, 0.1364, None, 5.5),
        (S, "infeasible", None, None, None, None, None, 0.5),
    ],
}


def layer_table(conv: int = 400, fc: int = 80) -> dict[str, Any]:
    """The layers of a network of two; with -1 for the first one, it is written as two factors."""
    names, params = ["conv", "fc"], [conv, fc]
    if conv == -1:
        names, params = ["conv.0", "conv.1", "fc"], [120, 40, fc]
    return {"name": names, "params": params, "kind": ["conv"] * len(names), "missing": ""}


LAYERS = {1: layer_table(300), 2: layer_table(-1), 3: layer_table(300, 40), 6: layer_table(100, 10)}
"""Layer tables of trials of both studies; the first and the sixth lose too much accuracy to be asked for."""
ADDED = """
format: 1
paper: {id: me2026_mine, title: Mine, year: 2026}
entered_by: me
tasks:
- id: mine_task
  dataset: {name: cifar10, classes: 10, image_size: 32, channels: 3, images: 50000}
  model: ResNet-20
  params: {value: 270, unit: k}
  top1_percent: 91.0
  source: Table 1
records:
- {id: mine_001, method: NS, settings: {HP1: 0.5}, task: mine_task, top1_percent: 90.0,
   params: {value: 135, unit: k}, table: Table 1, source: the paper, confidence: verified-one-source}
"""


def methods() -> tuple[Method, ...]:
    """All cards, with no more than two values of each hyperparameter."""
    return tuple(
        replace(m, hyperparameters=tuple(replace(h, values=_few(h.values)) for h in m.hyperparameters))
        for m in read_cards()
    )


def _few(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(v for v in values if v in (0.04, 0.12)) or values[:2]


def fill(store: GraphStore) -> None:
    """Fill an empty graph that has all migrations."""
    places = [*packaged_experience(), Source("mine", ADDED)]
    experience, papers = read_experience(places)
    knowledge = (methods(), experience, papers)
    who = additions.Provenance("me", "mine.yaml", "2026-01-02T03:04:05+00:00")
    additions.write(store, "Paper", "me2026_mine", ADDED, who, knowledge, ["mine_001"])
    additions.retire(store, "Experience", ["sfp_001"], "me", "cannot be reproduced")
    store.write("MATCH (e:Experience) WHERE e.retired_at IS NOT NULL SET e.retired_at = '2026-01-03T00:00:00+00:00'")
    ids = sync.strategy_ids(store)
    sync.write_embeddings(store, ids, vectors(len(ids)), {"id": "run", "fingerprint": "f", "seed": 0})
    for study in TRIALS:
        about = {"id": study, "status": "done", "searcher": "progressive", "gamma": 0.1, "recommended": f"{L} -> {N}"}
        about |= {"started": "2026-01-01T00:00:00+00:00", "data": "cifar10"}
        studies.create_study(store, about, task=TASK, token=study, layers=layer_table())
        for row in trials(study):
            studies.save_trial(store, study, row, layers=LAYERS.get(row["ordinal"]))
    studies.save_trial_experience(store, ONE, own_experience())
    other = replace(TASK, id="other", model="other")
    studies.save_replay(store, replay(f"{L} -> {N}", ONE, 0.81, 0.25), task=other, trial=f"{ONE}/3")
    studies.save_replay(store, replay(N, None, 0.87, 0.12), task=TASK)


def replay(scheme: str, study: str | None, accuracy: float, pr: float) -> dict[str, Any]:
    """A replay as it is saved; only a study foretells the accuracy."""
    return {
        "id": f"replay:{study}", "scheme": scheme, "study": study, "accuracy": accuracy, "pr": pr, "forecast_pr": 0.24,
        "forecast_accuracy_study": 0.8 if study else None, "forecast_accuracy_experience": 0.79,
    }  # fmt: skip


def vectors(n: int) -> np.ndarray:
    """Any vectors, always the same."""
    return np.random.default_rng(0).normal(size=(n, 32)).astype(np.float32)


def trials(study: str) -> Iterator[dict[str, Any]]:
    """The trials of a study as they are saved."""
    names = ("scheme", "status", "accuracy", "pr", "step_ar", "step_pr", "predicted_step_ar", "seconds")
    for ordinal, values in enumerate(TRIALS[study], 1):
        row = dict(zip(names, values, strict=True))
        expected = None if row["predicted_step_ar"] is None else 0.12
        ar = None if row["accuracy"] is None else row["accuracy"] / 0.9 - 1
        reason = "" if row["status"] == "ok" else f"{row['status']} here"
        yield row | {
            "ordinal": ordinal, "predicted_step_pr": expected, "ar": ar, "cached": ordinal == 2, "iterations": 10,
            "reason": reason, "scheme": Scheme.parse(row["scheme"]),
        }  # fmt: skip


def own_experience() -> list[Experience]:
    """What the single steps of the first study taught."""
    return [
        Experience("trial:1", Strategy.parse(N), TASK, ONE, "trial", -0.0222, 0.12, 0.1, confidence="measured",
                   details={"unit_epochs": "1"}),
        Experience("trial:2", Strategy.parse(L), TASK, ONE, "trial", -0.0111, 0.12, -0.1, confidence="measured"),
    ]  # fmt: skip


PARAMS["lineage"] = {"scheme": f"{L} -> {N} -> {N2}"}

Row = tuple[Any, ...]


def ask(store: GraphStore, query: SavedQuery) -> list[Row]:
    """The answer, floats rounded to what both engines must agree on."""
    return [_rounded(row) for row in store.read(query.text, {**query.params, **PARAMS.get(query.name, {})}).rows]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 9) + 0.0
    return type(value)(map(_rounded, value)) if isinstance(value, list | tuple) else value


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Row]]]:
    """What the embedded store answers to each saved query."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AUTOMC_GRAPH", raising=False)
        with connect(tmp_path_factory.mktemp("cookbook")) as store:
            migrate(store, migrations_dir())
            fill(store)
            yield {name: ask(store, query) for name, query in QUERIES.items()}


def test_there_are_enough_and_each_says_something(answers: dict[str, list[Row]]) -> None:
    assert len(QUERIES) >= 20
    assert [name for name, rows in answers.items() if not rows] == []
    assert all(query.title for query in QUERIES.values())


@pytest.mark.parametrize(
    "store",
    [pytest.param("bolt", marks=pytest.mark.slow), pytest.param("neo4j", marks=pytest.mark.neo4j)],
    indirect=True,
)
def test_every_store_answers_alike(graph: GraphStore, answers: dict[str, list[Row]]) -> None:
    fill(graph)
    for name, query in QUERIES.items():
        assert ask(graph, query) == answers[name], name


def test_the_page_has_every_query() -> None:
    page = PAGE.read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^### ([a-z-]+)\n\n```cypher\n(.*?)^```", page, re.M | re.S))
    assert blocks == {path.stem: path.read_text(encoding="utf-8") for path in packaged_queries().glob("*.cypher")}
    assert set(re.findall(r"--saved ([a-z-]+)", page)) <= set(QUERIES)


def test_queries_name_only_what_the_schema_has() -> None:
    for query in QUERIES.values():
        used = names(query.text)
        assert set(used.labels) <= set(LABELS)
        assert set(used.types) <= set(RELATIONSHIPS)
        assert "*" not in re.sub(r"\*\d*\.\.\d| \* ", "", query.text), f"{query.name}: an unbounded path"


# What the answers must be, from the files and the rows above, without any graph.


@functools.cache
def records() -> list[Experience]:
    experience, _ = read_experience([*packaged_experience(), Source("mine", ADDED)])
    return [one for one in (*experience, *own_experience()) if one.id != "sfp_001"]


def expected_low_loss() -> list[Row]:
    pruning = {m.id for m in read_cards() if any("prun" in t.title.lower() for t in m.techniques)}
    papers = {paper.id: paper.title for paper in read_experience()[1]}
    found = [
        (e.strategy.id, e.task.model, e.pr, e.ar, papers[e.source], e.table, e.id)
        for e in records()
        if e.origin == "paper" and e.task.dataset == "cifar10" and e.strategy.method in pruning
        and (e.pr or 0) >= 0.4 and e.ar is not None and e.ar > -0.005
    ]  # fmt: skip
    return sorted(found, key=lambda row: (-row[3], row[6]))


def expected_best() -> list[Row]:
    rates: dict[str, list[float]] = {}
    for e in records():
        if e.task.dataset == "cifar10" and (e.pr or 0) >= 0.3 and e.ar is not None:
            rates.setdefault(e.strategy.method, []).append(e.ar)
    return sorted(((m, max(a), min(a), len(a)) for m, a in rates.items()), key=lambda row: (-row[1], row[0]))


def expected_families() -> list[Row]:
    years = {paper.id: paper.year for paper in read_experience()[1]}
    groups: dict[tuple[int, int, str], list[Experience]] = {}
    for e in records():
        if (
            e.task.dataset == "imagenet"
            and (e.fr or 0) >= 0.75
            and e.ar is not None
            and e.task.accuracy
            and not e.quoted
        ):
            place = 5 * int(e.task.accuracy * 20), years[e.source] // 3 * 3, str(e.family)
            groups.setdefault(place, []).append(e)
    rows = []
    for (percent, year, family), found in groups.items():
        rates, sources = [e.ar for e in found], {e.source for e in found}
        middle, named = float(np.median(rates)), {e.strategy.method for e in found}
        rows.append((family, percent, year, len(found), len(sources), middle, max(rates), min(rates), len(named)))
    return sorted(rows, key=lambda row: (row[1], row[2], -row[5], row[0]))


def measured(e: Experience) -> bool:
    """Whether a paper says what its authors measured."""
    return e.origin == "paper" and not e.code and not e.quoted


def expected_elsewhere() -> list[Row]:
    groups: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for e in records():
        size, what = (e.fr, "FLOPs") if e.pr is None else (e.pr, "parameters")
        if measured(e) and e.ar is not None and size:
            place = e.strategy.method, e.task.dataset, e.task.model.split(" (")[0], what, int(size * 10)
            groups.setdefault(place, {}).setdefault(e.source, []).append(e.ar)
    rows = []
    for (*place, tenths), sources in groups.items():
        means = [math.fsum(rates) / len(rates) for rates in sources.values()]
        apart = max(means) - min(means)
        if len(means) > 1 and apart > 0.005:
            rows.append((*place, tenths / 10, apart, min(means), max(means), sorted(sources)))
    return sorted(rows, key=lambda row: (-row[5], *row[:3], row[4]))


def expected_quoted() -> list[Row]:
    def alike(q: Experience, e: Experience) -> bool:
        same = q.strategy.method == e.strategy.method and q.task.dataset == e.task.dataset and q.source != e.source
        one, other = (q.fr, e.fr) if q.fr is not None else (q.pr, e.pr)
        near = one is not None and other is not None and abs(one - other) <= 0.02
        return same and near and q.task.model.split(" (")[0] == e.task.model.split(" (")[0]

    rows = [
        (q.strategy.method, q.task.dataset, q.task.model, q.source, q.fr, q.pr, q.ar, e.source, e.fr, e.pr, e.ar,
         None if e.ar is None or q.ar is None else e.ar - q.ar, q.id, e.id)
        for q in records() if q.quoted
        for e in records() if e.origin == "paper" and not e.quoted and alike(q, e)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (*row[:3], *row[12:]))


def expected_near() -> list[Row]:
    ids = sorted(s.id for m in on_grid(methods()) for s in _grid(m))
    matrix = vectors(len(ids)).astype(float)
    one = matrix[ids.index("NS[HP1=0.2,HP2=0.12,HP6=0.9]")]
    cosine = matrix @ one / np.sqrt((matrix * matrix).sum(axis=1) * (one @ one))
    order = [i for i in np.argsort(-cosine) if ids[i] != "NS[HP1=0.2,HP2=0.12,HP6=0.9]"][:10]
    return [(ids[i], float(cosine[i])) for i in order]


def _grid(method: Method) -> list[Strategy]:
    from kg.cards import enumerate_strategies

    return list(enumerate_strategies(method))


def expected_predictions() -> list[Row]:
    errors: dict[str, list[tuple[float, float]]] = {}
    for row in (row for study in TRIALS for row in trials(study)):
        if row["status"] == "ok" and row["predicted_step_ar"] is not None:
            pair = (row["predicted_step_ar"] - row["step_ar"], row["predicted_step_pr"] - row["step_pr"])
            errors.setdefault(row["scheme"].steps[-1].method, []).append(pair)
    rows = [
        (m, len(e), math.fsum(abs(a) for a, _ in e) / len(e), math.fsum(a for a, _ in e) / len(e),
         math.fsum(abs(p) for _, p in e) / len(e))
        for m, e in errors.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (row[2], row[0]))


TRUTH: dict[str, Callable[[], list[Row]]] = {
    "low-loss-pruning": expected_low_loss,
    "best-results": expected_best,
    "families": expected_families,
    "same-method-elsewhere": expected_elsewhere,
    "quoted-numbers": expected_quoted,
    "predictions": expected_predictions,
    "front": lambda: [
        (2, L, 0.89, 0.12, 0.12), (3, f"{L} -> {N}", 0.885, 0.24, 0.24),
        (6, f"{L} -> {N} -> {N2}", 0.86, 0.36, 0.36),
    ],
    "low-rank-first": lambda: [
        (ONE, 3, f"{L} -> {N}", 0.885, 0.24), (ONE, 6, f"{L} -> {N} -> {N2}", 0.86, 0.36),
        (TWO, 2, f"{L} -> {N}", 0.79, 0.24),
    ],
    "order-matters": lambda: [(ONE, L, N, 0.885, 0.87)],
    "next-steps": lambda: [("NS", 2, (-0.0056 - 0.0125) / 2, 0.1364)],
    "lineage": lambda: [
        (1, L, "ok", 0.89, 0.12, -0.0111), (2, N, "ok", 0.885, 0.24, -0.0056), (3, N2, "ok", 0.86, 0.36, -0.0282),
    ],
    "replays": lambda: [
        ("other", "cifar10", ONE, f"{L} -> {N}", 0.8, 0.79, 0.81, 0.24, 0.25),
        ("resnet20", "cifar10", None, N, None, 0.79, 0.87, 0.24, 0.12),
    ],
    "layers-that-lost-most": lambda: [
        ("conv", 400, 2, (0.6 + 0.25) / 2, 0.25, 0.6), ("fc", 80, 2, 0.5 / 2, 0.0, 0.5),
    ],
    "failures": lambda: [("SFP", "crashed", 1, "crashed here"), ("SFP", "infeasible", 1, "infeasible here")],
    "retired": lambda: [("Experience", "sfp_001", "me", "2026-01-03T00:00:00+00:00", "cannot be reproduced")],
    "added": lambda: [("Paper", "me2026_mine", "Mine", "me", "2026-01-02T03:04:05+00:00", "mine.yaml", 1)],
}  # fmt: skip


@pytest.mark.parametrize("name", TRUTH)
def test_the_answer_is_right(name: str, answers: dict[str, list[Row]]) -> None:
    assert answers[name] == [_rounded(row) for row in TRUTH[name]()]


def test_near_strategies_are_the_nearest(answers: dict[str, list[Row]]) -> None:
    found = answers["near-strategies"]
    assert [row[0] for row in found] == [row[0] for row in expected_near()]
    assert [row[1] for row in found] == pytest.approx([row[1] for row in expected_near()])
