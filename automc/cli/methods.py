"""`automc method`: the compression methods that are known."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from automc.cli.output import Format, FormatOption, guarded, say, show, show_record

app = typer.Typer(help="The compression methods that are known.", no_args_is_help=True)


@app.command("list")
@guarded
def list_methods(format: FormatOption = Format.table) -> None:
    """List all methods: their techniques, how many strategies they span, and which can be executed.

    Example: automc method list --format csv
    """
    from automc import knowledge

    columns = ("method", "label", "title", "techniques", "strategies", "executable", "citation")
    rows = [
        (
            method.id,
            method.label,
            method.title,
            ", ".join(technique.id for technique in method.techniques),
            knowledge.grid_size(method),
            knowledge.executable(method.id),
            method.citation,
        )
        for method in knowledge.methods()
    ]
    shown = [row[:-1] for row in rows] if format is Format.table else rows
    show(columns[: len(shown[0])], shown, format)
    say(f"{sum(row[4] for row in rows):,} strategies of {sum(row[4] > 0 for row in rows)} methods can be searched.")


@app.command("show")
@guarded
def show_method(
    method: Annotated[str, typer.Argument(help="A method, such as NS.")], format: FormatOption = Format.table
) -> None:
    """Show one method: citation, techniques and hyperparameters with their grids.

    Example: automc method show NS
    """
    from automc import knowledge

    card = knowledge.method(method)
    record: dict[str, Any] = {
        "method": card.id,
        "label": card.label,
        "title": card.title,
        "citation": card.citation,
        "url": card.url,
        "strategies": knowledge.grid_size(card),
        "executable": knowledge.executable(card.id),
    }
    knobs = [{"id": h.id, "meaning": h.meaning, "unit": h.unit, "values": list(h.values)} for h in card.hyperparameters]
    if format is Format.json:
        record["techniques"] = {technique.id: technique.title for technique in card.techniques}
        show_record(record | {"hyperparameters": knobs}, format)
        return
    record |= {f"technique {technique.id}": technique.title for technique in card.techniques}
    if format is Format.csv:
        show_record(record | {f"values of {knob['id']}": knob["values"] for knob in knobs}, format)
        return
    show_record(record, format)
    if knobs:
        show(("hyperparameter", "meaning", "unit", "values"), [tuple(knob.values()) for knob in knobs], format)
