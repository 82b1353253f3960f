"""What a person sees of trials: tables, a small plot, and the result of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from automc.cli.figures import percent
from automc.cli.output import Format, say, show
from automc.knowledge.words import in_words
from automc.study.headline import Headline, slower
from automc.study.outline import Outline
from automc.study.protocol import Protocol
from automc.study.trial import Trial

if TYPE_CHECKING:
    from automc.study.result import Result

TESTED = ("test_accuracy", "test_low", "test_high", "test_images", "validation_too_kind")
FRONT_COLUMNS = ("", "trial", "scheme", "accuracy", "params", "removed", "FLOPs removed", "AR")
SIZE_COLUMN = "bits removed"
"""In a table only where a model is quantised: it is `removed` for floats."""


def show_trials(
    trials: Sequence[Trial], chosen: Trial | None, format: Format, title: str, protocol: Protocol,
    first: Headline | None = None,
) -> None:  # fmt: skip
    """Print a front, with a column for each limited figure: percentages in a table, plain numbers in JSON and CSV.

    The recommended trial has a row also where it is not on the front: it may be the best by what followed the search.
    JSON and CSV carry `first` there, what the saved model did on the test images.
    """
    beside = chosen is not None and not any(t is chosen for t in trials)
    if chosen is not None and beside:
        trials = sorted([*trials, chosen], key=lambda t: t.pr or 0.0)
    rows: list[tuple[Any, ...]] = []
    tested = {} if first is None else first.fields()
    quantised = any(t.quantised for t in trials)
    told = [name for name in TESTED if format is not Format.table]
    for t in trials:
        mark = "*" if t is chosen else ""
        limited = [getattr(t, limit.figure) for limit in protocol.limits]
        if format is not Format.table:
            own = [tested.get(name) if t is chosen else None for name in told]
            rows.append((mark, t.ordinal, t.scheme.id, t.accuracy, t.params, t.pr, t.fr, t.ar, t.sr, *limited, *own))
            continue
        sizes = [percent(t.sr)] if quantised else []
        shares = percent(t.accuracy), f"{t.params:,}", percent(t.pr), percent(t.fr), percent(t.ar), *sizes
        figures = (limit.kind.text(value) for limit, value in zip(protocol.limits, limited, strict=True))
        rows.append((mark, t.ordinal, _wrapped(in_words(t.scheme)), *shares, *figures))
    told_columns = [protocol.measure if name == "accuracy" else name for name in FRONT_COLUMNS]
    columns = (*told_columns, *([SIZE_COLUMN] if quantised else []), *(limit.kind.noun for limit in protocol.limits))
    if format is not Format.table:
        columns = ("recommended", *FRONT_COLUMNS[1:], SIZE_COLUMN, *(limit.figure for limit in protocol.limits), *told)
    show(columns, rows, format, title)
    if format is Format.table:
        show_ids(trials)
    off = [str(t.ordinal) for t in trials if not t.grid]
    if off and format is Format.table:
        print(f"  off the paper's grid, with HP2 solved for the target: {', '.join(off)}")
    if chosen is not None and beside and format is Format.table:
        print(f"  trial {chosen.ordinal} is recommended for what came of it after the search, not as it is here")
    if trials and trials[0].scheme.level and format is Format.table:
        print("  what was trained for less of its length is not compared with these; --trials shows it")


def show_ids(trials: Sequence[Trial]) -> None:
    """Print the schemes of a table as they are written in files and commands, one a line, for copying."""
    for t in trials:
        print(f"  trial {t.ordinal}: {t.scheme.id}")


def plot_trials(
    outline: Outline, fronted: Sequence[Trial], chosen: Trial | None, format: Format, measure: str = "accuracy"
) -> None:
    """Print all ok trials as a small plot of text under a table; nothing in other formats."""
    if format is not Format.table:
        return
    from automc.report.plot import TEXT_HEIGHT, TEXT_WIDTH, Mark, apart, text

    done = outline.highest(outline.measured)
    x, y, ordinals = outline.size[done], outline.accuracy[done], outline.ordinals[done]
    # Whatever falls on one character is drawn once; what is marked, always.
    rows = apart(x, y, TEXT_WIDTH, TEXT_HEIGHT).tolist() if len(x) else []
    kinds = {**dict.fromkeys((t.ordinal for t in fronted), "front"), **({chosen.ordinal: "chosen"} if chosen else {})}
    rows = sorted({*rows, *np.flatnonzero(np.isin(ordinals, list(kinds))).tolist()})
    marks = [Mark(float(x[row]), float(y[row]), kinds.get(int(ordinals[row]), "dot")) for row in rows]
    symbols = {"dot": "·", "front": "o", "chosen": "*"}
    marks.sort(key=lambda mark: list(symbols).index(mark.kind))
    print(text(marks, symbols))
    noun = "bits" if outline.quantised[done].any() else "parameters"
    print(f"  validation {measure} against {noun} removed; o on the front, * recommended")


def say_first(first: Headline | None) -> None:
    """Say what the saved model did on images that nothing was chosen by, before all else."""
    for line in first.lines() if first else ():
        say(line)


def _kilobytes(bits: int) -> str:
    return f"{bits / 8000:,.1f} kB"


def _wrapped(scheme: str) -> str:
    return scheme.replace(" -> ", "\n-> ")


def show_result(result: Result, format: Format) -> int:
    """Print the front, the recommended scheme and the saved model; return the exit code."""
    title = f"Front of {result.spec.id}: validation {result.protocol.measure} against {result.protocol.noun} removed"
    if result.recommendation is None:
        if result.trials:
            say(f"No scheme {result.protocol.unmet} within the budget.")
        else:
            say(f"No step began: opening the study and trying each method took the budget of {result.spec.budget}.")
        if nearest := result.protocol.nearest_text(result.trials):
            say(nearest)
        say(f"Go on with: automc resume {result.spec.id} --budget 2h")
        if format is not Format.table:
            show_trials([], None, format, title, result.protocol)
        return 3
    chosen, first = result.recommendation.trial, result.headline
    say_first(first)
    show_trials(result.front, chosen, format, title, result.protocol, first)
    plot_trials(Outline.of(result.trials), result.front, chosen, format, result.protocol.measure)
    say(f"Recommended: trial {chosen.ordinal}, {result.recommendation.why}.")
    if result.final:
        final = result.final
        base = result.protocol.base
        # A study that ended before sizes in bits were kept has floats.
        bits = final.get("bits") or 32 * final["params"]
        limited = "".join(
            f", {limit.kind.noun} {limit.kind.text(base[limit.figure])} -> {limit.kind.text(final[limit.figure])}"
            for limit in result.protocol.limits
            if limit.figure != "flops" and final.get(limit.figure) is not None
        )
        say(
            f"Saved: {final['path']}: {result.base.params:,} -> {final['params']:,} parameters, "
            f"{_kilobytes(result.base.stored)} -> {_kilobytes(bits)} of them as stored, "
            f"{result.base.flops / 1e6:.1f} -> {final['flops'] / 1e6:.1f} MFLOPs{limited}"
        )
        if warning := slower(final):
            say(warning)
    return 0
