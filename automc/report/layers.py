"""What a scheme made of each layer: the layer table of a trial beside that of the study's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from automc.errors import StudyError
from automc.knowledge import graph
from automc.models.layers import Layer, LayerTable, compare
from automc.report.why import find
from automc.study.protocol import settled
from automc.study.stored import load_best
from kg import studies

COLUMNS = ("layer", "kind", "channels", "then", "parameters", "then", "removed", "MFLOPs", "then")


def layers(study: str, wanted: str) -> dict[str, Any]:
    """Return the layers of a study's model and of a trial's.

    Args:
        study: its name.
        wanted: a trial's number, "recommended", or the scheme itself.

    Returns:
        "study", "trial", "scheme", and "layers": for each its "name", and "before" and "after" with the fields of
        `models.layers.Layer`; None where the layer came or went, as one does that is written as two.

    Raises:
        StudyError: there is no such study or trial, or nothing was recorded of its layers; says why.
        NotInGraph: there is no graph.
    """
    with graph(create=False) as store:  # opened once for all that is read
        record, protocol, best, outline = load_best(study)
        trial = find(study, wanted, settled(record, protocol, best, len(outline)), "--layers")
        rows = {id: studies.load_layers(store, id) for id in (study, f"{study}/{trial.ordinal}")}
    before, after = (_table(id, row, trial.status) for id, row in rows.items())
    return {
        "study": study,
        "trial": trial.ordinal,
        "scheme": trial.scheme.id,
        "layers": [{"name": n, "before": _plain(a), "after": _plain(b)} for n, a, b in compare(before, after)],
    }


def _table(id: str, row: Mapping[str, Any] | None, status: str) -> LayerTable:
    if row is None:
        why = "it is of before they were recorded" if status == "ok" else f"it ended as {status}"
        raise StudyError(f"No layers are recorded of {id}: {why}.")
    table = LayerTable.from_dict(row)
    if table.missing:
        raise StudyError(f"No layers are recorded of {id}: {table.missing}.")
    return table


def _plain(layer: Layer | None) -> dict[str, Any] | None:
    return None if layer is None else asdict(layer)


def rows(account: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of text for each layer, with `COLUMNS`."""
    return [_row(one["name"], one["before"], one["after"]) for one in account["layers"]]


def _row(name: str, before: dict[str, Any] | None, after: dict[str, Any] | None) -> tuple[str, ...]:
    known = after or before or {}
    size = f" {known['kernel_h']}×{known['kernel_w']}" if known["kernel_h"] * known["kernel_w"] > 1 else ""
    bits = f", {known['bits']} bit" if known["bits"] != 32 else ""
    gone = "" if before is None or after is None else f"{1 - after['params'] / before['params']:.1%}"
    return (
        name, f"{known['kind']}{size}{bits}",
        *(f"{one['inputs']} -> {one['outputs']}" if one else "-" for one in (before, after)),
        *(f"{one['params']:,}" if one else "-" for one in (before, after)), gone,
        *(f"{2 * one['macs'] / 1e6:.2f}" if one else "-" for one in (before, after)),
    )  # fmt: skip
