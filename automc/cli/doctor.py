"""`automc doctor`: what will and will not work on a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from automc.cli import options as o
from automc.cli.figures import duration, shown
from automc.cli.output import Format, FormatOption, guarded, say, show, show_json

if TYPE_CHECKING:
    from automc.study.doctor import Diagnosis


@guarded
@o.grouped
def doctor(
    model: o.Model,
    data: o.Data,
    weights: o.Weights = None,
    how: o.RecipeOptions = o.RecipeOptions(),
    keep: o.Keep = None,
    keep_shape: o.KeepShape = None,
    train_frozen: o.TrainFrozen = False,
    device: o.Device = "auto",
    reading: o.DataOptions = o.DataOptions(),
    format: FormatOption = Format.table,
) -> None:
    """Look at a model before a search: each layer, and every method tried once on one batch.

    Example: automc doctor resnet56 --weights resnet56.th --data photos/ --keep 'layer1.*'
    """
    from automc import api

    found = api.doctor(
        model, reading.ref(data), weights=weights, recipe=how.recipe(), precision=how.precision, device=device,
        keep=tuple(keep or ()), keep_shape=tuple(keep_shape or ()), train_frozen=train_frozen,
        runtime=how.runtime, auto_widths=how.auto_widths,
    )  # fmt: skip
    if format is Format.json:
        show_json({**asdict(found), "searchable": found.searchable})
        return
    layers = ("layer", "kind", "weight", "params", "channels", "low rank")
    # A batch norm that shrinks with its convolution is named there.
    listed = [r for r in found.model.layers if not (r.prunable and "BatchNorm" in r.kind)]
    people = format is Format.table
    rows = [(r.name, r.kind, r.shape, shown("params", r.params) if people else r.params, r.channels, r.factors)
            for r in listed]  # fmt: skip
    show(layers, rows, format, "Layers")
    if people:
        _show_methods(found)
    else:
        _list_methods(found, format)
    _conclude(found)


def _show_methods(found: Diagnosis) -> None:
    """Print what the methods can do for people."""
    rows = []
    for m in found.methods:
        reach = "" if m.reach is None else f"{m.reach:.1%}"
        times = [duration(s) for s in (m.shortest_seconds, m.longest_seconds) if s is not None]
        taking = " to ".join(dict.fromkeys(times))
        count = f"{m.within:,} of {m.strategies:,}"
        rows.append((m.method, "yes" if m.works else "no", reach, _span(m.levels), count, taking, m.reason))
    columns = ("method", "works", "can remove", "HP2 within", "strategies", "a step takes", "why not")
    show(columns, rows, Format.table, "Methods, each tried once")


def _list_methods(found: Diagnosis, format: Format) -> None:
    columns = (
        "method", "works", "can remove", "HP2 within", "strategies", "of", "s/iteration", "shortest step, s",
        "longest step, s", "why not",
    )  # fmt: skip
    methods = [
        (
            m.method, "yes" if m.works else "no", "" if m.reach is None else f"{m.reach:.1%}", _span(m.levels),
            m.within, m.strategies, m.seconds_per_iteration, m.shortest_seconds, m.longest_seconds, m.reason,
        )
        for m in found.methods
    ]  # fmt: skip
    show(columns, methods, format, "Methods, each tried once")


def _conclude(found: Diagnosis) -> None:
    """Say in a few lines what a person can expect."""
    layers = found.model.layers
    total = sum(r.params for r in layers)
    prunable = sum(r.params for r in layers if r.prunable)
    low = sum(r.params for r in layers if r.factorable)
    if total:
        say(
            f"Channels can go from {sum(r.prunable for r in layers)} of {len(layers)} layers ({prunable / total:.0%} of"
        )
        say(f"the parameters lie there), {sum(r.factorable for r in layers)} can be factored ({low / total:.0%}).")
    for reason in (found.model.pruning, found.model.activations):
        if reason:
            say(reason)
    working = [m.method for m in found.methods if m.works]
    if working:
        say(f"Works: {', '.join(working)}: {found.searchable:,} strategies to search.")
        most = max(m.reach or 0.0 for m in found.methods)
        say(f"One step removes at most {most:.1%} of the parameters; a scheme never goes below 15% of them.")
    failing = [m.method for m in found.methods if not m.works]
    if failing:
        say(f"Does not work: {', '.join(failing)}; see the table.")
    say(f"Looked at in {found.seconds:.0f} s.")


def _span(levels: Sequence[float]) -> str:
    """The removals that a method gets as far as."""
    return ", ".join(f"{level:g}" for level in levels) or "none"
