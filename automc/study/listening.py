"""Listeners that pass everything on: to a function with each trial, and to whoever looks from outside."""

from __future__ import annotations

import os
import platform
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from automc.study import pulse
from automc.study.loop import Listener, Plan, UnderWay
from automc.study.trial import Trial

EVERY_SECONDS = 0.5
"""How often at most the pulse is written, other than for a trial."""
SENTENCES = 12
"""Of what was said, that it holds."""


class Passing(Listener):
    """Tells another listener everything."""

    def __init__(self, inner: Listener) -> None:
        self._inner = inner

    def say(self, text: str) -> None:
        """Pass it on."""
        self._inner.say(text)

    def plan(self, plan: Plan) -> None:
        """Pass it on."""
        self._inner.plan(plan)

    def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
        """Pass it on."""
        self._inner.trial(trial, spent_steps, spent_seconds)

    def running(self, spent_steps: float, spent_seconds: float) -> None:
        """Pass it on."""
        self._inner.running(spent_steps, spent_seconds)

    def under_way(self, steps: Sequence[UnderWay]) -> None:
        """Pass it on."""
        self._inner.under_way(steps)

    def progress(self, what: str, done: int, of: int) -> None:
        """Pass it on."""
        self._inner.progress(what, done, of)


class Also(Passing):
    """Calls a function with each trial."""

    def __init__(self, inner: Listener, on_trial: Callable[[Trial], object]) -> None:
        super().__init__(inner)
        self._on_trial = on_trial

    def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
        """Pass it on, and call the function."""
        super().trial(trial, spent_steps, spent_seconds)
        self._on_trial(trial)


class Beating(Passing):
    """Keeps the file of `automc.study.pulse` while it is entered."""

    def __init__(self, inner: Listener, path: Path) -> None:
        super().__init__(inner)
        self._path = path
        self._said: deque[str] = deque(maxlen=SENTENCES)
        self._told: dict[str, Any] = {"phase": "trying each method once", "trials": 0, "steps": []}
        self._due = 0.0

    def __enter__(self) -> Beating:
        self._beat()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def say(self, text: str) -> None:
        """Pass it on."""
        super().say(text)
        self._said.append(text)
        self._beat()

    def plan(self, plan: Plan) -> None:
        """Pass it on."""
        super().plan(plan)
        budget = plan.spending.search
        self._beat(phase="searching", trials=plan.done, budget_steps=budget.steps, budget_seconds=budget.seconds)

    def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
        """Pass it on."""
        super().trial(trial, spent_steps, spent_seconds)
        self._beat(trials=spent_steps, spent_steps=spent_steps, spent_seconds=spent_seconds)

    def running(self, spent_steps: float, spent_seconds: float) -> None:
        """Pass it on."""
        super().running(spent_steps, spent_seconds)
        self._tell(spent_steps=spent_steps, spent_seconds=spent_seconds)

    def under_way(self, steps: Sequence[UnderWay]) -> None:
        """Pass it on."""
        super().under_way(steps)
        told = [
            {"scheme": s.scheme.id, "done": s.done, "of": s.of, "seconds": s.seconds, "left": s.left} for s in steps
        ]
        self._tell(steps=told)

    def progress(self, what: str, done: int, of: int) -> None:
        """Pass it on."""
        super().progress(what, done, of)
        self._tell(phase=what, done=done, of=of, steps=[])

    def _tell(self, **news: Any) -> None:
        """Note something for the next time that is due."""
        self._told |= news
        if time.monotonic() >= self._due:
            self._beat()

    def _beat(self, **news: Any) -> None:
        self._told |= news
        self._due = time.monotonic() + EVERY_SECONDS
        who = {"pid": os.getpid(), "host": platform.node(), "updated": time.time()}
        pulse.write(self._path, {**who, **self._told, "said": list(self._said)})
