"""Everything as a file: commands, the audit chain, dead letters; lines of JSON, or CSV for spreadsheets."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Literal

import orjson
from aiohttp import hdrs, web
from sqlalchemy import Row, func, select

from backoffice.api import audit as audit_api
from backoffice.api import dead_letters
from backoffice.api.command_views import CommandView, plain
from backoffice.api.long_answers import STALLED_S, counted, cut
from backoffice.history import Wanted
from backoffice.intake import Query
from backoffice.operators import Role
from backoffice.records import Records
from backoffice.routes import ACCESS, HISTORY, RECORDS, STOPPING, Call, Route, TextOf
from backoffice.tables import audit
from backoffice.times import Time, ms_or_none
from bridge.errors import BridgeError

MAX_EXPORTS, MAX_OF_ONE = 20, 5  # open ones, and those of one operator, or of tokens of one name
_PAGE = 500
_WRITTEN_AT_ONCE = 64 * 1024  # bytes, for each of which a slow reader has its time
_TYPES = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
# What a spreadsheet takes for a formula at the beginning of a cell; East Asian ones read wide signs as well. Where it
# cuts lines at semicolons, as in much of Europe, quotes hold nothing together, and cells begin within a text as well.
_SIGNS = "=+@\uff1d\uff0b\uff0d\uff20-"
_FORMULA = re.compile(f'^(?=[\t\r\n{_SIGNS}])|[;\r\n]"*(?=[\t\r\n]*[{_SIGNS}])')

EXPORTS = web.AppKey("exports", Counter[str])  # how many are open, by whose they are


class ExportQuery(Query):
    """What, and in which form."""

    what: Literal["commands", "audit", "dead"]
    format: Literal["jsonl", "csv"] = "jsonl"
    since: Time | None = None
    until: Time | None = None


async def export(call: Call[ExportQuery, None]) -> web.StreamResponse:
    """A file of everything; the newest first, but each audit chain in its own order.

    Streamed as it is read. One that breaks off has no end: the connection is cut. That happens to whose session
    ended, or token was dropped, and to who does not read.
    """
    query = call.query
    read, kind = _KINDS[query.what]
    response = web.StreamResponse(headers={
        hdrs.CONTENT_TYPE: _TYPES[query.format],
        hdrs.CONTENT_DISPOSITION: f'attachment; filename="{query.what}.{query.format}"',
        "X-Content-Type-Options": "nosniff",
        hdrs.CACHE_CONTROL: "no-store",
    })  # fmt: skip
    with counted(call.request.app[EXPORTS], call, "exports", most=MAX_EXPORTS, of_one=MAX_OF_ONE):
        await response.prepare(call.request)
        try:
            if query.format == "csv":
                await response.write(_csv_header(kind))
            async for items in read(call):
                chunk = _chunk(_rows(items), query.format)
                await _check(call)
                for start in range(0, len(chunk), _WRITTEN_AT_ONCE):
                    async with asyncio.timeout(STALLED_S):
                        await response.write(chunk[start : start + _WRITTEN_AT_ONCE])
            async with asyncio.timeout(STALLED_S):
                await response.write_eof()
        except (TimeoutError, BridgeError) as error:
            cut(call.request)
            raise ConnectionError("an export breaks off") from error
    return response


async def _check(call: Call[ExportQuery, None]) -> None:
    """Whether it goes on. Raises ConnectionError."""
    if call.request.app[STOPPING].is_set():
        raise ConnectionError("this service stops")
    if not await call.request.app[ACCESS].holds(call.request, call.session):
        raise ConnectionError("who asked is let in no more")


async def _commands(call: Call[ExportQuery, None]) -> AsyncIterator[Iterable[Any]]:
    wanted = Wanted(since=ms_or_none(call.query.since), until=ms_or_none(call.query.until))
    after, complete = None, False
    while not complete:
        found = await call.request.app[HISTORY].search(wanted, limit=_PAGE, after=after)
        yield [plain(outcome) for outcome in found.outcomes]
        after, complete = found.next, found.complete


async def _audit(call: Call[ExportQuery, None]) -> AsyncIterator[Iterable[Any]]:
    since, until = ms_or_none(call.query.since), ms_or_none(call.query.until)
    async for rows in entries(call.request.app[RECORDS], since, until):
        yield [audit_api.view(row) for row in rows]


async def entries(records: Records, since: int | None, until: int | None) -> AsyncIterator[Sequence[Row[Any]]]:
    """Pages of one chain after the other, each without gaps up to where it ends as this begins.

    Ids would leave some out: they are given before a transaction ends, and those of one that ends late come too late.
    """
    async with records.reading() as connection:
        between = await audit_api.within(connection, since, until)
        spans = select(audit.c.chain, func.min(audit.c.seq), func.max(audit.c.seq)).where(*between)
        found = (await connection.execute(spans.group_by(audit.c.chain).order_by(audit.c.chain))).all()
    times = [audit.c.at >= since] if since is not None else []
    times += [audit.c.at < until] if until is not None else []
    for chain, first, last in found:
        place = first
        while place <= last:
            of_chain = select(audit).where(audit.c.chain == chain, audit.c.seq.between(place, last), *times)
            async with records.reading() as connection:
                rows = (await connection.execute(of_chain.order_by(audit.c.seq).limit(_PAGE))).all()
            if not rows:
                break
            yield rows
            place = rows[-1].seq + 1


async def _dead(call: Call[ExportQuery, None]) -> AsyncIterator[Iterable[Any]]:
    cursor = None
    while True:
        found = await call.bridge.dead.page(limit=_PAGE, cursor=cursor)
        yield [dead_letters.view(letter) for letter in found.items]
        cursor = found.next_cursor
        if cursor is None:
            return


_KINDS: dict[str, tuple[Callable[[Call[ExportQuery, None]], AsyncIterator[Iterable[Any]]], Any]] = {
    "commands": (_commands, CommandView),
    "audit": (_audit, audit_api.AuditEntry),
    "dead": (_dead, dead_letters.DeadLetterView),
}


def _rows(items: Iterable[Any]) -> list[dict[str, Any]]:
    """Of each item its fields, and what is in them as it is: a copy of all that would cost more than writing it."""
    return [{name: getattr(item, name) for name in item.__slots__} for item in items]


def _csv_header(kind: Any) -> bytes:
    """Also of a file without rows."""
    return f"{','.join(kind.__slots__)}\r\n".encode()


def _chunk(rows: list[dict[str, Any]], form: str) -> bytes:
    if form == "csv":
        return _csv(rows)
    return b"".join(orjson.dumps(row, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE) for row in rows)


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([_cell(value) for value in row.values()] for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def _cell(value: Any) -> str:
    """One cell, which no spreadsheet takes for a formula, nor a part of it."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_UTC_Z).decode().strip('"')
    return _FORMULA.sub(r"\g<0>'", text)


ROUTES = (
    Route("GET", "/export", export, Role.VIEWER, {200: TextOf(tuple(_TYPES.values()))}, query=ExportQuery,
          deadline_s=None, problems=("rate_limited",)),
)  # fmt: skip
