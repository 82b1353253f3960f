"""Graph convolutions over the knowledge graph in the place of TransR: what the network that predicts steps gains by them.

    python -m benchmarks.relational [--seconds 25] [--out docs/results/relational]

PyKEEN's RGCN (Schlichtkrull et al., ESWC 2018) and CompGCN (Vashishth et al., ICLR 2020) learn the links that TransR
learns, with its negatives and dimension, for so many seconds of one core. Judged as in `benchmarks/evaluators.py --vectors`,
beside the shipped vectors, vectors that were drawn, and a column for each setting. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pykeen.models import RGCN, CompGCN
from pykeen.training import SLCWATrainingLoop, TrainingCallback
from pykeen.triples import CoreTriplesFactory

from automc.search.base import FloatArray
from benchmarks.evaluators import MODELS, SEEDS, Rounds, all_sources, judged
from benchmarks.new_experience import links
from benchmarks.resumable import append, made_with
from benchmarks.resumable import rows as rows_of
from benchmarks.tab.table import TREE
from kg.cards import enumerate_strategies, on_grid, read_cards
from kg.embedding.finer import finer
from kg.embedding.negatives import TypedNegatives
from kg.embedding.quality import KINDS, neighbours, settings_read
from kg.embedding.transr import MARGIN, make_factory
from kg.embedding.vectors import Vectors
from kg.resources import vectors_dir

DIMENSION, BATCH, RATE = 32, 8192, 0.01
COLUMNS = ("vectors", "seconds", "epochs", "settings", "neighbours", "source", "seed", "spearman", "error")


class _Enough(Exception):
    """The seconds are over."""


class _Until(TrainingCallback):  # type: ignore[misc]
    """Counts epochs, and ends training after the one in which the seconds were over."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.epochs, self._end = 0, time.process_time() + seconds

    def post_epoch(self, epoch: int, epoch_loss: float, **kwargs: Any) -> None:
        self.epochs = epoch
        if time.process_time() > self._end:
            raise _Enough


def trained(name: str, factory: CoreTriplesFactory, seconds: float) -> tuple[FloatArray, int]:
    """Return every entity's vector after so many processor seconds, (n, 32), and the epochs that were done."""
    shared: dict[str, Any] = {
        "triples_factory": factory, "embedding_dim": DIMENSION, "loss": "marginranking",
        "loss_kwargs": {"margin": MARGIN}, "random_seed": 0,
    }  # fmt: skip
    model: Any
    if name == "RGCN":
        model = RGCN(**shared, decomposition="bases", edge_dropout=0.0, self_loop_dropout=0.0)
    else:
        model = CompGCN(**shared)
    size = {"num_entities": factory.num_entities, "num_relations": factory.num_relations}
    # With inverse triples PyKEEN numbers relations anew in batches, not in the factory's own triples.
    mapped = factory._add_inverse_triples_if_necessary(factory.mapped_triples)
    loop = SLCWATrainingLoop(
        model=model, triples_factory=factory, optimizer="adam", optimizer_kwargs={"lr": RATE},
        negative_sampler=TypedNegatives(mapped_triples=mapped, **size),
        automatic_memory_optimization=False,
    )  # fmt: skip
    until = _Until(seconds)
    with tempfile.TemporaryDirectory() as folder, suppress(_Enough):
        loop.train(factory, num_epochs=1000, batch_size=BATCH, use_tqdm=False, pin_memory=False, callbacks=until,
                   checkpoint_directory=folder)  # fmt: skip
    first: torch.Tensor = model.eval().entity_representations[0](indices=None)
    return first.detach().double().numpy(), until.epochs


