"""How good the embeddings are: settings and neighbours, held-out links, and AR on papers NN_exp has not read.

What `quality` measures comes first: it is what the vectors are used for. Links and papers are measured on vectors
learnt without 5% of the strategies' links: these are ranked among all that their relation links, as settings of one
hyperparameter or methods, and the same vectors are where every fold starts. A fold trains on everything but one paper
and predicts that one. Only papers with an AR in Eq. 3 are folds; our own trials are left out, and our own tables are no
folds and no part of the constants. PR is compared only where HP2 was not taken from the very PR to be predicted.

Errors are absolute, so the constant that counts is the median; the mean is there because it is usual.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from kg.cards import SIZE, enumerate_strategies
from kg.embedding.experience_net import ExperienceNet, ExperienceTraining, logarithms, mean_vectors
from kg.embedding.finer import METHOD, SETTING, finer, finer_relation
from kg.embedding.fingerprint import Triple
from kg.embedding.law import fit, judge, lessons, weighted_median
from kg.embedding.learn import EPOCHS, Progress, clamp_rows, name_entities
from kg.embedding.quality import neighbours, settings_read
from kg.embedding.records import Records, coverage, map_records
from kg.embedding.threads import one_thread
from kg.embedding.transr import GraphModel, first_tensors, make_factory
from kg.embedding.vectors import Vectors
from kg.schema import Experience, Method

HELD_OUT = 0.05
"""Share of the strategies' links that is ranked."""

Floats = NDArray[np.float64]
SHORT_EPOCHS, SHARE = 25, 0.25
"""An NN_exp that is stopped early, and the share of what it adds to the law that is believed: the best of 15 tried."""
RANKED = 4
"""Rows that a paper needs for an order of them to mean something."""
Predictor = Callable[[Records, Records, int], Floats]
"""(training rows, rows to predict, 0 for AR or 1 for PR) -> predictions; unknown targets are no training rows."""


