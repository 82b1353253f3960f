"""A synthetic environment: a small space whose outcomes are computed from the scheme alone, not executed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from automc.search.base import Limits, Outcome, SchemeIndices, Searcher, Space

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the package `benchmarks`

GRID = (0.04, 0.12, 0.2, 0.36, 0.4)


def make_space(per_level: int = 3, methods: int = 3, grid: tuple[float, ...] = GRID, prior: bool = True) -> Space:
    """methods × grid × per_level strategies with embeddings that tell method, size and setting apart."""
    rows = [(m, v, c) for m in range(methods) for v in grid for c in range(per_level)]
    method, hp2, cost = (np.array(column) for column in zip(*rows, strict=True))
    rng = np.random.default_rng(5)
    features = np.concatenate([np.eye(methods)[method], np.eye(per_level)[cost]], axis=1)
    embeddings = features @ rng.normal(size=(features.shape[1], 32)) + 0.1 * rng.normal(size=(len(rows), 32))
    guess = np.stack([-0.1 * hp2 + 0.01 * cost, hp2], axis=1)
    names = tuple(f"M{m}" for m in range(methods))
    return Space(
        strategies=tuple(f"M{m}[HP2={v},HP1={c}]" for m, v, c in rows),
        methods=names,
        method=method.astype(np.int64),
        embeddings=embeddings,
        hp2=hp2.astype(float),
        cost=1.0 + cost,
        mask=np.ones(len(rows), dtype=bool),
        task=np.linspace(-1, 1, 7),
        prior=guess if prior else None,
    )


@dataclass
class Table:
    """Answers schemes as a study would; every answer depends on the scheme alone."""

    space: Space
    limits: Limits
    failing: Callable[[SchemeIndices], bool] = lambda scheme: False
    miss: float = 0.01
    told: dict[SchemeIndices, Outcome] = field(default_factory=dict)

    def answer(self, scheme: SchemeIndices) -> Outcome:
        if self.failing(scheme):
            return Outcome(scheme, "infeasible", reason="the table says so")
        rng = np.random.default_rng((1, *scheme))
        parent = self.told.get(scheme[:-1])
        accuracy = parent.accuracy if parent else self.limits.base_accuracy
        removed = parent.pr if parent else 0.0
        assert accuracy is not None
        assert removed is not None
        last = scheme[-1]
        loss = (0.3 + 0.3 * self.space.method[last]) * self.space.hp2[last] ** 1.3 / self.space.cost[last]
        step_ar = float(-loss + 0.003 * rng.normal())
        pr = min(removed + float(self.space.hp2[last]) + self.miss * float(rng.uniform(-1, 1)), 0.9)
        step_pr = 1 - (1 - pr) / (1 - removed)
        return Outcome(scheme, "ok", accuracy * (1 + step_ar), pr, step_ar, step_pr, 1.0, True)

    def execute(self, asked: list[SchemeIndices]) -> list[Outcome]:
        """One round: missing parents first, nothing twice, nothing below a failure."""
        outcomes: list[Outcome] = []
        for scheme in asked:
            for length in range(1, len(scheme) + 1):
                part = scheme[:length]
                if part not in self.told:
                    self.told[part] = self.answer(part)
                    outcomes.append(self.told[part])
                if self.told[part].status != "ok":
                    break
        return outcomes

    def search(self, searcher: Searcher, k: int, rounds: int) -> list[tuple[list[SchemeIndices], list[Outcome]]]:
        """Run rounds until there is nothing left to ask; (asked, told) of each."""
        history = []
        for _ in range(rounds):
            asked = searcher.ask(k)
            if not asked:
                break
            outcomes = self.execute(asked)
            searcher.tell(outcomes)
            history.append((asked, outcomes))
        return history


@dataclass
class Study:
    """A study's rounds as `automc.study.loop` runs them, with workers that finish in an order of their own.

    What was committed stays in `trials`, so a study that was stopped goes on with a new searcher.
    """

    table: Table
    budget: int
    size: int = 4
    trials: dict[SchemeIndices, tuple[int, int, Outcome]] = field(default_factory=dict)
    """Round, ordinal and outcome by scheme, in the order committed."""
    asked: list[SchemeIndices] = field(default_factory=list)

    def run(self, searcher: Searcher, workers: int, stop: int | None = None) -> None:
        """Tell the complete rounds, ask the last one again, and go on, up to `stop` trials in all."""
        number = 1
        while True:
            before = {s for s, (of_round, _, _) in self.trials.items() if of_round < number}
            again = any(of_round > number for of_round, _, _ in self.trials.values())
            if not again:
                self.asked = searcher.ask(min(self.size, self.budget - len(before)))
                parts = dict.fromkeys(s[:n] for s in self.asked for n in range(1, len(s) + 1))
                planned = [s for s in parts if s not in before][: self.budget - len(before)]
                first = max((self.trials[s][1] for s in before), default=0) + 1
                if not planned or not self._round(number, planned, first, workers, stop):
                    return
            told = sorted((n, o) for r, n, o in self.trials.values() if r == number)
            searcher.tell([outcome for _, outcome in told])
            number += 1

    def _round(self, number: int, planned: list[SchemeIndices], first: int, workers: int, stop: int | None) -> bool:
        """Execute what is missing of a round, as many at once as there are workers; False when stopped."""
        ordinals = {scheme: first + i for i, scheme in enumerate(planned)}
        waiting = [scheme for scheme in planned if scheme not in self.trials]
        running: list[tuple[float, SchemeIndices]] = []
        clock = 0.0
        while waiting or running:
            waiting = [s for s in waiting if not self._failed(s)]
            ready = [s for s in waiting if len(s) == 1 or s[:-1] in self.trials]
            for scheme in ready[: workers - len(running)]:
                waiting.remove(scheme)
                running.append((clock + float(np.random.default_rng(scheme).exponential()), scheme))
            if not running:
                break
            running.sort()
            clock, scheme = running.pop(0)
            outcome = self.table.told[scheme] = self.table.answer(scheme)
            self.trials[scheme] = (number, ordinals[scheme], outcome)
            if len(self.trials) == stop:
                return False
        return True

    def _failed(self, scheme: SchemeIndices) -> bool:
        told = (self.trials.get(scheme[:n]) for n in range(1, len(scheme)))
        return any(trial is not None and trial[2].status != "ok" for trial in told)


@pytest.fixture
def new_study() -> type[Study]:
    return Study


@pytest.fixture
def new_space() -> Callable[..., Space]:
    return make_space


@pytest.fixture
def new_table() -> type[Table]:
    return Table