def made(name: str, seconds: float) -> tuple[dict[str, FloatArray], int]:
    """Return each strategy's vector by its id, and the epochs that were done; nothing for a column for each setting."""
    methods = on_grid(read_cards())
    strategies = [strategy.id for method in methods for strategy in enumerate_strategies(method)]
    if name == "a column for each setting":
        return {}, 0
    if name == "drawn":
        return dict(zip(strategies, np.random.default_rng(0).normal(size=(len(strategies), DIMENSION)), strict=True)), 0
    if name == "TransR, shipped":
        learned = Vectors.load(next(vectors_dir().glob("*.safetensors")))
        return dict(zip(learned.strategies, learned.vectors.astype(float), strict=True)), learned.epochs
    triples = finer(links(methods))
    others = {node for head, _, tail in triples for node in (head, tail)} - set(strategies)
    entities, relations = [*strategies, *sorted(others)], sorted({relation for _, relation, _ in triples})
    factory = make_factory(triples, entities, relations)
    if name == "CompGCN":
        factory = CoreTriplesFactory(
            factory.mapped_triples, num_entities=len(entities), num_relations=len(relations),
            create_inverse_triples=True,
        )  # fmt: skip
    vectors, epochs = trained(name, factory, seconds)
    return dict(zip(strategies, vectors, strict=False)), epochs


KINDS_OF_VECTORS = ("a column for each setting", "drawn", "TransR, shipped", "RGCN", "CompGCN")


def judge(name: str, sources: dict[str, list[Rounds]], seconds: float, note: Callable[[dict[str, Any]], None]) -> None:
    """Learn one kind of vectors, and note a row for each source and seed."""
    vectors, epochs = made(name, seconds)
    about: dict[str, Any] = {
        "vectors": name,
        "seconds": f"{seconds:g}" if "GCN" in name else "",
        "epochs": epochs or "",
    }
    if vectors:
        names, matrix = list(vectors), np.array(list(vectors.values()))
        right = neighbours(on_grid(read_cards()), names, matrix)
        about["settings"] = f"{np.mean([row['read'] for row in settings_read(names, matrix).values()]):.3f}"
        about["neighbours"] = f"{np.mean([right[kind] for kind in KINDS]):.3f}"
    for source, told in sources.items():
        for seed, one in enumerate(told):
            space = one.space
            if vectors:
                space = replace(space, embeddings=np.array([vectors[s] for s in space.strategies]))
            rank, error, _ = judged(MODELS["network of Eq. 5 alone"], replace(one, space=space), seed)
            note({**about, "source": source, "seed": seed, "spearman": f"{rank:.4f}", "error": f"{error:.5f}"})


def page(out: Path) -> str:
    """Return the page of all rows so far."""
    rows = rows_of(out)
    sources = list(dict.fromkeys(row["source"] for row in rows))
    lines = [
        "# Graph convolutions over the knowledge graph in the place of TransR", "",
        "Written by `python -m benchmarks.relational` from `runs.csv`.", "",
        f"Learned from the links alone, {DIMENSION} dimensions, seed 0, for so many processor seconds; the shipped vectors have seen experience, too, and took",
        "most of a minute. The network of Eq. 5 alone, as in [evaluators-vectors.md](../evaluators-vectors.md): Spearman's correlation ± its deviation over",
        f"{SEEDS} seeds and mean absolute error of the next round's step AR. Settings: the share that a linear reader finds, mean over hyperparameters;",
        "neighbours: the share of right triplets, mean over kinds ([embedding.md](../embedding.md)).", made_with(), "",
        "| vectors | seconds | epochs | settings | neighbours | " + " | ".join(sources) + " |",
        "|---|---|---|---|---|" + "---|" * len(sources),
    ]  # fmt: skip
    for name in KINDS_OF_VECTORS:
        mine = [row for row in rows if row["vectors"] == name]
        cells = [mine[0][column] for column in COLUMNS[1:5]] if mine else [""] * 4
        for source in sources:
            own = np.array([(row["spearman"], row["error"]) for row in mine if row["source"] == source], dtype=float)
            cells.append(f"{own[:, 0].mean():.2f} ± {own[:, 0].std():.2f}, {own[:, 1].mean():.3f}" if len(own) else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    note = out / "note.md"
    return "\n".join([*lines, "", note.read_text() if note.exists() else ""])


def main() -> None:
    """Learn and judge what has no rows yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/relational"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources = {name: told for name, told in all_sources().items() if name != TREE.stem}
    for name in KINDS_OF_VECTORS:
        if any(row["vectors"] == name for row in rows_of(options.out)):
            continue
        found: list[dict[str, Any]] = []
        judge(name, sources, options.seconds, found.append)
        for row in found:
            append(options.out, COLUMNS, row)
        print(name, flush=True)
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
