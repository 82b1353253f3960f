"""Finalists of different kinds train on side by side; validation's loss tells which of them goes on alone.

What is best after a short step need not be best after long training, and the loss shows that long before accuracy
does (docs/results/curves). All go along the cosine of one recovery, each for as many seconds. After a leg the
recommended one wins, unless it is clearly worse than the best; then the better half goes on for another leg, without
those that are clearly worse, until one is alone. The winner has the rest of the cosine, and of the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from automc.study.protocol import Protocol, Recommendation, highest
from automc.study.trial import Trial

MOST = 3
"""Finalists."""
NEAR = 0.05
"""What a short step says of accuracy may mislead by so much; who is further behind the best does not take part."""
LEG = 0.1
"""Of the cosine that is behind the finalists after the first leg; after each further one twice as much."""
CLEAR = 0.05
"""Share of the least loss by which another one is clearly worse; below that a few hundred images cannot tell."""
SHORTEST = 1.0
"""Seconds of a first leg below which there is no race."""


def runners(protocol: Protocol, trials: Sequence[Trial]) -> list[Trial]:
    """Return the recommended trial, and the most accurate ones of other kinds; a kind is the methods of a scheme.

    Alone where nothing is recommended for its accuracy: where a drop is allowed, the smallest wins.
    """
    choice = protocol.recommended(trials)
    if choice is None or protocol.max_drop is not None:
        return [] if choice is None else [choice.trial]
    best = choice.trial.accuracy or 0.0
    near = [t for t in highest([t for t in trials if protocol.feasible(t)]) if (t.accuracy or 0.0) >= best - NEAR]
    near.sort(key=lambda t: (-(t.accuracy or 0.0), t.ordinal))
    kinds = {frozenset(s.method for s in t.scheme.steps): t for t in [*near, choice.trial][::-1]}
    kinds[frozenset(s.method for s in choice.trial.scheme.steps)] = choice.trial
    return sorted(kinds.values(), key=lambda t: (t is not choice.trial, -(t.accuracy or 0.0), t.ordinal))[:MOST]


def legs(finalists: int) -> list[tuple[int, float, float]]:
    """Return (finalists that take part, where on the cosine it begins, where it ends) of each leg before the last."""
    found: list[tuple[int, float, float]] = []
    place = 0.0
    while finalists > 1:
        found.append((finalists, place, place + LEG * 2 ** max(0, len(found) - 1)))
        place, finalists = found[-1][2], math.ceil(finalists / 2)
    return found


def course(finalists: int, seconds: float) -> float | None:
    """Return the seconds of the winner's whole cosine, of those that are left for all; None: too few for a race."""
    found = seconds / (1 + sum((count - 1) * (end - begin) for count, begin, end in legs(finalists)))
    return found if finalists > 1 and LEG * found >= SHORTEST else None


@dataclass(frozen=True, slots=True)
class Won:
    """Who won a race, why, and how much of the cosine is behind that model."""

    choice: Recommendation
    place: float


def race(pool: Sequence[Trial], run: Callable[[Trial, float, float], float]) -> Won:
    """Let finalists train on, leg by leg; return the winner.

    Args:
        pool: of `runners`, at least two, the recommended one first.
        run: trains a trial's model on from one place on the cosine to another and returns its loss on validation.
    """
    left, told, place = list(pool), list[float](), 0.0
    for count, begin, end in legs(len(pool)):
        if len(left) == 1:
            break
        losses = {t.ordinal: run(t, begin, end) for t in left[:count]}
        left.sort(key=lambda t: losses[t.ordinal])
        near = [t for t in left if losses[t.ordinal] <= (1 + CLEAR) * losses[left[0].ordinal]]
        left = [pool[0]] if pool[0] in near else near[: math.ceil(len(left) / 2)]
        place = end
        told = [losses[left[0].ordinal], min(loss for ordinal, loss in losses.items() if ordinal != left[0].ordinal)]
    why = (
        f"which went on when {len(pool)} finalists of different kinds had trained side by side: "
        f"loss on validation {told[0]:.3f}, the least of the others {told[1]:.3f}"
    )
    return Won(Recommendation(left[0], why), place)
