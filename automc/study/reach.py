"""Whether a study's target can be met at all: told before anything is learned, and again once methods are masked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from automc import knowledge, methods
from automc.errors import StudyError
from automc.search.history import largest_sum
from automc.study.spec import MAX_REMOVED, StudySpec
from kg.cards import enumerate_strategies

BYTES = 4
"""Of a saved parameter."""
_ROUNDING = 1e-4


def grid_levels(only: Iterable[str] = ()) -> set[float]:
    """Return the removals (HP2) on the grids of the methods that can be executed here, or of `only` those named."""
    known = [m for m in knowledge.methods() if m.hyperparameters and m.id in methods.registered()]
    chosen = [m for m in known if not only or m.id in only]
    return {strategy.number("HP2") for method in chosen for strategy in enumerate_strategies(method)}


def wanted(spec: StudySpec, base: Mapping[str, float]) -> tuple[float, str]:
    """Return the share of the parameters that must go for the study's target, and the option that says so; 0 for none.

    A file is no smaller than its parameters; FLOPs, latency and accuracy say nothing for certain.

    Args:
        base: the base model's params and, where limited, file_bytes; without them γ alone counts.
    """
    found = [(0.0, "")] if spec.gamma is None else [(spec.gamma, f"--gamma {spec.gamma:g}")]
    for limit in spec.limits:
        if limit.figure == "file_bytes" and "params" in base and (not limit.of_base or "file_bytes" in base):
            share = 1 - limit.most(base.get("file_bytes", 0.0)) / (BYTES * base["params"])
            found.append((share, f"{limit.kind.option} {limit}, at least {share:.2%} of the parameters removed,"))
    return max(found)


def insist_reachable(
    spec: StudySpec, levels: Iterable[float], base: Mapping[str, float] | None = None, because: str = ""
) -> None:
    """Refuse a target that no scheme can meet.

    Args:
        levels: the removals (HP2) that a step may plan.
        base: of `wanted`.
        because: what narrowed the levels besides options, as the end of a sentence.

    Raises:
        StudyError: more must go than the longest schemes can remove; names the most that is possible.
    """
    share, option = wanted(spec, base or {})
    levels = set(levels)
    most = largest_sum(levels, spec.max_length, MAX_REMOVED)
    if share <= most + _ROUNDING:
        return
    under = [f"--max-length {spec.max_length}", *(f"--only {method}" for method in spec.only)]
    advice = ["Ask for less"]
    advice += ["allow longer schemes"] if share <= largest_sum(levels, 100, MAX_REMOVED) + _ROUNDING else []
    advice += ["leave out --only"] if spec.only else []
    raise StudyError(
        f"{option} is out of reach: at most {rounded_down(most):g} of the parameters can go with {' '.join(under)}"
        f"{because}. {', or '.join(advice)}."
    )


def rounded_down(share: float) -> float:
    """Round to four decimals so that what is named can be asked for."""
    return math.floor(1e4 * share + 1e-6) / 1e4
