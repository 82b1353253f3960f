"""`automc kg view`: the graph as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from automc.cli.output import guarded, say, write_file


@guarded
def view(
    out: Annotated[Path, typer.Option("--out", help="Where to write the page.")] = Path("graph.html"),
) -> None:
    """Write the graph's upper layer as one HTML page: methods, techniques, hyperparameters, schemes; searchable.

    Example: automc kg view --out graph.html
    """
    from automc import knowledge
    from automc.report.graph_page import page

    write_file(out, page(*knowledge.contents()))
    say(f"Wrote {out}")
