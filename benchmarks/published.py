"""What thousands of published results are good for: AR of sources that nobody has read, by every way to forecast it.

Each published source with an AR that teaches is left out in turn; all others, and our own tables, are learned. Errors
are absolute, over all rows and as a mean over the sources; ranks are Spearman's correlation within sources of four
rows and more. Nothing is tuned here: the settings of boosting are one plain choice.

    python -m benchmarks.published > docs/results/published.md      # five minutes of one core
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import nn

from benchmarks.new_experience import links
from kg.cards import on_grid, read_cards
from kg.embedding.experience_net import ExperienceNet, ExperienceTraining, logarithms, mean_vectors
from kg.embedding.law import fit, lessons, weigh, weighted_median
from kg.embedding.learn import clamp_rows, learn
from kg.embedding.records import Records, map_records
from kg.embedding.threads import one_thread
from kg.experience import read_experience
from kg.schema import Experience

Floats = NDArray[np.float64]
Forecast = Callable[[Sequence[Experience], Sequence[Experience]], Floats]
"""(what is read, what is foretold) -> AR."""
Pairs = list[tuple[Floats, Floats]]
"""(Foretold, measured), one pair for each source left out."""

RANKED, EPOCHS, SEED, RESAMPLES = 4, 25, 0, 2_000
WAYS = {
    "median": "weighted median of the other sources",
    "size": "size alone: one c for all methods",
    "law": "the law by size: c of each method",
    "boosting": "gradient boosting on plain features",
    "boosting+": "gradient boosting on plain features and vectors",
    "beyond": "the law, and boosting of what it leaves",
    "NN_exp": "the law, and NN_exp on the vectors of what it leaves",
}


def median(read: Sequence[Experience], held: Sequence[Experience]) -> Floats:
    """The constant that does best; our own tables, which lose more, are no part of it."""
    papers = [item for item in read if not item.own]
    return np.full(len(held), weighted_median(np.array([item.ar for item in papers]), weigh(papers)))


def law(read: Sequence[Experience], held: Sequence[Experience]) -> Floats:
    """What guides a search."""
    found = fit(read)
    assert found is not None
    return found.predict(held)


def size(read: Sequence[Experience], held: Sequence[Experience]) -> Floats:
    """The law without the methods' names."""

    def nameless(items: Sequence[Experience]) -> list[Experience]:
        return [replace(item, strategy=replace(item.strategy, method="any")) for item in items]

    return law(nameless(read), nameless(held))


def plain(items: Sequence[Experience]) -> Floats:
    """Features that any table has: sizes, task, family, length; NaN where unknown."""
    table = []
    for item in items:
        x = item.strategy.get("HP2") or item.pr
        sizes = [x, item.pr, item.fr, None if x is None else float(x) / (1.02 - float(x))]
        length = [item.iterations and np.log(item.iterations), float(item.own), float(item.family == "low rank")]
        table.append([np.nan if value is None else float(value) for value in (*sizes, *length)])
    features = np.array([[np.nan if v is None else v for v in item.task.features] for item in items], dtype=float)
    return np.concatenate([np.array(table), logarithms(features)], axis=1)


def boosted(rows: Floats, truth: Floats, weights: Floats, held: Floats) -> Floats:
    """Trees by absolute error, small steps, at least ten rows a leaf."""
    model = HistGradientBoostingRegressor(
        loss="absolute_error",
        learning_rate=0.1,
        max_iter=100,
        max_leaf_nodes=8,
        min_samples_leaf=10,
        random_state=SEED,
    )
    found: Floats = model.fit(rows, truth, sample_weight=weights).predict(held)
    return found


def boosting(read: Sequence[Experience], held: Sequence[Experience]) -> Floats:
    """Boosting on plain features."""
    return boosted(plain(read), np.array([item.ar for item in read]), weigh(read), plain(held))


def beyond(read: Sequence[Experience], held: Sequence[Experience]) -> Floats:
    """The law first, boosting for the rest."""
    left = np.array([item.ar for item in read]) - law(read, read)
    return law(read, held) + boosted(plain(read), left, weigh(read), plain(held))


class Vectors:
    """Forecasts that see the vectors of strategies, learned from the graph alone: no record has moved them."""

    def __init__(self, experience: Sequence[Experience], epochs: int) -> None:
        methods = on_grid(read_cards())
        found = learn(methods, links(methods), (), epochs=epochs, seed=SEED, use_experience=False)
        self.entities = torch.from_numpy(found.entity_vectors)
        self.records = map_records(experience, methods, {name: row for row, name in enumerate(found.entities)})
        self.place = {item.id: row for row, item in enumerate(self.records.items)}
        self.means = mean_vectors(self.records, self.entities).numpy().astype(float)

    def boosting(self, read: Sequence[Experience], held: Sequence[Experience]) -> Floats:
        """Boosting on plain features and the mean vector of what is known of the strategy."""

        def wide(items: Sequence[Experience]) -> Floats:
            rows = [self.place.get(item.id) for item in items]
            unknown = np.full(self.means.shape[1], np.nan)
            return np.hstack([plain(items), np.array([unknown if r is None else self.means[r] for r in rows])])

        return boosted(wide(read), np.array([item.ar for item in read]), weigh(read), wide(held))

    def network(self, read: Sequence[Experience], held: Sequence[Experience]) -> Floats:
        """NN_exp of what the law leaves, by Eq. 3, which moves the vectors too."""
        found = fit(read)
        known = {item.source for item in read}
        training: Records = self.records.take(np.array([i.source in known for i in self.records.items]))
        left = training.beyond(found)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            net = ExperienceNet()
        net.fit_scales(left)
        entities = nn.Parameter(self.entities.clone())
        lesson = ExperienceTraining(net, entities, left, seed=SEED, constrain=lambda: clamp_rows(entities))
        for _ in range(EPOCHS):
            lesson.epoch()
        wanted = {item.id for item in held}
        asked = self.records.take(np.array([item.id in wanted for item in self.records.items]))
        with torch.no_grad():
            said = net.predict(mean_vectors(asked, entities), net.inputs(asked.features, asked.excess))[:, 0]
        by = {item.id: float(value) for item, value in zip(asked.items, said, strict=True)}
        more: Floats = law(read, held) + np.array([by[item.id] for item in held])
        return more


