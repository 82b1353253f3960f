"""F_mo: what a next step will do, learned while searching (AutoMC paper, section 3.3 and Eq. 5)."""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import torch

from automc.search.base import FloatArray, Indices, Limits, Outcome, Space
from automc.search.linear import LinearModel
from automc.search.network import NetModel

LEARN = 40
"""Measured steps before the network is trained."""
TESTED = 40
"""Steps that the network must have predicted, none of which it had seen, before it can be followed …"""
MARGIN = 0.9
"""… and its absolute error on them, as a share of the linear model's, below which it is."""


KEPT = 8
"""States of the network that are kept. A resumed search asks again for what was under way, as it was asked: with less
learned than the newest has, by as many lessons as rounds were under way."""
LESSONS = 2
"""Raised where the network, or how it learns, changes: what an older version has learned is then learned again."""


class Lessons:
    """What a model was taught, in which portions: a fingerprint of it."""

    def __init__(self, space: Space, limits: Limits, seed: int) -> None:
        """Begin with nothing; a model of another space or seed never has the same."""
        self._hash = hashlib.sha256(repr((LESSONS, seed, limits, space.methods, len(space.strategies))).encode())
        for part in (space.embeddings, space.cost, space.mask, space.hp2, space.task, space.slope):
            self._hash.update(b"" if part is None else np.ascontiguousarray(part).tobytes())
        self._steps = 0

    def add(self, steps: Sequence[tuple[Outcome, Outcome]]) -> None:
        """Add a portion: all steps that are known by then."""
        for parent, o in steps[self._steps :]:
            figures = (parent.accuracy, parent.pr, parent.size, o.accuracy, o.pr, o.size, o.step_ar, o.step_pr)
            self._hash.update(repr((o.scheme, figures)).encode())
        self._steps = len(steps)
        self._hash.update(b"learned")

    @property
    def digest(self) -> str:
        """The fingerprint so far."""
        return self._hash.hexdigest()


class StepModel(Protocol):
    """What a progressive search needs of a model of steps, F_mo or another."""

    def predict(self, prefixes: Sequence[Outcome], among: Indices | None = None) -> FloatArray:
        """Return (step AR, step PR) of every strategy, or of those `among` them, (s,), after each prefix; (p, s, 2)."""

    def pairs(self, prefixes: Sequence[Outcome], strategies: Indices) -> FloatArray:
        """Return (step AR, step PR) of one strategy after each measured prefix; (p, 2)."""

    def spread(self, prefixes: Sequence[Outcome], among: Indices | None = None) -> FloatArray:
        """Return how far each step's AR may lie from what is predicted, a deviation; 0 where unknown; (p, s)."""

    def learn(self, steps: Sequence[tuple[Outcome, Outcome]]) -> float:
        """Learn all (parent, step) outcomes with figures told so far, in the order told; return the last loss."""


