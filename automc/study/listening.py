"""A listener that passes everything on, and calls a function with each trial."""

from __future__ import annotations

from collections.abc import Callable

from automc.study.loop import Listener, Plan
from automc.study.trial import Trial


class Also(Listener):
    """Tells another listener everything, and a function each trial."""

    def __init__(self, inner: Listener, on_trial: Callable[[Trial], object]) -> None:
        self._inner, self._on_trial = inner, on_trial

    def say(self, text: str) -> None:
        """Pass it on."""
        self._inner.say(text)

    def plan(self, plan: Plan) -> None:
        """Pass it on."""
        self._inner.plan(plan)

    def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
        """Pass it on, and call the function."""
        self._inner.trial(trial, spent_steps, spent_seconds)
        self._on_trial(trial)

    def running(self, spent_steps: float, spent_seconds: float) -> None:
        """Pass it on."""
        self._inner.running(spent_steps, spent_seconds)

    def progress(self, what: str, done: int, of: int) -> None:
        """Pass it on."""
        self._inner.progress(what, done, of)
