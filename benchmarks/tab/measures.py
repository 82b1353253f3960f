"""What one search on a table is worth: hypervolume on its way, and how good its model of steps was."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from automc.search import registered
from automc.search.base import FloatArray, Limits, Outcome, Searcher, Space
from automc.search.linear import FirstGuess
from automc.search.network import NetModel
from automc.search.progressive import ProgressiveSearch
from automc.search.progressive_mean import ProgressiveMean
from benchmarks.tab.optuna_searchers import OptunaNSGA2, OptunaTPE
from benchmarks.tab.table import Round, Table, search

LEARNED = 8
"""Steps after which a model's predictions count."""
ENOUGH = 0.95
"""Share of the true front's hypervolume that a search is timed to."""

KNOWING = "progressive-knowing"
"""The progressive search that is told what the shipped experience says of each method, as in studies."""

Make = Callable[[Space, Limits, int], Searcher]


def searchers() -> dict[str, Make]:
    """Return all searchers by name: every registered one, Optuna's, and progressive ones with other models of steps."""
    return {
        **registered(),
        OptunaNSGA2.name: OptunaNSGA2,
        OptunaTPE.name: OptunaTPE,
        KNOWING: ProgressiveSearch,
        "progressive-net": _with_net,
        "progressive-own-size": partial(_with_net, own_size=True),
        "progressive-mean-own-size": partial(ProgressiveMean, own_size=True),
    }


def _with_net(space: Space, limits: Limits, seed: int, *, own_size: bool = False) -> Searcher:
    """Return the progressive search with nothing but the paper's network, on top of the first guess, as F_mo."""
    net = NetModel(space, limits, seed, FirstGuess(space, limits))
    return ProgressiveSearch(space, limits, seed, own_size=own_size, evaluator=net)


@dataclass(frozen=True, eq=False)
class Run:
    """One search. Volumes are shares of the true front's hypervolume, on mean figures over the table's seeds."""

    searcher: str
    seed: int
    volumes: FloatArray
    """After each step of the budget; the last value stays where nothing was left to ask; (budget,)."""
    seconds: FloatArray
    """The table's cost until then; (budget,)."""
    best_accuracy: float
    """Of schemes that meet γ; NaN where none does."""
    overhead: float
    """Processor seconds that the searcher itself took."""
    spearman: dict[str, float]
    """Of predicted and real step rates, by "chosen ar", "random pr" …; empty without a model."""

    def steps_to(self, share: float) -> float:
        """Return the steps until that share of the true front's hypervolume; infinite where the budget ended first."""
        reached = np.flatnonzero(self.volumes >= share)
        return float(reached[0] + 1) if len(reached) else math.inf

    def seconds_to(self, share: float) -> float:
        """Return the seconds until that share; infinite where the budget ended first."""
        steps = self.steps_to(share)
        return math.inf if math.isinf(steps) else float(self.seconds[int(steps) - 1])

    def volume_at(self, seconds: npt.ArrayLike) -> FloatArray:
        """Return the volume after so many seconds of the table's cost."""
        done = np.searchsorted(self.seconds, np.asarray(seconds), side="right")
        return np.concatenate([[0.0], self.volumes])[done]

    def area(self, seconds: float | None = None) -> float:
        """Return the mean volume over the budget's steps, or over the first `seconds` of cost."""
        if seconds is None:
            return float(self.volumes.mean())
        return float(self.volume_at(np.linspace(0, seconds, 500)).mean())


@dataclass
class Quality:
    """Compares a model's predictions with what is in the table, on the steps chosen and on as many random ones."""

    searcher: Searcher
    table: Table
    seed: int
    pairs: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    spent: float = 0.0
    """Processor seconds, which are not the searcher's."""

    def __call__(self, told: Round) -> None:
        """Note predictions and truth of one round; nothing where the searcher has no model, or has learned too little."""
        if not isinstance(self.searcher, ProgressiveSearch):
            return
        began = time.process_time()
        history = self.searcher.history
        known = {o.scheme: i for i, o in enumerate(history.measured())}
        if len(known) > LEARNED:
            predicted = self.searcher.evaluator.predict(history.measured())
            chosen = [o for o in told.told if o.scheme[:-1] in known]
            rng = np.random.default_rng((self.seed, len(known)))
            open_steps = [(*s, int(i)) for s in known for i in np.flatnonzero(history.unexplored(s))]
            drawn = rng.choice(len(open_steps), min(len(chosen), len(open_steps)), replace=False)
            random = [self.table.outcome(open_steps[i], self.seed) for i in drawn]
            for pool, outcomes in (("chosen", chosen), ("random", random)):
                for o in outcomes:
                    self._note(pool, predicted[known[o.scheme[:-1]], o.scheme[-1]], o)
        self.spent += time.process_time() - began

    def spearman(self) -> dict[str, float]:
        """Return the rank correlations, by pool and rate; NaN where one side is constant or there are too few."""
        return {name: _spearman(np.array(pairs)) for name, pairs in self.pairs.items()}

    def _note(self, pool: str, predicted: FloatArray, truth: Outcome) -> None:
        if truth.step_ar is not None and truth.step_pr is not None:
            self.pairs.setdefault(f"{pool} ar", []).append((float(predicted[0]), truth.step_ar))
            self.pairs.setdefault(f"{pool} pr", []).append((float(predicted[1]), truth.step_pr))


def measure(name: str, seed: int, table: Table, gamma: float, budget: int) -> Run:
    """Run a searcher by name against a table and measure it."""
    space = replace(table.space, slope=table.slopes) if name == KNOWING else table.space
    searcher = searchers()[name](space, table.limits(gamma), seed)
    quality = Quality(searcher, table, seed)
    began = time.process_time()
    rounds = search(searcher, table, budget, seed=seed, before_tell=quality)
    overhead = time.process_time() - began - quality.spent
    told = [o for one in rounds for o in one.told]
    schemes = [o.scheme for o in told]
    best = table.best_volume(gamma)
    volumes = [table.volume(schemes[: n + 1], gamma) / best for n in range(len(schemes))]
    seconds = np.cumsum([o.seconds for o in told])
    padding = (0, budget - len(told))
    return Run(
        name, seed, np.pad(volumes, padding, mode="edge"), np.pad(seconds, padding, mode="edge"),
        table.best_accuracy(schemes, gamma), overhead, quality.spearman(),
    )  # fmt: skip


def size_misses(table: Table) -> list[tuple[int, float, float, float, float]]:
    """Return for each length of scheme what its last steps remove, each as the mean of the first seed's ok steps.

    (length, share of the original, share of the step's input, what the plan HP2 makes of that share, distance between
    the last two). Where a method removes a share of the original, as ours do, plan and share of the input agree.
    """
    rows: dict[int, list[tuple[float, float, float]]] = {}
    for scheme in table.mean:
        step, before = table.outcome(scheme, 0), table.mean.get(scheme[:-1], (0.0, 0.0))[1]
        if step.pr is not None and step.step_pr is not None:
            planned = float(table.space.hp2[scheme[-1]]) / (1 - before)
            rows.setdefault(len(scheme), []).append((step.pr - before, step.step_pr, min(1.0, planned)))
    means = {length: np.array(own).mean(axis=0) for length, own in rows.items()}
    miss = {length: float(np.abs(np.array(own)[:, 1] - np.array(own)[:, 2]).mean()) for length, own in rows.items()}
    return [(length, *map(float, means[length]), miss[length]) for length in sorted(rows)]  # type: ignore[misc]


def _spearman(pairs: FloatArray) -> float:
    if len(pairs) < 3 or (np.ptp(pairs, axis=0) == 0).any():
        return math.nan
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
