"""`automc kg query` and `automc kg explain`: questions to the knowledge graph."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from automc.cli.output import Format, FormatOption, guarded, say, show, show_json
from automc.errors import AutoMCError

LIMIT = 1000
"""Rows that a query prints unless told otherwise."""


@guarded
def query(
    text: Annotated[str | None, typer.Argument(help="One Cypher statement; - or none reads standard input.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A file with one statement; with --write, or several.")
    ] = None,
    saved: Annotated[str | None, typer.Option("--saved", help="The name of a saved query, see --list.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the saved queries instead.")] = False,
    param: Annotated[
        list[str] | None, typer.Option(help="A value of a $name: k=v, v as JSON, else as text. May be repeated.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds.")] = 30.0,
    limit: Annotated[int, typer.Option(min=1, help="Greatest number of rows.")] = LIMIT,
    write: Annotated[bool, typer.Option("--write", help="Allow the statement to write.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Ask the graph in Cypher. Read-only unless --write is given; the store itself refuses writes.

    Saved queries are those of docs/cypher.md, and NAME.cypher files in the folder queries of the AutoMC home. What a
    write changed, the time, and names that occur nowhere in the graph are said on stderr.

    A file of several statements, such as automc kg export --format cypher writes, needs --write: all of it is done, or
    nothing but its constraints and indexes. Where there is no graph yet, it makes one.

    Example: automc kg query 'MATCH (s:Strategy)-[:OF_METHOD]->(m:Method {id: $m}) RETURN count(s)' --param m=NS
    """
    from automc import knowledge
    from automc.home import home
    from automc.knowledge.store import check_query, query_params
    from kg import fresh
    from kg.cypher import hints, packaged_queries, saved_queries, used_params

    check_query(timeout, limit)
    folders = (packaged_queries(), home(create=False) / "queries")
    if listed:
        rows = [(q.name, q.title, dict(q.params)) for q in saved_queries(folders).values()]
        show(("name", "answers", "parameters"), rows, format)
        return
    if write and file is not None and text is None and saved is None and len(script := _statements(file)) > 1:
        if param:
            raise AutoMCError(f"{file} holds several statements, which take no --param. Write the values into it.")
        _run_script(script, timeout)
        return
    statement, defaults = _statement(text, file, saved, folders)
    given = query_params(param or [])
    if unused := sorted(set(given) - used_params(statement)):
        raise AutoMCError(f"--param {unused[0]}: the statement has no ${unused[0]}. Correct the name, or leave it out.")
    params = defaults | given
    with knowledge.graph(create=False) as store:
        began = time.perf_counter()
        if write:
            fresh.forget(store)
            table = store.write(statement, params, timeout=timeout)
        else:
            table = store.read(statement, params, timeout=timeout, limit=limit)
        seconds = time.perf_counter() - began
        advice = [] if saved else hints(store, statement)
    if table.columns or not write:
        show(table.columns, table.rows, format)
    if table.truncated:
        say(f"Cut after {limit} rows; --limit shows more.")
    _say_counts(({} if write and not table.columns else {"rows": len(table)}) | dict(table.counters), seconds)
    for hint in advice:
        say(f"Hint: {hint}")


def _statements(file: Path) -> list[str]:
    from kg.curation.documents import read_text
    from kg.errors import QueryInvalid
    from kg.store.text import statements

    return statements(read_text(file, QueryInvalid))


def _run_script(statements: list[str], timeout: float) -> None:
    from automc.knowledge.store import run_script

    began = time.perf_counter()
    changed = run_script(statements, timeout=timeout).counters
    _say_counts({"statements": len(statements), **changed}, time.perf_counter() - began)


def _say_counts(counts: dict[str, int], seconds: float) -> None:
    said = [f"{name.replace('_', ' ')} {n:,}" for name, n in counts.items()]
    say(", ".join([*said, f"{seconds:.3f} s"]) + ".")


def _statement(
    text: str | None, file: Path | None, saved: str | None, folders: tuple[Path, ...]
) -> tuple[str, dict[str, Any]]:
    """The statement that is meant, and the defaults of its parameters."""
    from kg.cypher import one_statement, read_query, saved_query

    if sum(given is not None for given in (text, file, saved)) > 1:
        raise AutoMCError("Give one of a statement, --file and --saved.")
    if saved is not None:
        found = saved_query(saved, folders)
        return found.text, dict(found.params)
    if file is not None:
        found = read_query(file)
        return found.text, dict(found.params)
    if text is None or text == "-":
        if sys.stdin.isatty():
            raise AutoMCError("There is no statement. Write one, or name --file, --saved, or - with standard input.")
        return one_statement(sys.stdin.read(), "Standard input"), {}
    return one_statement(text, "The text"), {}


@guarded
def explain(
    strategy: Annotated[str, typer.Argument(help="A strategy, such as 'NS[HP1=0.2,HP2=0.12,HP6=0.9]', or a method.")],
    format: FormatOption = Format.table,
) -> None:
    """Say what is known about a strategy or a method: its settings, its records with sources, what is near it.

    CSV has its records only. A strategy need not be on the grid; settings may be left out.

    Example: automc kg explain 'NS[HP2=0.4]'
    """
    from automc.knowledge import explain as explaining

    explanation = explaining.explain(strategy)
    if format is Format.json:
        show_json(explanation)
    elif format is Format.csv:
        records = explanation["records"]
        columns = list(records[0]) if records else ["id"]
        show(columns, [list(record.values()) for record in records], format)
    else:
        print(explaining.text(explanation))
