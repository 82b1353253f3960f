"""The `automc` command. Every command parses, calls Python and prints; heavy imports wait until then."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from typing import Annotated, Any

import typer

from automc import userfiles
from automc.cli import (
    board,
    cache,
    doctor,
    experience,
    export,
    kg,
    latency,
    methods,
    models,
    report,
    results,
    search,
    view,
)  # fmt: skip

# OpenMP reads it when torch is first imported: threads that spin beside other jobs slow training down many times.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

app = typer.Typer(
    help="Make a trained PyTorch model smaller: search sequences of compression methods, guided by a knowledge graph.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("search")(search.search)
app.command("resume")(search.resume)
app.command("show")(results.show_study)
app.command("report")(report.report)
app.command("board")(board.board)
app.command("compress")(models.compress)
app.command("doctor")(doctor.doctor)
app.command("train")(models.train)
app.command("measure")(models.measure)
app.command("export")(export.export)
app.add_typer(results.app, name="study")
kg.app.command("view")(view.view)
app.add_typer(kg.app, name="kg")
app.add_typer(methods.app, name="method")
app.add_typer(experience.app, name="experience")
app.add_typer(latency.app, name="latency")
app.add_typer(cache.app, name="cache")


def _version(wanted: bool) -> None:
    if wanted:
        from automc import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make a trained PyTorch model smaller."""


def main() -> None:
    """Run the command line; what nobody foresaw is a sentence too, and its trace a file to send along."""
    code: Any = 0
    try:
        app()
    except SystemExit as leaving:
        code = leaving.code
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        with tempfile.NamedTemporaryFile("w", prefix="automc-fault-", suffix=".txt", delete=False) as file:
            file.write(f"automc {' '.join(map(repr, sys.argv[1:]))}\n\n{trace}")
        what = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        print(
            f"Error: AutoMC failed: {what}. This is a fault of AutoMC: please report it, with {file.name}.",
            file=sys.stderr,
        )
        code = 1
    if userfiles.left_running():
        # Threads that a file of the user's started and never ends would keep the process for ever.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    sys.exit(code)