@one_thread()
def folds(taught: Sequence[Experience], ways: dict[str, Forecast]) -> dict[str, Pairs]:
    """(Foretold, measured) by way, one pair for each source left out."""
    found = defaultdict(list)
    for source in sorted({item.source for item in taught if not item.own}):
        held = [item for item in taught if item.source == source]
        read = [item for item in taught if item.source != source]
        truth = np.array([item.ar for item in held], dtype=float)
        for name, way in ways.items():
            found[name].append((way(read, held), truth))
    return dict(found)


def gain(pairs: Pairs, base: Pairs) -> tuple[str, int]:
    """By how much the mean error by sources falls, 90% of resampled sources, and on how many it does."""
    errors, before = ([np.abs(said - truth).mean() for said, truth in side] for side in (pairs, base))
    less = np.array(before) - np.array(errors)
    draws = np.random.default_rng(SEED).integers(len(less), size=(RESAMPLES, len(less)))
    low, high = np.percentile(less[draws].mean(axis=1), (5, 95))
    return f"{low:+.4f} to {high:+.4f}", int((less > 0).sum())


def row(pairs: Pairs, base: Pairs) -> str:
    """Cells of one way: errors, how often the median is beaten, and ranks."""
    errors = [np.abs(said - truth) for said, truth in pairs]
    ranks = [
        float(spearmanr(said, truth).statistic)
        for said, truth in pairs
        if len(truth) >= RANKED and np.ptp(said) > 0 and np.ptp(truth) > 0
    ]
    rank = f"{np.mean(ranks):.2f} ({len(ranks)})" if ranks else ""
    by = f"{np.mean([e.mean() for e in errors]):.4f} | {np.median([e.mean() for e in errors]):.4f}"
    won = "" if pairs is base else "{} | {}".format(*gain(pairs, base))
    return f"{np.concatenate(errors).mean():.4f} | {by} | {won or ' | '} | {rank}"


def table(found: dict[str, Pairs]) -> None:
    """Print a table of ways."""
    print(
        "| forecast | over rows | over sources | median source | 90% of the gain by sources | better on | ranks (sources) |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, pairs in found.items():
        print(f"| {WAYS[name]} | {row(pairs, found['median'])} |")


def section(title: str, text: str, found: dict[str, Pairs]) -> None:
    """Print a table of ways under its title."""
    rows = sum(len(truth) for _, truth in found["median"])
    print(f"\n## {title}\n\n{text} {rows} rows of {len(found['median'])} sources.\n")
    table(found)
    if "beyond" in found:
        less, won = gain(found["beyond"], found["law"])
        print(f"\nWhat boosting adds to the law, by sources: 90% from {less}, better on {won} of {len(found['law'])}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of TransR, for the vectors")
    options = parser.parse_args()
    experience = read_experience()[0]
    published = [item for item in experience if not item.own]
    taught = list(lessons(experience))
    print("# What is published, and what it foretells\n")
    print("Written by `benchmarks/published.py`, without tuning; seed 0.\n")
    print(f"{len(published):,} results of {len({i.source for i in published})} published sources, by family:\n")
    print("| family | results | sources | methods | with AR | quoted |\n|---|---|---|---|---|---|")
    for family, _ in Counter(item.family for item in published).most_common():
        mine = [item for item in published if item.family == family]
        sources, named = len({i.source for i in mine}), len({i.strategy.method for i in mine})
        known, quoted = sum(i.ar is not None for i in mine), sum(i.quoted for i in mine)
        print(f"| {family} | {len(mine)} | {sources} | {named} | {known} | {quoted} |")
    plain_ways: dict[str, Forecast] = {
        "median": median,
        "size": size,
        "law": law,
        "boosting": boosting,
        "beyond": beyond,
    }
    text = (
        "Structured pruning and low rank, with AR and PR, none quoted; each source is left out once. Our own steps, "
        f"{sum(i.own for i in taught)}, are read and never foretold."
    )
    section("By size and plain features", text, folds(taught, plain_ways))
    more = lessons([i if i.pr is not None or i.fr is None else replace(i, pr=i.fr) for i in experience])
    text = "FR stands for the size of a row that prints no PR, in what is read and in what is foretold."
    section(
        "Where only FLOPs are printed", text, folds(more, {n: plain_ways[n] for n in ("median", "law", "boosting")})
    )
    vectors = Vectors(experience, options.epochs)
    text = f"The rows of the first table, with vectors learned from the graph alone; {options.epochs} epochs of TransR, {EPOCHS} of NN_exp."
    section(
        "With the vectors",
        text,
        folds(taught, {"median": median, "boosting+": vectors.boosting, "NN_exp": vectors.network}),
    )


if __name__ == "__main__":
    main()
