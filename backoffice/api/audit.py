"""The audit chain: who wanted what done, and what came of it. Read only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import orjson
from aiohttp import web
from pydantic import Field
from sqlalchemy import ColumnElement, select

from backoffice.intake import NoQuery
from backoffice.operators import Role
from backoffice.paging import Paged, cursor_of, page
from backoffice.routes import RECORDS, Call, ListOf, Route, reply
from backoffice.tables import audit, audit_heads
from backoffice.times import Time, ms_of, time_of

Text = Annotated[str, Field(max_length=200)]


class AuditQuery(Paged):
    """Which entries."""

    by: Text | None = None
    action: Text | None = Field(None, description="such as commands.issue; or its part before the dot")
    target: Text | None = None
    request_id: Text | None = None
    since: Time | None = None
    until: Time | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry. What was to be done has the result "intended"; another entry, with its ``seq`` in ``of``, tells
    what came of it."""

    id: int
    chain: str
    seq: int
    at: datetime
    by: str
    action: str
    target: str
    reason: str | None
    address: str
    request_id: str
    result: str
    of: int | None
    detail: dict[str, Any]
    prev: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of a chain."""

    chain: str
    seq: int
    hash: str


async def listing(call: Call[AuditQuery, None]) -> web.Response:
    """Entries of the audit chain, newest first."""
    query = call.query
    after = query.after(int)
    wanted = select(audit).where(*_where(query)).order_by(audit.c.id.desc()).limit(query.limit + 1)
    if after is not None:
        wanted = wanted.where(audit.c.id < after)
    async with call.request.app[RECORDS].reading() as connection:
        rows = (await connection.execute(wanted)).all()
    shown = [view(row) for row in rows[: query.limit]]
    return reply(page(shown, cursor_of(shown[-1].id) if len(rows) > len(shown) else None))


async def heads(call: Call[NoQuery, None]) -> web.Response:
    """Where each chain ends, which shows whether entries were cut off."""
    async with call.request.app[RECORDS].reading() as connection:
        rows = await connection.execute(select(audit_heads).order_by(audit_heads.c.chain))
        return reply(page([Head(row.chain, row.seq, row.hash) for row in rows]))


def _where(query: AuditQuery) -> list[ColumnElement[bool]]:
    conditions = [audit.c[name] == value for name in ("by", "target", "request_id")
                  if (value := getattr(query, name)) is not None]  # fmt: skip
    if query.action is not None:
        whole = "." in query.action
        conditions.append(
            audit.c.action == query.action if whole else audit.c.action.startswith(f"{query.action}.", autoescape=True)
        )
    if query.since is not None:
        conditions.append(audit.c.at >= ms_of(query.since))
    if query.until is not None:
        conditions.append(audit.c.at < ms_of(query.until))
    return conditions


def view(row: Any) -> AuditEntry:
    """An entry as the API tells it."""
    return AuditEntry(row.id, row.chain, row.seq, time_of(row.at), row.by, row.action, row.target, row.reason,
                      row.address, row.request_id, row.result, row.of, orjson.loads(row.detail), row.prev,
                      row.hash)  # fmt: skip


ROUTES = (
    Route("GET", "/audit", listing, Role.VIEWER, {200: ListOf(AuditEntry)}, query=AuditQuery),
    Route("GET", "/audit/heads", heads, Role.VIEWER, {200: ListOf(Head)}),
)
