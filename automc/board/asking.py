"""Questions in Cypher: saved ones and the reader's own, never one that writes."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from automc import knowledge
from automc.board import charts, guard, live, pages
from automc.board.reading import read
from automc.errors import AutoMCError
from automc.home import home
from automc.knowledge.store import query_params
from kg.cypher import SavedQuery, hints, one_statement, packaged_queries, saved_queries, saved_query, used_params
from kg.errors import QueryInvalid

ROWS = 1000
"""Greatest number of rows, as of `automc kg query`."""
SECONDS = 30.0
"""Time limit, as of `automc kg query`."""
BESIDE_SECONDS = 2.0
"""Time limit while a study of this home runs on the embedded graph, which it would keep waiting for longer."""
EXAMPLE = """MATCH (m:Method)-[:USES_TECHNIQUE]->(t:Technique)
RETURN t.title AS technique, count(m) AS methods ORDER BY methods DESC"""


async def ask(request: Request) -> Response:
    """The box: empty, with a saved query, or with what a query answers."""
    if request.method == "GET":
        name = request.query_params.get("saved", "")
        found = _saved(name) if name else None
        params = "" if found is None else "\n".join(f"{k}={json.dumps(v)}" for k, v in found.params.items())
        return _page(found.text if found else EXAMPLE, params, name)
    fields = await guard.form(request)
    text, given, shape = (fields.get(name, "") for name in ("text", "params", "as"))
    try:
        answer = await read(partial(_answer, text, given))
    except AutoMCError as error:
        status, message = pages.refused(error)
        return _page(text, given, fields.get("saved", ""), status, refused=message)
    if shape == "csv":
        return Response(
            _csv(answer["table"]), media_type="text/csv; charset=utf-8",
            headers={"content-disposition": 'attachment; filename="query.csv"'},
        )  # fmt: skip
    columns = answer["table"].columns
    x, y = (fields[name] if fields.get(name) in columns else None for name in ("x", "y"))
    chart = charts.chart(answer["table"], x, y) if shape == "chart" else None
    return _page(text, given, fields.get("saved", ""), answer=answer, chart=chart, shape=shape)


def _page(
    text: str, params: str, saved: str, status: int = 200, *, refused: str = "", answer: Any = None,
    chart: charts.Chart | None = None, shape: str = "table",
) -> Response:  # fmt: skip
    every: dict[str, SavedQuery] = saved_queries(_folders())
    return pages.page(
        "query.html.j2", status, text=text, params=params, saved=saved, every=every.values(), refused=refused,
        answer=answer, chart=chart, shape=shape, rows=ROWS, seconds=_seconds(),
    )  # fmt: skip


def _saved(name: str) -> SavedQuery:
    try:
        return saved_query(name, _folders())
    except QueryInvalid as error:
        raise HTTPException(404, str(error)) from None


def _folders() -> tuple[Any, ...]:
    return packaged_queries(), home(create=False) / "queries"


def _seconds() -> float:
    return BESIDE_SECONDS if live.pulses() and not os.environ.get("AUTOMC_GRAPH") else SECONDS


def _answer(text: str, given: str) -> dict[str, Any]:
    """Run a query, with the values of its parameters one a line."""
    statement = one_statement(text, "The text")
    params = query_params([line for line in given.splitlines() if line.strip()])
    if unused := sorted(set(params) - used_params(statement)):
        raise AutoMCError(f"The statement has no ${unused[0]}. Correct the name of the parameter, or leave it out.")
    with knowledge.graph(create=False) as store:
        began = time.perf_counter()
        table = store.read(statement, params, timeout=_seconds(), limit=ROWS)
        seconds = time.perf_counter() - began
        return {"table": table, "seconds": seconds, "hints": hints(store, statement) if not table.rows else []}


def _csv(table: Any) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([_plain(value) for value in row] for row in table.rows)
    return out.getvalue()


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list | tuple) else value
