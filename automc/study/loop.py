"""The loop of a study: ask, execute, commit to the graph, tell (AutoMC paper, Algorithm 2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from automc.errors import EnvironmentFault
from automc.execution.outcome import StepOutcome
from automc.execution.workers import Workers
from automc.search import get as searcher_named
from automc.search.base import Limits, Searcher
from automc.study.forecast import Forecast
from automc.study.outbox import STUDY, Outbox, entry
from automc.study.protocol import Protocol
from automc.study.space import SpaceReport, StrategySpace
from automc.study.spec import MAX_REMOVED, StudySpec
from automc.study.task import Subject
from automc.study.trial import Figures, Trial
from kg.embedding.threads import one_thread
from kg.schema import Scheme

_PAUSE_SECONDS = 0.5
Indices = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study is about to do."""

    study: str
    spec: StudySpec
    base: Figures
    space: SpaceReport
    infeasible: dict[str, str]
    n_train: int
    n_validation: int
    step_seconds: float
    """Forecast of a mean step."""
    seconds: float
    """Forecast of the whole search."""
    final_seconds: float
    done: int
    """Trials that are in the graph already."""
    saw_validation: bool
    protocol: Protocol


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

    def progress(self, what: str, done: int, of: int) -> None:
        """Progress of other long work: reading images, learning embeddings, the final run."""


