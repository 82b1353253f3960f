"""Whether a study's target can be met at all: told before anything is learned, and again once methods are masked."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from automc import knowledge, methods
from automc.errors import StudyError
from automc.execution.probe import reach
from automc.models.keeping import Held
from automc.models.measure import artefact_bytes
from automc.models.stored import Stored
from automc.search.history import largest_sum
from automc.study.bits import least_kept, quantiser, quantisers
from automc.study.closing import closes
from automc.study.doctor import scratch
from automc.study.limits import KINDS
from automc.study.opening import counts
from automc.study.space import BEYOND, widest
from automc.study.spec import MAX_REMOVED, StudySpec
from automc.study.task import Subject
from kg.cards import enumerate_strategies, on_grid
from kg.schema import Strategy

BYTES = 4
"""Of a saved parameter."""
Levels = Mapping[str, Iterable[float]]
"""Planned removals (HP2) by method."""


def grids(only: Collection[str] = ()) -> dict[str, tuple[Strategy, ...]]:
    """Return the strategies on the grids of the methods that can be executed here, or of `only` those named."""
    able = on_grid((m for m in knowledge.methods() if m.id in methods.registered()), only)
    return {m.id: tuple(enumerate_strategies(m)) for m in able if m.hyperparameters and (not only or m.id in only)}


def unasked(spec: StudySpec, names: Collection[str]) -> dict[str, str]:
    """Return, of these methods, those that a study has no use for, with the reason.

    Those made for limits that nobody has set; in the paper's search, methods of AutoMC that are not the paper's, but
    for the quantisers that a size asks for.
    """
    limited = {limit.figure for limit in spec.limits}
    registry, reasons = methods.registered(), dict[str, str]()
    beside = _beside_the_paper() if spec.grid_only and not spec.only else set()
    for name in names:
        serves = registry[name].serves if name in registry else ()
        if serves and not limited & set(serves):
            options = " or ".join(KINDS[figure].option for figure in serves)
            reasons[name] = f"it costs accuracy for what is not limited here; it is searched with {options}."
        elif name in beside:
            reasons[name] = f"it is not of the AutoMC paper, to which --grid-only keeps; --only {name} asks for it."
    return reasons


def _beside_the_paper() -> set[str]:
    """Return AutoMC's methods that are neither the paper's nor quantisers."""
    return set(methods.BUILT_IN) - {m.id for m in knowledge.methods() if m.label or quantiser(m.id)}


def grid_levels(only: Collection[str] = ()) -> dict[str, set[float]]:
    """Return the removals (HP2) on those grids."""
    return {name: {strategy.removal for strategy in grid} for name, grid in grids(only).items() if not quantiser(name)}


def wanted(spec: StudySpec, base: Mapping[str, float]) -> tuple[float, str]:
    """Return the share of the size that must go for the study's target, and the option that says so; 0 for none.

    A file is no smaller than its parameters; FLOPs, latency and accuracy say nothing for certain.

    Args:
        base: the base model's params and, where limited, file_bytes; without them γ alone counts.
    """
    noun = _noun(spec)
    of = " of the bits" if spec.gamma_of == "size" else ""
    found = [(0.0, "")] if spec.gamma is None else [(spec.gamma, f"--gamma {spec.gamma:g}{of}")]
    for limit in spec.limits:
        if limit.figure == "file_bytes" and "params" in base and (not limit.of_base or "file_bytes" in base):
            share = 1 - limit.most(base.get("file_bytes", 0.0)) / (BYTES * base["params"])
            found.append((share, f"{limit.kind.option} {limit}, at least {share:.2%} of the {noun} removed,"))
    return max(found)


def _noun(spec: StudySpec) -> str:
    """What goes, for people."""
    return "bits" if spec.sized else "parameters"


def most_removed(levels: Levels, length: int, far: Mapping[str, float] | None = None) -> float:
    """Return the largest share of the parameters that a scheme of at most `length` steps can remove.

    Args:
        far: share that one step of a method can remove at most on this model; 1 for methods it does not name. A scheme
            removes no more than the shares of all methods together: a method alone gets no further in many steps,
            but for HP6, of which each step leaves a part of every layer.
    """
    known = far or {}
    within = {v for name, values in levels.items() for v in values if v <= known.get(name, 1.0) + BEYOND}
    together = sum(known.get(name, 1.0) / _SHARE_OF_A_LAYER for name, values in levels.items() if set(values))
    return min(largest_sum(within, length, MAX_REMOVED), together)


def most_size(levels: Levels, length: int, far: Mapping[str, float] | None, kept: float) -> float:
    """Return the largest share of the size that a scheme can remove, of which one step may be a quantiser.

    Args:
        kept: share of the bits that the quantiser leaves at least; 1 where there is none.
    """
    floats = most_removed(levels, length, far)
    return floats if kept == 1 else max(floats, 1 - (1 - most_removed(levels, length - 1, far)) * kept)


def with_closing(spec: StudySpec, levels: Levels, share: float, far: Mapping[str, float] | None = None) -> Levels:
    """Return the levels with what a closing step of each method may remove at most, where the study has such steps."""
    if not closes(spec) or not share:
        return levels
    most = min(share, MAX_REMOVED)
    return {name: {*values, min(most, (far or {}).get(name, 1.0))} for name, values in levels.items() if set(values)}


_SHARE_OF_A_LAYER = 0.9
"""The largest HP6 of the cards."""


def insist_reachable(
    spec: StudySpec, levels: Levels, base: Mapping[str, float] | None = None, far: Mapping[str, float] | None = None,
    why: Mapping[str, str] | None = None, model: Stored | None = None,
) -> None:  # fmt: skip
    """Refuse a target that no scheme can meet.

    Args:
        levels: the removals that a step may plan.
        base: of `wanted`.
        far: of `most_removed`.
        why: reason by method, of those that cannot do anything to this model.
        model: counts of M, where it is known and fewer bits help.

    Raises:
        StudyError: more must go than the longest schemes can remove; names the most that is possible.
    """
    share, option = wanted(spec, base or {})
    levels = with_closing(spec, levels, share, far)
    kept = least_kept(spec, model)
    most = most_size(levels, spec.max_length, far, kept)
    if share <= most + BEYOND:
        return
    under = [f"--max-length {spec.max_length}", *(f"--only {method}" for method in spec.only)]
    under += [f"--round-to {spec.recipe.round_to}"] if far and spec.recipe.round_to > 1 else []
    under += [f"--{flag} '{p}'" for flag, held in (("keep", spec.keep), ("keep-shape", spec.keep_shape)) for p in held]
    advice = ["Ask for less"]
    advice += ["allow longer schemes"] if share <= most_size(levels, 100, far, kept) + BEYOND else []
    narrowing = [word.split()[0] for word in under[1:]]
    advice += [f"leave out {' or '.join(dict.fromkeys(narrowing))}"] if narrowing else []
    raise StudyError(
        f"{option} is out of reach: at most {rounded_down(most):g} of the {_noun(spec)} can go with {' '.join(under)}."
        f"{_widths(spec, model, kept)}{_told(far or {}, why or {})} {', or '.join(advice)}."
    )


def _widths(spec: StudySpec, model: Stored | None, kept: float) -> str:
    """What quantisers add to a size that is out of reach, where a study has such."""
    names = ", ".join(quantisers(spec))
    if not spec.sized:
        idle = ", ".join(name for name in spec.only if quantiser(name))
        return f" {idle}: fewer bits for each weight, no fewer weights; --gamma-of size counts bits." if idle else ""
    if not names:
        return " No quantiser takes part, so bits go as parameters do."
    if model is not None and not model.layers:
        return (
            f" No layer of this model can be quantised by {names}: it has no plain convolution or linear layer of its "
            "own weights that may change, so bits go as parameters do."
        )
    fewest = min(strategy.number("HP22") for grid in quantisers(spec).values() for strategy in grid)
    return (
        f" {names} can store {fewest:g} bits of a weight, no fewer: that leaves {kept:.2%} of the bits "
        "of the parameters that stay."
    )


def _told(far: Mapping[str, float], why: Mapping[str, str]) -> str:
    """How far each method gets, and the reasons of those that get nowhere; methods with the same reason together."""
    if not far:
        return ""
    text = " One step gets this far on this model: " + ", ".join(f"{m} {100 * v:.3g}%" for m, v in far.items()) + "."
    of_reason: dict[str, list[str]] = {}
    for method, reason in why.items():
        of_reason.setdefault(reason.rstrip("."), []).append(method)
    return text + "".join(f" {', '.join(names)}: {reason}." for reason, names in of_reason.items())


def insist_possible(spec: StudySpec, subject: Subject, held: Held) -> None:
    """Refuse a target that no scheme can meet on this model; methods are asked until it is known that one can.

    The model has been proved to read back: see `structure.check`.

    Raises:
        StudyError: of `insist_reachable`.
    """
    base = {"params": float(subject.params)}
    if any(limit.figure == "file_bytes" for limit in spec.limits):
        base["file_bytes"] = float(artefact_bytes(subject.model, subject.source))
    share, _ = wanted(spec, base)
    model = counts(spec, subject, held.uncut)
    kept = least_kept(spec, model)
    far: dict[str, float] = {}
    why: dict[str, str] = {}
    all_levels = grid_levels(spec.only)
    strategies = widest(s for name, grid in grids(spec.only).items() if name in all_levels for s in grid)
    with scratch(subject, spec.recipe, held=held, proved=True) as setup:
        bench = setup.open()
        # The last ones of the registry are the quickest to ask.
        for name in reversed(strategies):
            asked = with_closing(spec, {n: all_levels[n] for n in far}, share, far)
            if share <= most_size(asked, spec.max_length, far, kept) + BEYOND:
                return
            far[name], reason = reach(bench, strategies[name])
            if reason:
                why[name] = reason
    insist_reachable(spec, all_levels, base, far, why, model)


def rounded_down(share: float) -> float:
    """Round to four decimals so that what is named can be asked for."""
    return math.floor(1e4 * share + 1e-6) / 1e4
