"""`automc board`: studies and the graph in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from automc.cli.output import guarded, say
from automc.errors import AutoMCError

PORT = 8765


@guarded
def board(
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Where it listens; 0: any that is free.")
    ] = PORT,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = True,
) -> None:
    """Show studies, live while they run, and the graph in a browser on this machine, until Ctrl-C.

    Example: automc board --no-open
    """
    try:
        from automc.board.serve import serve
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise AutoMCError(f"The board needs {error.name}: pip install 'automc[board]'") from None
    serve(port, browse=open_browser, say=say)
