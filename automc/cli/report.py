"""`automc report`: a study as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from automc.cli.output import guarded, say, write_file
from automc.files import claim, marked


@guarded
def report(
    study: Annotated[str, typer.Argument(help="A study, see: automc study list.")],
    html: Annotated[
        Path | None, typer.Option("--html", help="Where to write the page; default STUDY.html.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace whatever file is there.")] = False,
) -> None:
    """Write a study as one HTML page that needs no network: front, scheme, layers, failures, how to reproduce.

    Example: automc report resnet20-cifar10-1 --html report.html
    """
    from automc.report.page import page

    path = claim(
        html or Path(f"{study}.html"), marked("a page of automc report", 'content="automc report"'), force=force
    )
    write_file(path, page(study))
    say(f"Wrote {path}")
