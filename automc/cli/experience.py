"""`automc experience`: what published tables, and studies elsewhere, say that strategies did."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from automc.cli import options as o
from automc.cli.curate import By, Undo, edited_text, origin, reason, show_edition
from automc.cli.figures import percent
from automc.cli.output import Format, FormatOption, guarded, say, show, write_file
from automc.errors import AutoMCError
from automc.files import claim, marked

if TYPE_CHECKING:
    from kg.schema import Experience

app = typer.Typer(help="What published tables say strategies did to models.", no_args_is_help=True)

Files = Annotated[list[Path] | None, typer.Argument(help="Experience files; without any, all that is known.")]
Rows = Annotated[
    Path | None, typer.Option("--rows", help="A CSV file with more records: id, method, task, settings.HP1, table, …")
]
Sizes = Annotated[bool, typer.Option("--count/--no-count", help="Build named architectures, compare params and FLOPs.")]
Because = Annotated[
    str, typer.Option("--differs-because", help="Why records that contradict known ones have other figures.")
]


@app.command("list")
@guarded
def list_experience(
    files: Files = None,
    method: Annotated[str | None, typer.Option(help="Only this method.")] = None,
    source: Annotated[str | None, typer.Option(help="Only this paper, by its id.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """List the records of experience files with the ratios that follow from them.

    AR is the accuracy increase rate, PR and FR are the shares of parameters and FLOPs removed. Without files, those
    that come with AutoMC and those that were added to the graph of this home; not what its own studies measured.

    Example: automc experience list --method NS
    """
    from automc import knowledge
    from automc.knowledge.known import did_you_mean, known, known_method, origins

    if method is not None:
        method = known_method(method).id
    marks = {} if files else origins("Experience")
    everything = knowledge.published(files)[0] if files else known().experience
    if source is not None and source not in (sources := sorted({one.source for one in everything})):
        raise AutoMCError(
            f"--source {source[:80]}: no record comes from it. Sources: {', '.join(sources)}.{did_you_mean(source, sources)}"
        )
    records = [one for one in everything if method in (None, one.strategy.method) and source in (None, one.source)]
    whose = {one.id: origin(marks.get(one.id)) for one in records}
    if format is Format.table:
        _show_table(records, whose)
    else:
        _show_all(records, whose, format)
    say(f"{len(records)} records of {len({one.source for one in records})} sources.")


def _show_table(records: Sequence[Experience], origins: Mapping[str, str]) -> None:
    """Print what people look for; everything is in JSON and CSV."""
    from automc.knowledge.words import in_words

    rows = [
        (e.id, in_words(e.strategy), f"{e.task.model}, {e.task.dataset}", percent(e.ar), percent(e.pr), percent(e.fr),
         origins[e.id])
        for e in records
    ]  # fmt: skip
    show(("id", "strategy", "task", "AR", "PR", "FR", "added by"), rows, Format.table)


def _show_all(records: Sequence[Experience], origins: Mapping[str, str], format: Format) -> None:
    columns = (
        "id", "strategy", "task", "ar", "pr", "fr", "source", "table", "origin", "confidence", "pr_derived", "note",
        "sr",
    )  # fmt: skip
    rows = [
        (e.id, e.strategy.id, e.task.id, e.ar, e.pr, e.fr, e.source, e.table, origins[e.id], e.confidence,
         e.pr_derived, e.note, e.sr)
        for e in records
    ]  # fmt: skip
    show(columns, rows, format)


@app.command()
@guarded
def check(files: Files = None, rows: Rows = None, count: Sizes = True, format: FormatOption = Format.table) -> None:
    """Check experience files, and say what adding them would change: nothing is written.

    Arithmetic, units, hyperparameter names, the size of named architectures, and whether records contradict known ones.
    Ends with 0 when everything holds, with 2 and the file, record and field that breaks a rule otherwise. Without
    files, all that is known is checked.

    Example: automc experience check mypaper.yaml
    """
    from automc import knowledge
    from automc.knowledge.curation import check_experience
    from automc.knowledge.known import known

    if rows is not None and len(files or ()) != 1:
        raise AutoMCError(f"--rows {rows} belongs to one experience file, with its paper and tasks. Name that file.")
    found, papers = knowledge.published(files, count=count)
    if not files:
        everything = known()
        found, papers = everything.experience, everything.papers
    said = {name: sum(getattr(one, name.lower()) is not None for one in found) for name in ("AR", "PR", "FR")}
    figures = ", ".join(f"{n} with {name}" for name, n in said.items())
    say(f"{len(found)} records of {len(papers)} sources hold: {figures}.")
    for file in files or ():
        show_edition(check_experience(file, rows=rows), format)


@app.command()
@guarded
def add(
    file: Annotated[Path, typer.Argument(help="An experience file: one paper or shared study, its tasks and records.")],
    rows: Rows = None,
    differs_because: Because = "",
    by: By = "",
    count: Sizes = True,
    format: FormatOption = Format.table,
) -> None:
    """Add an experience file to the graph, or more records of a paper that is known; the same twice changes nothing.

    It is checked with all that is known before anything is written. A record that has all settings of its method and
    other figures than a known one of the same task and table is shown, and needs --differs-because. What is new is
    learned by the next search, or by automc kg embed.

    Example: automc experience add mypaper.yaml --by 'A. Author'
    """
    from automc.knowledge.curation import add_experience

    edition = add_experience(file, rows=rows, by=by, because=differs_because.strip(), sizes=count)
    show_edition(edition, format)


@app.command()
@guarded
def new(
    out: Annotated[Path | None, typer.Option("--out", help="A file that does not exist yet; without, stdout.")] = None,
    ask: Annotated[
        bool | None, typer.Option("--ask/--no-ask", help="Ask for what it holds; default: on a terminal.")
    ] = None,
    force: o.Force = False,
) -> None:
    """Write an annotated template of an experience file, filled with what you answer.

    Example: automc experience new --out mypaper.yaml
    """
    from kg.curation.template import fill

    if out is not None:
        # What was filled in since is the user's work, so no earlier template is replaced either.
        claim(out, None, force=force)
    asked = sys.stdin.isatty() if ask is None else ask
    text = fill(_answers() if asked else {})
    if out is None:
        print(text, end="")
    else:
        write_file(out, text)
        say(f"Wrote {out}. Next: automc experience check {out}")


def _answers() -> dict[str, str]:
    """Ask each question of the template until its answer can be understood; Enter leaves out what may be left out."""
    from kg.curation.template import QUESTIONS
    from kg.errors import ExperienceInvalid

    answers: dict[str, str] = {}
    for question in QUESTIONS:
        hint = f" (such as {question.example})" if question.example else ""
        while True:
            prompt = question.text + hint + ("" if question.needed else ", Enter for unknown")
            answer = _ask(prompt)
            if not answer and question.needed:
                say("This one is needed.")
                continue
            try:
                if answer:
                    question.read(answer)
            except ExperienceInvalid as error:
                say(str(error))
                continue
            answers[question.name] = answer
            break
    return answers


def _ask(prompt: str) -> str:
    print(f"{prompt}: ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise AutoMCError("The answers ended before the last question; nothing was written.")
    return line.strip()


@app.command()
@guarded
def edit(
    paper: Annotated[str, typer.Argument(help="A paper whose file was added, by its id.")],
    file: Annotated[Path | None, typer.Option("--file", help="The new file; without, an editor is opened.")] = None,
    differs_because: Because = "",
    by: By = "",
    format: FormatOption = Format.table,
) -> None:
    """Change an experience file that was added, in $EDITOR or by a file; records it no longer has are removed.

    Example: automc experience edit me2026_mine --file mypaper.yaml
    """
    from automc.knowledge.curation import document, edit_experience
    from kg.errors import ExperienceInvalid

    with edited_text(lambda: document("Paper", paper), file, f"{paper}.yaml", ExperienceInvalid) as (text, source):
        edition = edit_experience(paper, text, by=by, because=differs_because.strip(), source=source)
    show_edition(edition, format)


@app.command()
@guarded
def retire(
    name: Annotated[str, typer.Argument(help="A record, or a paper with all its records, also of AutoMC's own.")],
    because: Annotated[str, typer.Option("--because", help="Why; needed unless --undo.")] = "",
    by: By = "",
    undo: Undo = False,
) -> None:
    """Stop learning from a record or a paper: it stays in the graph with the reason, and is no longer used.

    Example: automc experience retire sfp_001 --because 'cannot be reproduced'
    """
    from automc.knowledge.curation import retire_experience

    ids = retire_experience(name, reason(because, undo), by=by, undo=undo)
    what = f"{len(ids)} records of {name}" if ids != [name] else name
    say(f"{what}: used again." if undo else f"{what}: kept, and no longer used.")


@app.command()
@guarded
def export(
    study: Annotated[str, typer.Argument(help="A study, see: automc study list.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write the file; without, stdout.")] = None,
    force: o.Force = False,
) -> None:
    """Write what a study measured as an experience file that others can add: no weights, no images, no model.

    Example: automc experience export resnet20-cifar10-1 --out ours.yaml
    """
    from automc.knowledge.curation import share
    from kg.curation.sharing import HEAD

    if out is not None:
        claim(out, marked("what automc experience export wrote", HEAD), force=force)
    text, count = share(study)
    if out is None:
        print(text, end="")
    else:
        write_file(out, text)
    say(f"{count} records. Elsewhere: automc experience add {out or 'FILE'}")
