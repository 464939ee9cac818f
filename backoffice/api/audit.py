"""The audit chain: who wanted what done, and what came of it. Read only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import orjson
from aiohttp import web
from pydantic import Field
from sqlalchemy import ColumnElement, Select, func, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from backoffice import narrow
from backoffice.operators import Role
from backoffice.paging import Paged, cursor_of, cut, page
from backoffice.routes import RECORDS, Call, ListOf, Route, reply
from backoffice.tables import audit, audit_heads
from backoffice.times import Time, ms_or_none, time_of

Text = Annotated[str, Field(max_length=200)]
_MOST_ACTIONS = 30  # with one word before the dot
_SKEW_MS = 60_000  # between the clocks of back offices; servers that are further apart are refused


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
    async with call.request.app[RECORDS].reading() as connection:
        rows = (await connection.execute(await _wanted(connection, query, after))).all()
    shown = [view(row) for row in rows[: query.limit]]
    return reply(page(shown, cursor_of(shown[-1].id) if len(rows) > len(shown) else None))


async def heads(call: Call[Paged, None]) -> web.Response:
    """Where each chain ends, which shows whether entries were cut off."""
    async with call.request.app[RECORDS].reading() as connection:
        rows = await connection.execute(select(audit_heads))
        found = [Head(row.chain, row.seq, row.hash) for row in rows]
    found.sort(key=lambda head: head.chain)  # here, as databases sort texts in other ways
    return reply(cut(found, call.query, lambda head: head.chain, str))


async def _wanted(connection: AsyncConnection, query: AuditQuery, after: int | None) -> Select[Any]:
    """A page, read along an index whatever is asked for."""
    given = {name: value for name in ("request_id", "target", "by") if (value := getattr(query, name)) is not None}
    conditions = await within(connection, ms_or_none(query.since), ms_or_none(query.until))
    if after is not None:
        conditions.append(audit.c.id < after)

    def newest(**more: str) -> Select[Any]:
        both = (*narrow.equal(audit, given | more), *conditions)
        return select(audit).where(*both).order_by(audit.c.id.desc()).limit(query.limit + 1)

    if query.action is None:
        return newest()
    actions = [query.action] if "." in query.action else await _actions(connection, f"{query.action}.")
    if len(actions) < 2:
        return newest(action=actions[0] if actions else query.action)
    each = union_all(*(select(newest(action=action).subquery()) for action in actions)).subquery()
    return select(each).order_by(each.c.id.desc()).limit(query.limit + 1)


async def _actions(connection: AsyncConnection, prefix: str) -> list[str]:
    """The actions that begin so, from one to the next: there are few, and of each there may be a million."""
    found: list[str] = []
    while len(found) < _MOST_ACTIONS:
        least = found[-1] if found else prefix
        following = select(func.min(audit.c.action)).where(audit.c.action > least)
        action = (await connection.execute(following)).scalar_one()
        if action is None or not action.startswith(prefix):
            break
        found.append(action)
    return found


async def within(connection: AsyncConnection, since: int | None, until: int | None) -> list[ColumnElement[bool]]:
    """Conditions on the time of an entry (ms), with the ids between which such entries are.

    Ids and times grow together but for the difference of several back offices' clocks.
    """
    conditions: list[ColumnElement[bool]] = []

    async def first_id(at: int) -> int | None:
        place = select(audit.c.id).where(audit.c.at >= at).order_by(audit.c.at, audit.c.id).limit(1)
        return (await connection.execute(place)).scalar_one_or_none()

    if since is not None:
        id = await first_id(since - _SKEW_MS)
        conditions += [audit.c.at >= since, audit.c.id >= id] if id is not None else [audit.c.id < 0]
    if until is not None:
        id = await first_id(until + _SKEW_MS)
        conditions += [audit.c.at < until] + ([audit.c.id < id] if id is not None else [])
    return conditions


def view(row: Any) -> AuditEntry:
    """An entry as the API tells it."""
    return AuditEntry(row.id, row.chain, row.seq, time_of(row.at), row.by, row.action, row.target, row.reason,
                      row.address, row.request_id, row.result, row.of, orjson.loads(row.detail), row.prev,
                      row.hash)  # fmt: skip


ROUTES = (
    Route("GET", "/audit", listing, Role.VIEWER, {200: ListOf(AuditEntry)}, query=AuditQuery),
    Route("GET", "/audit/heads", heads, Role.VIEWER, {200: ListOf(Head)}, query=Paged),
)
