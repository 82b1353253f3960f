"""Who may ask: pages of this board on this machine, nobody else."""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import parse_qsl

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
"""Names under which a browser on this machine asks. Any other is a page elsewhere whose name was pointed here."""
MOST_BYTES = 4 * 2**20
"""Of what a form sends."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
NOT_OURS = "This form is not one of this board, or the board was started anew since. Nothing was done: send it again."
TOKEN = secrets.token_urlsafe(24)
"""Of this process; every form carries it, so no other page can send one."""


class Headers:
    """Adds HEADERS to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, sent)


def middleware() -> list[Middleware]:
    """Return what stands before every page."""
    return [Middleware(Headers), Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)]


async def fields(request: Request) -> tuple[dict[str, str], bool]:
    """Return the fields of a form, line ends as Unix has them, and whether it is one of this board.

    Raises:
        HTTPException: it is too large, or no form.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"That is more than {MOST_BYTES // 2**20} MiB. Use the command line for it.")
    try:
        found = dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True))
    except (UnicodeDecodeError, ValueError):
        raise HTTPException(400, "This is no form of the board.") from None
    ours = hmac.compare_digest(found.get("token", "").encode(), TOKEN.encode())
    return {name: value.replace("\r\n", "\n") for name, value in found.items()}, ours


async def form(request: Request) -> dict[str, str]:
    """Return the fields of a form of this board.

    Raises:
        HTTPException: it does not carry the token, or see `fields`.
    """
    found, ours = await fields(request)
    if not ours:
        raise HTTPException(403, NOT_OURS)
    return found
