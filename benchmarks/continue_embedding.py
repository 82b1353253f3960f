"""What becomes of the vectors when a method comes to a graph that has been learned: continued, or learned anew?

The six grid cards and the published records are learned from nothing; then FPGM (docs/examples/automc-fpgm) brings
100 strategies. Of every third one a link to its HP1, its HP2 or its method is held out. One row per seed and way:

    old        the vectors before FPGM
    placed     continued for 0 epochs: new strategies at the mean of their peers
    continued  for 20 epochs, with the pace of what is known in the column
    anew       everything from nothing

`mrr` is of the held-out tails, among all tails of their relation (filtered), and `chance` that of random ranks;
`old_mrr` of one link of every tenth old strategy, which all ways have learned. `overlap`: settings that a new
strategy shares with its 10 nearest old ones, and with all old ones. Against "old": mean cosine of the old
strategies' vectors, and mean change of the AR predicted for them on a CIFAR-10 ResNet-56.

    python benchmarks/continue_embedding.py --out docs/results/continue-embedding.csv
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kg import sync
from kg.cards import enumerate_strategies, packaged_cards, read_cards
from kg.embedding import transr
from kg.embedding.finer import finer, finer_relation
from kg.embedding.learn import EPOCHS, learn
from kg.embedding.vectors import Vectors
from kg.experience import read_experience
from kg.resources import migrations_dir
from kg.schema import Strategy, Task, setting_id
from kg.store import connect
from kg.store.migrate import migrate

FPGM = Path(__file__).parents[1] / "docs/examples/automc-fpgm/src/automc_fpgm/fpgm.yaml"
TASK = Task("t", "cifar10", "resnet56", 10, 32, 3, 50_000, 853_018, 251_000_000, 0.93)
FIELDS = (
    "seed", "way", "pace", "epochs", "mrr_setting", "chance_setting", "mrr_method", "chance_method", "old_mrr",
    "overlap_near", "overlap_all", "old_cosine", "old_ar_change", "seconds", "torch", "pykeen",
)  # fmt: skip
Triple = tuple[str, str, str]


def worlds() -> tuple[Any, Any]:
    """(methods, triples) before and after FPGM has a grid, the triples read from a graph."""
    experience, papers = read_experience()
    found = []
    with tempfile.TemporaryDirectory() as folder, connect(Path(folder)) as store:
        migrate(store, migrations_dir())
        for cards in (packaged_cards(), [*packaged_cards(), FPGM]):
            sync.sync(store, read_cards(cards), experience, papers)
            found.append((sync.read_methods(store), sync.triples(store)))
    return found[0], found[1]


def held_out(methods: Any) -> list[Triple]:
    """One link of every third FPGM strategy: its HP1, its HP2 or its method in turn."""
    (fpgm,) = (method for method in methods if method.id == "FPGM")
    held = []
    for n, strategy in enumerate(list(enumerate_strategies(fpgm))[::3]):
        links = [("HAS_SETTING", setting_id(*s)) for s in strategy.settings if s[0] in ("HP1", "HP2")]
        held.append((strategy.id, *[*links, ("OF_METHOD", "FPGM")][n % 3]))
    return held


def clamp(vectors: np.ndarray) -> np.ndarray:
    """Bring rows into the unit ball."""
    clamped: np.ndarray = vectors / np.maximum(1.0, np.linalg.norm(vectors, axis=-1, keepdims=True))
    return clamped


def mrr(vectors: Vectors, asked: Sequence[Triple], known: Sequence[Triple]) -> tuple[float, float]:
    """MRR of the tails of `asked` among all tails of their relation, filtered; and that of random ranks."""
    row = {name: place for place, name in enumerate(vectors.entities)}
    known, asked = finer(known), [(head, finer_relation(relation, tail), tail) for head, relation, tail in asked]
    tails = {r: sorted({t for _, relation, t in known if relation == r}) for r in {r for _, r, _ in asked}}
    true: dict[tuple[str, str], set[str]] = {}
    for head, relation, tail in [*known, *asked]:
        true.setdefault((head, relation), set()).add(tail)
    found, chance = [], []
    for head, relation, tail in asked:
        place = vectors.relations.index(relation)
        projection, shift = vectors.projections[place], vectors.relation_vectors[place]
        rivals = [row[name] for name in tails[relation] if name not in true[head, relation] and name in row]
        moved = clamp(vectors.entity_vectors[row[head]] @ projection) + shift
        distance = np.linalg.norm(moved - clamp(vectors.entity_vectors[[row[tail], *rivals]] @ projection), axis=1)
        found.append(1 / (1 + int((distance[1:] < distance[0]).sum())))
        chance.append(float(np.mean(1 / np.arange(1, len(distance) + 1))))
    return float(np.mean(found)), float(np.mean(chance))


def overlap(vectors: Vectors) -> tuple[float, float]:
    """Settings that a new strategy shares with its 10 nearest old ones, and with an old one on average."""
    unit = vectors.vectors / np.linalg.norm(vectors.vectors, axis=1, keepdims=True)
    settings = [set(Strategy.parse(name).settings) for name in vectors.strategies]
    ours = np.array([name.startswith("FPGM[") for name in vectors.strategies])
    others = np.flatnonzero(~ours)
    near, every = [], []
    for i in np.flatnonzero(ours):
        shared = np.array([len(settings[i] & settings[j]) for j in others])
        near.append(shared[np.argsort(-(unit[others] @ unit[i]), kind="stable")[:10]].mean())
        every.append(shared.mean())
    return float(np.mean(near)), float(np.mean(every))


def measure(
    vectors: Vectors, old: Vectors, held: list[Triple], known: list[Triple], sample: list[Triple]
) -> dict[str, Any]:
    """All figures of a row that are about vectors."""
    figures: dict[str, Any] = {"old_mrr": mrr(vectors, sample, known)[0]}
    row = {name: place for place, name in enumerate(vectors.strategies)}
    kept = [row[name] for name in old.strategies]
    one, two = vectors.vectors[kept], old.vectors
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    figures["old_cosine"] = float(((one * two).sum(axis=1) / norms).mean())
    figures["old_ar_change"] = float(np.abs(vectors.predict(TASK)[kept, 0] - old.predict(TASK)[:, 0]).mean())
    if vectors is not old:
        for name, relation in (("setting", "HAS_SETTING"), ("method", "OF_METHOD")):
            asked = [t for t in held if t[1] == relation]
            figures[f"mrr_{name}"], figures[f"chance_{name}"] = mrr(vectors, asked, known)
        figures["overlap_near"], figures["overlap_all"] = overlap(vectors)
    return figures


def main() -> None:
    """Write one row per seed and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--paces", type=float, nargs="*", default=[0.0, transr.PACE, 1.0])
    options = parser.parse_args()
    (before, old_triples), (after, triples) = worlds()
    experience, _ = read_experience()
    held = held_out(after)
    known = [triple for triple in triples if triple not in set(held)]
    sample = [t for t in old_triples if t[1] == "HAS_SETTING" and not t[0].startswith("FPGM")][::53]
    versions = {name: version(name) for name in ("torch", "pykeen")}
    with options.out.open("w", newline="") as file:
        table = csv.DictWriter(file, FIELDS)
        table.writeheader()
        for seed in range(options.seeds):
            began = time.perf_counter()
            old = learn(before, old_triples, experience, seed=seed)
            continued = [("continued", pace, 20) for pace in options.paces]
            ways: list[tuple[str, float | str, int]] = [("placed", "", 0), *continued, ("anew", "", EPOCHS)]
            rows: list[tuple[str, float | str, int, Vectors, float]] = [
                ("old", "", EPOCHS, old, time.perf_counter() - began)
            ]
            for way, pace, epochs in ways:
                began = time.perf_counter()
                transr.PACE = float(pace or 0.0)
                start = None if way == "anew" else old
                found = learn(after, known, experience, epochs=epochs, seed=seed, start=start)
                rows.append((way, pace, epochs, found, time.perf_counter() - began))
            for way, pace, epochs, found, seconds in rows:
                figures = measure(found, old, held, known, sample)
                rounded = {name: round(value, 4) for name, value in figures.items()}
                about = {"seed": seed, "way": way, "pace": pace, "epochs": epochs, "seconds": round(seconds, 1)}
                table.writerow({**about, **rounded, **versions})
                file.flush()


if __name__ == "__main__":
    main()
