"""Everything as a file: commands, the audit chain, dead letters; lines of JSON, or CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable
from typing import Any, Literal

import orjson
from aiohttp import hdrs, web
from sqlalchemy import select

from backoffice.api import audit as audit_api
from backoffice.api import dead_letters
from backoffice.api.command_views import plain
from backoffice.history import Wanted
from backoffice.intake import Query
from backoffice.operators import Role
from backoffice.routes import HISTORY, RECORDS, STOPPING, Call, Route, TextOf
from backoffice.tables import audit
from backoffice.times import Time, ms_or_none

_PAGE = 500
_TYPES = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
# What a spreadsheet takes for a formula at the beginning of a cell; East Asian ones read wide signs as well.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


class ExportQuery(Query):
    """What, and in which form."""

    what: Literal["commands", "audit", "dead"]
    format: Literal["jsonl", "csv"] = "jsonl"
    since: Time | None = None
    until: Time | None = None


async def export(call: Call[ExportQuery, None]) -> web.StreamResponse:
    """A file of everything; the newest first, but the audit chain in its own order.

    Streamed as it is read. One that breaks off has no end: the connection is cut.
    """
    query = call.query
    pages = {"commands": _commands, "audit": _audit, "dead": _dead}[query.what](call)
    response = web.StreamResponse(headers={
        hdrs.CONTENT_TYPE: _TYPES[query.format],
        hdrs.CONTENT_DISPOSITION: f'attachment; filename="{query.what}.{query.format}"',
        "X-Content-Type-Options": "nosniff",
        hdrs.CACHE_CONTROL: "no-store",
    })  # fmt: skip
    await response.prepare(call.request)
    header: list[str] | None = None
    async for items in pages:
        if call.request.app[STOPPING].is_set():
            raise ConnectionError("this service stops")
        rows = _rows(items)
        if query.format == "jsonl":
            chunk = b"".join(orjson.dumps(row, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE) for row in rows)
        else:
            chunk = _csv(rows, with_header=header is None)
            header = list(rows[0]) if rows and header is None else header
        if chunk:
            await response.write(chunk)
    await response.write_eof()
    return response


async def _commands(call: Call[ExportQuery, None]) -> AsyncIterator[Iterable[Any]]:
    wanted = Wanted(since=ms_or_none(call.query.since), until=ms_or_none(call.query.until))
    after, complete = None, False
    while not complete:
        found = await call.request.app[HISTORY].search(wanted, limit=_PAGE, after=after)
        yield [plain(outcome) for outcome in found.outcomes]
        after, complete = found.next, found.complete


async def _audit(call: Call[ExportQuery, None]) -> AsyncIterator[Iterable[Any]]:
    since, until = ms_or_none(call.query.since), ms_or_none(call.query.until)
    last = 0
    while True:
        async with call.request.app[RECORDS].reading() as connection:
            between = await audit_api.within(connection, since, until)
            query = select(audit).where(audit.c.id > last, *between)
            rows = (await connection.execute(query.order_by(audit.c.id).limit(_PAGE))).all()
        if not rows:
            return
        yield [audit_api.view(row) for row in rows]
        last = rows[-1].id


async def _dead(call: Call[ExportQuery, None]) -> AsyncIterator[Iterable[Any]]:
    cursor = None
    while True:
        found = await call.bridge.dead.page(limit=_PAGE, cursor=cursor)
        yield [dead_letters.view(letter) for letter in found.items]
        cursor = found.next_cursor
        if cursor is None:
            return


def _rows(items: Iterable[Any]) -> list[dict[str, Any]]:
    """Of each item its fields, and what is in them as it is: a copy of all that would cost more than writing it."""
    return [{name: getattr(item, name) for name in item.__slots__} for item in items]


def _csv(rows: list[dict[str, Any]], *, with_header: bool) -> bytes:
    if not rows:
        return b""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    if with_header:
        writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def _cell(value: Any) -> str:
    """One cell, which no spreadsheet takes for a formula."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_UTC_Z).decode().strip('"')
    return f"'{text}" if text.startswith(_FORMULA) else text


ROUTES = (
    Route("GET", "/export", export, Role.VIEWER, {200: TextOf(tuple(_TYPES.values()))}, query=ExportQuery,
          deadline_s=None),
)  # fmt: skip