class Evaluator:
    """F_mo(prefix, s) → (step AR, step PR): a Bayesian linear model, and the residual of a network that earns it.

    The paper's network alone knows too little after the tens of steps that a search executes. It learns the residual
    of the linear model, and is followed while its predictions of steps before they were told have been better.
    """

    def __init__(self, space: Space, limits: Limits, seed: int) -> None:
        self._about = (space, limits, seed)
        self.linear = LinearModel(space, limits)
        self.net = NetModel(space, limits, seed, self.linear)
        self._told = 0
        self._trained = False
        self._errors: FloatArray = np.zeros(2)
        """Sums of absolute errors of AR: the linear model's, and with the network."""
        self._tested = 0
        self._lessons = Lessons(space, limits, seed)
        self._states: list[dict[str, Any]] = []
        """What was `learned` at the last asks, or before this process, oldest first."""
        self._new = False

    @property
    def with_net(self) -> bool:
        """Whether the network is followed."""
        return self._tested >= TESTED and bool(self._errors[1] < MARGIN * self._errors[0])

    def predict(self, prefixes: Sequence[Outcome], among: Indices | None = None) -> FloatArray:
        """Return (step AR, step PR) of every strategy, or of those `among` them, after each prefix; (p, s, 2)."""
        found = self.linear.predict(prefixes, among)
        if self.with_net:
            found[..., 0] = self.net.predict(prefixes, among)[..., 0]
        return found

    def pairs(self, prefixes: Sequence[Outcome], strategies: Indices) -> FloatArray:
        """Return (step AR, step PR) of one strategy after each measured prefix; (p, 2)."""
        found = self.linear.pairs(prefixes, strategies)
        if self.with_net:
            found[:, 0] = self.net.pairs(prefixes, strategies)[:, 0]
        return found

    def spread(self, prefixes: Sequence[Outcome], among: Indices | None = None) -> FloatArray:
        """Return the linear posterior's deviation of every step's AR; (p, s)."""
        return self.linear.spread(prefixes, among)

    def learned(self) -> bytes | None:
        """Return the network with what it takes to go on, and what it was taught; None where that is nothing new."""
        if not self._new:
            return None
        self._new = False
        told = {"errors": self._errors.tolist(), "tested": self._tested, "steps": self._told}
        state = copy.deepcopy({**told, "lessons": self._lessons.digest, **self.net.state()})
        self._states = [*self._states, state][-KEPT:]
        file = io.BytesIO()
        torch.save(self._states, file)
        return file.getvalue()

    def recall(self, learned: bytes) -> None:
        """Take what another process has `learned`, for `resume`; what cannot be read is as nothing."""
        with suppress(Exception):
            found = torch.load(io.BytesIO(learned), weights_only=True)
            self._states = [state for state in found if isinstance(state, dict)]

    def resume(self, steps: Sequence[tuple[Outcome, Outcome]], lessons: Sequence[int]) -> int:
        """Stand where what was recalled stood, if it was taught the same, before anything is learned.

        Args:
            steps: all steps told so far.
            lessons: how many of them were known at each `learn` that is due.

        Returns:
            How many of the lessons that spares.
        """
        if self._told:
            return 0
        while self._states:
            found = self._states[-1]
            spared = self._spared(found, steps, lessons)
            if spared:
                self.net.load(copy.deepcopy(found))
                self._told, self._trained = found["steps"], True
                self._errors, self._tested = np.array(found["errors"]), found["tested"]
                self.linear.learn(steps[: self._told])
                return spared
            self._states.pop()
        return 0

    def _spared(self, found: dict[str, Any], steps: Sequence[tuple[Outcome, Outcome]], lessons: Sequence[int]) -> int:
        """Return how many of the lessons a state has had, and take note of them; 0 where it was taught otherwise."""
        if found.get("steps") not in lessons:
            return 0
        spared = 1 + max(place for place, number in enumerate(lessons) if number == found["steps"])
        ahead = Lessons(*self._about)
        for number in lessons[:spared]:
            ahead.add(steps[:number])
        if ahead.digest != found.get("lessons"):
            return 0
        self._lessons = ahead
        return spared

    def learn(self, steps: Sequence[tuple[Outcome, Outcome]]) -> float:
        """Try the network on the steps that are new, then learn all; return the linear model's error."""
        self._lessons.add(steps)
        if self._trained and len(steps) > self._told:
            self._try(steps[self._told :])
        self._told = len(steps)
        loss = self.linear.learn(steps)
        if len(steps) >= LEARN:
            self.net.learn(steps)
            self._trained = self._new = True
        return loss

    def _try(self, steps: Sequence[tuple[Outcome, Outcome]]) -> None:
        """Add up how well the linear model and the network predict steps that neither has seen."""
        prefixes = [parent for parent, _ in steps]
        last = np.array([o.scheme[-1] for _, o in steps], dtype=np.intp)
        truth = np.array([o.step_ar for _, o in steps], dtype=float)
        both = np.stack([model.pairs(prefixes, last)[:, 0] for model in (self.linear, self.net)])
        self._errors = self._errors + np.abs(both - truth).sum(axis=1)
        self._tested += len(steps)