class Loop:
    """Runs one study's search against a space, with workers, until the budget is spent or nothing is left."""

    def __init__(
        self, spec: StudySpec, subject: Subject, space: StrategySpace, forecast: Forecast, trials: Sequence[Trial],
        elapsed: float, listener: Listener, keep_models: Callable[[list[Scheme]], None], outbox: Outbox,
        protocol: Protocol, gauge: Callable[[Trial], Trial],
    ) -> None:  # fmt: skip
        """Stand where `trials`, those of the graph in ordinal order, left off after `elapsed` charged seconds.

        `keep_models` is called after each round with the schemes of the front, whose models must not be evicted;
        `outbox` takes trials to the graph; `gauge` returns a trial with what the protocol needs of it beyond its step's
        outcome, and is called while no step runs.
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
        self.trials: dict[Scheme, Trial] = {t.scheme: t for t in trials}
        self._expected: dict[Scheme, dict[str, Any]] = {}
        self.base = Figures(subject.accuracy, subject.params, subject.flops)
        self._elapsed_before = elapsed
        self._started = time.monotonic()
        self._charged = 0.0

    @property
    def seconds(self) -> float:
        """Seconds spent: those of the clock, and the recorded cost of cached steps shared by the workers."""
        return self._elapsed_before + time.monotonic() - self._started + self._charged / self.spec.workers

    def run(self, workers: Workers) -> None:
        """Search. Complete rounds that the graph holds are told again, the last one is asked again."""
        searcher = searcher_named(self.spec.searcher)(self.space.space, self._limits(), self.spec.seed)
        number, asked = self._replay(searcher)
        self._complete()
        while True:
            before = [t for t in self.trials.values() if t.round < number]
            size = asked or self._round_size(len(before))
            if size == 0:
                return
            with one_thread():
                asked_for = searcher.ask(size)
            planned = self._with_parents(asked_for, {t.scheme for t in before})
            if self.spec.budget.steps is not None:
                planned = planned[: max(0, self.spec.budget.steps - len(before))]
            first = max((t.ordinal for t in before), default=0) + 1
            self._expected = {self.space.scheme(i): self.space.expected(searcher.why(i)) for i in planned}
            complete = bool(planned) and self._round(workers, number, size, first, planned)
            self._complete()
            self._keep_models([t.scheme for t in self.front()])
            if not complete:
                return
            self._tell(searcher, number)
            number, asked = number + 1, 0

    def _limits(self) -> Limits:
        """Return what the searcher is told of the target: it plans in parameters and accuracy."""
        space, length = self.space.space, self.spec.max_length
        reachable = length * float(max(space.hp2[space.mask], default=0.0))
        aim, least = self.protocol.aim(reachable), self.protocol.least_accuracy
        return Limits(aim, self.base.accuracy, length, MAX_REMOVED, least)

    def _complete(self) -> None:
        """Measure what the protocol needs of trials beyond their outcome, and bring it to the graph."""
        for trial in list(self.trials.values()):
            found = self._gauge(trial)
            if found is not trial:
                self.trials[found.scheme] = found
                self._outbox.deliver(entry(found, self._figures(found.scheme.parent), self.seconds))

    def _replay(self, searcher: Searcher) -> tuple[int, int]:
        """Tell the complete rounds; return the number of the round to go on with, and its size when it has begun."""
        last = max((t.round for t in self.trials.values()), default=0)
        for number in range(1, last):
            self._tell(searcher, number)
        asked = next((t.asked for t in self.trials.values() if t.round == last), 0)
        return max(1, last), asked

    def _tell(self, searcher: Searcher, number: int) -> None:
        """Tell a complete round. On one thread, as the asking: what is learnt must not depend on who resumes where."""
        told = sorted((t for t in self.trials.values() if t.round == number), key=lambda t: t.ordinal)
        with one_thread():
            searcher.tell([t.outcome(self.space.indices(t.scheme)) for t in told])

    def _round_size(self, done: int) -> int:
        budget = self.spec.budget
        if budget.steps is not None:
            return min(self.spec.round_size, max(0, budget.steps - done))
        return self.spec.round_size if self.seconds < (budget.seconds or 0.0) else 0

    def _with_parents(self, asked: Sequence[Indices], known: set[Scheme]) -> list[Indices]:
        """Return the schemes to execute: those asked for, each after the parents that no earlier round has."""
        planned: dict[Indices, None] = {}
        for indices in asked:
            for length in range(1, len(indices) + 1):
                prefix = indices[:length]
                if self.space.scheme(prefix) not in known:
                    planned[prefix] = None
        return list(planned)

    def _round(self, workers: Workers, number: int, asked: int, first: int, planned: Sequence[Indices]) -> bool:
        """Execute what the graph lacks; return whether the round is complete."""
        waiting = {
            scheme: first + position
            for position, scheme in enumerate(map(self.space.scheme, planned))
            if scheme not in self.trials
        }
        running: dict[int, tuple[Scheme, int]] = {}
        while waiting or running:
            self._outbox.replay()
            free = 0 if self._outbox.full else workers.count
            for scheme in list(waiting):
                state = self._parent_state(scheme, waiting, running)
                if state == "failed":
                    del waiting[scheme]
                elif state == "ready" and len(running) < free and self._affordable(scheme):
                    ticket = workers.submit(scheme, self.forecast.timeout(scheme, self.spec.step_timeout))
                    running[ticket] = (scheme, waiting.pop(scheme))
            if not running and self._outbox.full:
                self._pause()
                continue
            if not running:
                return not waiting
            for ticket, outcome in workers.collect(0.5):
                scheme, ordinal = running.pop(ticket)
                self._commit(scheme, ordinal, number, asked, outcome)
            parts = sum(r.done / r.of for r in workers.running() if r.of)
            self.listener.running(len(self.trials) + parts, self.seconds)
        return True

    def _pause(self) -> None:
        """Wait a little for the graph; the study's clock stands still."""
        began = time.monotonic()
        time.sleep(_PAUSE_SECONDS)
        self._started += time.monotonic() - began

    def _parent_state(self, scheme: Scheme, waiting: dict[Scheme, int], running: dict[int, tuple[Scheme, int]]) -> str:
        parent = scheme.parent
        if not parent.steps:
            return "ready"
        if parent in waiting or any(parent == under_way for under_way, _ in running.values()):
            return "later"
        trial = self.trials.get(parent)
        return "ready" if trial is not None and trial.status == "ok" else "failed"

    def _affordable(self, scheme: Scheme) -> bool:
        """Tell whether a step is expected to end within a budget of seconds."""
        budget = self.spec.budget.seconds
        return budget is None or self.seconds + self.forecast.seconds(scheme) <= budget

    def _commit(self, scheme: Scheme, ordinal: int, number: int, asked: int, outcome: StepOutcome) -> None:
        """Bring a trial and its experience to the graph, then tell the listener; the searcher hears of it later."""
        parent = self._figures(scheme.parent)
        trial = Trial.of(ordinal, number, asked, scheme, outcome, self.base, parent)
        trial = replace(trial, **self._expected.get(scheme, {}))
        if outcome.cached:
            self._charged += outcome.seconds
        elif outcome.status == "ok":
            self.forecast.observe(scheme, outcome.seconds)
        self._outbox.deliver(entry(trial, parent, self.seconds))
        self.trials[scheme] = trial
        self.listener.trial(trial, len(self.trials), self.seconds)

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
