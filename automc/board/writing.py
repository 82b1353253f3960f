"""Forms that write a method card or a paper's results: checked as on the command line, shown before it is written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from automc.board import guard, pages
from automc.board.reading import read
from automc.errors import AutoMCError
from automc.knowledge.curation import Edition, add_experience, add_method, document
from kg.curation.documents import Source
from kg.curation.template import fill
from kg.errors import KGError

CARD = """format: 1
method: MyMethod
title: What it does, in a few words
citation: A. Author, B. Author. The title. Where it appeared, 2026.
techniques:
  - {id: my-technique, title: what it is made of}
  - {id: TE3, title: fine tune}
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of document: what it is called, what it begins with, and how it is brought into the graph."""

    label: str
    heading: str
    name: str
    begin: Callable[[], str]
    contradicts: bool
    """Whether it may contradict what is known, with a reason."""


KINDS = {
    "card": Kind("Method", "A method card", "the card", lambda: CARD, False),
    "results": Kind("Paper", "A paper's results", "the results", lambda: fill({}), True),
}


async def new(request: Request) -> Response:
    """The form with a template, or with a document that was added before."""
    kind = _kind(request)
    id = request.query_params.get("of", "")
    text = await read(partial(document, kind.label, id)) if id else kind.begin()
    return _page(request, {"text": text})


async def send(request: Request) -> Response:
    """Check what was typed and show what it would change; write it where that was seen before."""
    _kind(request)
    fields, ours = await guard.fields(request)
    if not ours:
        return _page(request, fields, 403, refused=guard.NOT_OURS)
    name = request.path_params["kind"]
    write = fields.get("act") == "write" and fields.get("checked") == _seal(fields)
    try:
        edition = await read(partial(_put, name, fields, write=write))
    except (AutoMCError, KGError) as error:
        status, message = pages.refused(error)
        return _page(request, fields, status, refused=message)
    changed = fields.get("act") == "write" and not write
    return _page(request, fields, edition=edition, changed=changed)


def _kind(request: Request) -> Kind:
    name = request.path_params["kind"]
    if name not in KINDS:
        raise HTTPException(404, f"The board writes {' and '.join(KINDS)}, not {name[:40]}.")
    return KINDS[name]


def _put(kind: str, fields: dict[str, str], *, write: bool) -> Edition:
    source, by = Source(KINDS[kind].name, fields.get("text", "")), fields.get("by", "").strip()
    if kind == "card":
        return add_method(source, by=by, write=write)
    return add_experience(source, by=by, because=fields.get("because", "").strip(), write=write)


def _seal(fields: dict[str, str]) -> str:
    """Stands for what was checked, so that nothing else is written."""
    return hashlib.sha256("\0".join(fields.get(name, "") for name in ("text", "because")).encode()).hexdigest()


def _page(
    request: Request, fields: dict[str, str], status: int = 200, *, refused: str = "", edition: Any = None,
    changed: bool = False,
) -> Response:  # fmt: skip
    name = request.path_params["kind"]
    return pages.page(
        "write.html.j2", status, name=name, kind=KINDS[name], refused=refused, edition=edition, changed=changed,
        fields={"text": "", "because": "", "by": "", **fields}, seal=_seal(fields),
    )  # fmt: skip
