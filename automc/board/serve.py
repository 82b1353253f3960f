"""Serving the board on the loopback address."""

from __future__ import annotations

import errno
import socket
import webbrowser
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from automc.board.app import application
from automc.errors import AutoMCError

ADDRESS = "127.0.0.1"


def serve(port: int, *, browse: bool, say: Callable[[str], None]) -> None:
    """Answer until Ctrl-C.

    Args:
        port: 0 for any that is free.
        browse: open the board in a browser.
        say: is told the address once the board can be reached there.

    Raises:
        AutoMCError: the port is in use, or may not be taken.
    """
    listening = _listen(port)
    address = f"http://{ADDRESS}:{listening.getsockname()[1]}/"
    say(f"The board is at {address} and answers on this machine alone. Ctrl-C ends it.")
    if browse:
        webbrowser.open(address)
    config = uvicorn.Config(application(), log_level="warning", access_log=False, lifespan="off", ws="none")
    config.timeout_graceful_shutdown = 1
    # Ctrl-C is how it ends; the server has let go of its pages by then.
    with listening, suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
    say("The board has ended.")


def _listen(port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((ADDRESS, port))
        found.listen()
    except OSError as error:
        found.close()
        what = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be taken: {error.strerror}"
        raise AutoMCError(
            f"Port {port} of {ADDRESS} {what}. Is a board running already? Else give another: --port {port + 1}, "
            "or --port 0 for any."
        ) from None
    return found
