"""Whether a model of steps gains by reading the layers: graph network and others ranking the next steps of prefixes.

    python -m benchmarks.graph_network [--held-out] [--seeds N] [--out docs/results/graph-network]

On tables whose schemes' layers are known (`benchmarks/tab/structures.py`). A model is told steps in the order of a random
search; then, for each prefix with known layers, it ranks the next steps of which it was told nothing. Kendall's τ and the
regret of the first are means over these prefixes. Goes on where it stopped. With `--held-out` also on grey6-k12, once: nothing was chosen on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from automc.search.base import FloatArray, Limits, Outcome, SchemeIndices, Space
from automc.search.evaluator import StepModel
from automc.search.linear import LinearModel
from automc.search.network import NetModel
from automc.search.progressive import ProgressiveSearch
from automc.search.progressive_mean import StrategyMeans
from automc.search.random_search import RandomSearch
from benchmarks.resumable import append, made_with
from benchmarks.resumable import rows as rows_of
from benchmarks.tab.graph_network import GraphModel, Tables, shuffled
from benchmarks.tab.structures import load
from benchmarks.tab.table import TREE, VECTORS, Table, search
from kg.embedding.vectors import Vectors

TOLD = {"step-tree-584": (20, 50, 100), "digits-k8": (20, 40), "grey6-k12": (20, 50, 100)}
"""Tables, and after how many told steps models are judged."""
LEAST = 4
"""Next steps of a prefix that were not told, below which it is not judged."""
GAMMA = 0.3
PRETRAINED = 20
"""Times that a network is taught each other table, 40 Adam steps each."""
MARGIN = 0.05
"""By how much Kendall's τ must rise above the linear model's for the graph network to be taken."""
FIELDS = ("table", "seed", "part", "model", "told", "value", "taus")
"""`value` is the mean regret, of searches the share of the true front's hypervolume; `taus` is one for each prefix."""
Steps = list[tuple[Outcome, Outcome]]
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Study:
    """A table as a study: its space, all its steps, and the layers of its schemes."""

    name: str
    table: Table
    space: Space
    limits: Limits
    steps: Steps
    """All (parent, step) with figures."""
    layers: Tables

    @classmethod
    def load(cls, path: Path) -> Study:
        """Read a table and the layers beside it; strategies of the grid have their learned vectors, others none."""
        table = Table.load(path)
        learned = Vectors.load(next(VECTORS.glob("*.safetensors")))
        place = {name: row for row, name in enumerate(learned.strategies)}
        vectors = [learned.vectors[place[s]] if s in place else np.zeros(32) for s in table.space.strategies]
        space = replace(table.space, embeddings=np.array(vectors, dtype=float))
        found = {scheme: table.outcome(scheme, 0) for scheme in table.mean}
        known = found | {(): _start(table)}
        steps = [(known[s[:-1]], o) for s, o in found.items()]
        return cls(path.stem, table, space, table.limits(GAMMA), steps, load(path))

    def told(self, seed: int, count: int) -> list[Steps]:
        """Return what a random search is told, round by round."""
        rounds = search(RandomSearch(self.table.space, self.limits, seed), self.table, count, seed=seed)
        known = {o.scheme: o for one in rounds for o in one.told} | {(): _start(self.table)}
        return [[(known[o.scheme[:-1]], o) for o in one.told if o.status == "ok"] for one in rounds]


def _start(table: Table) -> Outcome:
    return Outcome((), "ok", table.base_accuracy, 0.0, 0.0, 0.0)


def united(studies: Sequence[Study]) -> list[Study]:
    """Return the studies in one space, each with its own strategies unmasked, so that a network can learn from several."""
    spaces = [study.space for study in studies]
    names = tuple(name for study in studies for name in study.space.methods)
    starts = np.cumsum([0, *(len(space.mask) for space in spaces)])
    methods = np.cumsum([0, *(len(space.methods) for space in spaces)])
    found = []
    for number, study in enumerate(studies):
        mask = np.zeros(starts[-1], dtype=bool)
        mask[starts[number] : starts[number + 1]] = True
        space = Space(
            strategies=tuple(f"{i} {s}" for i, space in enumerate(spaces) for s in space.strategies),
            methods=names,
            method=np.concatenate([space.method + methods[i] for i, space in enumerate(spaces)]),
            embeddings=np.concatenate([space.embeddings for space in spaces]),
            hp2=np.concatenate([space.hp2 for space in spaces]),
            cost=np.concatenate([space.cost for space in spaces]),
            mask=mask,
            task=np.zeros(7),
        )

        def moved(scheme: SchemeIndices, by: int = int(starts[number])) -> SchemeIndices:
            return tuple(i + by for i in scheme)

        steps = [(replace(p, scheme=moved(p.scheme)), replace(o, scheme=moved(o.scheme))) for p, o in study.steps]
        layers = {moved(scheme): table for scheme, table in study.layers.items()}
        found.append(replace(study, space=space, steps=steps, layers=layers))
    return found


