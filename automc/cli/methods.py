"""`automc method`: the compression methods that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from automc.cli.curate import By, Undo, edited_text, origin, show_edition
from automc.cli.output import Format, FormatOption, guarded, say, show, show_record

app = typer.Typer(help="The compression methods that are known.", no_args_is_help=True)

Card = Annotated[Path, typer.Argument(help="A method card: a YAML file like those in kg/methods.")]


@app.command("list")
@guarded
def list_methods(format: FormatOption = Format.table) -> None:
    """List all methods: their techniques, how many strategies they span, which can be executed, who added them.

    Example: automc method list --format csv
    """
    from automc import knowledge
    from automc.knowledge.known import known_methods, origins

    columns = ("method", "label", "title", "techniques", "strategies", "executable", "origin", "citation")
    marks = origins("Method")
    known = known_methods()
    rows = [
        (
            method.id,
            method.label,
            method.title,
            ", ".join(technique.id for technique in method.techniques),
            0 if "retired_at" in marks.get(method.id, {}) else knowledge.grid_size(method),
            knowledge.executable(method.id),
            origin(marks.get(method.id)),
            method.citation,
        )
        for method in known
    ]
    shown = [row[:-1] for row in rows] if format is Format.table else rows
    show(columns[: len(shown[0])], shown, format)
    named = {method.id for method in known if not method.default_grid}
    searched = [row[4] for row in rows if row[4] and row[0] not in named]
    say(f"{sum(searched):,} strategies of {len(searched)} methods can be searched.")
    if named:
        say(f"Off the default grid, searched only where --only names them: {', '.join(sorted(named))}.")


@app.command("show")
@guarded
def show_method(
    method: Annotated[str, typer.Argument(help="A method, such as NS.")], format: FormatOption = Format.table
) -> None:
    """Show one method: citation, techniques and hyperparameters with their grids.

    Example: automc method show NS
    """
    from automc import knowledge
    from automc.knowledge.known import known_method, origins

    card = known_method(method)
    record: dict[str, Any] = {
        "method": card.id,
        "label": card.label,
        "title": card.title,
        "citation": card.citation,
        "url": card.url,
        "strategies": knowledge.grid_size(card),
        "default_grid": card.default_grid,
        "executable": knowledge.executable(card.id),
        **origins("Method").get(card.id, {}),
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


@app.command()
@guarded
def check(card: Card, format: FormatOption = Format.table) -> None:
    """Check a method card with all that is known, and say what adding it would change; nothing is written.

    Example: automc method check mymethod.yaml
    """
    from automc.knowledge.curation import add_method

    show_edition(add_method(card, write=False), format)


@app.command()
@guarded
def add(card: Card, by: By = "", format: FormatOption = Format.table) -> None:
    """Add a method card to the graph, or a new version of one that was added; the same card twice changes nothing.

    It is checked with all that is known before anything is written. A card without hyperparameters is knowledge only:
    embedded, asked and explained, never searched. A method with code comes from a package instead.

    Example: automc method add mymethod.yaml --by 'A. Author'
    """
    from automc.knowledge.curation import add_method

    show_edition(add_method(card, by=by), format)


@app.command()
@guarded
def edit(
    method: Annotated[str, typer.Argument(help="A method whose card was added.")],
    file: Annotated[Path | None, typer.Option("--file", help="The new card; without, an editor is opened.")] = None,
    by: By = "",
    format: FormatOption = Format.table,
) -> None:
    """Change the card of a method that was added, in $EDITOR or by a file.

    Example: automc method edit MyMethod --file mymethod.yaml
    """
    from automc.knowledge.curation import document, edit_method
    from kg.errors import CardInvalid

    with edited_text(lambda: document("Method", method), file, f"{method}.yaml", CardInvalid) as (text, source):
        edition = edit_method(method, text, by=by, source=source)
    show_edition(edition, format)


@app.command()
@guarded
def retire(
    method: Annotated[str, typer.Argument(help="Any method, also one that comes with AutoMC.")],
    because: Annotated[str, typer.Option("--because", help="Why; needed unless --undo.")] = "",
    by: By = "",
    undo: Undo = False,
) -> None:
    """Stop using a method: its card and what was measured with it stay, but nothing of it is embedded or searched.

    Example: automc method retire MyMethod --because 'superseded by MyMethod2'
    """
    from automc.cli.curate import reason
    from automc.knowledge.curation import retire_method
    from automc.knowledge.known import known_method

    known = known_method(method).id
    retire_method(known, reason(because, undo), by=by, undo=undo)
    say(f"{known} is used again." if undo else f"{known} is kept, and no longer used.")
