"""The board as a web application: which page answers where."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from automc.board import asking, browse, compare, guard, pages, studies, trials, writing


def application() -> Starlette:
    """Return the application; whoever serves it binds it to this machine alone."""
    routes = [
        Route("/", studies.all_studies),
        Route("/live", studies.all_live),
        Route("/study/{study}", studies.one),
        Route("/live/{study}", studies.one_live),
        Route("/study/{study}/trial/{ordinal:int}", trials.one),
        Route("/compare", compare.compare),
        Route("/graph", browse.graph),
        Route("/graph/{label}", browse.label),
        Route("/query", asking.ask, methods=["GET", "POST"]),
        Route("/write/{kind}", writing.new),
        Route("/write/{kind}", writing.send, methods=["POST"]),
        Mount("/static", StaticFiles(directory=Path(__file__).with_name("static"))),
    ]
    return Starlette(routes=routes, middleware=guard.middleware(), exception_handlers=pages.HANDLERS)