class Recurrent(NetModel):
    """F_mo's recurrent network on the linear model, always followed."""

    def __init__(self, space: Space, limits: Limits, seed: int) -> None:
        self.linear = LinearModel(space, limits)
        super().__init__(space, limits, seed, self.linear)

    def learn(self, steps: Sequence[tuple[Outcome, Outcome]]) -> float:
        """Train both on all steps told so far."""
        self.linear.learn(steps)
        return super().learn(steps)


Make = Callable[[Study, int], StepModel]
LINEAR, RECURRENT, GRAPH = "linear model", "recurrent network", "graph network"
MODELS: dict[str, Make] = {
    "mean of each strategy": lambda s, seed: StrategyMeans(s.space, s.limits),
    LINEAR: lambda s, seed: LinearModel(s.space, s.limits),
    RECURRENT: lambda s, seed: Recurrent(s.space, s.limits, seed),
    GRAPH: lambda s, seed: GraphModel(s.space, s.limits, seed, s.layers),
    "graph network without edges": lambda s, seed: GraphModel(s.space, s.limits, seed, s.layers, edges=False),
    "graph network, others' layers": lambda s, seed: GraphModel(s.space, s.limits, seed, shuffled(s.layers, seed)),
}
"""The networks are on top of the linear model."""


def judged(model: StepModel, study: Study, told: set[SchemeIndices]) -> tuple[str, float]:
    """Return τ of each prefix with known layers, as text, "-" where too little is untold, and the mean regret of step AR."""
    children: dict[SchemeIndices, list[Outcome]] = {scheme: [] for scheme in study.layers}
    parents: dict[SchemeIndices, Outcome] = {}
    for parent, step in study.steps:
        if parent.scheme in children and step.scheme not in told:
            children[parent.scheme].append(step)
            parents[parent.scheme] = parent
    asked = [scheme for scheme, steps in children.items() if len(steps) >= LEAST]
    predicted = dict(zip(asked, model.predict([parents[scheme] for scheme in asked])[..., 0], strict=True))
    taus, regrets = dict.fromkeys(children, "-"), []
    for scheme in asked:
        said = predicted[scheme][[o.scheme[-1] for o in children[scheme]]]
        truth = np.array([o.step_ar for o in children[scheme]], dtype=float)
        tau = kendalltau(said, truth).statistic
        taus[scheme] = f"{0.0 if np.isnan(tau) else tau:.3f}"
        regrets.append(truth.max() - truth[int(np.argmax(said))])
    return " ".join(taus.values()), float(np.mean(regrets))


def follow(model: StepModel, study: Study, rounds: Sequence[Steps]) -> Iterator[tuple[int, str, float]]:
    """Tell a model round by round; yield how many steps it was told, and `judged`, as often as TOLD says."""
    known: Steps = []
    for steps in rounds:
        before = len(known)
        known = known + steps
        model.learn(known)
        for count in TOLD[study.name]:
            if before < count <= len(known):
                yield count, *judged(model, study, {o.scheme for _, o in known})


def alone(studies: Sequence[Study], place: int, seed: int) -> Iterator[Row]:
    """Judge each model on one study."""
    study = studies[place]
    rounds = study.told(seed, max(TOLD[study.name]))
    for name, make in MODELS.items():
        for count, taus, regret in follow(make(study, seed), study, rounds):
            yield {"model": name, "told": count, "taus": taus, "value": regret}


def taught(studies: Sequence[Study], place: int, seed: int) -> Iterator[Row]:
    """Judge networks on one study that have learned the others' steps; also before they are told anything."""
    together = united(studies)
    here, others = together[place], [study for i, study in enumerate(together) if i != place]
    by = int(np.flatnonzero(here.space.mask)[0])

    def moved(outcome: Outcome) -> Outcome:
        return replace(outcome, scheme=tuple(i + by for i in outcome.scheme))

    told = studies[place].told(seed, max(TOLD[here.name]))
    rounds = [[(moved(p), moved(o)) for p, o in steps] for steps in told]
    taus, regret = judged(LinearModel(here.space, here.limits), here, set())
    yield {"model": LINEAR, "told": 0, "taus": taus, "value": regret}
    for name in (RECURRENT, GRAPH):
        model, teachers = MODELS[name](here, seed), [(MODELS[name](study, seed), study) for study in others]
        for _ in range(PRETRAINED):
            for teacher, study in teachers:
                assert isinstance(teacher, NetModel)
                assert isinstance(model, NetModel)
                teacher.net, teacher._optimizer = model.net, model._optimizer
                teacher.learn(study.steps)
        first = 0, *judged(model, here, set())
        for count, taus, regret in (first, *follow(model, here, rounds)):
            yield {"model": f"{name}, taught by the others", "told": count, "taus": taus, "value": regret}


def searched(studies: Sequence[Study], place: int, seed: int) -> Iterator[Row]:
    """Yield the shares of the true front's hypervolume that progressive searches have after 25 and 50 steps."""
    study = studies[place]
    best = study.table.best_volume(GAMMA)
    for name in (LINEAR, GRAPH):
        searcher = ProgressiveSearch(study.space, study.limits, seed, evaluator=MODELS[name](study, seed))
        schemes = [o.scheme for one in search(searcher, study.table, 50, seed=seed) for o in one.told]
        for count in (25, 50):
            yield {"model": name, "told": count, "taus": "", "value": study.table.volume(schemes[:count], GAMMA) / best}


