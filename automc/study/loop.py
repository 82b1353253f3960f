"""The loop of a study: ask, execute, commit to the graph, tell (AutoMC paper, Algorithm 2)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from automc.errors import EnvironmentFault
from automc.execution.outcome import StepOutcome
from automc.execution.workers import Running, Workers
from automc.files import write_atomically
from automc.search import get as searcher_named
from automc.search.base import Limits
from automc.study.forecast import Forecast
from automc.study.outbox import STUDY, Outbox, entry
from automc.study.protocol import Protocol
from automc.study.schedule import Round, Schedule
from automc.study.space import SpaceReport, StrategySpace
from automc.study.spec import MAX_REMOVED, StudySpec
from automc.study.spending import Spending
from automc.study.task import Subject
from automc.study.trial import Figures, Trial
from kg.schema import Scheme

_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study is about to do."""

    study: str
    spec: StudySpec
    spending: Spending
    """How its budget is divided."""
    base: Figures
    space: SpaceReport
    first: tuple[Scheme, ...]
    """What is executed before the searcher is asked."""
    infeasible: dict[str, str]
    n_train: int
    n_validation: int
    step_seconds: float
    """Forecast of a mean step."""
    seconds: float
    """Forecast of the whole search."""
    final_seconds: float
    """Forecast of what follows it."""
    done: int
    """Trials that are in the graph already."""
    saw_validation: bool
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A step that runs."""

    scheme: Scheme
    done: int
    of: int
    """Iterations in all; 0 while unknown."""
    seconds: float
    """Since it began."""
    left: float
    """Seconds that it is expected to take yet, by its own pace where that shows, else by the forecast."""


class Listener:
    """What a study tells whoever watches; every method may be left out."""

    def say(self, text: str) -> None:
        """A sentence for the user."""

    def plan(self, plan: Plan) -> None:
        """The plan, before anything is executed."""

    def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
        """A trial that is in the graph now, or in the outbox while the graph is away."""

    def running(self, spent_steps: float, spent_seconds: float) -> None:
        """A sign of life, about twice a second; steps under way count with the part that is done."""

    def under_way(self, steps: Sequence[UnderWay]) -> None:
        """The steps that run now, about twice a second."""

    def progress(self, what: str, done: int, of: int) -> None:
        """Progress of other long work: reading images, learning embeddings, the final run."""


class Loop:
    """Runs one study's search against a space, with workers, until the budget is spent or nothing is left."""

    def __init__(
        self, spec: StudySpec, subject: Subject, space: StrategySpace, forecast: Forecast, trials: Sequence[Trial],
        elapsed: float, listener: Listener, keep_models: Callable[[list[Scheme]], None], outbox: Outbox,
        protocol: Protocol, gauge: Callable[[Trial], Trial], first: Sequence[Scheme] = (),
        foresee: Callable[[Trial], Trial] = lambda trial: trial, learned: Path | None = None, most: float | None = None,
    ) -> None:  # fmt: skip
        """Stand where `trials`, those of the graph in ordinal order, left off after `elapsed` charged seconds.

        `keep_models` is called with the schemes of the front, whose models must not be evicted, when they change;
        `outbox` takes trials to the graph; `gauge` returns a trial with what the protocol needs of it beyond its step's
        outcome, and is called while no step runs where that is a latency; `first` is executed before the searcher is
        asked for anything; `foresee` returns a finished trial with what is predicted of its latency; in `learned` is
        kept what the searcher would take long to learn again; `most` are the seconds of a budget of seconds as long as
        nothing meets the target.
        """
        self.spec = spec
        self.subject = subject
        self.space = space
        self.forecast = forecast
        self.listener = listener
        self._keep_models = keep_models
        self._outbox = outbox
        self.protocol = protocol
        self._gauge = gauge
        self._first = first
        self._foresee = foresee
        self._learned = learned
        self._most = most
        self.trials: dict[Scheme, Trial] = {t.scheme: t for t in trials}
        self._timed = protocol.limited("latency_ms")
        self._measured = -1
        self._front: list[Trial] = []
        self._pinned: list[Scheme] = []
        self.base = Figures(subject.accuracy, subject.params, subject.flops)
        self._elapsed_before = elapsed
        self._started = time.monotonic()
        self._charged = 0.0
        self._said_slow = self._said_longer = False

    @property
    def seconds(self) -> float:
        """Seconds spent: those of the clock, and what cached steps would have taken beside those under way."""
        return self._elapsed_before + time.monotonic() - self._started + self._charged

    def run(self, workers: Workers) -> None:
        """Search. What the graph holds is told again; what was asked and has no outcome yet is executed first."""
        searcher = searcher_named(self.spec.searcher)(self.space.space, self._limits(), self.spec.seed)
        if self._learned and self._learned.is_file():
            searcher.recall(self._learned.read_bytes())
        schedule = Schedule(searcher, self.space, self.trials, self.spec.window, self.spec.budget.steps, self._first)
        running: dict[int, tuple[Scheme, Round]] = {}
        self._complete()
        while True:
            self._outbox.replay()
            schedule.advance(self._seconds_left > 0)
            self._keep(searcher.learned())
            if not (self._outbox.full or self._measuring_due):
                self._submit(workers, schedule, running)
            if running:
                self._collect(workers, running)
            elif self._outbox.full:
                self._pause()
            elif not self._complete():
                return

    def _keep(self, learned: bytes | None) -> None:
        """Keep what was learned, where there is room for it: without, a resumed study learns it again."""
        if self._learned and learned:
            with suppress(EnvironmentFault):
                write_atomically(self._learned, learned)

    @property
    def _seconds_over_share(self) -> float:
        share = self.spec.budget.seconds
        return -math.inf if share is None else self.seconds - share

    @property
    def _seconds_left(self) -> float:
        """Of the search's share; as long as nothing meets the target, of all that was to follow it too."""
        if self._front or self._most is None:
            return -self._seconds_over_share
        return self._most - self.seconds

    @property
    def _measuring_due(self) -> bool:
        """Whether no step should begin, because latencies are measured while none runs.

        Behind the search's share all are: whether it is to go on depends on them.
        """
        late = self._seconds_over_share > 0
        return self._timed and len(self.trials) - self._measured >= (1 if late else 2 * self.spec.window)

    def _submit(self, workers: Workers, schedule: Schedule, running: dict[int, tuple[Scheme, Round]]) -> None:
        """Give all workers something to do, as far as the budget reaches."""
        begun = {scheme for scheme, _ in running.values()}
        for scheme, of_round in schedule.waiting():
            if len(running) >= workers.count:
                return
            if scheme not in begun and self._affordable(scheme):
                self._say_longer()
                ticket = workers.submit(scheme, self.forecast.timeout(scheme, self.spec.step_timeout))
                running[ticket] = (scheme, of_round)

    def _collect(self, workers: Workers, running: dict[int, tuple[Scheme, Round]]) -> None:
        """Wait for outcomes, half a second at most, and bring them to the graph."""
        beside = len(running)
        found = [(*running.pop(ticket), outcome) for ticket, outcome in workers.collect(0.5)]
        self._commit([(self._made(scheme, of_round, outcome, beside), outcome) for scheme, of_round, outcome in found])
        now = workers.running()
        self.listener.under_way([self._under_way(running[r.ticket][0], r) for r in now if r.ticket in running])
        parts = sum(r.done / r.of for r in now if r.of)
        self.listener.running(len(self.trials) + parts, self.seconds)

    def _under_way(self, scheme: Scheme, job: Running) -> UnderWay:
        expected = self.forecast.seconds(scheme) if not job.done else job.seconds * job.of / job.done
        return UnderWay(scheme, job.done, job.of, job.seconds, max(0.0, expected - job.seconds))

    def _limits(self) -> Limits:
        """Return what the searcher is told of the target: it plans in sizes and accuracy."""
        length = self.spec.max_length
        aim, least = self.protocol.aim(self.space.reachable(length), self.space.enough), self.protocol.least_accuracy
        timed = self.spec.budget.seconds is not None
        return Limits(aim, self.base.accuracy, length, MAX_REMOVED, least, front=self.spec.front, timed=timed)

    def _complete(self) -> bool:
        """Measure, while no step runs, what the protocol needs of trials beyond outcomes; tell whether it was due."""
        due = len(self.trials) > self._measured
        for trial in list(self.trials.values()) if due else ():
            found = self._gauge(trial)
            if found is not trial:
                self.trials[found.scheme] = found
                self._outbox.deliver(entry(found, self._figures(found.scheme.parent), self.seconds))
        self._measured = len(self.trials)
        self._front = self.protocol.front(list(self.trials.values())) if due else self._front
        self._pin()
        return due

    def _pin(self) -> None:
        """Keep the models of the front from eviction."""
        front = [t.scheme for t in self._front]
        if front != self._pinned:
            self._keep_models(front)
            self._pinned = front

    def _pause(self) -> None:
        """Wait a little for the graph; the study's clock stands still."""
        began = time.monotonic()
        time.sleep(_PAUSE_SECONDS)
        self._started += time.monotonic() - began

    def _affordable(self, scheme: Scheme) -> bool:
        """Tell whether a step is expected to end within a budget of seconds."""
        return self.forecast.seconds(scheme) <= self._seconds_left

    def _made(self, scheme: Scheme, of_round: Round, outcome: StepOutcome, beside: int) -> Trial:
        """Make a trial of an outcome.

        `beside`: steps that were under way, this one included; they share the recorded cost of a cached one.
        """
        parent = self._figures(scheme.parent)
        trial = Trial.of(of_round.planned[scheme], of_round.number, scheme, outcome, self.base, parent)
        expected = of_round.expected if scheme.id == of_round.target else {}
        grid = self.space.on_grid(scheme)
        trial = replace(trial, told=of_round.told, target=of_round.target, grid=grid, **expected)
        if outcome.cached:
            self._charged += outcome.seconds / beside
        else:
            self.forecast.observe(scheme, outcome.seconds, outcome.status)
        return self._foresee(trial) if self._timed else self._gauge(trial)

    def _commit(self, made: Sequence[tuple[Trial, StepOutcome]]) -> None:
        """Bring trials and their experience to the graph, then tell the listener; the searcher hears of it later.

        What has finished together goes together: with many workers that is all there is time for.
        """
        if not made:
            return
        told = [(trial, self._figures(trial.scheme.parent), outcome.details.get("layers")) for trial, outcome in made]
        self._outbox.deliver(*(entry(trial, parent, self.seconds, layers) for trial, parent, layers in told))
        for trial, outcome in made:
            self._say_slow(outcome.details.get("no_graph"))
            self.trials[trial.scheme] = trial
            self.listener.trial(trial, len(self.trials), self.seconds)
        # What is dominated stays so, so the others need not be looked at again.
        self._front = self.protocol.front([*self._front, *(trial for trial, _ in made)])
        self._pin()

    def _say_longer(self) -> None:
        """Say once that a step begins behind the search's share, which it may where nothing meets the target."""
        if self._seconds_over_share > 0 and not self._said_longer:
            self._said_longer = True
            self.listener.say("Nothing meets the target so far: the search goes on in the time that was to follow it.")

    def _say_slow(self, reason: str | None) -> None:
        """Say once that training does without CUDA graphs."""
        if reason and not self._said_slow:
            self._said_slow = True
            self.listener.say(f"Training runs without CUDA graphs, and slower for it: {reason}.")

    def _figures(self, scheme: Scheme) -> Figures:
        if not scheme.steps:
            return self.base
        figures = self.trials[scheme].figures
        if figures is None:
            raise EnvironmentFault(f"{scheme.id} was measured but its figures are gone from the graph.")
        return figures

    @property
    def undelivered(self) -> int:
        """Outcomes that wait for the graph."""
        return len(self._outbox)

    def note(self, **values: Any) -> None:
        """Save properties of the study's node, or keep them for later with the outcomes that wait."""
        self._outbox.deliver({STUDY: values})

    def settle(self) -> None:
        """Wait until the graph has taken every outcome.

        Raises:
            GraphUnavailable: it is away for long; what waits is kept, and delivered when the study is resumed.
        """
        self._outbox.settle()

    def front(self) -> list[Trial]:
        """Return what the user gets so far."""
        return self.protocol.front(list(self.trials.values()))
