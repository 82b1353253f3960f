"""What new experience costs: NN_exp alone, going on from vectors, beside learning everything anew.

The packaged cards and all published records but those of one paper are learned from nothing; then that paper's records
come. One row per paper and way: processor seconds of learning, and of importing what it needs in a process of its own;
the loss of Eq. 3 on all records at the end; the mean absolute error of AR on the new records before and after; and the
mean cosine of the strategies' vectors with those before.

    python benchmarks/new_experience.py --out docs/results/new-experience.csv
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from kg.cards import on_grid, read_cards
from kg.embedding.fingerprint import Triple
from kg.embedding.learn import EPOCHS, learn
from kg.embedding.vectors import Vectors
from kg.experience import read_experience
from kg.schema import Experience, Method
from kg.sync import grid_triples

PAPERS = ("li2019_lfb", "he2018_sfp", "liu2017_slimming")
FIELDS = ("paper", "n_new", "way", "epochs", "seconds", "import_seconds", "eq3_loss", "ar_error_before", "ar_error", "cosine", "torch", "pykeen")  # fmt: skip


def links(methods: tuple[Method, ...]) -> list[Triple]:
    """The triples of the cards, as a graph has them."""
    found: set[Triple] = set()
    for method in methods:
        found |= {(method.id, "USES_TECHNIQUE", technique.id) for technique in method.techniques}
        found |= set(grid_triples(method))
    return sorted(found)


def ar_error(vectors: Vectors, records: list[Experience], methods: tuple[Method, ...]) -> float:
    """Mean absolute error of AR on records that have one."""
    cards = {method.id: method for method in methods}
    known = [(r, r.ar) for r in records if r.ar is not None]
    wrong = [abs(vectors.predict_step(r.strategy, r.task, cards[r.strategy.method])[0] - ar) for r, ar in known]
    return float(np.mean(wrong)) if wrong else float("nan")


def cosine(one: Vectors, two: Vectors) -> float:
    """Mean cosine of the strategies' vectors."""
    a, b = one.vectors, two.vectors
    return float(((a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).mean())


def import_seconds(module: str) -> float:
    """Processor seconds of a process that imports a module."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Write a row per paper and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=EPOCHS, help="Epochs from nothing.")
    options = parser.parse_args()
    methods = on_grid(read_cards())
    triples, (experience, _) = links(methods), read_experience()
    versions = {name: version(name) for name in ("torch", "pykeen")}
    with options.out.open("w", newline="") as file:
        table = csv.DictWriter(file, FIELDS)
        table.writeheader()
        for paper in PAPERS:
            new = [record for record in experience if record.source == paper]
            old = learn(methods, triples, [r for r in experience if r.source != paper], epochs=options.first)
            for way, start, epochs, module in (
                ("NN_exp alone", old, 20, "kg.embedding.learn"), ("anew", None, options.first, "kg.embedding.transr")
            ):  # fmt: skip
                began = time.process_time()
                found = learn(methods, triples, experience, epochs=epochs, start=start)
                seconds = time.process_time() - began
                table.writerow({
                    "paper": paper, "n_new": len(new), "way": way, "epochs": epochs, "seconds": round(seconds, 2),
                    "import_seconds": round(import_seconds(module), 2),
                    "eq3_loss": round(found.losses["experience"][-1], 4),
                    "ar_error_before": round(ar_error(old, new, methods), 4),
                    "ar_error": round(ar_error(found, new, methods), 4), "cosine": round(cosine(found, old), 4), **versions,
                })  # fmt: skip
                file.flush()


if __name__ == "__main__":
    main()
