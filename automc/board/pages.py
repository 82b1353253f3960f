"""Templates and answers."""

from __future__ import annotations

from typing import Any

import jinja2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from automc.board import guard
from automc.cli.figures import duration, percent, shown
from automc.errors import AutoMCError, NotThere
from automc.knowledge.words import in_words
from kg.errors import GraphUnavailable, KGError, NotInGraph
from kg.schema import Scheme, Strategy


def _words(what: Scheme | Strategy | str | None) -> str:
    """A scheme or a strategy in plain words; what cannot be read stands for itself."""
    if not what:
        return ""
    try:
        return in_words(Scheme.parse(what) if isinstance(what, str) else what)
    except KGError:
        return str(what)


def _cell(value: Any) -> str:
    """A value of a query's row, as text."""
    if value is None:
        return ""
    if isinstance(value, dict) and ("_label" in value or "_type" in value):
        return str(value.get("id") or value.get("_type") or value.get("_label"))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("automc.board", "templates"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    made.filters |= {
        "percent": percent,
        "duration": lambda value: "" if value is None else duration(float(value)),
        "thousands": lambda value: "" if value is None else f"{value:,.0f}",
        "words": _words,
        "id": lambda what: what if isinstance(what, str) else what.id,
        "cell": _cell,
    }
    made.globals |= {"token": guard.TOKEN, "shown": shown}
    return made


_PAGES = _environment()


def text(template: str, **values: Any) -> str:
    """Return a template, filled; everything but what is marked safe in it is escaped."""
    return _PAGES.get_template(template).render(**values)


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Answer with a page."""
    return HTMLResponse(text(template, **values), status)


def refused(error: Exception) -> tuple[int, str]:
    """Return an error's status, and its message as the command line says it."""
    if isinstance(error, GraphUnavailable):
        return 503, str(error)
    if isinstance(error, NotInGraph | NotThere):
        return 404, str(error)
    return (400 if getattr(error, "exit_code", 2) == 2 else 500), str(error)


async def trouble(request: Request, error: Exception) -> Response:
    """Answer to what went wrong, as a page or, where a script asked, as JSON."""
    if isinstance(error, HTTPException):
        status, message = error.status_code, str(error.detail)
    else:
        status, message = refused(error)
    if request.headers.get("accept", "").startswith("application/json"):
        return JSONResponse({"trouble": message}, status)
    return page("trouble.html.j2", status, message=message, away=status == 503)


async def fault(request: Request, error: Exception) -> Response:
    """Answer to what nobody foresaw; its trace is printed where the board was started."""
    message = f"AutoMC failed: {type(error).__name__}: {error}. This is a fault of AutoMC: please report it."
    return page("trouble.html.j2", 500, message=message, away=False)


HANDLERS: dict[Any, Any] = {AutoMCError: trouble, KGError: trouble, HTTPException: trouble, Exception: fault}
