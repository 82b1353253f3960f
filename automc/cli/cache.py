"""`automc cache`: the models kept from executed steps. Deleting them costs time, never knowledge."""

from __future__ import annotations

from typing import Annotated

import typer

from automc.cli.output import Format, FormatOption, guarded, say, show_record

app = typer.Typer(help="The models kept from executed steps.", no_args_is_help=True)


@app.command("show")
@guarded
def show_cache(format: FormatOption = Format.table) -> None:
    """Show what the prefix cache holds.

    Example: automc cache show
    """
    from dataclasses import asdict

    from automc.execution.cache import PrefixCache
    from automc.home import home

    status = asdict(PrefixCache(home() / "cache").status())
    show_record({**status, "folder": str(status["folder"])}, format)


@app.command("prune")
@guarded
def prune_cache(
    limit: Annotated[str, typer.Option("--to", help="Evict models, oldest first, until this much is left.")] = "0",
) -> None:
    """Evict models from the prefix cache; outcomes and the fronts' models stay.

    What Python handed over as objects, more than a day ago, goes too where no study uses it.

    Example: automc cache prune --to 5GiB
    """
    from automc.execution.cache import PrefixCache
    from automc.home import home
    from automc.study import stored
    from automc.study.limits import parse_bytes

    left = parse_bytes(limit, "--to")
    freed = PrefixCache(home() / "cache").prune(left) + stored.prune_given()
    say(f"Freed {freed:,} bytes.")
