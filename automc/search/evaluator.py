"""F_mo: what a next step will do, learned while searching (AutoMC paper, section 3.3 and Eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from automc.search.base import FloatArray, Indices, Limits, Outcome, Space
from automc.search.linear import LinearModel
from automc.search.network import NetModel

LEARN = 40
"""Measured steps before the network is trained."""
TESTED = 40
"""Steps that the network must have predicted, none of which it had seen, before it can be followed …"""
MARGIN = 0.9
"""… and its absolute error on them, as a share of the linear model's, below which it is."""


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
        self.linear = LinearModel(space, limits)
        self.net = NetModel(space, limits, seed, self.linear)
        self._told = 0
        self._trained = False
        self._errors: FloatArray = np.zeros(2)
        """Sums of absolute errors of AR: the linear model's, and with the network."""
        self._tested = 0

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

    def learn(self, steps: Sequence[tuple[Outcome, Outcome]]) -> float:
        """Try the network on the steps that are new, then learn all; return the linear model's error."""
        if self._trained and len(steps) > self._told:
            self._try(steps[self._told :])
        self._told = len(steps)
        loss = self.linear.learn(steps)
        if len(steps) >= LEARN:
            self.net.learn(steps)
            self._trained = True
        return loss

    def _try(self, steps: Sequence[tuple[Outcome, Outcome]]) -> None:
        """Add up how well the linear model and the network predict steps that neither has seen."""
        prefixes = [parent for parent, _ in steps]
        last = np.array([o.scheme[-1] for _, o in steps], dtype=np.intp)
        truth = np.array([o.step_ar for _, o in steps], dtype=float)
        both = np.stack([model.pairs(prefixes, last)[:, 0] for model in (self.linear, self.net)])
        self._errors = self._errors + np.abs(both - truth).sum(axis=1)
        self._tested += len(steps)
