"""`automc kg up`, `down`, `logs`, `copy`: the graph on a Neo4j server of this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from automc.bounds import check
from automc.cli.output import Format, FormatOption, guarded, say, show
from automc.home import home


@guarded
def up(
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port on this machine; 0 takes a free one. Default: the last one, or 7687."
        ),
    ] = None,
    docker: Annotated[
        bool | None, typer.Option("--docker/--no-docker", help="In a container or not; default: where Docker answers.")
    ] = None,
) -> None:
    """Start a Neo4j server on this machine for this AutoMC home, and print how to use it.

    It runs in Docker where an engine answers, else with Java 17 or newer; then Maven fetches it the first time. Its
    data, logs and password stay in the home; it listens on this machine only. The line on stdout makes it the graph of
    a shell, at once with `eval "$(automc kg up)"`; the password is found in the home.

    Example: automc kg up --port 7688
    """
    from kg.store import server

    running = server.up(home(), say, port=port, docker=docker)
    say(f"Graph server: {running.describe()}. Data, logs and password: {running.folder}")
    say(
        f"It is this shell's graph after the line below. Copy the embedded graph to it: automc kg copy --to {running.url}"
    )
    print(f"export AUTOMC_GRAPH={running.url}")


@guarded
def down() -> None:
    """Stop the server that `automc kg up` has started; its data stay.

    Example: automc kg down
    """
    from kg.store import server

    if server.down(home()):
        say("Stopped. Its data stay; `automc kg up` starts it again. `unset AUTOMC_GRAPH` for the embedded graph.")
    else:
        say("No server of this home is running.")


@guarded
def logs(lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many.")] = 40) -> None:
    """Print the last lines that the server of `automc kg up` has written.

    Example: automc kg logs --lines 100
    """
    from kg.store import server

    check("--lines", lines)
    print(server.logs(home(), lines))


@guarded
def copy(
    to: Annotated[str | None, typer.Option("--to", help="A server's address; else the embedded graph.")] = None,
    source: Annotated[str | None, typer.Option("--from", help="A server's address; else the embedded graph.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove also studies, and nodes of your own, from the target.")
    ] = False,
    format: FormatOption = Format.table,
) -> None:
    """Copy the whole graph between the embedded store and a Neo4j server, or between two servers.

    The target holds afterwards exactly what the source holds, which is checked before it is kept; after an error it is
    as it was. The side that is not named is the embedded graph of this home.

    Example: automc kg copy --to bolt://127.0.0.1:7687
    """
    from automc import knowledge

    copied = knowledge.copy(source, to, replace=replace)
    show(("kind", "copied"), copied.counts.items(), format)
    say(
        f"Copied {len(copied.nodes):,} nodes and {len(copied.rels):,} relationships; read back, both sides have the "
        f"content hash {copied.digest[:16]}."
    )
