"""`automc kg view`: the graph as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from automc.cli import options as o
from automc.cli.output import guarded, say, write_file
from automc.files import claim, marked


@guarded
def view(
    out: Annotated[Path, typer.Option("--out", help="Where to write the page.")] = Path("graph.html"),
    force: o.Force = False,
) -> None:
    """Write the graph's upper layer as one HTML page: methods, techniques, hyperparameters, schemes; searchable.

    Example: automc kg view --out graph.html
    """
    from automc import knowledge
    from automc.report.graph_page import page

    claim(out, marked("a page of automc kg view", 'content="automc kg view"'), force=force)
    write_file(out, page(*knowledge.contents()))
    say(f"Wrote {out}")
