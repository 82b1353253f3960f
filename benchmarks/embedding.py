"""What the vectors of the package are good for: settings read, neighbours right, held-out links, a method that comes.

    python -m benchmarks.embedding [--beside OLD.safetensors] [--links] [--out docs/results/embedding.md]

Settings and neighbours are measured on the vectors as they are (`kg.embedding.quality`), also on other ones named by
`--beside`; with `--links`, links on vectors learned anew without 5% of the strategies' (`kg.embedding.report`). Then FPGM
(docs/examples/automc-fpgm) brings 100 strategies, of every third one the link to its method is held out, and learning
goes on. Ten seconds of one core, with `--links` a minute more. What the vectors foretell of unread papers is another page: published.md.
"""

from __future__ import annotations

import argparse
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from automc.knowledge.learned import CONTINUED_EPOCHS
from benchmarks.continue_embedding import FPGM, mrr
from benchmarks.new_experience import links
from kg.cards import enumerate_strategies, on_grid, packaged_cards, read_cards
from kg.embedding.learn import learn
from kg.embedding.quality import DRAWN, KINDS, directions, neighbours, settings_read
from kg.embedding.report import report
from kg.embedding.vectors import Vectors
from kg.resources import vectors_dir
from kg.schema import Method, Strategy

OLDER = "before"


def tables(methods: tuple[Method, ...], of: dict[str, Vectors]) -> list[str]:
    """Settings read and neighbours right, a column for each."""
    read = {name: settings_read(v.strategies, v.vectors) for name, v in of.items()}
    right = {name: neighbours(methods, v.strategies, v.vectors) for name, v in of.items()}
    lines = ["## Settings", "", "Share of strategies whose setting a logistic regression, fitted on the other half, reads in the vector.", "",
             "| hyperparameter | strategies | most frequent value | " + " | ".join(of) + " |", "|---|---|---|" + "---|" * len(of)]  # fmt: skip
    first = next(iter(read.values()))
    for name, row in first.items():
        lines.append(
            f"| {name} | {row['n']:,} | {row['chance']:.2f} | "
            + " | ".join(f"{found[name]['read']:.2f}" for found in read.values())
            + " |"
        )
    lines += ["", "## Neighbours", "", f"Share of triplets, up to {DRAWN:,} of a kind drawn from the grids, in which the strategy that should be nearer is nearer by cosine; chance is 0.50.", "",
              "| which is nearer: the first or the second? | " + " | ".join(of) + " |", "|---|" + "---|" * len(of)]  # fmt: skip
    for kind, meaning in KINDS.items():
        lines.append(f"| {meaning} | " + " | ".join(f"{found[kind]:.2f}" for found in right.values()) + " |")
    return lines


def held_out(methods: tuple[Method, ...], vectors: Vectors) -> list[str]:
    """Ranks of held-out links within their kind."""
    found = report(methods, links(methods), (), vectors=vectors)["links"]
    lines = ["", "## Held-out links", "", f"{found['held_out']:,} links of strategies, ranked among all methods, or all values of that hyperparameter. On a full grid nothing tells", "which value a strategy has whose link is missing; its method follows from the others.", "",
             "| relation | n | mean reciprocal rank | of random ranks |", "|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {name} | {row['n']} | {row['mrr']:.2f} | {row['chance']:.2f} |" for name, row in found["relations"].items()
    ]
    return lines


def a_method_comes(old: Vectors) -> list[str]:
    """What going on makes of FPGM's strategies."""
    after = on_grid(read_cards([*packaged_cards(), FPGM]))
    (card,) = (method for method in after if method.id == "FPGM")
    fresh = [strategy.id for strategy in enumerate_strategies(card)]
    held = [(name, "OF_METHOD", "FPGM") for name in fresh[::3]]
    known = [triple for triple in links(after) if triple not in set(held)]
    began = time.process_time()
    grown = learn(after, known, (), epochs=CONTINUED_EPOCHS, start=old)
    seconds = time.process_time() - began
    linked = [(name, "OF_METHOD", "FPGM") for name in fresh if (name, "OF_METHOD", "FPGM") not in set(held)]
    rivals = [triple for triple in known if triple not in set(linked)]
    figures: dict[str, Any] = {
        "mean reciprocal rank of the method of strategies that were linked to it": mrr(
            grown, linked, [*rivals, linked[0]]
        )[0],
        "of those that were not": mrr(grown, held, known)[0],
        "of random ranks": mrr(grown, held, known)[1],
    }
    strategies, unit = [Strategy.parse(name) for name in grown.strategies], directions(grown.vectors)
    new = np.array([strategy.method == "FPGM" for strategy in strategies])
    for knob in ("HP1", "HP2"):
        values = np.array([str(strategy.get(knob)) for strategy in strategies])
        known_values = ~new & (values != "None")
        reader = LogisticRegression(C=100, max_iter=200).fit(unit[known_values], values[known_values])
        figures[f"{knob} of the new strategies, read as in the old ones"] = float(reader.score(unit[new], values[new]))
    place = {name: row for row, name in enumerate(grown.strategies)}
    kept = directions(grown.vectors[[place[name] for name in old.strategies]])
    figures["mean cosine of the old strategies' vectors with those before"] = float(
        (kept * directions(old.vectors)).sum(axis=1).mean()
    )
    lines = ["", "## A method comes", "", f"FPGM brings {len(fresh)} strategies; {len(held)} of them lack the link to it. {CONTINUED_EPOCHS} epochs on the links of what is new and as many others, {seconds:.0f} s of a core.", "", "| | |", "|---|---|"]  # fmt: skip
    return lines + [f"| {name} | {value:.2f} |" for name, value in figures.items()]


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="other vectors, of the same strategies")
    parser.add_argument("--links", action="store_true", help="learn anew without some links, and rank these")
    parser.add_argument("--out", type=Path, default=Path("docs/results/embedding.md"))
    options = parser.parse_args()
    (file,) = vectors_dir().glob("*.safetensors")
    vectors, methods = Vectors.load(file), on_grid(read_cards())
    of = {"now": vectors}
    if options.beside:
        of = {OLDER: Vectors.load(options.beside), **of}
    about = ", ".join(f"{name} {version(name)}" for name in ("torch", "pykeen", "scikit-learn"))
    lines = [
        "# What are the vectors good for?", "", "Written by `python -m benchmarks.embedding`.", "",
        f"The vectors of the package, `{vectors.id}`: {len(vectors.strategies):,} strategies, {len(links(methods)):,} links of the graph, {vectors.epochs} epochs, seed {vectors.seed}; {file.stat().st_size / 1e6:.2f} MB. One thread; {about}.",
        *([f"\"{OLDER}\" are those of one relation for all settings and negatives of any kind, {of[OLDER].epochs} epochs; one seed each."] if options.beside else []),
        "What they foretell of unread papers: [published.md](published.md); what guides a search: [first-guess.md](first-guess.md).", "",
    ]  # fmt: skip
    lines += tables(methods, of) + (held_out(methods, vectors) if options.links else []) + a_method_comes(vectors)
    options.out.write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
