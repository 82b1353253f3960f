"""The best few schemes of a search once more from M, with other seeds: what was best by luck is not recommended.

Successive halving: each finalist is run, the better half of them again, and so on, as far as the end's share of the
budget goes. The mean decides.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from automc.study.headline import Share
from automc.study.protocol import Protocol, Recommendation
from automc.study.trial import Trial
from kg.schema import Scheme

MOST = 4
"""Finalists."""
Runs = Mapping[Scheme, Sequence[float]]
"""Validation accuracies of a scheme's runs, by scheme."""


def contenders(protocol: Protocol, trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that are run again, the recommended one first: those that measuring cannot tell from the best.

    Where accuracy is to be had, those on the front within one standard error of its best; where a drop is allowed, the
    smallest ones.
    """
    choice, front = protocol.recommended(trials), protocol.front(trials)
    if choice is None:
        return []
    near = front[::-1]
    if protocol.max_drop is None:
        best = max(t.accuracy or 0.0 for t in front)
        near = [t for t in front if (t.accuracy or 0.0) >= best - protocol.standard_error(best)]
        near.sort(key=lambda t: (-(t.accuracy or 0.0), t.ordinal))
    return [choice.trial, *(t for t in near if t is not choice.trial)][:MOST]


def halve(
    pool: Sequence[Trial], allowance: float, cost: Callable[[Trial], float],
    run: Callable[[Trial, int], float | None], known: Runs,
) -> dict[Scheme, list[float]]:  # fmt: skip
    """Run finalists by successive halving; return the accuracies of each, in the order of its runs.

    Args:
        pool: of `contenders`; the first one is run whatever it costs, the others as far as the allowance goes.
        cost: of one run, in the unit of the allowance.
        run: runs a trial's scheme with the n-th other seed, from 1; None where that failed, which ends it for a scheme.
        known: other measurements of the same kind, which count for the mean.
    """
    scores = {t.scheme: list(known.get(t.scheme, ())) for t in pool}
    done: dict[Scheme, list[float]] = {}
    left, number = list(pool), 1
    while left and (number == 1 or len(left) > 1):
        affordable = [t for n, t in enumerate(left, 1) if sum(map(cost, left[:n])) <= allowance]
        if number == 1:
            left = affordable or left[:1]
        elif len(affordable) < len(left):
            break
        allowance -= sum(map(cost, left))
        found = {t.scheme: run(t, number) for t in left}
        for scheme, accuracy in found.items():
            if accuracy is not None:
                scores[scheme].append(accuracy)
                done.setdefault(scheme, []).append(accuracy)
        left = [t for t in left if found[t.scheme] is not None]
        left.sort(key=lambda t: -statistics.mean(scores[t.scheme]))
        left, number = left[: math.ceil(len(left) / 2)], number + 1
    return done


@dataclass(frozen=True, slots=True)
class Final:
    """The scheme that a study ends with, and the validation accuracies of its runs."""

    choice: Recommendation
    runs: tuple[float, ...]


def winner(protocol: Protocol, trials: Sequence[Trial], done: Runs, known: Runs) -> Final | None:
    """Return the finalist with the best mean; where a drop is allowed, the smallest whose mean keeps within it.

    None where no run ended well.
    """
    ran = [
        replace(t, accuracy=statistics.mean([*known.get(t.scheme, ()), *done[t.scheme]]))
        for t in trials if done.get(t.scheme)
    ]  # fmt: skip
    if not ran:
        return None
    kept = [t for t in ran if protocol.max_drop is not None and protocol.feasible(t)]
    best = max(kept, key=lambda t: t.removed) if kept else max(ran, key=lambda t: (t.accuracy or 0.0, t.removed))
    own = next(t for t in trials if t.scheme == best.scheme)
    runs = done[best.scheme]
    spread = f", {min(runs):.2%} to {max(runs):.2%}" if len(runs) > 1 else ""
    of = "the only finalist" if len(ran) == 1 else f"the best of {len(ran)} finalists"
    if kept:
        of = f"the smallest of {len(ran)} finalists with {protocol.asked}"
    # Nobody knows the interval of a metric of the user's.
    mean = Share.of(best.accuracy or 0.0, protocol.validation_images if protocol.measure == "accuracy" else None)
    counted = len(runs) + len(known.get(best.scheme, ()))
    why = f"{of}: mean validation {protocol.measure} {mean} over {counted} runs{spread}"
    return Final(Recommendation(own, why), tuple(runs))