@one_thread()
def report(
    methods: Sequence[Method],
    triples: Sequence[Triple],
    experience: Sequence[Experience],
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    vectors: Vectors | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure the quality of embeddings learnt with these arguments; deterministic like `learn`.

    Args:
        methods: the cards.
        triples: those of the graph.
        experience: the records; only published ones are used.
        seed: of everything.
        epochs: of TransR, and of Eq. 3 in each fold.
        vectors: whose settings and neighbours are measured; those of which some links were held out for None, and
            where a strategy is missing.
        progress: called with (steps done, steps, losses): a step is an epoch of TransR or a fold.

    Returns:
        `settings` and `neighbours` as in `quality`. `links`: held_out, the mean reciprocal rank `mrr` within the kind,
        and by relation beside its `chance`. `ar` and `pr`: n rows, papers, and for
        the law, NN_exp and the trivial predictors the mean absolute error over all rows (`mae`) and as a mean over the
        papers (`mae_by_paper_mean`), and the mean rank correlation within papers (`rank`) where they do not say the
        same of all rows; `papers_detail`. `first_guess` as `law.judge`. `coverage` as `records.coverage`. `seconds`.
    """
    begin = time.perf_counter()
    triples = sorted(set(triples))
    published = [item for item in experience if item.origin == "paper"]
    strategies = [strategy.id for method in methods for strategy in enumerate_strategies(method)]
    entities = name_entities(strategies, methods, finer(triples))
    records = map_records(published, methods, {name: row for row, name in enumerate(entities)})
    papers = sorted(
        {i.source for i, ar in zip(records.items, records.targets[:, 0], strict=True) if ar == ar and not i.own}
    )
    steps = epochs + len(papers)

    def tell(done: int, losses: dict[str, float]) -> None:
        if progress:
            progress(done, steps, losses)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        links, learnt = _links(triples, entities, seed, epochs, tell)
        folds = []
        for number, paper in enumerate(papers, 1):
            held = np.array([item.source == paper for item in records.items])
            folds.append((paper, *_fold(records.take(~held), records.take(held), learnt, seed, epochs)))
            tell(epochs + number, {})
    names, found = strategies, learnt.numpy()
    if vectors is not None and set(strategies) <= set(vectors.strategies):
        names, found = list(vectors.strategies), vectors.vectors
    return {
        "settings": settings_read(names, found[: len(names)], seed),
        "neighbours": neighbours(methods, names, found, seed),
        "links": links,
        "ar": _summary(folds, 0),
        "pr": _summary(folds, 1),
        "first_guess": _verdict(published),
        "coverage": coverage(published, methods),
        "seed": seed,
        "epochs": epochs,
        "seconds": time.perf_counter() - begin,
    }


def _verdict(published: Sequence[Experience]) -> dict[str, Any]:
    verdict = judge(published)
    return {**asdict(verdict), "used": verdict.used}


def _links(
    triples: Sequence[Triple],
    entities: Sequence[str],
    seed: int,
    epochs: int,
    tell: Callable[[int, dict[str, float]], None],
) -> tuple[dict[str, Any], Tensor]:
    """Train TransR without some links of strategies, and rank these; return the ranks and the entities' vectors."""
    links = [triple for triple in triples if triple[1] in (SETTING, METHOD)]
    chosen = np.random.default_rng(seed).permutation(len(links))[: round(HELD_OUT * len(links))]
    held = [links[i] for i in sorted(chosen)]
    left_out, all_links = set(held), finer(triples)
    relations = sorted({relation for _, relation, _ in all_links})
    taught = finer(triple for triple in triples if triple not in left_out)
    model = GraphModel(make_factory(taught, entities, relations), first_tensors(taught, entities, relations, None))
    model.train(epochs, lambda epoch, loss: tell(epoch, {"graph": loss}))
    ranks = _ranks(model, held, all_links, entities, relations)
    found = {
        "held_out": len(held),
        "trained_on": len(taught),
        "mrr": float(np.mean([1 / rank for rows in ranks.values() for rank, _ in rows])) if held else float("nan"),
        "relations": {
            name: {
                "n": len(rows),
                "mrr": float(np.mean([1 / rank for rank, _ in rows])),
                "chance": float(np.mean([np.mean(1 / np.arange(1, rivals + 1)) for _, rivals in rows])),
            }
            for name, rows in sorted(ranks.items())
        },
    }
    return found, model.tensors()["entities"]


def _ranks(
    model: GraphModel,
    held: Sequence[Triple],
    links: Sequence[Triple],
    entities: Sequence[str],
    relations: Sequence[str],
) -> dict[str, list[tuple[float, int]]]:
    """Return for each relation the held-out tails' ranks among all its tails, and how many these are.

    Other true tails are no rivals; equal scores share the mean of their ranks.
    """
    tails, true = defaultdict[str, set[str]](set), defaultdict[tuple[str, str], set[str]](set)
    for head, relation, tail in links:
        tails[relation].add(tail)
        true[head, relation].add(tail)
    row, kind = ({name: place for place, name in enumerate(names)} for names in (entities, relations))
    found: dict[str, list[tuple[float, int]]] = {}
    model.model.eval()
    for head, relation, tail in ((h, finer_relation(r, t), t) for h, r, t in held):
        rivals = [tail, *sorted(tails[relation] - true[head, relation])]
        asked = torch.tensor([(row[head], kind[relation], row[name]) for name in rivals])
        with torch.no_grad():
            scores = model.model.score_hrt(asked).flatten()
        rank = 1 + float((scores[1:] > scores[0]).sum()) + float((scores[1:] == scores[0]).sum()) / 2
        found.setdefault(relation, []).append((rank, len(rivals)))
    return found


def _fold(
    training: Records, held: Records, vectors: Tensor, seed: int, epochs: int
) -> tuple[Records, dict[str, Floats]]:
    """Learn some papers, and predict another with everything: (rows × 2) by predictor, NaN where it says nothing."""
    published = training.take(np.array([not item.own for item in training.items], dtype=bool))
    predictions = {
        name: np.stack([predictor(published, held, target) for target in (0, 1)], axis=1)
        for name, predictor in TRIVIAL.items()
    }
    law = fit(lessons(training.items))
    size = np.zeros((len(held), 2))
    if law is not None:
        size[:, 0] = law.predict(held.items)
    long, short = _beyond(training.beyond(law), held, vectors, seed, (epochs, SHORT_EPOCHS))
    only_ar = np.array([1.0, np.nan])
    by_size = {"law": size * only_ar, "law + NN_exp / 4": (size + SHARE * short) * only_ar}
    return held, {"NN_exp": size + long, **by_size, **predictions}


def _beyond(left: Records, held: Records, vectors: Tensor, seed: int, epochs: Sequence[int]) -> list[Floats]:
    """What NN_exp says of records after so many epochs of what the law leaves: each (rows × 2)."""
    net = ExperienceNet()
    net.fit_scales(left)
    entities = nn.Parameter(vectors.clone())
    lesson = ExperienceTraining(net, entities, left, seed=seed, constrain=lambda: clamp_rows(entities))
    found = {}
    for epoch in range(max(epochs) + 1):
        if epoch in epochs:
            with torch.no_grad():
                said = net.predict(mean_vectors(held, entities), net.inputs(held.features, held.excess))
            found[epoch] = said.astype(np.float64)
        if epoch < max(epochs):
            lesson.epoch()
    return [found[epoch] for epoch in epochs]


def _summary(folds: Sequence[tuple[str, Records, dict[str, Floats]]], target: int) -> dict[str, Any]:
    """Mean absolute errors over all folds, and rank correlations within them."""
    errors: dict[str, list[Floats]] = {}
    ranks: dict[str, list[float]] = {}
    detail: dict[str, dict[str, float]] = {}
    for paper, held, predictions in folds:
        truth = held.targets[:, target]
        rows = ~np.isnan(truth) & (held.given if target else True)
        if not rows.any():
            continue
        detail[paper] = {"n": int(rows.sum())}
        for name, predicted in predictions.items():
            said = predicted[rows, target]
            if np.isnan(said).any():
                continue
            missed = np.abs(said - truth[rows])
            errors.setdefault(name, []).append(missed)
            detail[paper][name] = float(missed.mean())
            if len(said) >= RANKED and np.ptp(said) > 0 and np.ptp(truth[rows]) > 0:
                ranks.setdefault(name, []).append(float(spearmanr(said, truth[rows]).statistic))
    return {
        "n": sum(int(row["n"]) for row in detail.values()),
        "papers": len(detail),
        "mae": {name: float(np.concatenate(parts).mean()) for name, parts in errors.items()},
        "mae_by_paper_mean": {name: float(np.mean([p.mean() for p in parts])) for name, parts in errors.items()},
        "rank": {name: {"papers": len(found), "mean": float(np.mean(found))} for name, found in ranks.items()},
        "papers_detail": detail,
    }


def _known(training: Records, target: int) -> tuple[Records, Floats]:
    """The rows that have the target, and the target."""
    rows = training.take(~np.isnan(training.targets[:, target]))
    return rows, rows.targets[:, target]


def global_median(training: Records, held: Records, target: int) -> Floats:
    """Predict the median of all rows, every source weighing alike; 0 without any."""
    rows, truth = _known(training, target)
    return np.full(len(held), weighted_median(truth, rows.weights) if len(rows) else 0.0)


def global_mean(training: Records, held: Records, target: int) -> Floats:
    """Predict the mean of all rows, every source weighing alike; 0 without any."""
    rows, truth = _known(training, target)
    return np.full(len(held), np.average(truth, weights=rows.weights) if len(rows) else 0.0)


def method_mean(training: Records, held: Records, target: int) -> Floats:
    """Predict the mean of the method's rows; the global mean for a method without any."""
    rows, truth = _known(training, target)
    out = global_mean(training, held, target)
    names = np.array([item.strategy.method for item in rows.items])
    for place, item in enumerate(held.items):
        same = names == item.strategy.method
        if same.any():
            out[place] = np.average(truth[same], weights=rows.weights[same])
    return out


def ridge(training: Records, held: Records, target: int) -> Floats:
    """Predict by ridge regression on method, raw settings (HP2 := PR where unknown) and task features.

    Unknown numbers are the mean plus a flag, columns are standardised, and the penalty is chosen by cross-validation.
    """
    rows, truth = _known(training, target)
    if not len(rows):
        return np.zeros(len(held))
    columns = sorted({name for row in _settings(rows) for name in row})
    model = make_pipeline(
        SimpleImputer(strategy="mean", add_indicator=True), StandardScaler(), RidgeCV(alphas=np.logspace(-2, 4, 13))
    )
    model.fit(_design(rows, columns), truth, ridgecv__sample_weight=rows.weights)
    predicted: Floats = model.predict(_design(held, columns))
    return predicted


TRIVIAL: dict[str, Predictor] = {
    "global median": global_median,
    "global mean": global_mean,
    "mean per method": method_mean,
    "ridge": ridge,
}


def _settings(records: Records) -> list[dict[str, float]]:
    """The records' settings as named numbers, HP2 := PR where unknown; categories and the method as indicators."""
    table = []
    for item, given in zip(records.items, records.given, strict=True):
        row = {f"method {item.strategy.method}": 1.0}
        for name, value in item.strategy.settings:
            row[f"{name}={value}" if isinstance(value, str) else name] = 1.0 if isinstance(value, str) else float(value)
        if not given and item.pr is not None:
            row[SIZE] = item.pr
        table.append(row)
    return table


def _design(records: Records, columns: Sequence[str]) -> Floats:
    """Rows for the ridge: settings, NaN where unknown, then task features; indicators are 0 where not set."""
    settings = [
        [row.get(name, 0.0 if "=" in name or " " in name else np.nan) for name in columns] for row in _settings(records)
    ]
    return np.concatenate([np.array(settings), logarithms(records.features)], axis=1)
