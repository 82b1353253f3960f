"""The order of a study's asks and tells: the same whichever step is faster, with any workers, and after a stop.

A round is one ask: a scheme, and the parents that it needs. Up to `window` rounds are under way, so that all workers
have something to do. They are told whole, in the order in which they were asked, and only when the window is full, so
what a searcher knows when it is asked depends on outcomes alone. In a wide window several rounds come of one answer of
the searcher, so that a thousand workers need not wait for a thousand answers. A trial holds its round, how many rounds
had been told before, and the scheme that was asked for; from these a stopped study is taken up without asking again
what was asked. A round of which nothing was executed leaves no trial: it is asked again by the rule it was asked by.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from automc.search.base import SchemeIndices, Searcher
from automc.study.space import StrategySpace
from automc.study.spec import LEAST_WINDOW
from automc.study.trial import Trial
from kg.embedding.threads import one_thread
from kg.schema import Scheme

Target = tuple[Scheme, Mapping[str, Any]]
"""A scheme asked for, and what the searcher expected of it, as fields of its trial."""

PART = 64
"""In a window of so many rounds, or of more, one answer of the searcher gives as many rounds as that part of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a searcher said when it was asked for one or more schemes."""

    first: int
    """Number of the first round that came of it."""
    told: int
    targets: tuple[Target, ...] | None
    """One for each of its rounds; None: not asked yet, or not asked again."""


@dataclass(frozen=True, slots=True)
class Round:
    """One scheme asked for, when `told` rounds had been told."""

    number: int
    told: int
    target: str
    """Id of the scheme asked for."""
    planned: dict[Scheme, int]
    """Ordinals of the schemes to execute, parents first: of those that no earlier round has."""
    expected: Mapping[str, Any]
    """What the searcher expected of the target, as fields of its trial."""


class Schedule:
    """Asks a searcher and tells it, in an order that depends on outcomes alone."""

    def __init__(
        self, searcher: Searcher, space: StrategySpace, trials: Mapping[Scheme, Trial], window: int, steps: int | None,
        first: Sequence[Scheme] = (),
    ) -> None:  # fmt: skip
        """Stand where the trials left off.

        Args:
            trials: those of the study, by scheme; a live view, to which finished ones are added.
            window: rounds that may be under way.
            steps: the budget, in trials; None where it is not counted in steps.
            first: schemes that come before anything the searcher asks for.
        """
        self._searcher = searcher
        self._space = space
        self._trials = trials
        self._window = window
        self._steps = steps
        self._first = first
        self._batch = max(1, window // PART)
        self._answer = Answer(0, 0, ())
        self._under_way: deque[Round] = deque()
        self._asked = self._told = self._ordinal = self._executed = 0
        self._taken = {t.ordinal for t in trials.values()}
        self._last_told = max((t.told for t in trials.values()), default=0)
        self._known: set[Scheme] = set()
        self._dry = False
        self._replay()

    def advance(self, may_ask: bool) -> None:
        """Ask as far as the window and the budget of steps allow, and tell what must be told for that."""
        while may_ask and self._move():
            pass

    def _move(self, latest: float = math.inf) -> bool:
        """Ask once, or tell a round where there is no asking; False where outcomes are awaited.

        Args:
            latest: no round after this one is told.
        """
        if not self._dry and self._left() > 0 and self._in_turn():
            self._dry = not self._ask()
        elif self._told < latest and self._under_way and self._done(self._under_way[0]):
            self._tell()
        else:
            return False
        return True

    def _in_turn(self) -> bool:
        """Whether the window has room for what is asked next.

        The searcher hears of all first schemes before it is asked, unless that would leave workers without work: then
        there are many.
        """
        number, room = self._asked + 1, self._window - (self._asked - self._told)
        if number <= len(self._first):
            return room > 0
        heard = self._told >= len(self._first) or self._window > LEAST_WINDOW
        return heard and (number < self._answer_ends or room >= self._batch)

    @property
    def _answer_ends(self) -> int:
        """Number of the first round after those of the latest answer."""
        targets = self._answer.targets
        return self._answer.first + (self._batch if targets is None else len(targets))

    def waiting(self) -> Iterator[tuple[Scheme, Round]]:
        """Yield what can be executed now: planned, not executed, and its parent is ok; in ordinal order."""
        for of_round in self._under_way:
            for scheme in of_round.planned:
                if scheme not in self._trials and self._status(scheme.before) == "ok":
                    yield scheme, of_round

    def _replay(self) -> None:
        """Take up what the trials tell of earlier asks."""
        stored: dict[int, list[Trial]] = defaultdict(list)
        for trial in sorted(self._trials.values(), key=lambda t: t.ordinal):
            stored[trial.round].append(trial)
        numbers = sorted(stored)
        for number in range(1, max(numbers, default=0) + 1):
            found = stored.get(number)
            if found is None:
                self._ask_again(number, latest=stored[numbers[bisect(numbers, number)]][0].told)
            elif found[0].target:
                self._take_up(number, found[0])
            else:
                # Of a version that asked for several schemes in a round and told them together.
                self._add(self._told, Scheme(), {}, {t.scheme: t.ordinal for t in found})
                self._tell_up_to(number)
        self._dry = False

    def _take_up(self, number: int, trial: Trial) -> None:
        """Ask for a round as one of its trials says that it was asked."""
        self._tell_up_to(trial.told)
        if number > len(self._first) and (self._told != self._answer.told or number >= self._answer_ends):
            self._answer = Answer(number, self._told, None)
        target = Scheme.parse(trial.target)
        expected: Mapping[str, Any] = {}
        if self._status(target) == "open":
            # The same answer as before: it tells what was expected of it.
            again, why = self._asked_for(number)
            expected = why if target == again else {}
        self._add(self._told, target, expected, self._planned(target))

    def _ask_again(self, number: int, latest: int) -> None:
        """Ask for a round of which no trial is left, by the rule: `latest` rounds had been told when the next one was.

        Under another budget than then, or another window, the rule may not come to it: the round stays empty.
        """
        while self._asked < number and self._move(latest):
            pass
        if self._asked < number:
            self._add(self._told, Scheme(), {}, {})

    def _ask(self) -> bool:
        """Ask for one more round; False where the searcher has nothing new."""
        number = self._asked + 1
        if number > len(self._first) and number >= self._answer_ends:
            self._answer = Answer(number, self._told, None)
        target, expected = self._asked_for(number)
        planned = self._planned(target)
        # Of several schemes of an answer one may have come with another: its round is empty, and the next is as before.
        new = bool(planned or (target.steps and self._batch > 1))
        if new:
            self._add(self._told, target, expected, planned)
        return new

    def _asked_for(self, number: int) -> Target:
        """Return what a round is for, START for nothing, and the searcher's reason."""
        if number <= len(self._first):
            return self._first[number - 1], {}
        targets = self._answer.targets
        if targets is None:
            targets = self._answered(self._answer.first)
            self._answer = replace(self._answer, targets=targets)
        place = number - self._answer.first
        return targets[place] if place < len(targets) else (Scheme(), {})

    def _answered(self, first: int) -> tuple[Target, ...]:
        """Ask the searcher for as many schemes as rounds come of an answer. On one thread, like `_tell`."""
        before = [of_round for of_round in self._under_way if of_round.number < first]
        pending = [self._space.indices(scheme) for of_round in before for scheme in of_round.planned]
        with one_thread():
            asked = self._searcher.ask(self._batch, pending)
        return tuple(self._target(scheme) for scheme in asked)

    def _target(self, asked: SchemeIndices) -> Target:
        before = self._trials.get(self._space.scheme(asked[:-1]))
        known = self._space.outcome(before) if before else None
        sizes = (before.removed, before.grain, known) if before else (0.0, 1.0, None)
        return self._space.scheme(asked, *sizes), self._space.expected(self._searcher.why(asked), *sizes)

    def _planned(self, target: Scheme) -> dict[Scheme, int]:
        """Return what the target takes and no earlier round has, as far as the budget goes, with ordinals.

        Also of a round that is taken up: what it has no trial of and what could yet come, though it was told, or what
        a later round has a trial of, was beyond the budget.
        """
        planned: dict[Scheme, int] = {}
        left, last, number = self._left(), self._ordinal, self._asked + 1
        for scheme in target.beginnings:
            trial = self._trials.get(scheme)
            if trial is None:
                beyond = len(planned) >= left or (number <= self._last_told and self._status(scheme) == "open")
            else:
                beyond = trial.round > number
            if scheme in self._known or beyond:
                continue
            last = next(n for n in count(last + 1) if n not in self._taken) if trial is None else trial.ordinal
            planned[scheme] = last
        return planned

    def _add(self, told: int, target: Scheme, expected: Mapping[str, Any], planned: dict[Scheme, int]) -> None:
        self._asked += 1
        self._ordinal = max(self._ordinal, *planned.values(), 0)
        self._known.update(planned)
        self._under_way.append(Round(self._asked, told, target.id, planned, expected))

    def _tell_up_to(self, number: int) -> None:
        while self._told < number and self._under_way:
            self._tell()

    def _tell(self) -> None:
        """Tell the oldest round. On one thread: what is learnt must not depend on who resumes where."""
        if self._asked + 1 < self._answer_ends:
            # The budget had no room for the rest of it; should there be some again, the searcher knows more by then.
            self._answer = Answer(0, 0, ())
        oldest = self._under_way.popleft()
        executed = [self._trials[scheme] for scheme in oldest.planned if scheme in self._trials]
        self._told = oldest.number
        self._executed += len(executed)
        self._dry = False
        if executed:
            with one_thread():
                self._searcher.tell([self._space.outcome(t) for t in executed])

    def _left(self) -> float:
        """Return the steps that the budget leaves: what is planned counts until it turns out never to be executed."""
        if self._steps is None:
            return math.inf
        planned = sum(len(of_round.planned) for of_round in self._under_way)
        return self._steps - self._executed - planned

    def _done(self, of_round: Round) -> bool:
        return all(scheme in self._trials or self._status(scheme) == "failed" for scheme in of_round.planned)

    def _status(self, scheme: Scheme) -> str:
        """Return "ok", "failed" where the scheme or what it extends failed, "open" where it has no outcome yet."""
        for beginning in scheme.beginnings:
            trial = self._trials.get(beginning)
            if trial is not None and trial.status != "ok":
                return "failed"
        return "ok" if not scheme.steps or scheme in self._trials else "open"
