"""`automc experience`: what published tables say strategies did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from automc.cli.output import Format, FormatOption, guarded, say, show

app = typer.Typer(help="What published tables say strategies did to models.", no_args_is_help=True)

Files = Annotated[list[Path] | None, typer.Argument(help="Experience files; without any, those that come with AutoMC.")]


@app.command("list")
@guarded
def list_experience(
    files: Files = None,
    method: Annotated[str | None, typer.Option(help="Only this method.")] = None,
    source: Annotated[str | None, typer.Option(help="Only this paper, by its id.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """List the records of experience files with the ratios that follow from them.

    AR is the accuracy increase rate, PR and FR are the shares of parameters and FLOPs removed.

    Example: automc experience list --method NS
    """
    from automc import knowledge

    if method is not None:
        method = knowledge.method(method).id
    records = [
        one
        for one in knowledge.published(files)[0]
        if method in (None, one.strategy.method) and source in (None, one.source)
    ]
    columns = ("id", "strategy", "task", "ar", "pr", "fr", "source", "table", "confidence", "pr_derived", "note")
    rows = [
        (e.id, e.strategy.id, e.task.id, e.ar, e.pr, e.fr, e.source, e.table, e.confidence, e.pr_derived, e.note)
        for e in records
    ]
    wide = 8 if format is Format.table else len(columns)
    show(columns[:wide], [row[:wide] for row in rows], format)
    say(f"{len(rows)} records of {len({one.source for one in records})} sources.")


@app.command()
@guarded
def check(
    files: Files = None,
    count: Annotated[bool, typer.Option(help="Build named architectures and compare params and FLOPs.")] = True,
) -> None:
    """Check experience files: arithmetic, units, hyperparameter names, and the size of named architectures.

    Ends with 0 when everything holds, with 2 and the file, record and field that breaks a rule otherwise.

    Example: automc experience check data/experience/he2018_sfp.yaml
    """
    from automc import knowledge

    experiences, papers = knowledge.published(files, count=count)
    known = {name: sum(getattr(one, name.lower()) is not None for one in experiences) for name in ("AR", "PR", "FR")}
    figures = ", ".join(f"{n} with {name}" for name, n in known.items())
    say(f"{len(experiences)} records of {len(papers)} sources hold: {figures}.")