PARTS = {"alone": alone, "taught": taught, "search": searched}


def taus_of(rows: Sequence[Row], model: str, told: int) -> FloatArray:
    """Return τ, (seeds, prefixes), NaN where a prefix was not judged."""
    mine = sorted(
        (row for row in rows if row["model"] == model and int(row["told"]) == told), key=lambda row: row["seed"]
    )
    return np.array([[np.nan if t == "-" else float(t) for t in row["taus"].split()] for row in mine])


def rise(of: FloatArray, beside: FloatArray) -> str:
    """Return by how much τ is higher, and the bootstrap's 95% interval over prefixes."""
    differs = of - beside
    differs = np.nanmean(differs[:, ~np.isnan(differs).all(axis=0)], axis=0)
    drawn = np.random.default_rng(0).choice(differs, (2000, len(differs))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{differs.mean():+.3f}: {low:+.3f} to {high:+.3f}"


def section(name: str, rows: Sequence[Row]) -> list[str]:
    """Return the table of one study."""
    counts = sorted({int(row["told"]) for row in rows})
    judged_there = [int((~np.isnan(taus_of(rows, LINEAR, n))).any(axis=0).sum()) for n in counts]
    seeds = len({row["seed"] for row in rows})
    lines = [f"## {name}", "", f"{seeds} seeds; prefixes that are judged: {', '.join(map(str, judged_there))}.", "",
             "| model | " + " | ".join(f"{n} told" for n in counts) + " |", "|---|" + "---|" * len(counts)]  # fmt: skip
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = []
        for count in counts:
            mine = [float(row["value"]) for row in rows if row["model"] == model and int(row["told"]) == count]
            if not mine:
                cells.append("")
                continue
            taus = taus_of(rows, model, count)
            cell = f"{np.nanmean(taus):.3f}, {100 * np.mean(mine):.2f}"
            cells.append(cell if model == LINEAR else f"{cell} ({rise(taus, taus_of(rows, LINEAR, count))})")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return [*lines, ""]


HEAD = f"""# Is it worth reading the layers?

Written by `python -m benchmarks.graph_network` from `runs.csv`.

`benchmarks/tab/graph_network.py` lets three graph convolutions read the layer table of the network before a step, beside what
F_mo's network reads; it learns what the linear model leaves. A model is told the steps of a random search; then it ranks, for each
prefix whose layers are known, the next steps of which it was told nothing. Kendall's τ of their step AR and, after the comma, the
regret in points of step AR of the one ranked first: means over prefixes and seeds. In brackets: by how much τ differs from the linear
model's, with the 95% interval of a bootstrap over prefixes. *Others' layers*: each scheme has the layers of another one.
*Taught by the others*: before anything is told the network has learned all steps of the other tables.

To be taken, τ has to rise by {MARGIN:g} with an interval above 0, at each number of told steps.
"""


def page(out: Path) -> str:
    """Return the page of all rows so far."""
    rows = rows_of(out)
    lines = [HEAD, made_with(), ""]
    names = [name for name in TOLD if any(row["table"] == name for row in rows)]
    for name in names:
        lines += section(name, [row for row in rows if row["table"] == name and row["part"] != "search"])
    lines += ["## What a search gains", "", "Share of the true front's hypervolume after 25 and 50 steps of the progressive search, mean ± deviation over seeds.", "",
              "| table | n | linear model | with the graph network |", "|---|---|---|---|"]  # fmt: skip
    for name in names:
        mine = [row for row in rows if row["table"] == name and row["part"] == "search"]
        cells = []
        for model in (LINEAR, GRAPH):
            of = [[float(r["value"]) for r in mine if r["model"] == model and int(r["told"]) == n] for n in (25, 50)]
            cells.append(", ".join(f"{np.mean(v):.3f} ± {np.std(v):.3f}" for v in of if v))
        lines.append(f"| {name} | {len({row['seed'] for row in mine})} | " + " | ".join(cells) + " |")
    note = out / "note.md"
    return "\n".join([*lines, "", note.read_text() if note.exists() else ""])


def main() -> None:
    """Judge what has no rows yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held-out", action="store_true", help="also on grey6-k12")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/results/graph-network"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = list(TOLD)[: 3 if options.held_out else 2]
    studies = [Study.load(TREE.with_name(f"{name}.json")) for name in names]
    done = {(row["table"], int(row["seed"]), row["part"]) for row in rows_of(options.out)}
    for seed, part, place in product(range(options.seeds), PARTS, range(len(names))):
        about = {"table": names[place], "seed": seed, "part": part}
        if (names[place], seed, part) not in done:
            for row in list(PARTS[part](studies, place, seed)):
                append(options.out, FIELDS, {**about, **row, "value": f"{row['value']:.5f}"})
            print(*about.values(), flush=True)
    (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()
