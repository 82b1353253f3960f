"""A synthetic environment: a small space whose outcomes are computed from the scheme alone, not executed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from automc.search.base import MORE, Limits, Outcome, Reason, SchemeIndices, Searcher, Space, bare, level_of
from automc.study.schedule import Round, Schedule
from automc.study.trial import Trial
from kg.schema import Scheme, Strategy

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the package `benchmarks`

GRID = (0.04, 0.12, 0.2, 0.36, 0.4)


def make_space(per_level: int = 3, methods: int = 3, grid: tuple[float, ...] = GRID, known: bool = True) -> Space:
    """methods × grid × per_level strategies with embeddings that tell method, size and setting apart."""
    rows = [(m, v, c) for m in range(methods) for v in grid for c in range(per_level)]
    method, hp2, cost = (np.array(column) for column in zip(*rows, strict=True))
    rng = np.random.default_rng(5)
    features = np.concatenate([np.eye(methods)[method], np.eye(per_level)[cost]], axis=1)
    embeddings = features @ rng.normal(size=(features.shape[1], 32)) + 0.1 * rng.normal(size=(len(rows), 32))
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
        slope=np.full(methods, 0.1) if known else None,
    )


def numbers(scheme: SchemeIndices) -> tuple[int, ...]:
    """A scheme as a generator's seed, which is not negative."""
    return tuple(10**6 if i == MORE else i for i in scheme)


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
        rng = np.random.default_rng((1, *numbers(scheme)))
        parent = self.told.get(scheme[:-1])
        if scheme[-1] == MORE:
            assert parent is not None
            assert parent.accuracy is not None
            return replace(parent, scheme=scheme, accuracy=parent.accuracy + 0.02 * float(rng.uniform()))
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


class Strategies:
    """The way from a space's indices to schemes and back, as a study has it."""

    def __init__(self, space: Space, levels: bool) -> None:
        self._levels = levels
        self._strategies = [Strategy.parse(name) for name in space.strategies]
        self._index = {strategy: i for i, strategy in enumerate(self._strategies)}

    def scheme(self, indices: SchemeIndices, *sizes: float) -> Scheme:
        scheme = Scheme(tuple(self._strategies[i] for i in bare(indices)))
        return scheme.at(level_of(indices)) if self._levels else scheme

    def indices(self, scheme: Scheme) -> SchemeIndices:
        return (*(self._index[step] for step in scheme.steps), *(MORE,) * (scheme.level - 1))

    def outcome(self, trial: Trial) -> Outcome:
        return trial.outcome(self.indices(trial.scheme))

    def expected(self, reason: Reason | None, *sizes: float) -> dict[str, Any]:
        return {} if reason is None else {"predicted_step_ar": reason.step_ar, "drawn": reason.drawn}


@dataclass
class Study:
    """A study on a table: a real schedule, and workers on a clock of their own that finish in any order.

    What was committed stays in `trials`, so a study that was stopped goes on with a new searcher.
    """

    table: Table
    budget: int
    window: int = 4
    seconds: Callable[[SchemeIndices], float] = lambda scheme: float(
        np.random.default_rng(numbers(scheme)).exponential()
    )
    trials: dict[Scheme, Trial] = field(default_factory=dict)
    """In the order committed."""
    most: int = 0
    """Steps that were under way at once."""

    def run(self, searcher: Searcher, workers: int, stop: int | None = None) -> None:
        """Go on, up to `stop` trials in all."""
        space = Strategies(self.table.space, searcher.levels)
        schedule = Schedule(searcher, space, self.trials, self.window, self.budget)
        running: list[tuple[float, Scheme, Round]] = []
        clock = 0.0
        while len(self.trials) != stop:
            schedule.advance(may_ask=True)
            begun = {scheme for _, scheme, _ in running}
            ready = [(scheme, of_round) for scheme, of_round in schedule.waiting() if scheme not in begun]
            for scheme, of_round in ready[: workers - len(running)]:
                running.append((clock + self.seconds(space.indices(scheme)), scheme, of_round))
            self.most = max(self.most, len(running))
            if not running:
                return
            running.sort(key=lambda one: one[0])
            clock, scheme, of_round = running.pop(0)
            indices = space.indices(scheme)
            found = self.table.told[indices] = self.table.answer(indices)
            self.trials[scheme] = Trial(
                of_round.planned[scheme], of_round.number, scheme, found.status, found.reason,
                accuracy=found.accuracy, pr=found.pr, step_ar=found.step_ar, step_pr=found.step_pr,
                told=of_round.told, target=of_round.target,
                **(of_round.expected if scheme.id == of_round.target else {}),
            )  # fmt: skip


@pytest.fixture
def new_study() -> type[Study]:
    return Study


@pytest.fixture
def new_space() -> Callable[..., Space]:
    return make_space


@pytest.fixture
def new_table() -> type[Table]:
    return Table
