"""`automc show` and `automc study`: what studies found, read from the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from automc.cli.figures import duration, percent
from automc.cli.output import Format, FormatOption, guarded, say, show, show_json

if TYPE_CHECKING:
    from automc.study.trial import Trial

app = typer.Typer(help="Studies in the graph.", no_args_is_help=True)


@guarded
def show_study(
    study: Annotated[str, typer.Argument(help="A study, see: automc study list.")],
    trials: Annotated[bool, typer.Option("--trials", help="All trials instead of the front.")] = False,
    why: Annotated[
        str | None, typer.Option("--why", help="Explain one scheme: a trial's number, recommended, or the scheme.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", help="The layers before and after a scheme, named as for --why.")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Show a study's front and its recommended scheme, or why it came to one of its schemes, or its layers.

    --why tells of each step what was predicted and measured, what is known of it and by whom, and what else there was;
    as text, or with --format json.

    Example: automc show resnet20-cifar10-1 --trials --format csv
    """
    if why is not None:
        _show_account(study, why, format)
        return
    if layers is not None:
        _show_layers(study, layers, format)
        return
    if trials:
        from automc.study.stored import load_record, load_trials

        load_record(study)
        _show_all(study, load_trials(study), format)
    else:
        _show_front(study, format)


def _show_account(study: str, scheme: str, format: Format) -> None:
    from automc.report import why as accounts

    account = accounts.why(study, scheme)
    if format is Format.json:
        show_json(account)
    else:
        print(accounts.text(account))


def _show_layers(study: str, scheme: str, format: Format) -> None:
    from automc.report import layers as tables

    account = tables.layers(study, scheme)
    if format is Format.json:
        show_json(account)
    else:
        show(
            tables.COLUMNS, tables.rows(account), format, f"Layers of {study} before and after trial {account['trial']}"
        )


def _show_all(study: str, done: list[Trial], format: Format) -> None:
    title = f"Trials of {study}"
    if format is not Format.table:
        columns = list(done[0].as_row()) if done else ["ordinal"]
        show(columns, [list(t.as_row().values()) for t in done], format, title)
        return
    from automc.knowledge.words import in_words

    rows = [(t.ordinal, in_words(t.scheme).replace(" -> ", "\n-> "), t.status, percent(t.accuracy), percent(t.pr),
             duration(t.seconds)) for t in done]  # fmt: skip
    show(("trial", "scheme", "status", "accuracy", "removed", "time"), rows, format, title)
    say(f"As written in files: automc show {study} --trials --format csv, or --why with a trial's number.")


def _show_front(study: str, format: Format) -> None:
    from automc.cli.front import plot_trials, say_first, show_trials
    from automc.study.headline import headline
    from automc.study.protocol import settled
    from automc.study.stored import load_best

    record, protocol, best, outline = load_best(study)
    total, final = len(outline), record.get("final")
    choice, front = settled(record, protocol, best, total), protocol.front(best)
    chosen = choice.trial if choice else None
    first = headline(best, chosen, final, protocol.base["accuracy"], protocol.validation_images, protocol.measure)
    if format is Format.json:
        show_json({"study": study, "status": record["status"], "target": protocol.asked,
                   "headline": first.fields() if first else None,
                   "front": [t.as_row() for t in front], "final": final,
                   "recommended": chosen.as_row() if chosen else None, "why": choice.why if choice else None,
                   "nearest": None if choice else protocol.nearest_text(best) or None})  # fmt: skip
        return
    say_first(first)
    show_trials(front, chosen, format, f"Front of {study}: {total} trials, {record['status']}", protocol, first)
    plot_trials(outline, front, chosen, format, protocol.measure)
    if choice is None:
        say(f"Nothing {protocol.unmet} yet.")
        if nearest := protocol.nearest_text(best):
            say(nearest)
    else:
        say(f"Recommended: trial {choice.trial.ordinal}, {choice.why}.")
    _say_where_it_stands(study, record["status"], final)


def _say_where_it_stands(study: str, status: str, final: dict[str, Any] | None) -> None:
    from automc.study.headline import slower

    if final:
        say(f"Saved: {final['path']}: {final['params']:,} parameters, {final['flops'] / 1e6:.1f} MFLOPs")
        if warning := slower(final):
            say(warning)
    elif status in ("interrupted", "stopped", "running"):
        say(f"Go on with: automc resume {study}")


@app.command("list")
@guarded
def list_studies(format: FormatOption = Format.table) -> None:
    """List all studies.

    Example: automc study list
    """
    from automc import knowledge
    from kg import studies

    columns = ("id", "status", "searcher", "gamma", "target", "budget", "base_accuracy", "recommended", "started")
    with knowledge.graph(create=False) as store:
        rows = studies.list_studies(store)
    if format is Format.table:
        show(*_studies(rows), format)
    else:
        show(columns, [[row.get(name) for name in columns] for row in rows], format)


def _studies(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return columns and rows of the studies for people: words in place of ids, to the minute."""
    from automc.knowledge.words import in_words
    from kg.schema import Scheme

    columns = ("study", "status", "target", "budget", "before", "recommended", "started")
    cells = []
    for row in rows:
        scheme = row.get("recommended")
        words = in_words(Scheme.parse(scheme)).replace(" -> ", "\n-> ") if scheme else ""
        started = str(row.get("started") or "")[:16].replace("T", " ")
        told = (str(row.get(name) or "") for name in ("id", "status", "target", "budget"))
        cells.append((*told, percent(row.get("base_accuracy")), words, started))
    return columns, cells


@app.command("delete")
@guarded
def delete_study(
    study: Annotated[str, typer.Argument(help="A study, see: automc study list.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a study, its trials, its experience and its saved models.

    Example: automc study delete resnet20-cifar10-1 --yes
    """
    from automc.study import stored as studies

    studies.load_record(study)
    if not yes:
        typer.confirm(f"Delete {study} with its trials and saved models?", abort=True, err=True)
    studies.delete(study)
    say(f"Deleted {study}.")
