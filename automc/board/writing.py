"""Forms that write a method card or a paper's results: checked as on the command line, shown before it is written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import yaml
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from automc.board import filled, guard, pages
from automc.board.fields import CARD, RESULTS, Part
from automc.board.reading import read
from automc.errors import AutoMCError
from automc.knowledge.curation import Edition, add_experience, add_method, document
from kg.cards import Card
from kg.curation.documents import Document, Source, read_document
from kg.curation.template import fill
from kg.errors import CardInvalid, ExperienceInvalid, KGError
from kg.experience_file import ExperienceFile
from kg.plain import read_yaml, write_yaml

CARD_TEXT = """format: 1
method: MyMethod
title: What it does, in a few words
citation: A. Author, B. Author. The title. Where it appeared, 2026.
techniques:
  - {id: my-technique, title: what it is made of}
  - {id: TE3, title: fine tune}
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of document: what it is called, what it begins with, its fields, and what it is held to."""

    label: str
    heading: str
    name: str
    begin: Callable[[], str]
    parts: tuple[Part, ...]
    shape: type[Document]
    error: type[KGError]
    contradicts: bool
    """Whether it may contradict what is known, with a reason."""


KINDS = {
    "card": Kind("Method", "A method card", "the card", lambda: CARD_TEXT, CARD, Card, CardInvalid, False),
    "results": Kind(
        "Paper", "A paper's results", "the results", lambda: fill({}), RESULTS, ExperienceFile, ExperienceInvalid, True
    ),
}


@dataclass(frozen=True, slots=True)
class Draft:
    """What a form holds: `inputs` where it is filled in as fields, else None and `text`; and what is wrong with it."""

    kind: Kind
    inputs: dict[str, str] | None = None
    text: str = ""
    because: str = ""
    by: str = ""
    errors: dict[str, str] = field(default_factory=dict)
    """Of inputs, by name."""
    refused: str = ""
    """What is wrong with the whole."""

    @property
    def seal(self) -> str:
        """Stands for what was checked, so that nothing else is written."""
        return hashlib.sha256(f"{self.text}\0{self.because}".encode()).hexdigest()

    @property
    def wrong(self) -> bool:
        """Whether something is."""
        return bool(self.errors or self.refused)


async def new(request: Request) -> Response:
    """The form: empty fields, the annotated text, or a document that was added before, as text."""
    kind, asked = _kind(request), request.query_params
    if id := asked.get("of", ""):
        return _page(request, Draft(kind, text=await read(partial(document, kind.label, id))))
    if asked.get("as") == "text":
        return _page(request, Draft(kind, text=kind.begin()))
    return _page(request, Draft(kind, filled.tidy(kind.parts, {})))


async def send(request: Request) -> Response:
    """Check what was filled in and show what it would change; write it where that was seen before."""
    kind = _kind(request)
    given, ours = await guard.fields(request)
    act, _, more = given.get("act", "").partition(":")
    draft = _draft(kind, given, more)
    if not ours:
        return _page(request, replace(draft, refused=guard.NOT_OURS), 403)
    if act == "more":
        return _page(request, replace(draft, errors={}))
    if act in ("text", "fields"):
        draft = _turned(draft, act)
        return _page(request, draft, 400 if draft.wrong else 200)
    draft = _checked(draft)
    if draft.wrong:
        return _page(request, draft, 400)
    write = act == "write" and given.get("checked") == draft.seal
    try:
        edition = await read(partial(_put, request.path_params["kind"], draft, write=write))
    except AutoMCError as error:
        status, message = pages.refused(error)
        return _page(request, _refused(draft, message), status)
    return _page(request, draft, edition=edition, changed=act == "write" and not write)


def _kind(request: Request) -> Kind:
    name = request.path_params["kind"]
    if name not in KINDS:
        raise HTTPException(404, f"The board writes {' and '.join(KINDS)}, not {name[:40]}.")
    return KINDS[name]


def _draft(kind: Kind, given: dict[str, str], more: str) -> Draft:
    """What was sent. Fields say a text, too, as far as they can be read."""
    because, by = (given.get(name, "").strip() for name in ("because", "by"))
    if given.get("as") != "fields":
        return Draft(kind, text=given.get("text", ""), because=because, by=by)
    inputs = filled.tidy(kind.parts, given, more)
    content, errors = filled.content(kind.parts, inputs)
    return Draft(kind, inputs, write_yaml(content), because, by, errors)


def _turned(draft: Draft, into: str) -> Draft:
    """The same as text, or as fields; where that would lose something, as it was, with what."""
    if into == "text":
        return draft if draft.errors else replace(draft, inputs=None)
    try:
        return replace(draft, inputs=filled.inputs_of(draft.kind.parts, _content(draft)))
    except AutoMCError as error:
        return replace(draft, refused=str(error))


def _content(draft: Draft) -> dict[str, Any]:
    """What a text says, however unfinished."""
    try:
        said = read_yaml(draft.text)[0]
    except yaml.YAMLError:
        read_document(Source(draft.kind.name, draft.text), draft.kind.shape, draft.kind.error)  # says where and why
        raise
    return said if isinstance(said, dict) else {}


def _checked(draft: Draft) -> Draft:
    """Find what breaks the rules of its kind, without looking at anything else that is known."""
    if draft.inputs is None or draft.errors:
        return draft
    content, _ = filled.content(draft.kind.parts, draft.inputs)
    errors = filled.misfits(draft.kind.shape, content, draft.inputs)
    return replace(draft, refused=errors.pop("", ""), errors=errors)


def _refused(draft: Draft, message: str) -> Draft:
    """Say a refusal where it belongs."""
    name = filled.placed(message, draft.kind.name, draft.kind.parts, draft.inputs) if draft.inputs else ""
    return replace(draft, errors={name: message}) if name else replace(draft, refused=message)


def _put(kind: str, draft: Draft, *, write: bool) -> Edition:
    source = Source(draft.kind.name, draft.text)
    if kind == "card":
        return add_method(source, by=draft.by, write=write)
    return add_experience(source, by=draft.by, because=draft.because, write=write)


def _page(
    request: Request, draft: Draft, status: int = 200, *, edition: Edition | None = None, changed: bool = False
) -> Response:
    return pages.page(
        "write.html.j2", status, name=request.path_params["kind"], kind=draft.kind, draft=draft, edition=edition,
        changed=changed, names=filled.names, rows=filled.rows,
    )  # fmt: skip
